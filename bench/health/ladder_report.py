"""The degradation ladder in the health report: it is run, judged, tabulated and written down."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from bench.board.text import FAILED, interval, markdown
from bench.engine.counts import Counts
from bench.files import file_name
from bench.health.grid import Report
from bench.health.ladder import IMAGE, LEAST_TAU, LadderResult, read_ladders
from bench.health.ladder_maps import LIGHT, count_waiting, list_left_out, run_ladder
from bench.health.page_tables import table
from bench.health.reload import Reloaded
from bench.health.sensitivity import sample_items
from bench.models.explainee import Explainee
from bench.records.store import Records
from bench.run.plan import Plan

if TYPE_CHECKING:
    from bench.health.findings import Health, Verdict

LADDER = 10
"""Images of the ladder by default: about a minute of one core for each bundled network."""

MORE = 3
"""How many times as many images light metrics are scored on: three blocks for hits."""


def plan_ladder(records: Records, loaded: Reloaded, model: Explainee, images: int) -> Plan:
    """Return the plan of a model's ladder: the first images of the run, `MORE` times as many as
    every metric is scored on.
    """
    return loaded.plan(model, (), sample_items(records, loaded, model.name, MORE * images))


def score_ladder(
    records: Records,
    loaded: Reloaded,
    model: Explainee,
    images: int,
    parts: Path | None,
    report: Report | None = None,
) -> dict[str, LadderResult]:
    """Return {measure: what its ladder shows} on one model; nothing where `images` is 0."""
    if not images:
        return {}
    plan = plan_ladder(records, loaded, model, images)
    folder = None if parts is None else parts / file_name(model.name)
    done = run_ladder(plan, folder, report, images)
    if done is None or done.frame.empty:
        return {}
    found = read_ladders(done, plan.subset.name, model.name)
    return {name: ladder.summarise() for name, ladder in found.items()}


def announce_ladder(records: Records, loaded: Reloaded, images: int, parts: Path | None) -> str:
    """Return what the ladder of a subset is about to run, in a sentence; "" where it is done."""
    counts = Counts()
    for model in loaded.models if images else ():
        plan = plan_ladder(records, loaded, model, images)
        counts += count_waiting(
            plan, None if parts is None else parts / file_name(model.name), images
        )
    if not any(counts.tuple):
        return ""
    return (
        f"{loaded.subset.name}, degradation ladder of {len(loaded.models)} models: at most "
        f"{counts.forwards:,} forwards and {counts.backwards:,} backwards on {images} images, "
        f"and on {MORE * images} for metrics of at most {LIGHT} forwards a map."
    )


def list_unfit_metrics(loaded: Reloaded) -> Iterator[str]:
    """Yield, for each reason, a sentence on the metrics that the ladder leaves out."""
    left_out = list_left_out(loaded.metrics)
    for reason in dict.fromkeys(left_out.values()):
        names = sorted(name for name, why in left_out.items() if why == reason)
        yield (
            f"{loaded.subset.name}: the degradation ladder leaves out {', '.join(names)}, since "
            f"{reason}."
        )


def judge_ladder(verdict: Verdict, found: LadderResult | None) -> None:
    """Add what the ladder shows to a verdict; a value that does not order fails."""
    verdict.ladder = found
    if found is None or found.orders is not False:
        return
    if verdict.passes is not False:  # what only could not be judged comes after
        verdict.reasons.insert(0, describe_failure(found))
    else:
        verdict.reasons.append(describe_failure(found))
    verdict.passes = False


def describe_failure(found: LadderResult) -> str:
    """Return why a value fails the ladder."""
    unit = found.unit if found.n != 1 else found.unit.replace("s", "", 1)
    place = ", ".join(found.told) or "all start maps, of which it tells none from noise"
    still = f", {found.constant} of {found.ladders} ladders constant" if found.constant else ""
    return (
        f"does not order maps that get worse (mean tau "
        f"{interval(found.tau, found.low, found.high, sign=True)} on {found.n} {unit}; {place}"
        f"{still})"
    )


# --- tables


COLUMNS = [
    "subset",
    "model",
    "metric",
    "ranked",
    *(f.name for f in dataclasses.fields(LadderResult)),
]
"""Columns of ladder.csv."""


def tabulate_ladders(health: Health) -> pd.DataFrame:
    """Return one row for each value and model with a ladder: the columns of `COLUMNS`."""
    rows = [
        {
            **{key: getattr(verdict, key) for key in ("subset", "model", "metric", "ranked")},
            **dataclasses.asdict(verdict.ladder),
            "told": " ".join(verdict.ladder.told),
            "starts": " ".join(verdict.ladder.starts),
            "orders": WORDS[verdict.ladder.orders],
        }
        for verdict in health.verdicts
        if verdict.ladder is not None
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


WORDS = {True: "orders", False: "does not order", None: "not judged"}
"""A ladder's verdict in words."""

EXPLANATION = (
    "Mean over images of Kendall's tau-b between the order of the value and that of the rungs: the "
    "map of a method turns into noise in six rungs of its ranks. 1: every rung scores worse than "
    f"the one before; under {LEAST_TAU:g} the value does not order{FAILED}. Counted are start maps "
    "that the value tells from noise; in brackets: it tells none, so all count, and nothing is "
    "judged unless it is blind or reversed. b: hits, compared as means over blocks of 10 images. "
    "Intervals, start maps and constant ladders: ladder.csv."
)


def list_ladder_lines(health: Health) -> Iterator[str]:
    """Yield the section of the health page: one table per subset, metrics x models."""
    with_ladder = [verdict for verdict in health.verdicts if verdict.ladder is not None]
    for subset in dict.fromkeys(verdict.subset for verdict in with_ladder):
        chosen = [verdict for verdict in with_ladder if verdict.subset == subset]
        yield f"## {markdown(subset)}: does each metric order maps that get worse?"
        yield ""
        yield EXPLANATION
        yield ""
        yield from list_ladder_rows(chosen)


def list_ladder_rows(verdicts: list[Verdict]) -> Iterator[str]:
    """Yield a table of the ladders of one subset, ranked values first."""
    models = list(dict.fromkeys(verdict.model for verdict in verdicts))
    found = {(v.metric, v.model): v.ladder for v in verdicts if v.ladder is not None}
    ranked = {v.metric for v in verdicts if v.ranked}
    metrics = sorted(dict.fromkeys(metric for metric, _ in found), key=lambda m: m not in ranked)
    rows = [
        [
            markdown(metric) + (" (ranked)" if metric in ranked else ""),
            *(write_cell(found.get((metric, model))) for model in models),
        ]
        for metric in metrics
    ]
    yield from table(["metric", *map(markdown, models)], rows)


def write_cell(found: LadderResult | None) -> str:
    """Write "0.88 [0.79, 0.96], n=10" with the marks that the section explains."""
    if found is None or not found.n:
        return "n/a"
    text = interval(found.tau, found.low, found.high)
    text = text if found.told else f"({text})"
    unit = "" if found.unit == IMAGE else "b"
    return f"{text}, n={found.n}{unit}{f' {FAILED}' if found.orders is False else ''}"
