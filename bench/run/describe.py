"""The description of a run in run.json: protocol, subset, models, methods, metrics, packages,
device.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import platform
from typing import Any

import torch

from bench.data.manifest import IMAGENET_CLASSES
from bench.data.open_pastes import is_pastes
from bench.models.explainee import Explainee
from bench.records.planned_work import PLANNED
from bench.records.provenance import BY_CONTENT, code_version
from bench.run.plan import Plan
from bench.run.planned_block import describe_planned

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "captum",
    "numpy",
    "scipy",
    "opencv-python-headless",
    "pandas",
    "pyarrow",
    "pillow",
)


def describe_run(plan: Plan, command: str = "") -> dict[str, Any]:
    """Return the content of run.json for a plan that is about to run."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    subset = plan.subset
    return {
        "run": f"{subset.name} {now}",
        "created": now,
        "commands": [command] if command else [],
        "code": code_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": _describe_machine(plan),
        "protocol": {"id": plan.protocol.id, **dataclasses.asdict(plan.protocol)},
        "seed": plan.protocol.seed,
        "plan": {
            "batch_size": plan.batch_size,
            "shard_size": plan.shard_size,
            "compiled": plan.compiled,
            "geometry": plan.geometry.id,
        },
        PLANNED: [describe_planned(plan)],
        "subsets": {subset.name: _describe_subset(plan)},
        "models": {model.name: _describe_model(plan, model) for model in plan.models},
        "methods": {method.name: method.facts() for method in plan.methods},
        "metrics": _describe_metrics(plan),
        "not_applicable": {},
        "equal": {},
        "notes": list(plan.notes),
        **(
            {"precision": {name: verdict.facts() for name, verdict in plan.verdicts.items()}}
            if plan.verdicts
            else {}
        ),
        **({"shards": ["{}/{}".format(*plan.shard)]} if plan.shard[1] > 1 else {}),
    }


def _describe_machine(plan: Plan) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "device": str(plan.models[0].device),
        "threads": torch.get_num_threads(),
    }


def _describe_subset(plan: Plan) -> dict[str, Any]:
    subset = plan.subset
    return {
        "manifest_id": plan.manifest_id,
        "title": subset.manifest.title,
        "licence": subset.manifest.licence,
        "pictures": subset.pictures,
        "classes": subset.num_classes,
        "explain": subset.explain,
        "imagenet_boxes": subset.has_boxes and subset.manifest.classes == IMAGENET_CLASSES,
        "n": len(subset),
        "n_calibration": 0 if plan.calibration is None else len(plan.calibration),
        "calibration": "" if plan.calibration is None else plan.calibration.name,
        **({"identity": BY_CONTENT} if subset.identifies_items else {}),
        **({"found": list(subset.found)} if subset.found else {}),
        **({"chosen": list(subset.found)} if is_pastes(subset.name) else {}),
        **({"unserved": list(plan.unserved)} if plan.unserved else {}),
        "reading": [note.text for note in subset.notes],
    }


def _describe_model(plan: Plan, model: Explainee) -> dict[str, Any]:
    """Return the facts of a model, and of its sister where a metric runs that."""
    sister = plan.find_sister(model.name)
    facts = {} if sister is None else {"sister": sister.facts()}
    return model.facts() | facts


def _describe_metrics(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return the facts of every value, with the id of its metric and the class it explains."""
    return {
        name: {
            "metric": metric.name,
            "family": metric.family,
            "id": metric.id(plan.protocol),
            "version": metric.version,
            "target": plan.classes.choose(metric),
            **({"sister": True} if "sister" in metric.needs else {}),
            **dataclasses.asdict(value),
        }
        for metric in plan.metrics
        for name, value in metric.facts(plan.protocol).items()
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
