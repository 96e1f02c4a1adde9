"""One small registry, used for methods, metrics, models and subsets alike.

A duplicate name is an error, an unknown name is an error with suggestions, and lists may hold
wildcards and groups.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from bench.errors import BenchError, suggestions
from bench.identity import plain_name
from bench.plugins import load_entry_points


class Entry(Protocol):
    """What the registry needs of an entry: a name, and the groups that lists can name it by."""

    @property
    def name(self) -> str: ...

    @property
    def groups(self) -> tuple[str, ...]: ...


E = TypeVar("E", bound=Entry)


class Registry(Generic[E]):
    """Named entries of one kind.

    >>> from bench.methods import METHODS
    >>> METHODS.select(["control/fake*"])
    ['fake_cam']
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, E] = {}
        self._lists: dict[str, str] = {}

    def add(self, entry: E) -> E:
        """Add an entry; a second one of the same name is an error."""
        if plain_name(entry.name) != entry.name:
            raise BenchError(
                f"The {self.kind} name {entry.name!r} looks like a name of an older version; leave "
                '" (v" out.'
            )
        if entry.name in self._entries:
            raise BenchError(
                f"There is already a {self.kind} named {entry.name!r}; give the new one another "
                "name."
            )
        self._entries[entry.name] = entry
        return entry

    def remove(self, name: str) -> None:
        """Remove an entry (for tests and interactive work)."""
        self._entries.pop(name, None)

    def add_list(self, name: str, patterns: str) -> None:
        """Give a list of names, groups and wildcards a name; `select` keeps the order of the
        list.
        """
        self._lists[name] = patterns

    @property
    def lists(self) -> dict[str, str]:
        """Return the named lists: {name: patterns}."""
        return dict(self._lists)

    def other_names(self) -> dict[str, str]:
        """Return the names that stand for an entry beside its own: {other name: name of the
        entry}.
        """
        return {}

    def list_names(self) -> list[str]:
        """Return every name that `select` accepts: entries, their other names, groups and named
        lists.
        """
        groups = (group for entry in self for group in entry.groups)
        return list(
            dict.fromkeys((*self._entries, *self.other_names(), *groups, *self._lists, "all"))
        )

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[E]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def names(self) -> list[str]:
        """Return all names in the order of registration."""
        return list(self._entries)

    def get(self, name: str) -> E:
        """Return the entry of this name; an unknown name is an error with suggestions."""
        if name not in self._entries:
            # it may be an installed plug-in's, which the command line loads and Python does not
            load_entry_points()
        if name in self._entries:
            return self._entries[name]
        other = self.other_names()
        if name not in other:
            raise BenchError(
                f"Unknown {self.kind} {name!r}.{suggestions(name, [*self._entries, *other])}"
            )
        return self._entries[other[name]]

    def select(self, patterns: str | list[str]) -> list[str]:
        """Return names for a list of names, groups (`fast`, `all`, `default`) and wildcards
        (`cam/*`), without repeats.

        A pattern starting with `-` removes what it matches from what stands before it.
        """
        items = split_list(patterns) if isinstance(patterns, str) else list(patterns)
        chosen: list[str] = []
        for item in (i.strip() for i in items):
            if not item:
                continue
            if item.startswith("-"):
                dropped = set(self._match(item[1:]))
                chosen = [name for name in chosen if name not in dropped]
            else:
                chosen += [name for name in self._match(item) if name not in chosen]
        return chosen

    def _match(self, pattern: str) -> list[str]:
        if pattern == "all":
            return self.names
        if pattern in self._entries:
            return [pattern]
        if pattern in self._lists:
            return self.select(self._lists[pattern])
        found = [e.name for e in self if self._fits(e, pattern)]
        if found:
            return found
        other = self.other_names()
        if pattern in other:
            return [other[pattern]]
        addresses = [f"{group}/{entry.name}" for entry in self for group in entry.groups]
        known = addresses if "/" in pattern else self.list_names()
        raise BenchError(f"Unknown {self.kind} {pattern!r}.{suggestions(pattern, known)}")

    @staticmethod
    def _fits(entry: E, pattern: str) -> bool:
        if pattern in entry.groups:
            return True
        addresses = [entry.name, *(f"{group}/{entry.name}" for group in entry.groups)]
        return any(fnmatch.fnmatchcase(address, pattern) for address in addresses)


def split_list(text: str) -> list[str]:
    """Split a comma-separated list; commas inside brackets belong to a name.

    >>> split_list("sa_cam[lambda=0.5,base=grad_cam_pp],tft(layer_cam)")
    ['sa_cam[lambda=0.5,base=grad_cam_pp]', 'tft(layer_cam)']
    """
    items, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth <= 0:
            items.append("")
        else:
            items[-1] += character
    return items
