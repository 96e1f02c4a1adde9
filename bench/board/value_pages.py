"""Which page of the documentation explains a value, and links from boards to it."""

from __future__ import annotations

import os
import re

from bench.board.text import markdown
from bench.identity import plain_name
from bench.metrics import METRICS
from bench.metrics.base import board_names

DOCS_URL = ""
"""Address of the documentation site; empty as long as the project has no public one."""

DOCS_VARIABLE = "CAMBENCH_DOCS_URL"
"""Environment variable that names another site, such as a copy inside a company."""

_ENDINGS = re.compile(r"(_oracle|_\d\d)?(@correct)?$")
"""What boards put behind the name of a value for a variant of it."""

_WORD = re.compile(r"[\w@]+( \(v\d+\))?")


def find_value_page(name: str) -> str:
    """Return the page of a value as the site's sources have it: `metrics/METRIC.md#VALUE`.

    Args:
        name: The name of a value on boards, with or without a version.

    Returns:
        "" for a value of a plug-in and for an unknown one.

    Example:
        >>> find_value_page("pixel_ap (v1)"), find_value_page("mine")
        ('metrics/pixel_precision.md#pixel_ap', '')
    """
    plain = plain_name(name)
    candidates = (plain, _ENDINGS.sub("", plain, count=1))
    for metric in METRICS:
        for own, value in metric.values.items():
            names = board_names(own, value)
            if metric.builtin and any(one in names for one in candidates):
                return f"metrics/{metric.name}.md#{names[0]}"
    return ""


def write_address(page: str, base: str) -> str:
    """Return the address of a page on a site.

    >>> write_address("metrics/deletion.md#deletion", "https://example.org/docs/")
    'https://example.org/docs/metrics/deletion/#deletion'
    """
    path, hash_, place = page.partition("#")
    return f"{base.rstrip('/')}/{path.removesuffix('.md')}/{hash_}{place}"


def link_header(header: str) -> str:
    """Return a column's header as Markdown, with a link where the site has an address."""
    base = os.environ.get(DOCS_VARIABLE, DOCS_URL)
    found = _WORD.match(header)
    page = find_value_page(found[0]) if found and base else ""
    return f"[{markdown(header)}]({write_address(page, base)})" if page else markdown(header)
