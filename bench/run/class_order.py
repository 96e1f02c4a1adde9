"""Whether the classes of a subset are in the order of a network's own, where these are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.data import Subset
from bench.data.labels import normalise_name
from bench.errors import BenchError
from bench.models.explainee import Explainee


def find_network_classes(model: Explainee) -> tuple[str, ...] | None:
    """Return a network's class names by number, or None where neither card nor network has them.

    They stand in the card (`classes`), in timm's `label_names`, or in the `id2label` of Hugging
    Face.
    """
    timm = getattr(model.net, "pretrained_cfg", None)
    label_names = timm.get("label_names") if isinstance(timm, Mapping) else None
    by_id = getattr(getattr(model.net, "config", None), "id2label", None)
    if isinstance(by_id, Mapping):
        by_id = [by_id[key] for key in sorted(by_id, key=int)]
    for names in (model.card.get("classes"), label_names, by_id):
        found = _read_names(names)
        if len(found) == model.num_classes:
            return found
    return None


def _read_names(names: Any) -> tuple[str, ...]:
    """Return names, or () where they are numbers or the LABEL_0 that Hugging Face fills in."""
    if not isinstance(names, list | tuple):
        return ()
    found = tuple(map(str, names))
    empty = all(name.removeprefix("LABEL_").isdigit() for name in found)
    return () if empty else found


def check_class_order(model: Explainee, subset: Subset) -> None:
    """Refuse a subset with the names of the network's classes in another order.

    Raises:
        BenchError: it names the first class that differs.
    """
    own, given = find_network_classes(model), subset.class_names
    if own is None or len(own) != len(given):
        return
    ours, theirs = ([_first_word(name) for name in names] for names in (given, own))
    if ours == theirs or sorted(ours) != sorted(theirs):
        return
    i = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    raise BenchError(
        f"Class {i} of the subset {subset.name} is {given[i]!r}, and of the network {model.name} "
        f"it is {own[i]!r}; list the network's classes in its order as `classes` in manifest.toml."
    )


def _first_word(name: str) -> str:
    """Return a name for comparison: the first of a synset's words, without capitals."""
    return normalise_name(str(name)).split(",")[0].casefold()
