"""Where a file of the repository lies on the site, and links that lead there."""

from __future__ import annotations

import os.path
import posixpath
import re
from collections.abc import Callable, Collection
from pathlib import PurePosixPath

LINK = re.compile(
    r"(?P<code>`[^`]+`)"
    r"|(?P<mark>!?)\[(?P<text>(?:\\.|\[[^\[\]]*\]|[^\[\]\\])*)\]\((?P<target>[^()\s]+)\)"
)
"""Code, or a link or picture of Markdown, whose text may hold one pair of brackets."""

FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
"""The first or last line of a block of code."""


def place_on_site(path: str) -> str:
    """Return the place of a file of the repository, relative to the site's root.

    A tutorial is a script, and a page on the site.

    >>> place_on_site("docs/gate.md"), place_on_site("docs/tutorials/my_method.py")
    ('gate.md', 'tutorials/my_method.md')
    """
    return re.sub(r"^(tutorials/.*)\.py$", r"\1.md", path.removeprefix("docs/"))


def is_outside(target: str) -> bool:
    """Tell whether a link leads to another site, or to a place on its own page."""
    return "://" in target or target.startswith(("#", "mailto:"))


def resolve(page: str, target: str) -> str:
    """Return the path in the repository that a link of a page leads to.

    >>> resolve("docs/gate.md", "../leaderboards/README.md")
    'leaderboards/README.md'
    """
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def move_links(text: str, page: str, shown: Collection[str]) -> str:
    """Return a page with links that are right on the site.

    A link to a file that the site does not show becomes its text and the file's path, since the
    repository has no public address yet.

    Args:
        text: Markdown.
        page: The page's path in the repository.
        shown: The paths of all files of the repository that the site shows.
    """
    here = posixpath.dirname(place_on_site(page))

    def move(found: re.Match[str]) -> str:
        if found["code"] or is_outside(found["target"]):
            return found[0]
        target, hash_, place = found["target"].partition("#")
        path = resolve(page, target)
        if path in shown:
            moved = os.path.relpath(place_on_site(path), here or ".")
            moved = PurePosixPath(moved).as_posix()
            return f"{found['mark']}[{found['text']}]({moved}{hash_}{place})"
        if found["mark"]:
            return f"*(picture `{path}`)*"
        return found["text"] if f"`{path}`" == found["text"] else f"{found['text']} (`{path}`)"

    return change_prose(text, lambda line: LINK.sub(move, line))


def change_prose(text: str, change: Callable[[str], str]) -> str:
    """Return a page whose lines outside of blocks of code are changed."""
    lines, fence = [], ""
    for line in text.splitlines():
        found = FENCE.match(line)
        if found and not fence:
            fence = found[1]
        elif found and line.strip().startswith(fence):
            fence = ""
        elif not fence:
            line = change(line)
        lines.append(line)
    return "\n".join(lines) + "\n"


def list_targets(text: str) -> list[str]:
    """Return the targets of all links and pictures of a page, in their order."""
    found: list[str] = []

    def note(line: str) -> str:
        found.extend(one["target"] for one in LINK.finditer(line) if one["target"])
        return line

    change_prose(text, note)
    return found
