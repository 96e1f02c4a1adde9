"""The attention editor: a page on this machine on which a person draws where a network should
look.
"""

from bench.editor.page_access import address_of, make_token
from bench.editor.server import DEFAULT_PORT, listen, serve
from bench.editor.session import ConflictError, Session

__all__ = [
    "DEFAULT_PORT",
    "ConflictError",
    "Session",
    "address_of",
    "listen",
    "make_token",
    "serve",
]
