"""Verdicts: is a value worse than the baseline's by more than a margin, shown not to be, or
neither?

Per cell (subset, model, method, value), on the same items, let d be new - old with the sign that
makes more better, and its mean Delta. The margin m is a share of the baseline's distance from the
random control, |mean(old) - mean(random)|.

    regression   Delta < -m is shown: one-sided paired t test of Delta >= -m, Holm over all cells at
    `alpha` fine         Delta > -m is shown: one-sided paired t test of Delta <= -m, each cell at
    `miss` could not judge   neither is shown, or there is nothing to show it with

The two families differ, and so do their corrections. "A regression somewhere" is claimed when any
cell says so (a union-intersection test), so chance alarms add up over cells and Holm's correction
holds their family-wise rate at `alpha`, whatever the cells have in common. "No regression anywhere"
is claimed only when every cell says so (an intersection-union test, Berger 1982), which needs no
correction: a run with one cell worse by m passes with probability `miss` at most. For hits that is
approximate, and needs N m of about 4 or more: where a loss of m is two hits, 9 to 16 % of samples
pass, some because no hit changed at all ("same" is what was seen, and no test).

Holm over t tests and not a max-t bootstrap: a maximum over cells is ruled by those whose
differences are nearly all zero (a resample that misses the two images that moved has no spread at
all), and a gate must not draw lots. Standard errors are clustered by image. Hits take few values,
where a t test with two or three changed pairs is overconfident; there two pairs are added, one up
and one down (Bonett & Price 2012).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from bench.board.significance import holm
from bench.board.statistics import Floats, Labels
from bench.errors import BenchError
from bench.gate.baseline import RANDOM, Baseline
from bench.gate.comparable import check_comparable, is_method_changed, is_model_changed
from bench.gate.intervals import Mean, mean_difference
from bench.work_stages import track

REGRESSION, UNJUDGED = "regression", "could not judge"
SAME, CHANGED, BETTER = "same", "changed, not worse", "better"
MOVED, NEW = "moved", "new"
"""Verdicts. MOVED is a control's: it is reported, not judged; NEW is a cell that the baseline has
no number for.
"""

MISSING = "missing in the run"
"""The reason where a run has no row of a cell."""

CELL = ["subset", "model", "method", "metric"]

MIN_IMAGES = 20
"""Images below which a cell is not judged: a t test of fewer leans on a normality that nobody has
checked.
"""

MAX_LOST = 0.05
"""Share of the scored items that may become NaN, whatever the margin: a wide one is about values,
not about missing.
"""

NOISE = 1e-4
"""Values closer than this (absolutely, or relative to the old one) are the same: other batches move
them so far.
"""


@dataclass(frozen=True)
class JudgingRules:
    """What the gate is set to.

    margin: share of the baseline's distance from random that may be lost.  alpha: chance of any
    false "regression". miss: chance that a cell that lost exactly the margin is called fine.
    """

    margin: float = 0.05
    alpha: float = 0.01
    miss: float = 0.05

    def __post_init__(self) -> None:
        for name in ("margin", "alpha", "miss"):
            if not 0 < getattr(self, name) < (10 if name == "margin" else 0.5):
                limit = "10" if name == "margin" else "0.5"
                raise BenchError(
                    f"--{name} is {getattr(self, name)}; it must lie between 0 and {limit}, both "
                    "excluded."
                )


@dataclass(frozen=True)
class Paired:
    """One cell's values on the baseline's items: old, new, random [N] float64 (NaN = not scored),
    images [N].

    sign: 1 where higher is better, -1 where lower is.
    """

    old: Floats
    new: Floats
    random: Floats
    images: Labels
    sign: int


@dataclass(frozen=True)
class Evidence:
    """What a cell says; NaN where it says nothing.

    n: items scored in both.  lost: items that only the old run scored.  change: mean(new) -
    mean(old).  low, high: of the signed change, each one-sided at level `miss`.  margin: m.
    p_worse, p_fine, p_better: of the three tests. need: about how many items would settle an open
    cell.  why: why it cannot be judged, or "".
    """

    n: int = 0
    lost: int = 0
    old: float = math.nan
    new: float = math.nan
    change: float = math.nan
    low: float = math.nan
    high: float = math.nan
    distance: float = math.nan
    margin: float = math.nan
    p_worse: float = 1.0
    p_fine: float = 1.0
    p_better: float = 1.0
    need: float = math.nan
    same: bool = False
    why: str = ""


def compare(pair: Paired, rules: JudgingRules) -> Evidence:
    """Weigh one cell."""
    scored, kept = np.isfinite(pair.old), np.isfinite(pair.old) & np.isfinite(pair.new)
    lost = int((scored & ~kept).sum())
    if not kept.any():
        return Evidence(lost=lost, why="no image is scored in both runs")
    old, new, images = pair.old[kept], pair.new[kept], pair.images[kept]
    same = not lost and bool(np.isclose(new, old, rtol=NOISE, atol=NOISE).all())
    change = float((new - old).mean())
    found = Evidence(len(old), lost, float(old.mean()), float(new.mean()), change, same=same)
    groups = len(set(images))
    if groups < 2:
        return replace(found, why=f"1 image is too few (at least {MIN_IMAGES})")
    gap = mean_difference(pair.sign * old, pair.sign * new, images)
    low, high = gap.bounds(rules.miss)
    found = replace(found, low=low, high=high)
    if groups < MIN_IMAGES:
        return replace(found, why=f"{groups} images are too few (at least {MIN_IMAGES})")
    both = scored & np.isfinite(pair.random)
    if len(set(pair.images[both])) < MIN_IMAGES:
        return replace(found, why="the baseline has no random control here, which a margin needs")
    apart = mean_difference(
        pair.sign * pair.random[both], pair.sign * pair.old[both], pair.images[both]
    )
    distance = pair.sign * float((pair.old - pair.random)[both].mean())
    margin = rules.margin * abs(distance)
    found = replace(found, distance=distance, margin=margin)
    if 2 * min(apart.p_above(0), apart.p_below(0)) > rules.alpha:
        return replace(
            found, why="the baseline cannot be told from random here, so there is no margin"
        )
    return replace(
        found,
        p_worse=gap.p_below(-margin),
        p_fine=gap.p_above(-margin),
        p_better=gap.p_above(margin),
        need=items_needed(gap, margin, len(old), rules.miss),
    )


def items_needed(gap: Mean, margin: float, n: int, miss: float) -> float:
    """Return about how many items would show this mean not to be worse by the margin, at even odds;
    infinite where it is worse by that much.
    """
    slack = gap.point + margin
    if slack <= 0 or gap.freedom < 1:
        return math.inf
    steps = float(stats.t.isf(miss, gap.freedom)) * gap.error / slack
    return max(n + 1, math.ceil(n * steps**2))


@dataclass(frozen=True)
class Verdicts:
    """The verdict on every cell, and what was compared.

    frame: columns `CELL`, control, better, those of `Evidence`, p_regression and p_improved
    (Holm-adjusted p_worse and p_better), verdict, reason, cause.  rules, baseline, run: what they
    were made from; `notes`: sentences beside them.
    """

    frame: pd.DataFrame
    rules: JudgingRules
    baseline: dict[str, Any] = field(repr=False)
    run: dict[str, Any] = field(repr=False)
    notes: list[str] = field(default_factory=list)

    @property
    def gated(self) -> pd.DataFrame:
        """Return the cells that decide: no controls, nothing that the baseline has no number
        for.
        """
        return self.frame[~self.frame["control"] & (self.frame["verdict"] != NEW)]

    def count(self, verdict: str) -> int:
        """Return how many of the deciding cells have a verdict."""
        return int((self.gated["verdict"] == verdict).sum())

    @property
    def exit_code(self) -> int:
        """Return 1 where a cell is a regression, else 2 where one could not be judged, else 0."""
        return 1 if self.count(REGRESSION) else 2 if self.count(UNJUDGED) else 0


def judge(
    baseline: Baseline,
    run: Baseline,
    rules: JudgingRules | None = None,
    *,
    other_seed: bool = False,
) -> Verdicts:
    """Judge a run by a baseline.

    other_seed: let the run's protocol differ in its seed, so that only the draws do.  Raises
    BenchError where the two cannot be compared at all (`check_comparable`), or where there are too
    few images for any verdict.
    """
    rules = rules or JudgingRules()
    notes = check_comparable(baseline, run, other_seed=other_seed)
    cells = [*list_cells(baseline, run)]
    rows = [
        judge_cell(names, cell, baseline, run, rules) for names, cell in track(cells, "Judging")
    ]
    verdicts = Verdicts(decide(pd.DataFrame(rows), rules), rules, baseline.facts, run.facts, notes)
    gated = verdicts.gated
    if gated.empty:
        raise BenchError(
            "The baseline holds controls only, which are not judged; make one of a run with "
            "methods."
        )
    if (gated["why"].str.contains("too few") & (gated["verdict"] == UNJUDGED)).all():
        n = int(gated["n"].max())
        raise BenchError(
            f"Nothing can be judged on {n} images; the gate needs {MIN_IMAGES} at least, better "
            "200."
        )
    return verdicts


def list_cells(baseline: Baseline, run: Baseline) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """Yield each cell of the baseline: its name and its items' value, new, random, image, and
    whether a row is there.

    Pairs are made by item, never by position.
    """
    key = [*CELL, "item"]
    new = run.frame[[*key, "value"]].rename(columns={"value": "new"})
    control = baseline.frame[baseline.frame["method"] == RANDOM]
    random = control[["subset", "model", "metric", "item", "value"]].rename(
        columns={"value": "random"}
    )
    wide = baseline.frame.merge(new, how="left", on=key, indicator="there", validate="one_to_one")
    wide = wide.merge(
        random, how="left", on=["subset", "model", "metric", "item"], validate="many_to_one"
    )
    for names, rows in wide.groupby(CELL, sort=True):
        yield tuple(map(str, names)), rows


def judge_cell(
    names: tuple[str, ...],
    rows: pd.DataFrame,
    baseline: Baseline,
    run: Baseline,
    rules: JudgingRules,
) -> dict[str, Any]:
    """Return a cell's evidence, and its verdict where no test is needed for it ("" where one
    is).
    """
    _, model, method, metric = names
    facts = baseline.values[metric]
    found = compare(pair_values(rows[rows["there"] == "both"], facts["better"]), rules)
    control = bool(baseline.facts["methods"][method].get("control"))
    verdict, reason = settle_by_facts(names, rows, found, baseline, run, rules)
    if control and verdict in ("", UNJUDGED, CHANGED):
        verdict, reason = MOVED if found.n else UNJUDGED, "" if found.n else reason
    return {
        **dict(zip(CELL, names, strict=True)),
        "control": control,
        "better": facts["better"],
        **asdict(found),
        "verdict": verdict,
        "reason": reason,
        "cause": "" if found.same or not found.n else name_cause(baseline, run, model, method),
    }


def pair_values(rows: pd.DataFrame, better: str) -> Paired:
    """Return a cell's pairs from its rows."""
    old, new, random = (rows[column].to_numpy(np.float64) for column in ("value", "new", "random"))
    return Paired(old, new, random, rows["image"].to_numpy(object), -1 if better == "lower" else 1)


def settle_by_facts(
    names: tuple[str, ...],
    rows: pd.DataFrame,
    found: Evidence,
    baseline: Baseline,
    run: Baseline,
    rules: JudgingRules,
) -> tuple[str, str]:
    """Return the verdict and its reason where they follow from facts, else ("", "")."""
    subset, model, method, metric = names
    absent, scored = int((rows["there"] != "both").sum()), int(np.isfinite(rows["value"]).sum())
    if absent == len(rows):
        unfit = run.facts["not_applicable"].get(model, {}).get(method)
        return (REGRESSION, f"no longer fits the model: {unfit}") if unfit else (UNJUDGED, MISSING)
    if absent:
        return UNJUDGED, f"{absent} of {len(rows)} items are missing in the run"
    if not scored:
        return NEW, "the baseline has no number here"
    if found.lost > min(rules.margin, MAX_LOST) * scored:
        return REGRESSION, f"no longer scored on {found.lost} of {scored} items"
    if found.same:
        return SAME, ""
    if baseline.values[metric]["calibrated"] and read_calibration(
        baseline, model, subset
    ) != read_calibration(run, model, subset):
        return UNJUDGED, "its thresholds were chosen on other calibration images"
    return (UNJUDGED, found.why) if found.why else ("", "")


def read_calibration(side: Baseline, model: str, subset: str) -> str:
    """Return the digest of the items that chose a model's thresholds."""
    return str(side.facts["calibration"].get(model, {}).get(subset, ""))


CAUSES = (
    "model = its weights, layer or preprocessing; method = its code; below = code that all "
    "share, packages, draws"
)
"""What `name_cause` can say."""


def name_cause(baseline: Baseline, run: Baseline, model: str, method: str) -> str:
    """Return what a value is made from that is not as it was: "model", "method", both, or what lies
    "below".
    """
    changed = ["model"] * is_model_changed(baseline, run, model) + ["method"] * is_method_changed(
        baseline, run, method
    )
    return ", ".join(changed) or "below"


def decide(frame: pd.DataFrame, rules: JudgingRules) -> pd.DataFrame:
    """Add Holm's correction over the deciding cells, and the verdicts that tests give.

    The family is every deciding cell of the baseline, also those that are the same: it is fixed
    before the run.
    """
    family = (~frame["control"] & (frame["verdict"] != NEW)).to_numpy()
    for column, p in (("p_regression", "p_worse"), ("p_improved", "p_better")):
        adjusted = np.full(len(frame), np.nan)
        adjusted[family] = holm(frame.loc[family, p].to_numpy(np.float64))
        frame[column] = adjusted
    for index in frame.index[frame["verdict"] == ""]:
        row = frame.loc[index]
        if row["p_regression"] < rules.alpha:
            verdict, reason = (
                REGRESSION,
                f"worse by more than {rules.margin:.0%} of the distance from random",
            )
        elif row["p_fine"] < rules.miss:
            verdict, reason = BETTER if row["p_improved"] < rules.alpha else CHANGED, ""
        else:
            verdict, reason = UNJUDGED, write_open_reason(row)
        frame.loc[index, ["verdict", "reason"]] = verdict, reason
    return frame


def write_open_reason(row: pd.Series) -> str:
    """Say why a cell is open, and what would settle it."""
    if not math.isfinite(row["need"]):
        return "worse by more than the margin, but not surely so on these images"
    return (
        f"neither worse nor as good can be shown; about {row['need']:.0f} items would show it "
        "as good"
    )
