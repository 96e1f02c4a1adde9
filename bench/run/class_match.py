"""Where the labels of a subset meet the classes of a network.

Both only count. Where the network states the names of its classes, names decide; otherwise the
numbers do. What does not fit is refused with its cause, and what was assumed is a sentence of the
run.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bench.data import Subset
from bench.data.class_names import IMAGENET_COUNT, imagenet_names, imagenet_wnids
from bench.data.images import ImagesSource
from bench.errors import BenchError
from bench.models.explainee import Explainee
from bench.models.network_classes import read_stated_names

_SHOWN = 6


class ClassMatch(NamedTuple):
    """How labels become a network's class numbers.

    labels: {label of the subset: class of the network}; None where they are the same.  names: the
    network's classes.  note: what was assumed, or "".
    """

    labels: Mapping[int, int] | None = None
    names: tuple[str, ...] = ()
    note: str = ""


def match_classes(models: Sequence[Explainee], subset: Subset) -> tuple[Subset, tuple[str, ...]]:
    """Return the subset with the labels that the models count, and sentences about it.

    Raises:
        BenchError: the labels are no classes of a model, or two models count them differently.
    """
    matches = {model.name: match_model(model, subset) for model in models}
    notes = tuple(dict.fromkeys(match.note for match in matches.values() if match.note))
    first, *others = matches.items()
    for name, match in others:
        if match.labels != first[1].labels:
            raise BenchError(
                f"The models {first[0]} and {name} count the classes of the subset {subset.name} "
                "differently; run them apart."
            )
    match = first[1]
    return (subset if match.labels is None else relabel_subset(subset, match)), notes


def relabel_subset(subset: Subset, match: ClassMatch) -> Subset:
    """Return a subset whose labels are a network's class numbers, under another manifest id.

    Raises:
        BenchError: it calibrates on another subset, whose labels are not matched.
    """
    if isinstance(subset.calibrating, str):
        raise BenchError(
            f"The labels of the subset {subset.name} are not the model's class numbers, and it "
            f"calibrates on {subset.calibrating}; give both the model's classes in their order."
        )
    source, labels = subset.source, match.labels
    assert isinstance(source, ImagesSource)
    assert labels is not None
    numbers = np.array([labels[label] for label in source.labels.tolist()], dtype=np.int64)
    return dataclasses.replace(
        subset,
        manifest=dataclasses.replace(subset.manifest, classes=match.names),
        source=source.relabel(numbers, match.names),
    )


def match_model(model: Explainee, subset: Subset) -> ClassMatch:
    """Return how a subset's labels become a model's classes; a misfit is a BenchError."""
    count, own = model.num_classes, subset.class_names
    if own == tuple(map(str, range(len(own)))):
        return _match_numbers(model, subset)
    stated = read_stated_names(model)
    names = stated or (imagenet_names() if count == IMAGENET_COUNT else ())
    used = sorted(set(subset.source.labels.tolist()))
    if names and len(names) == count:
        found = _match_names(model, subset, names, used)
        if found is not None:
            return found
    if count == subset.num_classes:
        return ClassMatch()
    if subset.num_classes == IMAGENET_COUNT and len(used) == count and _can_relabel(subset):
        return ClassMatch(
            {label: i for i, label in enumerate(used)},
            tuple(imagenet_wnids()[label] for label in used),
            f"The subset {subset.name} has {count} of ImageNet's classes and {model.name} has "
            f"{count} outputs: its labels are 0 to {count - 1}, in the order of the wnids.",
        )
    raise BenchError(_describe_misfit(model, subset, used))


def _match_numbers(model: Explainee, subset: Subset) -> ClassMatch:
    """Return the match of labels that have no names: the numbers are the classes."""
    count, most = model.num_classes, subset.num_classes - 1
    if most >= count:
        raise BenchError(
            f"The labels of the subset {subset.name} reach {most}, and the model {model.name} has "
            f"{count} classes, 0 to {count - 1}; count labels from 0, or choose the network that "
            "was trained on these classes."
        )
    if most + 1 == count:
        return ClassMatch()
    return ClassMatch(
        note=f"The labels of the subset {subset.name} are numbers up to {most}, and "
        f"{model.name} has {count} classes: the numbers are taken as its class numbers."
    )


def _match_names(
    model: Explainee, subset: Subset, names: tuple[str, ...], used: list[int]
) -> ClassMatch | None:
    """Return the match by names; None where names do not decide."""
    index = _index_names(names, names == imagenet_names())
    own = subset.class_names
    found = {label: index.get(_normalise(own[label]), set()) for label in used}
    if subset.num_classes == len(names):
        if all(label in there or not there for label, there in found.items()):
            return None  # in the network's order, as far as names say
    elif not all(found.values()):
        return None
    clear = {label: next(iter(there)) for label, there in found.items() if len(there) == 1}
    if len(clear) < len(found) or len(set(clear.values())) < len(clear) or not _can_relabel(subset):
        odd = next((label for label in used if label not in clear), used[0])
        raise BenchError(
            f"The classes of the subset {subset.name} and of the model {model.name} have the same "
            f"names in another order, and {own[odd]!r} does not stand for one class; name the "
            "classes as the network does."
        )
    shown = ", ".join(f"{own[label]} {clear[label]}" for label in used[:_SHOWN])
    more = ", ..." if len(used) > _SHOWN else ""
    note = (
        f"The classes of the subset {subset.name} are matched by name with those of {model.name}: "
        f"{shown}{more}."
    )
    return ClassMatch(clear, names, note)


def _index_names(names: tuple[str, ...], imagenet: bool) -> dict[str, set[int]]:
    """Return {normalised name: classes}; each of a name's comma-separated words counts."""
    index: dict[str, set[int]] = defaultdict(set)
    for i, name in enumerate(names):
        for word in (name, *name.split(",")):
            index[_normalise(word)].add(i)
    if imagenet:
        for i, wnid in enumerate(imagenet_wnids()):
            index[wnid].add(i)
    return index


def _normalise(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _can_relabel(subset: Subset) -> bool:
    return isinstance(subset.source, ImagesSource)


def _describe_misfit(model: Explainee, subset: Subset, used: list[int]) -> str:
    own = subset.class_names
    shown = ", ".join(own[label] for label in used[:_SHOWN])
    more = ", ..." if len(used) > _SHOWN else ""
    return (
        f"The model {model.name} has {model.num_classes} classes and the subset {subset.name} "
        f"{subset.num_classes} ({shown}{more}), whose names the model does not state; choose the "
        "network that was trained on these classes, or give labels as its class numbers."
    )
