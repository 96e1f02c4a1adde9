"""The pages of the documentation site: those of `docs/`, and those that the code itself gives.

`write_docs_pages.py` runs it. `mkdocs.yml` builds what it writes.
"""
