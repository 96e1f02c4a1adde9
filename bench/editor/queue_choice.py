"""Which images an editor shows, and in which order: those that a person is asked to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.data.subset import Subset
from bench.errors import BenchError, suggestions
from bench.finetune.placement import Placement


@dataclass(frozen=True)
class QueueChoice:
    """What a queue may hold.

    Attributes:
        everything: Whether it holds every image; else those right in class and wrong in place.
        classes: Labels of the classes that it holds; empty for all.
        limit: The most images that it holds; 0 for all.
    """

    everything: bool = False
    classes: tuple[int, ...] = ()
    limit: int = 0

    def list_wanted(self, subset: Subset) -> list[int]:
        """Return the indices of the images of the chosen classes, in the subset's order."""
        labels = subset.labels.tolist()
        return [k for k, label in enumerate(labels) if not self.classes or label in self.classes]

    def order_queue(self, seen: Sequence[Placement], model: str, subset: str) -> list[Placement]:
        """Return the images to draw, the one whose map misses its object most first.

        Args:
            seen: Where the attention of the images of the chosen classes lies.
            model: Name of the network, for the error.
            subset: Name of the subset, for the error.

        Returns:
            At most `limit` placements. The energy inside the object rises; images without a
            known object come last, in the subset's order.

        Raises:
            BenchError: No image is left.
        """
        chosen = list(seen) if self.everything else self._choose(seen, model, subset)
        chosen.sort(key=lambda one: (one.energy is None, one.energy or 0.0, one.index))
        return chosen[: self.limit] if self.limit else chosen

    def _choose(self, seen: Sequence[Placement], model: str, subset: str) -> list[Placement]:
        chosen = right = [one for one in seen if one.right]
        lacking = "none is right in class"
        if right and any(one.energy is not None for one in seen):
            chosen = [one for one in right if one.misplaced]
            lacking = (
                f"of the {len(right)} right in class none has less than half of its attention on "
                "the object"
            )
        if chosen:
            return chosen
        which = " of the chosen classes" if self.classes else ""
        raise BenchError(
            f"The queue is empty: of {len(seen)} images{which} of {subset} under {model}, "
            f"{lacking}; use --all to edit every image, or another subset."
        )


def read_classes(text: str, subset: Subset) -> tuple[int, ...]:
    """Return the labels of classes that a text names.

    Args:
        text: Names or numbers of classes, separated by commas. A name may hold a comma itself
            where the text is that name alone.
        subset: The images; at least one has to be of each class.

    Raises:
        BenchError: A class is unknown, or no image is of it.

    Example:
        >>> import bench
        >>> read_classes("checked square, 0", bench.load_subset("scenes-val", limit=24))
        (2, 0)
    """
    names = {name: label for label, name in enumerate(subset.class_names)}
    words = [text] if text in names else [word.strip() for word in text.split(",")]
    there, labels = set(subset.labels.tolist()), list[int]()
    for word in filter(None, words):
        number = int(word) if word.isascii() and word.isdecimal() and len(word) < 10 else -1
        label = names.get(word, number)
        if not 0 <= label < subset.num_classes:
            raise BenchError(f"{subset.name} has no class {word!r}.{suggestions(word, names)}")
        if label not in there:
            raise BenchError(f"{subset.name} holds no image of the class {word!r}; leave it out.")
        labels.append(label)
    if not labels:
        raise BenchError("--classes names no class; give names or numbers, separated by commas.")
    return tuple(dict.fromkeys(labels))
