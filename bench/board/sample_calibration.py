"""Sample calibration: what the images of an ImageNet board give without any network.

A sample of ImageNet can be easier than the whole set, in accuracy and in localisation. The board
says so beside its values, from its own records.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.board import text
from bench.board.box_thresholds import find_hits, read_box_ious
from bench.board.cubes import is_scored
from bench.board.statistics import RESAMPLES, choose_sampler
from bench.data.expressions import is_expression
from bench.identity import plain_name
from bench.records.store import Records

CENTRE = "center_gaussian"
WSOL_WHOLE_SET = 0.525
"""MaxBoxAccV2 of a centre Gaussian on the whole validation set, as the authors of WSOL publish it
(Choe et al., CVPR 2020).
"""

IMAGENET_BOXES = "imagenet_boxes"
"""Key of a subset in run.json: whether it is of ImageNet, with boxes."""

TITLE_WORD = "ILSVRC2012"
"""What the titles of such subsets hold in runs that lack the key."""

NO_COMPARISON = "No value of this board compares with a paper's."


def describe_sample(
    records: Records, subset: str, resamples: int = RESAMPLES, seed: int = 0
) -> list[str]:
    """Return sentences on what a subset's images give, or [] for a subset that is not ImageNet's.

    Grids and pastes are made of such images, and only the last sentence is about them.

    Args:
        records: of the board; scored and calibration images both count.
        subset: its name.
        resamples: of the bootstrap over images.
        seed: of the bootstrap.
    """
    facts = records.provenance["subsets"].get(subset, {})
    if not facts.get(IMAGENET_BOXES, TITLE_WORD in str(facts.get("title"))):
        return []
    if is_expression(subset):  # its items are no images of the sample, and its labels neither
        return [NO_COMPARISON]
    rows = records.frame[records.frame["subset"] == subset]
    models = records.provenance["models"]
    return [
        describe_centre(rows, records.provenance, resamples, seed),
        *(
            describe_top1(str(model), models[str(model)], own, resamples, seed)
            for model, own in rows.groupby("model", sort=True)
        ),
        NO_COMPARISON,
    ]


def describe_centre(
    rows: pd.DataFrame, provenance: dict[str, Any], resamples: int, seed: int
) -> str:
    """Write the box accuracy of the centre Gaussian, at the taus that are best on these images.

    The map does not depend on the network, so each image counts once, whatever networks saw it.
    """
    named = rows["metric"].map(plain_name).eq("box_iou") & rows["method"].eq(CENTRE)
    boxes = rows[named & rows["vector"].map(is_scored).astype(bool)].drop_duplicates("item")
    whole = f"{text.number(WSOL_WHOLE_SET)} on the whole set (WSOL authors, CVPR 2020)"
    if boxes.empty:
        return f"Centre Gaussian, no network: MaxBoxAccV2 not recorded for these images; {whole}."
    hits = find_hits(boxes, boxes, read_box_ious(provenance), least=0)
    found = text.interval(*measure_mean(hits.mean(1), boxes["image"], resamples, seed))
    return (
        f"Centre Gaussian, no network: MaxBoxAccV2 {found} on {boxes['image'].nunique():,} images "
        f"of this board, tau chosen on them; {whole}."
    )


def describe_top1(
    model: str, facts: dict[str, Any], rows: pd.DataFrame, resamples: int, seed: int
) -> str:
    """Write a network's top-1 on the images of the board, and the published one where its card
    states it.
    """
    items = rows.drop_duplicates("item")
    right = items["correct"].astype(np.float64)
    point, low, high = (100 * x for x in measure_mean(right, items["image"], resamples, seed))
    published = facts.get("card", {}).get("published_top1")
    known = "not recorded" if published in (None, "") else str(published)
    return (
        f"Top-1 of {model}: {point:.1f} % [{low:.1f}, {high:.1f}] on {items['image'].nunique():,} "
        f"images of this board; published: {known}."
    )


def measure_mean(
    values: npt.ArrayLike, images: pd.Series, resamples: int, seed: int
) -> tuple[float, float, float]:
    """Return the mean of values [n] and its bootstrap interval over images."""
    draw = choose_sampler("mean", resamples, seed)
    drawn = draw(np.asarray(values, dtype=np.float64)[:, None], images.to_numpy(dtype=object))
    low, high = drawn.interval()
    return float(drawn.point[0]), float(low[0]), float(high[0])
