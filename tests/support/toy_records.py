"""Synthetic records: known numbers, no network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from bench.metrics import find_owner
from bench.records.store import SCHEMA, Records

CONTROLS = ("random", "oracle", "center", "fake_cam")
LOCAL = ("pointing", "energy", "box_iou", "pixel_ap", "pixel_histogram")
FACTS: dict[str, dict[str, Any]] = {
    "deletion": {"better": "lower", "ranked": True},
    "insertion": {"better": "higher", "ranked": True},
    "deletion_curve": {"reduce": "curve"},
    "insertion_curve": {"reduce": "curve"},
    "insertion_start": {},
    "average_drop": {"better": "lower"},
    "pointing": {"better": "higher", "ranked": True},
    "energy": {"better": "higher", "ranked": True},
    "box_iou": {"better": "higher", "ranked": True, "reduce": "box_accuracy"},
    "pixel_ap": {"better": "higher", "ranked": True},
    "pixel_histogram": {"better": "higher", "ranked": True, "reduce": "pooled_precision"},
    "best_tau": {"reduce": "std"},
    "forwards": {"better": "lower"},
}


def facts(name: str) -> dict[str, Any]:
    owner = find_owner(name)
    base = {
        "version": 1 if owner is None else owner.version,
        "family": "localization" if name in LOCAL else "faithfulness",
        "id": f"{name}@1",
        "title": name,
    }
    return {
        **base,
        "better": "none",
        "ranked": False,
        "reduce": "mean",
        "metric": name,
        **FACTS.get(name, {}),
    }


def row(item: str, method: str, metric: str, value: Any, **more: Any) -> dict[str, Any]:
    """One record; a list or an array becomes its vector, a number its value."""
    scalar = np.isscalar(value)
    base = {
        "run": "r",
        "subset": "toy",
        "part": "eval",
        "item": item,
        "image": item.split(":")[0],
        "model": "net",
        "parent": "",
        "method": method,
        "metric": metric,
        "value": float(value) if scalar else np.nan,
        "vector": None if scalar or value is None else np.asarray(value, np.float32),
        "target": 0,
        "label": 0,
        "predicted": 0,
        "correct": True,
        "forwards": 1.0,
        "method_id": f"{method}@1",
        "metric_id": f"{metric}@1",
        "protocol_id": "cambench-1@x",
        "weights_id": "",
        "manifest_id": "m",
        "code": "c",
    }
    merged = {**base, **more}
    merged["weights_id"] = merged["weights_id"] or f"w-{merged['model']}"
    return merged


def build(rows: Iterable[dict[str, Any]], **provenance: Any) -> Records:
    frame = pd.DataFrame(list(rows), columns=SCHEMA.names)
    fidelity = ("official", "paper", "reconstruction")
    methods = {
        name: {
            "id": f"{name}@1",
            "group": "control" if name in CONTROLS else "cam",
            "citation": "",
            "fidelity": fidelity[i % 3],
            "control": name in CONTROLS,
            "class_agnostic": False,
        }
        for i, name in enumerate(sorted(frame["method"].unique()))
    }
    subset = {
        "manifest_id": "m",
        "title": "Toy",
        "licence": "CC0",
        "pictures": True,
        "n": 1,
        "n_calibration": 0,
    }
    base = {
        "protocol": {
            "name": "cambench-1",
            "id": "cambench-1@x",
            "box_ious": [0.3, 0.5, 0.7],
            "steps": 4,
        },
        "subsets": dict.fromkeys(frame["subset"].unique(), subset),
        "models": {
            m: {"weights_id": f"w-{m}", "parent": "", "top1": 0.9} for m in frame["model"].unique()
        },
        "methods": methods,
        "metrics": {name: facts(name) for name in frame["metric"].unique()},
        "equal": {},
        "commands": ["cambench run --subset toy"],
    }
    return Records(frame, {**base, **provenance})


def scalars(metric: str, table: dict[str, list[float]], **more: Any) -> list[dict[str, Any]]:
    """Records of one metric: {method: a value per image}."""
    return [
        row(f"i{k:03d}", m, metric, v, **more)
        for m, values in table.items()
        for k, v in enumerate(values)
    ]


def random_records(
    n: int = 12, k: int = 6, models: tuple[str, ...] = ("net-a", "net-b"), seed: int = 0
) -> Records:
    """A whole run of k methods, all kinds of values, drawn with a seed; oracle is good, random is
    bad.
    """
    rng = np.random.default_rng(seed)
    methods = ["oracle", "random", *[f"method_{i:02d}" for i in range(k - 2)]]
    skill = {
        m: {"oracle": 0.95, "random": 0.1}.get(m, float(rng.uniform(0.3, 0.8))) for m in methods
    }
    rows = []
    for model in models:
        for i in range(n):
            for m in methods:
                item, s = f"i{i:03d}:0", float(np.clip(skill[m] + rng.normal(0, 0.08), 0, 1))
                more = {"model": model, "correct": i % 5 != 0}
                fall = np.linspace(0.9, 0.0, 5) ** (1 + 3 * s)
                positive, negative = rng.multinomial(40, ramp(s)), rng.multinomial(60, ramp(1 - s))
                values = {
                    "deletion": 0.5 * (1 - s),
                    "insertion": 0.4 + 0.5 * s,
                    "insertion_start": 0.02,
                    "deletion_curve": fall,
                    "insertion_curve": 0.9 - fall,
                    "pointing": float(rng.random() < s),
                    "energy": s,
                    "pixel_ap": s,
                    "pixel_histogram": np.concatenate([positive, negative]),
                    "box_iou": s * np.sin(np.linspace(0, np.pi, 101)),
                    "best_tau": rng.random(),
                    "average_drop": 1 - s,
                    "forwards": {"oracle": 0.0, "random": 0.0}.get(
                        m, float(10 ** rng.uniform(0, 3))
                    ),
                }
                rows += [row(item, m, name, value, **more) for name, value in values.items()]
        for i in range(50):
            for m in methods:
                vector = skill[m] * np.sin(np.linspace(0, np.pi, 101))
                rows.append(
                    row(f"c{i:03d}:0", m, "box_iou", vector, model=model, part="calibration")
                )
    return build(rows)


def ramp(s: float, bins: int = 1001) -> np.ndarray:
    weights = np.linspace(1 - s, s, bins) + 0.05
    return weights / weights.sum()
