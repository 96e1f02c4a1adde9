"""The floor of grids: methods whose maps tell no cell of a grid from another."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from bench.board.text import OVERALL
from bench.data.expressions import is_expression
from bench.data.open_pastes import is_pastes

FLOOR = 0.5
"""The value of grid_auc that every class-agnostic map has, averaged over a grid's cells."""

ROUNDING = 1e-9
"""Half-widths of intervals of class-agnostic maps are 0 up to this."""


def flag_floor(frame: pd.DataFrame) -> Iterator[str]:
    """Yield, for each network, the methods whose interval of grid_auc contains the floor.

    Controls are left out: most of them know no class, by their construction.
    """
    rows = frame[(frame["metric"] == "grid_auc") & (frame["model"] != OVERALL) & ~frame["control"]]
    named = rows["subset"].astype(str)
    grids = named.map(lambda name: is_expression(name) and not is_pastes(name)).astype(bool)
    rows = rows[grids]
    inside = (rows["low"] <= FLOOR + ROUNDING) & (rows["high"] >= FLOOR - ROUNDING)
    for (subset, model), table in rows[inside].groupby(["subset", "model"], sort=True):
        names = ", ".join(sorted(table["method"]))
        yield (
            f"{subset}, {model}: {names} {'explain' if len(table) > 1 else 'explains'} no class: "
            "the interval of grid_auc contains .5, which a map that knows no class has."
        )
