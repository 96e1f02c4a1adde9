"""What moves ranks: a sample of the run's images, the same maps, other choices."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bench.health.checks import (
    change,
    coarsen_curves,
    distinct,
    is_control,
    order_tau,
    pick_spaced,
    rank_methods,
    scalars,
)
from bench.health.grid import (
    Report,
    baseline_choices,
    blur_choices,
    blur_method,
    run_grid,
    steps_below,
    target_choices,
)
from bench.health.reload import Reloaded, methods_of
from bench.models.explainee import Explainee
from bench.protocol import Protocol
from bench.records.store import Records
from bench.run.plan import Plan

DEFAULT = "default"
SIGMAS = (4.0, 8.0)
"""Standard deviations of the blur of maps, in pixels at a side of 224."""

MOST_METHODS = 8
"""Methods that are no controls, in a grid by default."""

RANKS = ["metric", "choice", "value", "method", "n", "mean", "rank"]
MOVES = ["metric", "choice", "reference", "tau", "methods"]
BLUR = ["metric", "choice", "method", "change", "low", "high", "n", "rank", "rank_before"]
"""Columns of the tables."""

YARDSTICKS = ("random",)
"""Controls that stand in every grid."""


@dataclass(frozen=True)
class Tables:
    """What a grid shows on one model.

    ranks: metric, choice, value, method, n, mean, rank.  moves: metric, choice, reference, tau,
    methods. blur: metric, choice, method, change (positive is better), low, high, n, rank,
    rank_before.
    """

    ranks: pd.DataFrame
    moves: pd.DataFrame
    blur: pd.DataFrame

    def label(self, subset: str, model: str) -> Tables:
        """Return the tables with two more columns in front: subset and model."""
        front = {"subset": subset, "model": model}
        return Tables(
            *(t.assign(**front)[[*front, *t.columns]] for t in (self.ranks, self.moves, self.blur))
        )


def read_stored_choices(
    records: Records, subset: str, model: str, protocol: Protocol
) -> dict[str, pd.DataFrame]:
    """Return {choice: values} of what the records hold: the default, and fewer steps out of stored
    curves.
    """
    choices = {DEFAULT: scalars(records, subset, model)}
    for steps in steps_below(protocol):
        table = coarsen_curves(records, subset, model, protocol, steps)
        if not table.empty:
            choices[f"steps={steps}"] = table
    return choices


def choose_methods(
    records: Records, subset: str, model: str, asked: Sequence[str] | None
) -> list[str]:
    """Return the methods of a grid: those asked for, or quick ones evenly spaced from the best to
    the worst.
    """
    here = set(records.frame.loc[records.frame["model"] == model, "method"])
    if asked is not None:
        return [name for name in asked if name in here]
    facts, once = records.provenance["methods"], distinct(records, model)
    quick = [n for n in here & once if facts[n].get("fast", True) and not is_control(records, n)]
    table = rank_methods(scalars(records, subset, model))
    table = table[table["method"].isin(quick)]
    if table.empty:
        order = sorted(quick)
    else:  # the mean rank over metrics is only a way to get methods of every quality
        order = table.groupby("method")["rank"].mean().sort_values(kind="stable").index.tolist()
    return [*pick_spaced(order, MOST_METHODS), *(name for name in YARDSTICKS if name in here)]


def sample_items(records: Records, loaded: Reloaded, model: str, limit: int) -> list[str]:
    """Return the first `limit` items of the subset's order that the run scored on this model; 0:
    all.
    """
    frame = records.frame
    known = set(frame.loc[(frame["model"] == model) & (frame["part"] == "eval"), "item"])
    items = [item for item in loaded.subset.ids if item in known]
    return items[:limit] if limit else items


def list_missed(records: Records, subset: str, model: str, order: Sequence[str]) -> list[str]:
    """Return the items whose prediction is not the label, in the subset's order."""
    frame = records.frame
    rows = frame[
        (frame["subset"] == subset) & (frame["model"] == model) & (frame["part"] == "eval")
    ]
    wrong = set(rows.loc[~rows["correct"].astype(bool), "item"])
    return [item for item in order if item in wrong]


def coarsen_protocol(protocol: Protocol, stored: dict[str, pd.DataFrame]) -> Protocol:
    """Return the protocol with the fewest steps whose default is in the records: a grid of it costs
    a quarter.
    """
    steps = [int(name.partition("=")[2]) for name in stored if name.startswith("steps=")]
    return dataclasses.replace(protocol, steps=min(steps)) if steps else protocol


def make_grid_plans(
    loaded: Reloaded,
    model: Explainee,
    plan: Plan,
    missed: Plan | None,
    stored: dict[str, pd.DataFrame],
) -> dict[str, Plan]:
    """Return {choice: plan} of what has to be run: other baselines, blurred maps, and the other
    class where it differs.

    plan: of the sample.  missed: of the items whose prediction is not the label.
    """
    rules = coarsen_protocol(plan.protocol, stored)
    plans = {**baseline_choices(plan, rules), **blur_choices(plan, rules, SIGMAS)}
    return {**plans, **(target_choices(missed) if missed is not None else {})}


@dataclass(frozen=True)
class GridItems:
    """The items of a run that the grid of one model scores, in the subset's order.

    Args:
        sample: Items of every choice but the other class.
        compared: Items of the other class, on which ranks are compared.
        wrong: Those of them whose prediction is not the label. Only they are run.
    """

    sample: list[str]
    compared: list[str]
    wrong: list[str]


def choose_items(records: Records, loaded: Reloaded, model: str, limit: int) -> GridItems:
    """Return the items of a grid with at most `limit` items in its sample; 0: all items."""
    sample = sample_items(records, loaded, model, limit)
    every = sample_items(records, loaded, model, 0)
    wrong = list_missed(records, loaded.subset.name, model, every)
    if limit and len(wrong) > limit:  # too many to run: the sample's own
        return GridItems(sample, sample, [item for item in wrong if item in set(sample)])
    return GridItems(sample, every, wrong)


def run_choices(
    records: Records,
    loaded: Reloaded,
    model: Explainee,
    names: Sequence[str],
    limit: int,
    folder: Path | None,
    notes: list[str],
    report: Report | None = None,
) -> Tables:
    """Run the grid of one model and return its tables.

    Args:
        records: The run's records.
        loaded: What the run was made of.
        model: The model.
        names: Names of the methods.
        limit: Most items of the sample; 0: all items.
        folder: Folder of the grid's own runs; None keeps them in memory.
        notes: Sentences about what is left out are added to this list.
        report: Called with (tasks done, tasks in all).
    """
    subset = loaded.subset.name
    stored = read_stored_choices(records, subset, model.name, loaded.protocol)
    methods = methods_of(records, names, notes)
    items = choose_items(records, loaded, model.name, limit)
    plan = loaded.plan(model, methods, items.sample)
    missed = loaded.plan(model, methods, items.wrong) if items.wrong else None
    for name in target_choices(plan) if missed is None else ():
        notes.append(
            f"{subset}, {model.name}: every prediction is the label, so {name} changes nothing."
        )
    done = run_grid(make_grid_plans(loaded, model, plan, missed, stored), folder, report)
    names_of = {blur_method(m, sigma).name: m.name for m in methods for sigma in SIGMAS}
    choices = {name: table[table["item"].isin(items.sample)] for name, table in stored.items()}
    for name, run in done.items():
        table = scalars(run, subset, model.name)
        table["method"] = table["method"].replace(names_of)
        if name.startswith("target="):
            table = add_agreeing(table, stored[DEFAULT], items.compared, items.wrong)
        choices[name] = table
    kept = {method.name for method in methods}
    choices = {name: table[table["method"].isin(kept)] for name, table in choices.items()}
    finest = f"steps={coarsen_protocol(loaded.protocol, stored).steps}"
    left_out = {name for name in kept if is_control(records, name)}
    whole = stored[DEFAULT]
    whole = whole[whole["method"].isin(kept) & whole["item"].isin(items.compared)]
    return make_tables(choices, finest, left_out, whole).label(subset, model.name)


def add_agreeing(
    table: pd.DataFrame, default: pd.DataFrame, items: Sequence[str], wrong: Sequence[str]
) -> pd.DataFrame:
    """Return values of the other class on all items: where prediction and label agree they are the
    default's.
    """
    known = table[["metric", "method"]].drop_duplicates()
    same = default[default["item"].isin(set(items) - set(wrong))].merge(
        known, on=["metric", "method"]
    )
    return pd.concat([same, table], ignore_index=True)


def choose_reference(
    choice: str, metric: str, finest: str, choices: dict[str, pd.DataFrame]
) -> str:
    """Return what a choice is compared with: the default, at the grid's own steps where the metric
    has steps.
    """
    stepped = choice.startswith(("baseline=", "blur=")) and finest in choices
    return finest if stepped and metric in set(choices[finest]["metric"]) else DEFAULT


def make_tables(
    choices: dict[str, pd.DataFrame], finest: str, left_out: set[str], whole: pd.DataFrame
) -> Tables:
    """Return ranks under every choice, how they move, and what a blur does.

    Args:
        choices: {choice: values}, as `scalars` makes them.
        finest: The choice that has the grid's own steps.
        left_out: Methods that are not compared.
        whole: The default on all items, the reference of "target=...".
    """
    order = {name: rank_methods(table) for name, table in choices.items()}
    everywhere = rank_methods(whole)
    moves: list[dict[str, object]] = []
    blurs: list[dict[str, object]] = []
    for choice, table in choices.items():
        for metric in dict.fromkeys(table["metric"]) if choice != DEFAULT else ():
            name = choose_reference(choice, metric, finest, choices)
            base = everywhere if choice.startswith("target=") else order[name]
            tau, count = _compare_orders(order[choice], base, metric, left_out)
            moves.append(dict(zip(MOVES, (metric, choice, name, tau, count), strict=True)))
            if choice.startswith("blur="):
                blurs += _blur_rows(choice, metric, table, choices[name], order[name])
    ranks = pd.concat(
        [t.assign(choice=name, value=t["metric"]) for name, t in order.items()], ignore_index=True
    )
    return Tables(
        ranks[RANKS], pd.DataFrame(moves, columns=MOVES), pd.DataFrame(blurs, columns=BLUR)
    )


def _compare_orders(
    after: pd.DataFrame, before: pd.DataFrame, metric: str, left_out: set[str]
) -> tuple[float, int]:
    """Return Kendall's tau of one metric's ranks to those before, and the number of methods."""
    first, second = (
        t[(t["metric"] == metric) & ~t["method"].isin(left_out)].set_index("method")["rank"]
        for t in (after, before)
    )
    return order_tau(first, second)


def _blur_rows(
    choice: str, metric: str, after: pd.DataFrame, before: pd.DataFrame, order: pd.DataFrame
) -> list[dict[str, object]]:
    """Return, per method, what a blur of its maps alone changes: the value, and its rank among the
    others' own maps.
    """
    rows: list[dict[str, object]] = []
    old = order[order["metric"] == metric].set_index("method")
    ranks = {str(name): float(value) for name, value in old["rank"].items()}
    for method, own in after[after["metric"] == metric].groupby("method", sort=True):
        if str(method) not in ranks:
            continue
        better = str(own["better"].iloc[0])
        was = before[(before["metric"] == metric) & (before["method"] == method)]
        moved = change(own, was[["item", "value"]], better)
        mean = own["value"].mean()
        others = old.drop(index=method)["mean"].dropna()
        rank = 1 + int(((others < mean) if better == "lower" else (others > mean)).sum())
        rows.append(
            {
                "metric": metric,
                "choice": choice,
                "method": str(method),
                "change": moved.gap,
                "low": moved.low,
                "high": moved.high,
                "n": moved.n,
                "rank": rank,
                "rank_before": ranks[str(method)],
            }
        )
    return rows
