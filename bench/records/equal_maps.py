"""Methods whose maps are the same on a model, found by their scores."""

from __future__ import annotations

import numpy as np
import pandas as pd

NOT_OF_THE_MAP = (
    "forwards",
    "backwards",
    "head_forwards",
    "head_backwards",
    "seconds",
    "peak_memory",
)
"""Values that say what a map cost and not what it is."""


def equal_methods(frame: pd.DataFrame, tolerance: float = 1e-6) -> dict[str, dict[str, str]]:
    """Return {model: {method: first method with the same map}}: those whose scores agree on every
    image.

    Maps that are the same up to a positive factor share their probes, so their scores agree to the
    last bit; those of different commands agree within the tolerance. Scores of only 0 and 1 (hits)
    are no evidence.
    """
    scored = frame[
        (frame["part"] == "eval") & ~frame["metric"].isin(NOT_OF_THE_MAP) & frame["vector"].isna()
    ]
    equal: dict[str, dict[str, str]] = {}
    for model, rows in scored.groupby("model", sort=False):
        table = rows.pivot_table(
            index=["item", "metric"], columns="method", values="value", sort=False, dropna=False
        )
        columns = {str(name): table[name].to_numpy() for name in table.columns}
        for number, (method, values) in enumerate(columns.items()):
            if not (np.isfinite(values) & (values != 0) & (values != 1)).any():
                continue
            for earlier in list(columns)[:number]:
                if np.allclose(values, columns[earlier], rtol=0, atol=tolerance, equal_nan=True):
                    equal.setdefault(str(model), {})[method] = earlier
                    break
    return equal
