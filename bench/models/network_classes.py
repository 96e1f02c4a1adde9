"""The names of a network's classes: stated by it, or known from its card, its subset or timm."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bench.data import SUBSETS, load_subset
from bench.data.class_names import IMAGENET_COUNT, imagenet_names
from bench.errors import BenchError
from bench.models.explainee import Explainee

_KEYS = ("class_names", "classes", "label_names")
"""Keys of a card that may hold the names, in the order of the logits."""
_TRAINED_ON = ("data", "top1_subset")
"""Keys of a card that name a subset, as NAME or NAME@ID."""
_UNNAMED = re.compile(r"(label|class)?[_ ]?\d+", re.IGNORECASE)


def find_class_names(model: Explainee) -> tuple[str, ...]:
    """Return the names of a network's classes, or () where nothing says them.

    What the network states wins; then the names of the subset that its card was trained on; then
    timm's names of ImageNet for a network of 1000 classes.
    """
    stated = read_stated_names(model)
    if stated:
        return stated
    for key in _TRAINED_ON:
        found = _read_subset_names(str(model.card.get(key, "")).partition("@")[0])
        if len(found) == model.num_classes:
            return found
    return imagenet_names() if model.num_classes == IMAGENET_COUNT else ()


def read_stated_names(model: Explainee) -> tuple[str, ...]:
    """Return the names that a network states for its classes; () where it states none.

    They stand in its card, in timm's `label_names`, or in the `id2label` of a Hugging Face network.
    """
    timm = getattr(model.net, "pretrained_cfg", None)
    given = [model.card.get(key) for key in _KEYS]
    given += [timm.get("label_names") if isinstance(timm, Mapping) else None]
    given += [model.class_names]
    for names in given:
        if isinstance(names, (list, tuple)) and len(names) == model.num_classes:
            found = tuple(map(str, names))
            if not all(_UNNAMED.fullmatch(name) for name in found):
                return found
    return ()


def _read_subset_names(name: str) -> tuple[str, ...]:
    """Return the class names of a registered subset whose files are here, or ()."""
    if name not in SUBSETS:
        return ()
    try:
        names = load_subset(name).class_names
    except BenchError:  # its files are elsewhere
        return ()
    return () if all(one.isdigit() for one in names) else tuple(names)
