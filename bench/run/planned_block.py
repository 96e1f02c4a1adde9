"""The block of planned work of a plan, for run.json (`bench.records.planned_work`)."""

from __future__ import annotations

from collections import Counter
from typing import Any

from bench.run.plan import Plan


def describe_planned(plan: Plan) -> dict[str, Any]:
    """Return what a plan asks for: images by part and model, models, methods and metrics by id."""
    images: dict[str, Counter[str]] = {}
    for task in plan.tasks():
        images.setdefault(task.part, Counter())[task.model] += task.stop - task.start
    return {
        "subset": plan.subset.name,
        "manifest_id": plan.manifest_id,
        "shard": "{}/{}".format(*plan.shard),
        "images": {part: dict(counts) for part, counts in images.items()},
        "models": {model.name: model.weights_id for model in plan.models},
        "methods": {method.name: method.id for method in plan.methods},
        "metrics": {metric.name: metric.id(plan.protocol) for metric in plan.metrics},
        "calibrating": [metric.name for metric in plan.metrics if metric.calibrates],
    }
