"""Whether the metrics themselves work: checks of each metric on each model of a run (`cambench
health`).

A metric is believed on a model when it tells apart what is known to differ: the oracle from random
(localisation), or the evidence that was planted in a net from random, the centre and the rest of
the frame (faithfulness).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.health.findings import Health, Verdict
    from bench.health.report import examine

__all__ = ["Health", "Verdict", "examine"]


def __getattr__(name: str) -> Any:
    """Import the report when it is first used: the command line imports this package for its
    commands.
    """
    if name not in __all__:
        raise AttributeError(f"module 'bench.health' has no attribute {name!r}")
    from bench.health import report

    return getattr(report, name)
