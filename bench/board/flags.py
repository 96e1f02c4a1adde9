"""What a reader must know before believing a number: sentences beside the tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from bench.board.box_thresholds import is_of_boxes
from bench.board.control_wins import find_control_wins
from bench.board.cubes import is_scored
from bench.board.derived_names import settle_rank
from bench.board.grid_floor import flag_floor
from bench.board.measures import CORRECT
from bench.board.text import COUPLED, FAILED, OVERALL, is_simulated, number
from bench.records.failed_parts import list_failed
from bench.records.left_out import SKIPPED, UNREADABLE
from bench.records.planned_work import PARTIAL
from bench.records.precision_verdict import list_lowered
from bench.records.sister_ids import split_sister
from bench.records.store import MIN_CALIBRATION, REPLACED, Records

MAX_INSERTION_START = 0.05
"""Mean probability, over that of chance, at the start of insertion above which its curve begins too
high.
"""


def find_flags(frame: pd.DataFrame, records: Records) -> list[str]:
    """Return the flags of a board, table by table."""
    flags: list[str] = []
    for (subset, model), rows in frame.groupby(["subset", "model"], sort=True):
        # Across models these two would only say again what is said of a model.
        chance = 1 / records.provenance["subsets"].get(subset, {}).get("classes", 1000)
        once = (
            []
            if model == OVERALL
            else [*flag_trivial(rows), *flag_insertion_start(rows, chance), *flag_coverage(rows)]
        )
        found = [*flag_controls(rows), *once]
        flags += [f"{subset}, {model}: {text}" for text in found]
    beside = [
        *flag_coupled(frame),
        *flag_second_evidence(frame, records.provenance.get("protocol", {})),
    ]
    return [
        *records.provenance.get(PARTIAL, ()),
        *flag_simulated(records),
        *flag_health(records),
        *flag_left_out(records),
        *flag_replaced(records),
        *flag_floor(frame),
        *flags,
        *beside,
        *flag_calibration(records),
        *flag_unserved(records),
        *flag_not_applicable(records),
        *list_failed(records.provenance),
    ]


def split_verdicts(
    provenance: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the verdicts of health.json that are about these records, and those that are about
    others.

    A verdict is about a metric's id, a model's weights, a subset's manifest and a protocol.
    """
    told = provenance.get("health", {})
    same_protocol = told.get("protocol") == provenance["protocol"]["id"]
    lowered = (ids.values() for ids in list_lowered(provenance).values())
    metrics = {facts["id"] for facts in provenance["metrics"].values()}.union(*lowered)

    def current(verdict: dict[str, Any]) -> bool:
        model = provenance["models"].get(verdict["model"], {})
        subset = provenance["subsets"].get(verdict["subset"], {})
        return (
            same_protocol
            and split_sister(verdict["metric_id"], model) in metrics
            and verdict["weights_id"] == model.get("weights_id")
            and verdict["manifest_id"] == subset.get("manifest_id")
        )

    found = told.get("verdicts", [])
    return [v for v in found if current(v)], [v for v in found if not current(v)]


def find_failing(provenance: Mapping[str, Any], subset: str, model: str) -> set[str]:
    """Return the measures that fail their health check in one table; across models: on any of
    them.
    """
    current, _ = split_verdicts(provenance)
    return {
        v["metric"]
        for v in current
        if v["passes"] is False and v["subset"] == subset and model in (v["model"], OVERALL)
    }


def flag_health(records: Records) -> Iterator[str]:
    """Yield each ranked measure that fails its health check, the others together, and what is too
    old to be read.
    """
    current, stale = split_verdicts(records.provenance)
    failed = [settle_rank(v["metric"], v) for v in current if v["passes"] is False]
    for subset, metric in dict.fromkeys((v["subset"], v["metric"]) for v in failed if v["ranked"]):
        cases = [v for v in failed if (v["subset"], v["metric"]) == (subset, metric)]
        told = "; ".join(f"{v['model']}: {v['reasons'][0]}" for v in cases)
        yield f"{subset}: {metric}{FAILED} fails its health check, do not read its ranks ({told})."
    for subset in dict.fromkeys(v["subset"] for v in failed if not v["ranked"]):
        names = sorted({v["metric"] for v in failed if v["subset"] == subset and not v["ranked"]})
        yield (
            f"{subset}: of the values that are only reported, {', '.join(names)} fail their "
            f"health check{FAILED}."
        )
    if stale:
        names = sorted({v["metric"] for v in stale})
        yield (
            "health.json holds verdicts about other records than these "
            f"({', '.join(names[:4])}{', ...' if len(names) > 4 else ''}: another protocol, "
            "metric, model or image set), which are left out; run `cambench health` again."
        )


def flag_simulated(records: Records) -> Iterator[str]:
    """Yield the models that learned from maps that nobody drew."""
    for model, facts in sorted(records.provenance["models"].items()):
        if is_simulated(facts):
            yield (
                f"{model} was fine-tuned with SIMULATED attention maps, made from boxes or masks "
                "and drawn by nobody."
            )


def flag_controls(rows: pd.DataFrame) -> Iterator[str]:
    """Yield the localisation values on which the oracle's interval does not lie above the random
    control's.
    """
    chosen = rows[
        (rows["family"] == "localization") & rows["ranked"] & ~rows["metric"].str.endswith(CORRECT)
    ]
    for metric, table in chosen.groupby("metric", sort=True):
        by_method = {row["method"]: row for row in table[table["n"] > 0].to_dict("records")}
        if not {"oracle", "random"} <= set(by_method):
            continue
        oracle, random = by_method["oracle"], by_method["random"]
        sign = -1 if oracle["better"] == "lower" else 1
        worst, best = (
            (oracle["low"], random["high"]) if sign == 1 else (oracle["high"], random["low"])
        )
        if not sign * worst > sign * best:
            yield (
                f"{metric} does not separate the oracle ({number(oracle['mean'])}) from random "
                f"({number(random['mean'])}); do not read its ranks."
            )


def flag_trivial(rows: pd.DataFrame) -> Iterator[str]:
    """Yield the ranked values that a control wins which is not the ground truth: they do not say
    what they should.

    Values that are known to do so (average drop and its kin, won by fake_cam) are declared as not
    ranked.
    """
    for one in find_control_wins(rows):
        yield (
            f"{one.metric} is won by a control, {one.control} ({number(one.score)}; best method: "
            f"{one.method} {number(one.best)}): no explanation is needed to do best."
        )


def flag_coupled(frame: pd.DataFrame) -> Iterator[str]:
    """Yield the ranked values that favour methods by their construction (see
    `bench.board.coupling`).
    """
    rows = frame[frame["ranked"] & frame["coupled"] & (frame["model"] != OVERALL)]
    rows = rows[~rows["metric"].str.endswith(CORRECT)]
    groups: dict[tuple[str, str, str], list[str]] = {}
    for key, table in rows.groupby(["subset", "metric", "model"], sort=True):
        subset, metric, model = map(str, key)
        groups.setdefault((subset, metric, ", ".join(sorted(table["method"]))), []).append(model)
    for (subset, metric, methods), models in groups.items():
        what = (
            "starts from the very reference"
            if metric == "insertion"
            else "paints with the very reference"
        )
        yield (
            f"{subset}, {', '.join(models)}: {metric} {what} that is built into {methods}, "
            f"which favours what is marked {COUPLED}."
        )


def flag_second_evidence(frame: pd.DataFrame, protocol: dict[str, Any]) -> Iterator[str]:
    """Yield a flag where insertion starts from the baseline colour."""
    if protocol.get("insertion_start") == "baseline" and "insertion" in set(frame["metric"]):
        yield (
            "insertion starts from the baseline colour, so it is deletion of the least relevant "
            "pixels first: no second evidence beside deletion."
        )


def flag_insertion_start(rows: pd.DataFrame, chance: float) -> Iterator[str]:
    """Yield a flag where insertion starts from an image that the model still recognises better than
    chance.
    """
    starts = rows.loc[rows["metric"] == "insertion_start", "mean"]
    if starts.max() > chance + MAX_INSERTION_START:
        yield (
            f"insertion starts at a mean probability of {number(starts.max())} (over "
            f"{number(chance + MAX_INSERTION_START)}), so the blurred image is still recognised."
        )


def flag_coverage(rows: pd.DataFrame) -> Iterator[str]:
    """Yield the methods that miss items: they are shown with their n and not ranked."""
    ranked = rows[rows["ranked"] & ~rows["metric"].str.endswith(CORRECT)]
    missing = ranked[(ranked["n"] < ranked["expected"]) & (ranked["n"] > 0)]
    for method, table in missing.groupby("method", sort=True):
        cases = table.groupby(["n", "expected"], sort=True)["metric"]
        parts = [f"{n} of {expected} items in {', '.join(names)}" for (n, expected), names in cases]
        yield f"{method} is scored on {'; '.join(parts)}: shown, unranked there."


def flag_not_applicable(records: Records) -> Iterator[str]:
    """Yield the methods that do not fit a model: they have no rows, and no number stands for
    them.
    """
    for model, methods in sorted(records.provenance.get("not_applicable", {}).items()):
        for method, reason in sorted(methods.items()):
            yield f"{method} is n/a on {model}: {reason}"


def flag_left_out(records: Records) -> Iterator[str]:
    """Yield how many images of a subset could not be read, with the n that is left."""
    for entry in records.provenance.get("left_out", ()):
        if entry["kind"] != UNREADABLE:
            continue
        subset, part = entry["subset"], entry["part"]
        rows = records.frame[(records.frame["subset"] == subset) & (records.frame["part"] == part)]
        what = "calibration images" if part == "calibration" else "n"
        images = f"{entry['n']} image{'s' * (entry['n'] > 1)}"
        yield (
            f"{subset}: {what} = {rows['item'].nunique()}; {images} of the subset could not be "
            f"read and {'are' if entry['n'] > 1 else 'is'} left out ({SKIPPED})."
        )


def flag_replaced(records: Records) -> Iterator[str]:
    """Yield how many images have records of what they showed before."""
    count = records.provenance.get(REPLACED, 0)
    if count:
        yield (
            f"{count} image{'s' * (count > 1)} changed after the first run; only the records of "
            "what they show now count."
        )


def flag_unserved(records: Records) -> Iterator[str]:
    """Yield what was asked for and has no rows, since a subset lacks the ground truth it needs."""
    for subset, facts in sorted(records.provenance["subsets"].items()):
        for sentence in facts.get("unserved", ()):
            yield f"{subset}: {sentence}"


def flag_calibration(records: Records) -> Iterator[str]:
    """Yield the subsets and models with too few calibration images to choose a box threshold on."""
    provenance = records.provenance
    if provenance.get("protocol", {}).get("box_tau_from") == "scored":
        return
    names = [name for name, facts in provenance["metrics"].items() if is_of_boxes(facts)]
    rows = records.frame[records.frame["metric"].isin(names)]
    for (subset, model), table in rows.groupby(["subset", "model"], sort=True):
        scored = table[(table["part"] == "calibration") & table["vector"].map(is_scored)]
        images = scored.groupby("method")["image"].nunique()
        images = images.reindex(sorted(table["method"].unique()), fill_value=0)
        few = images[images < MIN_CALIBRATION]
        if len(few):
            who = "every method" if len(few) == len(images) else ", ".join(few.index)
            yield (
                f"{subset}, {model}: {int(few.min())} calibration images for {who} (fewer than "
                f"{MIN_CALIBRATION}), so box_accuracy is missing and only box_accuracy_oracle is "
                "shown."
            )
