"""The health report of a run: verdicts per metric and model, in health.json and as a page for a
reader.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from bench.board.cubes import Measure
from bench.board.record_checks import check_records
from bench.board.tables import write_csv
from bench.board.text import interval
from bench.errors import BenchError
from bench.files import file_name
from bench.folder_owner import own_folder
from bench.health.checks import (
    Spread,
    agreement,
    distinct,
    is_control,
    rank_methods,
    scalars,
    select_directed,
    separation,
    spread,
)
from bench.health.findings import Health, Verdict
from bench.health.health_page import write_page, write_plots
from bench.health.ladder_report import (
    LADDER,
    announce_ladder,
    judge_ladder,
    list_unfit_metrics,
    score_ladder,
    tabulate_ladders,
)
from bench.health.planted_evidence import CONTROLS, GRADED, PLANTED, make_planted_plans, run_planted
from bench.health.reload import Reloaded, reload_run
from bench.health.sensitivity import choose_methods, run_choices, sample_items
from bench.health.transform_gains import collect_gains
from bench.json_state import write_sealed_json
from bench.models.explainee import Explainee
from bench.records.run_facts import HEALTH
from bench.records.store import Records

FOLDER = "health"

LIMIT = 12
"""Images of the sample by default: with six models and eight methods about two minutes on two
cores.
"""

MAX_NAN = 0.1
"""Share of a metric's cells without a number above which it fails: it cannot be read as a mean over
the images.
"""

MAX_TIES = 0.95
"""Share of tied pairs of methods above which a metric fails: it orders nothing."""

MIN_IMAGES = 4
"""Images below which a separation is not judged."""

UNJUDGED_FAMILIES = ("complexity", "robustness", "sanity", "reference")
"""Families that claim neither place nor faithfulness: only gaps and ties are looked at."""

Say = Callable[[str, int, int], None]
"""Told (what is being done, steps done, steps in all)."""


def examine(
    folder: str | Path,
    limit: int = LIMIT,
    methods: Sequence[str] | None = None,
    data_root: Path | None = None,
    *,
    forwards: bool = True,
    command: str = "",
    device: str = "cpu",
    say: Say | None = None,
    ladder: int = LADDER,
    announce: Callable[[str], None] = lambda _: None,
) -> Health:
    """Check every metric of a run on each of its models, write RUN/health.json and RUN/health/, and
    return the health.

    limit: images of the sample that new forwards are made on; 0: all of the run.  methods: of the
    sample. forwards: False looks at stored records only.  What is done already is kept in
    RUN/health/parts.  ladder: images of the degradation ladder; 0: none.  announce: is called with
    a sentence on what the ladder is about to run.
    """
    run = Path(folder)
    records = Records.load(run)
    check_records(records)
    health = Health(records, images=limit, ladder_images=ladder if forwards else 0)
    with own_folder(run, "health check"):
        for subset in sorted(set(records.frame["subset"])):
            loaded = _try_reload(health, subset, data_root, device) if forwards else None
            if loaded and ladder:
                health.notes += list_unfit_metrics(loaded)
                announce(announce_ladder(records, loaded, ladder, run / FOLDER / "parts"))
            _check_subset(health, subset, loaded, limit, methods, run / FOLDER / "parts", say)
        _caution(health)
        write(health, run, command)
    return health


def _try_reload(
    health: Health, subset: str, data_root: Path | None, device: str
) -> Reloaded | None:
    """Return what the run was made of, or None with a sentence: only stored records are looked at
    then.
    """
    try:
        loaded = reload_run(health.records, subset, data_root, device)
    except BenchError as error:
        health.notes.append(f"{subset}: only checks of stored records were made, since: {error}")
        return None
    health.notes += [f"{subset}: {note}" for note in loaded.notes]
    return loaded


def _check_subset(
    health: Health,
    subset: str,
    loaded: Reloaded | None,
    limit: int,
    methods: Sequence[str] | None,
    parts: Path,
    say: Say | None,
) -> None:
    records = health.records
    found = select_directed(records, subset)
    models = sorted({model for measure in found for model in measure.models})
    here = {model.name: model for model in loaded.models} if loaded else {}
    for model in models:
        kept = distinct(records, model)
        left_out = {name for name in records.provenance["methods"] if is_control(records, name)}
        left_out |= set(records.provenance["methods"]) - kept
        orders = agreement(rank_methods(scalars(records, subset, model)), left_out)
        health.agreement.append(orders.assign(subset=subset, model=model))
        planted, ladders = None, {}
        if loaded and model in here:
            told = _make_report(say, here[model], "degradation ladder")
            ladders = score_ladder(records, loaded, here[model], health.ladder_images, parts, told)
            planted = _score_planted(health, loaded, here[model], limit, parts, say)
            _score_choices(health, loaded, here[model], limit, methods, parts, say)
        told = _make_report(say, here[model], "transformed maps") if model in here else None
        health.add_gains(
            *collect_gains(records, subset, model, loaded, limit, parts, health.notes, told)
        )
        judges = _name_judges(planted)
        for measure in (m for m in found if model in m.models):
            values = spread(measure, model, kept)
            verdict = _judge(records, subset, model, measure, values, judges.get(measure.name))
            judge_ladder(verdict, ladders.get(measure.name))
            health.verdicts.append(verdict)


def _name_judges(planted: Records | None) -> dict[str, Measure]:
    """Return the measures of the planted maps by name; none where there are no planted maps."""
    if planted is None:
        return {}
    subset = str(planted.frame["subset"].iloc[0])
    return {measure.name: measure for measure in select_directed(planted, subset)}


def _score_planted(
    health: Health, loaded: Reloaded, model: Explainee, limit: int, parts: Path, say: Say | None
) -> Records | None:
    """Return the records of the planted nets of one model, as one subset and one model; None where
    there are none.
    """
    items = sample_items(health.records, loaded, model.name, limit)
    plan = loaded.plan(model, (), items)
    done = run_planted(
        make_planted_plans(plan, model),
        parts / file_name(model.name),
        _make_report(say, model, "planted nets"),
    )
    if done is None or done.frame.empty:
        return None
    return Records(
        done.frame.assign(subset=f"{plan.subset.name}/planted", model=model.name), done.provenance
    )


def _score_choices(
    health: Health,
    loaded: Reloaded,
    model: Explainee,
    limit: int,
    methods: Sequence[str] | None,
    parts: Path,
    say: Say | None,
) -> None:
    names = choose_methods(health.records, loaded.subset.name, model.name, methods)
    told = _make_report(say, model, "other choices")
    where = parts / file_name(model.name)
    health.tables.append(
        run_choices(health.records, loaded, model, names, limit, where, health.notes, told)
    )


def _make_report(say: Say | None, model: Explainee, what: str) -> Callable[[int, int], None] | None:
    return None if say is None else lambda done, total: say(f"{model.name}, {what}", done, total)


# --- verdicts


def _judge(
    records: Records,
    subset: str,
    model: str,
    measure: Measure,
    found: Spread,
    planted: Measure | None,
) -> Verdict:
    """Judge one measure on one model."""
    ids = _collect_ids(records, measure, subset, model)
    verdict = Verdict(subset, model, measure.name, ids, bool(measure.facts["ranked"]), found)
    family = measure.facts["family"]
    if family == "localization":
        _separate(verdict, measure, [("oracle", "random"), ("oracle", "center_gaussian")])
    elif family not in UNJUDGED_FAMILIES:
        if planted is None:
            verdict.reasons.append("no planted net could be scored by it")
        else:
            pairs = [(first, second) for first in (PLANTED, GRADED) for second in CONTROLS]
            _separate(verdict, planted, pairs)
    else:
        verdict.reasons.append(
            f"{family} makes no claim that an oracle or planted evidence could test"
        )
    _look_at_spread(verdict)
    return verdict


def _collect_ids(records: Records, measure: Measure, subset: str, model: str) -> dict[str, str]:
    """Return what a verdict is about; a board leaves it out where it shows something else."""
    ids = measure.rows.loc[
        measure.rows["model"] == model, "metric_id"
    ]  # another precision may be another id
    return {
        "metric_id": str(ids.iloc[0]),
        "weights_id": records.provenance["models"][model]["weights_id"],
        "manifest_id": records.provenance["subsets"][subset]["manifest_id"],
    }


def _separate(verdict: Verdict, measure: Measure, pairs: Sequence[tuple[str, str]]) -> None:
    """Add the separations of these pairs, and a reason for what does not hold or cannot be
    judged.
    """
    missed = []
    for first, second in pairs:
        one = separation(measure, verdict.model, first, second)
        if one is None or one.n < MIN_IMAGES or math.isnan(one.low):
            missed.append(f"{first} over {second}")
        else:
            verdict.separations.append(one)
    if missed:
        verdict.reasons.append(f"fewer than {MIN_IMAGES} images have both of {', '.join(missed)}")
    # What was not compared cannot make a metric pass; what fails fails whatever is missing.
    if not all(one.holds for one in verdict.separations):
        verdict.passes = False
    elif not missed:
        verdict.passes = True
    for first in dict.fromkeys(first for first, _ in pairs):
        wrong = [one for one in verdict.separations if one.first == first and not one.holds]
        if wrong:
            worst = min(wrong, key=lambda one: one.low)
            verdict.reasons.append(
                f"{first} is not above {', '.join(one.second for one in wrong)} "
                f"(worst {interval(worst.gap, worst.low, worst.high, sign=True)}, n = {worst.n})"
            )


def _look_at_spread(verdict: Verdict) -> None:
    """Fail a metric that scores too few cells, or that gives nearly all methods the same value."""
    found = verdict.spread
    if found.nan == 1:
        verdict.passes = None
        verdict.reasons = ["no cell has a number (box thresholds need a calibration part)"]
    elif found.nan > MAX_NAN:
        verdict.passes = False
        verdict.reasons.append(f"{100 * found.nan:.0f} % of its cells are NaN")
    if found.ties > MAX_TIES:
        verdict.passes = False
        verdict.reasons.append(f"{100 * found.ties:.0f} % of all pairs of methods tie on an image")


TAU_CAUTION = 0.7
"""Kendall's tau to the default's order below which a choice is said to move ranks."""


def _caution(health: Health) -> None:
    """Say of each measure what moves its ranks, and whether sharper or blurred maps score
    better.
    """
    for verdict in health.verdicts:
        if health.is_sharpened(verdict):
            verdict.cautions.append("raising maps to a power makes them score better")
        for tables in health.tables:
            rows = {
                name: table[
                    (table["subset"] == verdict.subset)
                    & (table["model"] == verdict.model)
                    & (table["metric"] == verdict.metric)
                ]
                for name, table in (("moves", tables.moves), ("blur", tables.blur))
            }
            moved = rows["moves"][rows["moves"]["tau"] < TAU_CAUTION]
            verdict.cautions += [
                f"{row['choice']} moves its ranks (tau {row['tau']:.2f} over {row['methods']} "
                "methods)"
                for row in moved.to_dict("records")
            ]
            for choice, blur in rows["blur"].groupby("choice", sort=True):
                blur = blur[~blur["method"].map(lambda name: is_control(health.records, str(name)))]
                helped = int((blur["low"] > 0).sum())
                if len(blur) and 2 * helped >= len(blur):
                    verdict.cautions.append(
                        f"{choice} makes {helped} of {len(blur)} methods score better"
                    )


# --- files


def write(health: Health, run: Path, command: str = "") -> None:
    """Write RUN/health/ and then RUN/health.json, each file atomically."""

    folder = run / FOLDER
    for name, table in csv_tables(health).items():
        write_csv(folder / f"{name}.csv", table)
    pictures = write_plots(health, folder)
    write_page(health, folder, pictures, command)
    write_sealed_json(run / HEALTH, health.to_json(command))


def csv_tables(health: Health) -> dict[str, pd.DataFrame]:
    """Return the tables behind the report.

    verdicts, separations, ladder, agreement; grid (ranks of ranked values under each choice of a
    protocol, which boards draw), grid-reported (of the other values), moves (Kendall's tau of each
    choice) and blur.
    """
    where = ["subset", "model", "metric"]
    verdicts = pd.DataFrame(
        [
            {
                **{key: getattr(v, key) for key in where},
                "ranked": v.ranked,
                "verdict": WORDS[v.passes],
                **dataclasses.asdict(v.spread),
                "reasons": "; ".join(v.reasons),
                "cautions": "; ".join(v.cautions),
            }
            for v in health.verdicts
        ]
    )
    gaps = [
        {**{key: getattr(v, key) for key in where}, **dataclasses.asdict(one), "holds": one.holds}
        for v in health.verdicts
        for one in v.separations
    ]
    compared = ["subset", "model", "a", "b", "tau", "methods"]
    orders = pd.concat(health.agreement or [pd.DataFrame(columns=compared)], ignore_index=True)
    orders = orders[compared]
    found = {"verdicts": verdicts, "separations": pd.DataFrame(gaps), "agreement": orders}
    if len(health.gains):
        found["gains"] = health.gains
    found |= {"ladder": tabulate_ladders(health)} if health.ladder_images else {}
    if health.tables:
        ranks = pd.concat([t.ranks for t in health.tables], ignore_index=True)
        found |= {
            "grid": _protocol_choices(health, ranks, shown=True),
            "grid-reported": _protocol_choices(health, ranks, shown=False),
            "moves": pd.concat([t.moves for t in health.tables], ignore_index=True),
            "blur": pd.concat([t.blur for t in health.tables], ignore_index=True),
        }
    return found


def _protocol_choices(health: Health, ranks: pd.DataFrame, *, shown: bool) -> pd.DataFrame:
    """Return the ranks under choices of a protocol (a blurred map is none), of ranked values or of
    the others.
    """
    names = {v.metric for v in health.verdicts if v.ranked}
    return ranks[(ranks["metric"].isin(names) == shown) & ~ranks["choice"].str.startswith("blur=")]


WORDS = {True: "pass", False: "fail", None: "not judged"}
"""A verdict in a word."""
