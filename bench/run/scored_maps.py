"""A method's maps on a batch, and what is made of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from bench.engine.case import Case
from bench.methods import Method
from bench.metrics import Metric
from bench.run.cells import Maps


@dataclass(eq=False)
class ScoredMaps:
    """A method's maps on a batch, and what is made of them.

    Args:
        cases: by explained class, the maps as metrics see them, until they are scored.
        twin: an earlier method of the same maps.
        results: scores by metric.
        asked: the forwards that each metric asked for.
    """

    method: Method
    maps: Maps
    metrics: list[Metric]
    cases: dict[str, Case]
    twin: ScoredMaps | None
    results: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)

    def twin_has(self, metric: Metric) -> bool:
        """Return whether the score is that of the twin: a positive factor on the map changes
        nothing.
        """
        return metric.scale_free and self.twin is not None and metric in self.twin.metrics

    def take_from_twin(self, metric: Metric) -> None:
        """Take the scores of the twin, which has none where the metric failed."""
        assert self.twin is not None
        if metric.name in self.twin.results:
            self.results[metric.name] = self.twin.results[metric.name]
        self.asked[metric.name] = self.twin.asked[metric.name]

    def forget(self) -> None:
        """Drop the cases, with the rankings and masks that they hold."""
        self.cases.clear()


@dataclass(frozen=True)
class ScoredCell:
    """One metric of one method's maps."""

    one: ScoredMaps
    metric: Metric

    @property
    def names(self) -> tuple[Method, Metric]:
        """Return the method and the metric."""
        return self.one.method, self.metric
