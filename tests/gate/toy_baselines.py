"""Synthetic baselines: known numbers, no network."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pandas as pd

from bench.gate.baseline import COLUMNS, Baseline
from bench.protocol import Protocol

BETTER = {
    "deletion": "lower",
    "insertion": "higher",
    "pointing": "higher",
    "box_accuracy": "higher",
}


def facts() -> dict[str, Any]:
    protocol = Protocol()
    return {
        "run": "r",
        "code": "1.0",
        "protocol": {"id": protocol.id, "name": protocol.name, "seed": 0, "steps": 28},
        "packages": {"torch": "2"},
        "machine": {"device": "cpu"},
        "subsets": {"toy": {"manifest_id": "m1"}},
        "models": {
            "net": {
                "weights_id": "w1",
                "weights_sha256": "w1",
                "card": {"arch": "a"},
                "classes": 3,
                "size": 8,
            }
        },
        "methods": {
            m: {"id": f"{m}@1", "control": m == "random"} for m in ("cam", "other", "random")
        },
        "values": {
            name: {
                "id": f"{name}@1",
                "metric": name,
                "better": better,
                "ranked": True,
                "title": name,
                "family": "plugin",
                "calibrated": name == "box_accuracy",
            }
            for name, better in BETTER.items()
        },
        "not_applicable": {},
        "calibration": {"net": {"toy": "c1"}},
        "thresholds": [],
    }


def make(
    values: dict[tuple[str, str], Any], images: list[str] | None = None, **changes: Any
) -> Baseline:
    """Return a baseline of {(method, value name): values [N]}; every item is an image of its own
    but for `images`.
    """
    frames = []
    for (method, metric), column in values.items():
        items = [f"i{n:03d}" for n in range(len(column))]
        names = images or items
        frame = pd.DataFrame(
            {"item": items, "image": names[: len(items)], "value": np.asarray(column, np.float64)}
        )
        frames.append(frame.assign(subset="toy", model="net", method=method, metric=metric))
    known = copy.deepcopy(facts())
    known["values"] = {
        k: v for k, v in known["values"].items() if k in {metric for _, metric in values}
    }
    return Baseline(pd.concat(frames, ignore_index=True)[COLUMNS], {**known, **changes})


def scores(shift: float = 0.0, n: int = 40, noise: float = 0.0) -> dict[tuple[str, str], Any]:
    """Return scores of two methods and the random control on n images, cam's insertion shifted."""
    rng = np.random.default_rng(0)
    base = {
        ("cam", "insertion"): 0.8 + 0.05 * rng.standard_normal(n),
        ("other", "insertion"): 0.7 + 0.05 * rng.standard_normal(n),
        ("random", "insertion"): 0.3 + 0.05 * rng.standard_normal(n),
    }
    moved = base[("cam", "insertion")] + shift + noise * np.random.default_rng(1).standard_normal(n)
    return {**base, ("cam", "insertion"): moved}
