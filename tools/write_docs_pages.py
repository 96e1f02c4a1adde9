"""Write the sources of the documentation site into build/docs, for mkdocs.

    python tools/write_docs_pages.py && mkdocs build --strict

`tox -e docs` runs both. Pages come from docs/, from the boards, and from the code (`docs_pages`).
Pictures are drawn once for each state of the code, and kept in build/docs-pictures.
"""

from __future__ import annotations

import functools

import matplotlib

matplotlib.use("Agg")

from docs_pages.site_tree import TARGET, write_tree

if __name__ == "__main__":
    write_tree(TARGET, functools.partial(print, flush=True))
