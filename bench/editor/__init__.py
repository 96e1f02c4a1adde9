"""The attention editor: a page on this machine on which a person draws where a network should
look.
"""

from bench.editor.server import DEFAULT_PORT, address_of, listen, serve
from bench.editor.session import ConflictError, Session

__all__ = ["DEFAULT_PORT", "ConflictError", "Session", "address_of", "listen", "serve"]
