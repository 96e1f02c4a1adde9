"""The names of a network's classes, as far as its card, its subset or timm know them."""

from __future__ import annotations

from bench.data import SUBSETS, load_subset
from bench.data.images import IMAGENET_COUNT, imagenet_names
from bench.errors import BenchError
from bench.models.explainee import Explainee

_KEYS = ("class_names", "classes", "label_names")
"""Keys of a card that may hold the names, in the order of the logits."""
_TRAINED_ON = ("data", "top1_subset")
"""Keys of a card that name a subset, as NAME or NAME@ID."""


def find_class_names(model: Explainee) -> tuple[str, ...]:
    """Return the names of a network's classes, or () where nothing states them.

    The card's own names win; then those of the subset that the card was trained on; then timm's
    names of ImageNet for a network of 1000 classes.
    """
    for key in _KEYS:
        names = model.card.get(key)
        if isinstance(names, list | tuple) and len(names) == model.num_classes:
            return tuple(map(str, names))
    for key in _TRAINED_ON:
        found = _read_subset_names(str(model.card.get(key, "")).partition("@")[0])
        if len(found) == model.num_classes:
            return found
    return imagenet_names() if model.num_classes == IMAGENET_COUNT else ()


def _read_subset_names(name: str) -> tuple[str, ...]:
    """Return the class names of a registered subset whose files are here, or ()."""
    if name not in SUBSETS:
        return ()
    try:
        names = load_subset(name).class_names
    except BenchError:  # its files are elsewhere
        return ()
    return () if all(one.isdigit() for one in names) else tuple(names)
