"""What the files of a board are called: one name for each subset and model, never the same."""

from __future__ import annotations

from collections.abc import Iterable

from bench.board.text import slug
from bench.inner_places import name_apart

Scope = tuple[str, str]


def name_scopes(scopes: Iterable[Scope]) -> dict[Scope, str]:
    """Return the file name of each (subset, model), without suffix.

    >>> name_scopes([("val", "a/b"), ("val", "c")])
    {('val', 'a/b'): 'val--a_b', ('val', 'c'): 'val--c'}
    """
    return name_apart(scopes, lambda scope: slug(*scope))


def name_galleries(models: Iterable[str]) -> dict[str, str]:
    """Return the file name of each model's gallery, without suffix."""
    return name_apart(models, lambda model: slug("gallery", model))
