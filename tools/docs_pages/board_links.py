"""Headers of the boards' tables link to the pages of their values."""

from __future__ import annotations

import re

from bench.board.value_pages import find_value_page

HEADER = "| method | F |"
"""How the header of a board's table starts."""


def link_headers(text: str, up: str) -> str:
    """Return a board's page whose column headers link to the values' pages.

    Args:
        text: `board.md`.
        up: The way from the page to the site's root, such as "../../".
    """
    lines = [
        link_header(line, up) if line.startswith(HEADER) else line for line in text.split("\n")
    ]
    return "\n".join(lines)


def link_header(line: str, up: str) -> str:
    """Return one header line with links."""
    cells = line.strip().strip("|").split("|")
    linked = [_link_cell(cell.strip(), up) for cell in cells[2:]]
    return f"{HEADER} {' | '.join(linked)} |"


def _link_cell(cell: str, up: str) -> str:
    name = re.split(r"[ ↓↑§†]", cell.replace("\\", ""))[0]
    page = find_value_page(name)
    return f"[{cell}]({up}{page})" if page else cell
