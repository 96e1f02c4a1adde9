"""cambench: the benchmark for image attribution.

    subset -> batches -> trace (one shared pass) -> maps -> scores -> records -> board

>>> import bench
>>> sorted(bench.__all__)[:3]
['BenchError', 'Explainee', 'NotApplicable']
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bench.version import __version__

if TYPE_CHECKING:
    from bench.board import Board, leaderboard
    from bench.board.plots.map_figure import show
    from bench.data import Subset, load_subset, register_subset
    from bench.engine.trace import Trace
    from bench.errors import BenchError, NotApplicable
    from bench.methods import register_method
    from bench.metrics import register_metric
    from bench.models import Explainee, load_model, register_model
    from bench.protocol import Protocol
    from bench.records.store import Records
    from bench.run.evaluate import evaluate
    from bench.run.external_maps import load_maps
    from bench.run.in_memory import explain, score
    from bench.types import Batch, Sample, Truth

_HOMES = {
    "Batch": "bench.types",
    "BenchError": "bench.errors",
    "Board": "bench.board",
    "Explainee": "bench.models",
    "NotApplicable": "bench.errors",
    "Protocol": "bench.protocol",
    "Records": "bench.records.store",
    "Sample": "bench.types",
    "Subset": "bench.data",
    "Trace": "bench.engine.trace",
    "Truth": "bench.types",
    "evaluate": "bench.run.evaluate",
    "explain": "bench.run.in_memory",
    "leaderboard": "bench.board",
    "load_maps": "bench.run.external_maps",
    "load_model": "bench.models",
    "load_subset": "bench.data",
    "register_method": "bench.methods",
    "register_metric": "bench.metrics",
    "register_model": "bench.models",
    "register_subset": "bench.data",
    "score": "bench.run.in_memory",
    "show": "bench.board.plots.map_figure",
}

__all__ = [
    "Batch",
    "BenchError",
    "Board",
    "Explainee",
    "NotApplicable",
    "Protocol",
    "Records",
    "Sample",
    "Subset",
    "Trace",
    "Truth",
    "__version__",
    "evaluate",
    "explain",
    "leaderboard",
    "load_maps",
    "load_model",
    "load_subset",
    "register_method",
    "register_metric",
    "register_model",
    "register_subset",
    "score",
    "show",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import bench` and `cambench --help` stay
    quick.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'bench' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Return the public names and nothing else."""
    return list(__all__)
