"""The tables of a board: one measure of one or several models becomes a row for each method."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.board.comparison import Comparison, compare
from bench.board.coupling import is_coupled
from bench.board.cubes import Cube, Measure, build_cube, sample, share_numbers
from bench.board.statistics import Sampled, ranks
from bench.board.text import OVERALL


def list_scopes(
    measure: Measure, several: Sequence[Measure], provenance: dict[str, Any]
) -> Iterator[tuple[str, list[str]]]:
    """Yield the tables a measure is in: each model's, and "overall" where every original of the
    subset has it.
    """
    for model in measure.models:
        yield model, [model]
    everywhere = list_originals({model for m in several for model in m.models}, provenance)
    if len(everywhere) > 1 and everywhere == list_originals(measure.models, provenance):
        yield OVERALL, everywhere


def list_originals(models: Iterable[str], provenance: dict[str, Any]) -> list[str]:
    """Return the models that were not fine-tuned from another one on the board, sorted: those of
    the overall table.
    """
    facts = provenance["models"]
    return sorted(model for model in models if facts[model].get("parent") not in facts)


def is_ranked(measure: Measure) -> bool:
    """Tell whether a measure orders methods: values that a trivial map wins are declared as not
    ranked.
    """
    return (
        bool(measure.facts["ranked"]) and measure.facts["better"] != "none" and not measure.peaked
    )


def summarise(
    subset: str,
    measure: Measure,
    model: str,
    models: list[str],
    provenance: dict[str, Any],
    resamples: int,
    seed: int,
) -> tuple[pd.DataFrame, Comparison | None]:
    """Return the rows of one measure in one table, one per method, and where it is ranked the
    methods' comparison.
    """
    cells = build_cube(measure, models)
    if not cells.methods or not len(cells.items):
        return pd.DataFrame(), None
    drawn = sample(measure, cells, resamples, seed)
    same_map = {name: find_same_map(provenance, models, name) for name in cells.methods}
    shared = share_numbers(measure, cells, same_map)
    compared = compare(measure, cells, drawn, shared) if is_ranked(measure) else None
    best, worst = find_rank_range(cells.methods, compared)
    table = tabulate_numbers(measure, cells, drawn).assign(
        subset=subset,
        model=model,
        equal_to=[same_map[name] for name in cells.methods],
        **describe_methods(measure, cells.methods, models, provenance),
    )
    own = table.assign(equal_to=[shared.get(name, "") for name in cells.methods])
    return table.assign(
        rank=rank(own), rank_best=best, rank_worst=worst, share=share(table)
    ), compared


def tabulate_numbers(measure: Measure, cells: Cube, drawn: Sampled) -> pd.DataFrame:
    """Return one row per method: its numbers, and the facts of the measure."""
    low, high = drawn.interval()
    facts = measure.facts
    return pd.DataFrame(
        {
            "method": cells.methods,
            "metric": measure.name,
            "n": cells.scored.sum(0),
            "expected": len(cells.items),
            "n_nan": (cells.present & ~cells.scored).sum(0),
            "coverage": cells.scored.mean(0),
            "mean": drawn.point,
            "median": medians(measure, cells),
            "low": low,
            "high": high,
            "better": facts["better"],
            "ranked": is_ranked(measure),
            "peaked": measure.peaked,
            "reduce": facts["reduce"],
            "family": facts["family"],
            "title": facts["title"],
        }
    )


def describe_methods(
    measure: Measure, names: list[str], models: list[str], provenance: dict[str, Any]
) -> dict[str, list[Any]]:
    """Return the columns that say what each method is."""
    methods = [provenance["methods"][name] for name in names]
    return {
        "fidelity": [m.get("fidelity", "") for m in methods],
        "control": [bool(m.get("control", False)) for m in methods],
        "coupled": [is_coupled(provenance, models, name, measure.facts) for name in names],
    }


def find_rank_range(
    methods: list[str], compared: Comparison | None
) -> tuple[list[float], list[float]]:
    """Return the best and the worst rank that the data allow each method; NaN where it has no
    rank.
    """
    if compared is None:
        return [math.nan] * len(methods), [math.nan] * len(methods)
    known = dict(zip(compared.methods, zip(*compared.ranges, strict=True), strict=True))
    found = [known.get(method, (math.nan, math.nan)) for method in methods]
    return [float(best) for best, _ in found], [float(worst) for _, worst in found]


def medians(measure: Measure, cells: Cube) -> Any:
    """Return the median over items per method, NaN where the number is not a mean over items."""
    result = np.full(len(cells.methods), np.nan)
    if measure.reduce == "mean":
        values = cells.scalars().mean(0)
        for column in np.flatnonzero(cells.scored.any(0)):
            result[column] = np.median(values[cells.scored[:, column], column])
    return result


def find_same_map(provenance: dict[str, Any], models: Sequence[str], method: str) -> str:
    """Return the method whose map is the same in all of these models, or ""."""
    first = {provenance.get("equal", {}).get(model, {}).get(method, "") for model in models}
    only = first.pop() if len(first) == 1 else ""
    return "" if only == method else only


def rank(table: pd.DataFrame) -> Any:
    """Rank the complete rows of a table; methods with the same map share the rank of the first of
    them.
    """
    if not table["ranked"].iloc[0]:
        return np.full(len(table), np.nan)
    complete = table["n"] == table["expected"]
    means = dict(zip(table.loc[complete, "method"], table.loc[complete, "mean"], strict=True))
    own = [means.get(method, np.nan) for method in table["method"]]
    # Forward passes packed in another batch differ in the last digits, so equal maps can differ
    # there as well.
    scores = [
        score if np.isnan(score) else means.get(first, score)
        for score, first in zip(own, table["equal_to"], strict=True)
    ]
    return ranks(np.array(scores), table["better"].iloc[0])


def share(table: pd.DataFrame) -> Any:
    """Return the share of the gap from the random control to the oracle, of complete localisation
    rows; else NaN.
    """
    complete = table[table["n"] == table["expected"]].set_index("method")["mean"]
    ends = complete.reindex(["random", "oracle"])
    gap = ends["oracle"] - ends["random"]
    if (
        table["family"].iloc[0] != "localization"
        or table["better"].iloc[0] == "none"
        or not abs(gap) > 0
    ):
        return np.full(len(table), np.nan)
    return (complete.reindex(table["method"]).to_numpy() - ends["random"]) / gap
