"""Rules of a protocol for probes: what removed pixels become, the score, and the precision."""

from __future__ import annotations

import torch

from bench.engine.background import MINIMUM, Colour
from bench.engine.prober import Mode, probability
from bench.engine.trace import Trace
from bench.protocol import FLOAT32, ProtocolView


class ProbeRules:
    """What the protocol says of the probes of a metric.

    Attributes:
        trace: The pass over the batch.
        protocol: The protocol fields that the metric declared.
    """

    trace: Trace
    protocol: ProtocolView

    @property
    def removed(self) -> Colour | str:
        """Return what the protocol puts in place of removed pixels.

        It is a pixel-space colour, or `MINIMUM`, the image's least value after normalisation.
        """
        if self.protocol.removed == "minimum":
            return MINIMUM
        if self.protocol.removed == "zero":
            return self.trace.model.mean
        return tuple(self.protocol.baseline)

    @property
    def raw(self) -> bool:
        """Return whether the protocol's score is the logit itself."""
        return bool(self.protocol.get("score", "softmax") == "logit")

    @property
    def precision(self) -> str:
        """Return the precision of the probes of the metric at hand, such as "float32".

        Passes, gradients and ends of curves are always float32.
        """
        return str(self.protocol.get("precision", FLOAT32))

    @property
    def mode(self) -> Mode:
        """Return the mode in which the prober runs jobs of the metric at hand."""
        return Mode(self.raw, self.precision)

    def score_evidence(self, evidence: torch.Tensor) -> torch.Tensor:
        """Return the protocol's score of evidence.

        Args:
            evidence: Log-odds, or logits under score = "logit", of any shape.

        Returns:
            Probabilities of the same shape; logits stay as they are.

        Example:
            >>> float(case.score_evidence(torch.tensor(0.0)))
            0.5
        """
        return evidence if self.raw else probability(evidence)
