"""What a run leaves out, since the data cannot serve it: sentences for the terminal and boards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from bench.data import Subset
from bench.errors import NotApplicable
from bench.methods import Method
from bench.metrics import Metric
from bench.models.explainee import Explainee
from bench.models.sisters import describe_missing_sister, find_sister

Part = TypeVar("Part", Method, Metric)

_LACKING = {
    "boxes": "boxes",
    "masks": "masks",
    "truth": "boxes or masks",
    "others": "masks of another class's objects",
}
"""What is missing, by the word of `needs`."""


def keep_fitting(
    word: str, chosen: Sequence[Part], subset: Subset
) -> tuple[list[Part], tuple[str, ...]]:
    """Return the methods or metrics that find the ground truth they need, and sentences about the
    others.

    Raises:
        NotApplicable: none is left.
    """
    have = {
        "boxes": subset.has_boxes,
        "masks": subset.has_masks,
        "truth": subset.has_boxes or subset.has_masks,
        "others": subset.has_others,
        "method": True,
        "sister": True,
    }
    usable = [one for one in chosen if all(have[need] for need in one.needs)]
    if not usable:
        raise NotApplicable(
            f"No {word} of the run fits the subset {subset.name}: "
            f"{', '.join(one.name for one in chosen)} need ground truth (boxes or masks) that it "
            "does not have."
        )
    lacking: dict[str, list[str]] = {}
    for one in chosen:
        missing = [_LACKING[need] for need in one.needs if not have[need]]
        if missing:
            lacking.setdefault(missing[-1], []).append(one.name)
    return usable, describe_unserved(word, lacking)


def keep_served(
    metrics: Sequence[Metric], models: Sequence[Explainee]
) -> tuple[list[Metric], tuple[str, ...]]:
    """Return the metrics that any of the models has a sister for, and sentences about the others.

    Raises:
        NotApplicable: none is left.
    """
    waiting = [metric.name for metric in metrics if "sister" in metric.needs]
    lonely = [model.name for model in models if waiting and find_sister(model) is None]
    sentences = tuple(
        f"{', '.join(waiting)} {'is' if len(waiting) == 1 else 'are'} n/a: "
        f"{describe_missing_sister(name)}"
        for name in lonely
    )
    if len(lonely) < len(models):
        return [*metrics], sentences
    usable = [metric for metric in metrics if "sister" not in metric.needs]
    if not usable:
        raise NotApplicable(sentences[0])
    return usable, sentences


def keep_usable(
    metrics: Sequence[Metric], subset: Subset, models: Sequence[Explainee]
) -> tuple[list[Metric], tuple[str, ...]]:
    """Return the metrics that find the truth and the sister that they need; sentences about others.

    Raises:
        NotApplicable: none is left.
    """
    fitting, no_truth = keep_fitting("metric", metrics, subset)
    usable, no_sister = keep_served(fitting, models)
    return usable, (*no_truth, *no_sister)


def describe_unserved(word: str, lacking: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return a sentence for each thing that the data lacks, with the names that need it.

    >>> describe_unserved("metric", {"boxes": ["box_localization"]})
    ('The metric box_localization is left out, since the subset has no boxes.',)
    """
    return tuple(
        f"The {word}{'s' if len(names) > 1 else ''} {', '.join(names)} "
        f"{'are' if len(names) > 1 else 'is'} left out, since the subset has no {what}."
        for what, names in lacking.items()
    )
