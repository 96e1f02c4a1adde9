"""The attention editor: a page on this machine on which a person draws where a network should
look.
"""

from bench.editor.page_access import address_of, make_token
from bench.editor.queue_choice import read_classes
from bench.editor.serving import DEFAULT_PORT, EditorServer, listen, serve
from bench.editor.session import ConflictError, Session
from bench.editor.start_report import StartReport

__all__ = [
    "DEFAULT_PORT",
    "ConflictError",
    "EditorServer",
    "Session",
    "StartReport",
    "address_of",
    "listen",
    "make_token",
    "read_classes",
    "serve",
]
