"""The explained class: which class the maps explain that a metric scores.

A run decides this here and nowhere else: `ClassChoice` decides for a plan, and `BatchClasses` holds
the passes of one batch that follow from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from bench.data import Subset
from bench.engine.trace import Trace
from bench.methods import Method
from bench.metrics import Metric
from bench.protocol import Protocol

PREDICTED, LABEL = "predicted", "label"
"""The classes that a run can explain: the one that the network predicts, or the image's label."""


@dataclass(frozen=True)
class ClassChoice:
    """The classes that a protocol explains on a subset.

    The protocol names a class for localisation and one for all other metrics. A subset may name the
    label for every metric.
    """

    protocol: Protocol
    subset: Subset

    @property
    def usual(self) -> str:
        """Return the class that is explained first: of every image, and for every method."""
        return LABEL if self.subset.explain == LABEL else PREDICTED

    def choose(self, metric: Metric) -> str:
        """Return the class that is explained for a metric."""
        return LABEL if self.usual == LABEL else choose_by_protocol(self.protocol, metric)

    def choose_all(self, metrics: Iterable[Metric]) -> frozenset[str]:
        """Return the classes that are explained for some metrics."""
        return frozenset(self.choose(metric) for metric in metrics)

    def choose_first(self, method: Method, classes: frozenset[str]) -> str:
        """Return the class that a method explains on every image, if `classes` are wanted.

        A class-agnostic method makes the same map for every class.
        """
        return LABEL if classes == {LABEL} and not method.class_agnostic else self.usual

    def explains_twice(self, method: Method, classes: frozenset[str]) -> bool:
        """Return whether a method makes a second map where the label is not predicted."""
        return len(classes) > 1 and not method.class_agnostic


def choose_by_protocol(protocol: Protocol, metric: Metric) -> str:
    """Return the class that a protocol names for a metric."""
    chosen: str = getattr(protocol, metric.target_field)
    return chosen


@dataclass(frozen=True, eq=False)
class BatchClasses:
    """The classes that are explained on one batch, with the passes seen from them.

    Args:
        choice: the classes that the plan explains.
        predicted: the class that the network predicts, [B].
        traces: the pass, seen from each class.
        rows: the images that are explained a second time, for the label.
        second: the pass of these images, seen from the label; None without such images.
    """

    choice: ClassChoice
    predicted: torch.Tensor
    traces: Mapping[str, Trace]
    rows: torch.Tensor
    second: Trace | None

    @classmethod
    def open(cls, choice: ClassChoice, base: Trace, labels: torch.Tensor) -> BatchClasses:
        """Return the classes of a batch whose pass is seen from the predicted classes."""
        by_label = base.retarget(labels)
        by_label.parts.update(base.parts)
        usual = by_label if choice.usual == LABEL else base
        rows = torch.nonzero(labels != usual.targets)[:, 0]
        second = by_label.select(rows) if len(rows) else None
        return cls(choice, base.predicted, {choice.usual: usual, LABEL: by_label}, rows, second)

    @property
    def usual(self) -> Trace:
        """Return the pass, seen from the class that is explained first."""
        return self.traces[self.choice.usual]

    def find_targets(self, metric: Metric) -> torch.Tensor:
        """Return the classes [B] that are explained for a metric."""
        return self.traces[self.choice.choose(metric)].targets
