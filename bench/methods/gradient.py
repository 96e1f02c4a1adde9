"""Gradient methods at image resolution: our own on the trace, Captum's through one adapter that counts forwards."""

from __future__ import annotations

import torch

from bench.engine.trace import Trace
from bench.methods.base import register_method
from bench.protocol import Protocol

INTEGRATION_STEPS = 50
"""Gauss-Legendre steps of integrated gradients, Captum's default."""


@register_method(
    "saliency",
    group="gradient",
    fidelity="official",
    citation="Simonyan et al., Deep Inside Convolutional Networks, arXiv:1312.6034, section 3.1",
    forwards=1,
    backwards=1,
)
def saliency(trace: Trace) -> torch.Tensor:
    """max over colour channels of |dS_c/dx|. [B,H,W], >= 0."""
    return trace.input_gradients.abs().amax(1)


@register_method(
    "input_x_gradient",
    group="gradient",
    fidelity="paper",
    citation="Shrikumar et al., Not Just a Black Box, arXiv:1605.01713",
    forwards=1,
    backwards=1,
)
def input_x_gradient(trace: Trace) -> torch.Tensor:
    """sum over colour channels of x * dS_c/dx, x normalised. [B,H,W], signed.

    Its implicit reference is the normalisation's mean colour, the same as the baseline colour of deletion for
    ImageNet-normalised models: boards flag the pair.
    """
    return (trace.images * trace.input_gradients).sum(1)


@register_method(
    "integrated_gradients",
    group="gradient",
    fidelity="official",
    citation="Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017 (Captum)",
    forwards=INTEGRATION_STEPS,
    backwards=INTEGRATION_STEPS,
)
def integrated_gradients(trace: Trace) -> torch.Tensor:
    """sum over colour channels of (x - b) * integral of dS_c/dx from b to x, b the baseline colour. [B,H,W], signed.

    Captum, Gauss-Legendre with 50 steps.
    """
    from captum.attr import IntegratedGradients

    colour = trace.model.colour(Protocol().baseline).expand_as(trace.images)
    explainer = IntegratedGradients(Counted(trace), multiply_by_inputs=True)
    maps: torch.Tensor = explainer.attribute(
        trace.images,
        baselines=colour,
        target=trace.targets.to(trace.images.device),
        n_steps=INTEGRATION_STEPS,
        # A multiple of the images in the trace: Captum cuts the steps, not the batch.
        internal_batch_size=max(len(trace), trace.prober.batch_size),
    )
    return maps.sum(1).float()


class Counted(torch.nn.Module):
    """The network as Captum wants it, every forward counted by the prober (and a backward with each)."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._trace = [trace]  # in a list, so that the network is no submodule of this

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits [n,C]."""
        (trace,) = self._trace
        if images.requires_grad:
            trace.prober.counts.backwards += len(images)
        return trace.prober.logits(images)
