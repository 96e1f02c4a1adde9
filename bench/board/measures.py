"""From records to measures: named sets of rows that a board reduces to one number per method.

Most measures are a value of a metric as it is. Some are derived: box accuracies from vectors of
best IoU per tau, the pooled pixel precision from histograms, and for localisation the same on the
items where the prediction is the label (`@correct`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.board import statistics
from bench.board.statistics import Floats, Labels, Sampled
from bench.errors import BenchError
from bench.identity import plain_name
from bench.metrics import find_owner
from bench.pipeline.records import MIN_CALIBRATION

CORRECT = "@correct"
"""Ending of a measure that is taken where the prediction is the label."""


BOX_IOUS = (0.3, 0.5, 0.7)
"""IoU thresholds where the provenance names none."""


@dataclass(frozen=True)
class Measure:
    """Rows of one named measure and its facts.

    facts: family, title, better, ranked, and reduce: "mean", "std", "pooled_precision" or "curve".
    rows: columns item, image, model, method, and value (scalars) or vector.
    """

    name: str
    facts: dict[str, Any]
    rows: pd.DataFrame

    @property
    def reduce(self) -> str:
        """Return how images become one number."""
        return str(self.facts["reduce"])

    @property
    def models(self) -> list[str]:
        """Return the models that have rows, in alphabetical order."""
        return sorted(self.rows["model"].unique())


@dataclass(frozen=True)
class Cube:
    """A measure's values on the items that a table is about.

    methods: K names.  items, images: [n].  values: [models,n,K], float64 with NaN = not scored, or
    vectors (None = not scored).  present: [n,K], whether every model has a row.  scored: [n,K],
    whether every model has a number.
    """

    methods: list[str]
    items: Labels
    images: Labels
    values: npt.NDArray[Any]
    present: npt.NDArray[np.bool_]
    scored: npt.NDArray[np.bool_]

    def vectors(self, model: int, method: int) -> Floats:
        """Return one method's vectors, [n,V]; rows of NaN where the cell is not scored in every
        model.
        """
        cells = [
            v if s else None
            for v, s in zip(self.values[model, :, method], self.scored[:, method], strict=True)
        ]
        return stack(cells)

    def scalars(self) -> Floats:
        """Return the values [models,n,K] with NaN where the cell is not scored in every model."""
        return np.where(self.scored, self.values, np.nan).astype(np.float64)


def stack(cells: Sequence[Any]) -> Floats:
    """Stack vectors [V] into [n,V]; None, a vector with NaN or another length becomes a row of
    NaN.
    """
    width = max((len(v) for v in cells if v is not None), default=1)
    result = np.full((len(cells), width), np.nan)
    for row, vector in zip(result, cells, strict=True):
        if vector is not None and len(vector) == width:
            row[:] = vector
    return result


def is_scored(cell: Any) -> bool:
    """Tell whether a cell holds a number, or a vector without NaN."""
    return cell is not None and bool(np.isfinite(cell).all())


def cube(measure: Measure, models: Sequence[str]) -> Cube:
    """Arrange a measure's rows for these models: items that all of them have, methods that all of
    them have.
    """
    rows = measure.rows[measure.rows["model"].isin(models)]
    methods = sorted(shared(rows, models, "method"))
    items = np.array(sorted(shared(rows, models, "item")), dtype=object)
    rows = rows[rows["item"].isin(items) & rows["method"].isin(methods)]
    vector = measure.reduce in ("curve", "pooled_precision")
    where = (
        pd.Index(models).get_indexer(pd.Index(rows["model"])),
        pd.Index(items).get_indexer(pd.Index(rows["item"])),
        pd.Index(methods).get_indexer(pd.Index(rows["method"])),
    )
    shape = (len(models), len(items), len(methods))
    values = np.full(shape, None if vector else np.nan, dtype=object if vector else np.float64)
    present, scored = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    column = rows["vector" if vector else "value"].to_numpy(dtype=object if vector else np.float64)
    values[where], present[where] = column, True
    scored[where] = [is_scored(cell) for cell in column] if vector else np.isfinite(column)
    images = (
        rows.drop_duplicates("item")
        .set_index("item")["image"]
        .reindex(items)
        .to_numpy(dtype=object)
    )
    everywhere = [np.asarray(mask.all(axis=0)) for mask in (present, scored)]
    return Cube(methods, items, images, values, *everywhere)


def shared(rows: pd.DataFrame, models: Sequence[str], column: str) -> set[str]:
    """Return the entries of a column that every one of these models has."""
    return set.intersection(*(set(rows.loc[rows["model"] == model, column]) for model in models))


def sample(measure: Measure, cells: Cube, resamples: int, seed: int) -> Sampled:
    """Reduce a cube to one number per method with its bootstrap replicates; several models: their
    mean.

    Every model meets the same resamples of images.
    """
    if measure.reduce == "pooled_precision":
        return sample_pooled(cells, min(resamples, statistics.POOLED_RESAMPLES), seed)
    draw = statistics.sampler(measure.reduce, resamples, seed)
    if measure.reduce == "mean":  # linear: the mean over models per item comes first, and once
        return draw(cells.scalars().mean(0), cells.images)
    return over_models([draw(values, cells.images) for values in cells.scalars()])


def sample_pooled(cells: Cube, resamples: int, seed: int) -> Sampled:
    """Reduce histograms: pooled precision per model and method, then the mean over models."""
    results = []
    for model in range(len(cells.values)):
        columns = [
            statistics.sample_pooled(cells.vectors(model, method), cells.images, resamples, seed)
            for method in range(len(cells.methods))
        ]
        results.append(
            Sampled(np.array([p for p, _ in columns]), np.stack([r for _, r in columns], axis=1))
        )
    return over_models(results)


def over_models(results: list[Sampled]) -> Sampled:
    """Return the mean over models of points and replicates."""
    return Sampled(
        np.mean([r.point for r in results], axis=0),
        np.mean([r.replicates for r in results], axis=0),
    )


def measures(frame: pd.DataFrame, provenance: dict[str, Any]) -> Iterator[Measure]:
    """Yield the measures of one subset's records, derived ones included."""
    protocol = provenance.get("protocol", {})
    ious = box_ious(provenance)
    on_scored = protocol.get("box_tau_from") == "scored"
    for name, rows in frame.groupby("metric", sort=True):
        facts = provenance["metrics"].get(name)
        if facts is None:
            raise BenchError(
                f"The records hold {name!r}, of which run.json says nothing; run `cambench run` "
                "again."
            )
        scored = rows[rows["part"] == "eval"]
        calibration = None if on_scored else rows[rows["part"] == "calibration"]
        yield from expand(str(name), facts, scored, calibration, ious)
        if facts["family"] == "localization":
            correct = scored[scored["correct"].astype(bool)]
            for measure in expand(str(name), facts, correct, calibration, ious):
                yield Measure(measure.name + CORRECT, measure.facts, measure.rows)
    # Other curves do not hold the clean probability.
    if (
        protocol.get("curve_ends", "both") == "both"
        and protocol.get("score", "softmax") == "softmax"
    ):
        yield from relative(frame, provenance["metrics"])


def relative(frame: pd.DataFrame, metrics: dict[str, Any]) -> Iterator[Measure]:
    """Yield areas over p_c(x), for comparing models of different confidence; reported, not
    ranked.
    """
    scored = frame[frame["part"] == "eval"]
    key = ["item", "model", "method"]
    for name, facts in sorted(metrics.items()):
        curve, end = declared(name, facts, "curve"), declared(name, facts, "clean_end")
        areas, curves = (scored[scored["metric"] == metric] for metric in (name, like(name, curve)))
        if not curve or areas.empty or curves.empty:
            continue
        clean = curves.set_index(key)["vector"].map(
            lambda v, end=end: float(v[end]) if v is not None else np.nan
        )
        rows = areas.assign(
            value=areas["value"].to_numpy() / clean.reindex(areas.set_index(key).index).to_numpy()
        )
        shown = {**facts, "title": f"{plain_name(name)} over p(x)", "ranked": False, "upper": None}
        yield Measure(like(name, f"{plain_name(name)}_relative"), shown, rows)


def declared(name: str, facts: dict[str, Any], what: str) -> Any:
    """Return what a metric declares of a value: as run.json has it, else as the registry of
    today.
    """
    if what in facts:
        return facts[what]
    owner = find_owner(plain_name(name))
    return "" if owner is None else getattr(owner.values[plain_name(name)], what)


def like(name: str, derived: str) -> str:
    """Return a derived value's name, marked as of the same older version as the value that it is
    made of.
    """
    return derived + name.removeprefix(plain_name(name)) if derived else ""


def expand(
    name: str,
    facts: dict[str, Any],
    rows: pd.DataFrame,
    calibration: pd.DataFrame | None,
    ious: tuple[float, ...],
) -> Iterator[Measure]:
    """Yield what a board shows for one value of a metric; calibration: None where the scored images
    choose tau.
    """
    if rows.empty:
        return
    if facts["reduce"] == "box_accuracy":
        yield from boxes(derived_name(name, facts), facts, rows, calibration, ious)
    elif facts["reduce"] == "pooled_precision":
        pooled = {**facts, "title": "pooled pixel average precision", **HIGHER}
        yield Measure(derived_name(name, facts), pooled, rows)
    else:
        yield Measure(name, facts, rows)


def derived_name(name: str, facts: dict[str, Any]) -> str:
    """Return the name of what the board makes of a value's vectors: the declared one, else the
    value's with an end.
    """
    ending = "accuracy" if facts["reduce"] == "box_accuracy" else "pooled"
    return like(name, declared(name, facts, "derived") or f"{plain_name(name)}_{ending}")


def box_ious(provenance: dict[str, Any]) -> tuple[float, ...]:
    """Return the IoU thresholds of a run."""
    return tuple(provenance.get("protocol", {}).get("box_ious", BOX_IOUS))


HIGHER = {"better": "higher", "ranked": True, "lower": 0.0, "upper": 1.0}


def boxes(
    name: str,
    facts: dict[str, Any],
    rows: pd.DataFrame,
    calibration: pd.DataFrame | None,
    ious: tuple[float, ...],
) -> Iterator[Measure]:
    """Yield box accuracies: at tau chosen on the calibration part (mean over IoUs, ranked, and per
    IoU) and oracle tau.

    tau is chosen per model, method and IoU. An oracle tau is chosen on the scored images
    themselves: an upper bound; where the protocol chooses so (calibration None) it is the only one.
    """
    parts = list(pairs(rows, rows.iloc[:0] if calibration is None else calibration))
    oracle = [hits(scored, scored, ious, least=0) for scored, _ in parts]
    chosen = oracle if calibration is None else [hits(scored, part, ious) for scored, part in parts]
    frame = pd.concat([scored for scored, _ in parts])
    hit, best = np.concatenate(chosen), np.concatenate(oracle)
    title = (
        "box accuracy"
        if calibration is not None
        else "box accuracy, tau chosen on the scored images"
    )
    mean_facts = {**facts, **HIGHER, "reduce": "mean", "title": title}
    yield Measure(name, mean_facts, frame.assign(value=hit.mean(1)))
    reported = {**mean_facts, "ranked": False}
    if calibration is not None:
        yield Measure(
            like(name, f"{plain_name(name)}_oracle"),
            {**reported, "title": f"{title}, oracle tau"},
            frame.assign(value=best.mean(1)),
        )
    for column, iou in enumerate(ious):
        one = {**reported, "title": f"{title} at IoU {iou:g}"}
        yield Measure(
            like(name, f"{plain_name(name)}_{round(100 * iou)}"),
            one,
            frame.assign(value=hit[:, column]),
        )


def pairs(
    rows: pd.DataFrame, calibration: pd.DataFrame
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Yield the scored rows of each (model, method) with its calibration rows."""
    parts = dict(iter(calibration.groupby(["model", "method"])))
    for key, scored in rows.groupby(["model", "method"], sort=True):
        yield scored, parts.get(key, calibration.iloc[:0])


def hits(
    scored: pd.DataFrame,
    choosing: pd.DataFrame,
    ious: tuple[float, ...],
    least: int = MIN_CALIBRATION,
) -> Floats:
    """Return whether each scored item is a hit at each IoU, [n,ious] of 0, 1 and NaN, at the taus
    chosen on `choosing`.

    With fewer than `least` images there all is NaN.
    """
    vectors = stack(list(scored["vector"]))
    taus = best_taus(choosing, ious, least)
    if taus is None or vectors.shape[1] <= max(taus):
        return np.full((len(scored), len(ious)), np.nan)
    return hits_at(vectors, taus, ious)


def best_taus(
    choosing: pd.DataFrame, ious: tuple[float, ...], least: int = MIN_CALIBRATION
) -> list[int] | None:
    """Return, per IoU, the index of the first tau that gives most hits; None with fewer than
    `least` images.
    """
    choosing = choosing[choosing["vector"].map(is_scored).astype(bool)]  # others choose nothing
    if choosing.empty or choosing["image"].nunique() < least:
        return None
    reference = stack(list(choosing["vector"])).astype(np.float32)
    return [int((reference >= np.float32(iou)).sum(0).argmax()) for iou in ious]


def hits_at(vectors: Floats, taus: Sequence[int], ious: tuple[float, ...]) -> Floats:
    """Return whether vectors [n,V] of best IoU per tau hit each IoU at its tau, [n,ious] of 0, 1
    and NaN.

    A hit is IoU >= threshold, in float32 since that is how the IoUs are stored (0.7 would miss its
    own threshold in float64).
    """
    columns = []
    for iou, tau in zip(ious, taus, strict=True):
        column = (vectors[:, tau].astype(np.float32) >= np.float32(iou)).astype(np.float64)
        columns.append(np.where(np.isnan(vectors[:, tau]), np.nan, column))
    return np.stack(columns, axis=1)
