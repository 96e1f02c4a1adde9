"""Class discriminability: on images with objects of two classes, does each class's map find its
own?
"""

from __future__ import annotations

import torch

from bench.engine.case import Case
from bench.metrics import map_similarity
from bench.metrics.base import Scores, Value, register_metric


@register_metric(
    "discriminability",
    family="localization",
    version=2,
    needs=("masks", "others"),
    values={
        "discriminability": Value(
            "Class discriminability", better="higher", lower=0, upper=1, peaked=True
        )
    },
)
def discriminability(case: Case) -> Scores:
    """max(L,0) on the objects of the explained class over that on them and on the other class's
    objects. [B] in [0,1].

    The background plays no part: it is about telling two objects apart, and a map that does not
    know the class scores about the share of its own object's area. A map that is nowhere positive
    on either finds neither: 0. NaN where an object is missing.
    """
    own, other = case.truth.masks, case.truth.others
    assert own is not None
    assert other is not None
    positive = case.positive.double()
    mine, theirs = ((positive * mask).sum((1, 2)) for mask in (own, other & ~own))
    both = own.flatten(1).any(1) & (other & ~own).flatten(1).any(1)
    total = mine + theirs
    share = mine / torch.where(total > 0, total, 1.0)
    return {"discriminability": torch.where(both, share, torch.nan)}


@register_metric(
    "class_contrast",
    family="localization",
    needs=("masks", "others", "method"),
    repeats=1,
    standard=False,
    values={
        "map_contrast": Value(
            "Rank correlation of the two classes' maps", better="lower", lower=-1, upper=1
        )
    },
)
def class_contrast(case: Case) -> Scores:
    """Spearman between the map of the explained class and that of the image's other class. [B] in
    [-1,1].

    1 for a class-agnostic method. Shown, not ranked: how much two objects' maps should differ is
    not known.
    """
    labels = case.truth.other_labels
    assert labels is not None
    known = labels >= 0
    other = case.share(
        "other class", lambda: case.trace.retarget(torch.where(known, labels, case.trace.targets))
    )
    value = map_similarity.spearman(case.maps, case.run_method(other))
    return {"map_contrast": torch.where(known, value, torch.nan)}
