"""Small parts of Markdown: tables, escaped text, docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence

_SPECIAL = re.compile(r"(?P<code>`[^`]+`)|[\\*_`\[\]|]|[<>]")
_TAGS = {"<": "&lt;", ">": "&gt;"}
SECTION = re.compile(r"(Args|Returns|Raises|Example|Reference|Yields):")


def escape(text: str) -> str:
    r"""Return text that Markdown shows as it is; what stands in backticks stays code.

    >>> print(escape("sum_k |w_k| < `a_b`"))
    sum\_k \|w\_k\| &lt; `a_b`
    """

    def write(found: re.Match[str]) -> str:
        return found[0] if found["code"] else _TAGS.get(found[0], f"\\{found[0]}")

    return _SPECIAL.sub(write, text)


def write_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are Markdown already."""
    lines = [list(columns), ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def write_docstring(function: object) -> str:
    """Return a docstring as Markdown: paragraphs as text, indented lines as they are.

    A Google section such as "Returns:" becomes a bold word with its lines as code.
    """
    text = inspect.cleandoc(getattr(function, "__doc__", None) or "")
    return "\n\n".join(_write_blocks(text))


def _write_blocks(text: str) -> Iterator[str]:
    for block in re.split(r"\n\s*\n", text):
        lines = block.splitlines()
        if lines and SECTION.fullmatch(lines[0]):
            yield f"**{lines[0].rstrip(':')}**"
            lines = lines[1:]
        if not lines:
            continue
        if all(line.startswith("    ") for line in lines):
            yield "```text\n" + inspect.cleandoc("\n".join(lines)) + "\n```"
        elif lines[0].startswith(("- ", "* ")):
            yield "\n".join(f"- {escape(line[2:])}" for line in join_items(lines))
        else:
            yield escape(" ".join(line.strip() for line in lines))


def join_items(lines: Sequence[str]) -> list[str]:
    """Return the items of a list, each on one line.

    >>> join_items(["- one", "  more", "- two"])
    ['- one more', '- two']
    """
    items: list[str] = []
    for line in lines:
        if line.startswith(("- ", "* ")):
            items.append(line)
        else:
            items[-1] += f" {line.strip()}"
    return items


def write_list(items: Iterable[str]) -> str:
    """Return a list of lines that are Markdown already."""
    return "".join(f"- {item}\n" for item in items)
