"""Gradient methods at image resolution: the gradient itself, along a path, and under noise.

Points of all images are packed into full batches; integrated gradients is Captum's, through an
adapter that counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch

from bench.engine.counts import Counts
from bench.engine.shared_parts import INPUT_GRADIENTS, SharedPart
from bench.engine.trace import Trace
from bench.methods.references import NAMES, Reference, read_reference, reference_images
from bench.methods.registration import register_method
from bench.methods.sampling import (
    enumerate_by_image,
    expand_per_image,
    gradients_at,
    normal,
    spread,
)
from bench.models.explainee import Explainee
from bench.ranges import Range


@register_method(
    "saliency",
    group="gradient",
    fidelity="paper",
    citation="Simonyan et al., Deep Inside Convolutional Networks, arXiv:1312.6034, section 3.1",
    parts=(INPUT_GRADIENTS,),
)
def saliency(trace: Trace) -> torch.Tensor:
    """max over colour channels of |dS_c/dx|. [B,H,W], >= 0."""
    return trace.input_gradients.abs().amax(1)


@register_method(
    "input_x_gradient",
    group="gradient",
    fidelity="paper",
    citation="Shrikumar et al., Not Just a Black Box, arXiv:1605.01713",
    parts=(INPUT_GRADIENTS,),
    reference="zero",  # the difference to an input of zeros, after normalisation
)
def input_x_gradient(trace: Trace) -> torch.Tensor:
    """sum over colour channels of x * dS_c/dx, x normalised. [B,H,W], signed.

    Its implicit reference is the normalisation's mean colour, the same as the baseline colour of
    deletion for ImageNet-normalised models: boards flag the pair.
    """
    return (trace.images * trace.input_gradients).sum(1)


@register_method(
    "integrated_gradients",
    group="gradient",
    fidelity="paper",
    citation="Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017 (as Captum)",
    fast=False,
    forwards=lambda _, p: p["steps"],
    backwards=lambda _, p: p["steps"],
    reference=read_reference,
)
def integrated_gradients(
    trace: Trace,
    *,
    reference: Reference = "baseline",
    steps: Annotated[int, Range(1, 1_000_000)] = 50,
) -> torch.Tensor:
    """sum over colour channels of (x - r) * integral of dS_c/dx from the reference r to x. [B,H,W],
    signed.

    Captum, Gauss-Legendre with so many steps (50 is its default).
    """
    from captum.attr import IntegratedGradients

    explainer = IntegratedGradients(Counted(trace), multiply_by_inputs=True)
    maps: torch.Tensor = explainer.attribute(
        trace.images,
        baselines=reference_images(trace, reference),
        target=trace.targets.to(trace.images.device),
        n_steps=steps,
        # A multiple of the images in the trace: Captum cuts the steps, not the batch.
        internal_batch_size=max(len(trace), trace.prober.batch_size),
    )
    return maps.sum(1).float()


@register_method(
    "idgi",
    group="gradient",
    fidelity="official",
    citation="Yang et al., IDGI: A Framework to Eliminate Explanation Noise from Integrated "
    "Gradients, CVPR 2023, and the authors' code",
    fast=False,
    forwards=lambda _, p: p["steps"],
    backwards=lambda _, p: p["steps"],
    reference=read_reference,
)
def idgi(
    trace: Trace,
    *,
    reference: Reference = "baseline",
    steps: Annotated[int, Range(1, 1_000_000)] = 50,
) -> torch.Tensor:
    """sum over channels and steps of g_j^2 d_j / |g_j|^2, g_j = dS_c/dx and d_j = S_c(x_j+1) -
    S_c(x_j). [B,H,W].

    On the straight path x_j from the reference (j = 0) to x (j = steps), gradients at the left
    ends, S_c the logit. Signed; its sum is S_c(x) - S_c(r) for any number of steps. A step without
    gradient says nothing and is left out.
    """
    start = reference_images(trace, reference)

    def point(rows: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        return torch.lerp(start[rows], trace.images[rows], expand_per_image(step / steps, trace))

    maps = torch.zeros_like(trace.images[:, 0])
    known: dict[
        int, torch.Tensor
    ] = {}  # an image's squared share at its last point, which waits for the next score
    scores: dict[int, torch.Tensor] = {}
    for batch in gradients_at(trace, steps, point):
        squared = batch.gradients.square()
        total = squared.sum((1, 2, 3), keepdim=True)
        shares = torch.where(total > 0, squared / torch.where(total > 0, total, 1.0), 0.0).sum(1)
        for row, share, score in zip(batch.rows.tolist(), shares, batch.scores, strict=True):
            if row in known:
                maps[row] += known[row] * (score - scores[row])
            known[row], scores[row] = share, score
    for row, last in known.items():
        maps[row] += last * (trace.target_logits[row] - scores[row])
    return maps


def _noisy(model: Explainee, p: Mapping[str, Any]) -> list[SharedPart]:
    """Return the declared part of `noisy_gradients`."""
    samples = p["samples"]
    counts = Counts(forwards=samples, backwards=samples)
    return [
        SharedPart(
            f"noisy gradients {samples} {p['std']!r}", counts, 2 * model.channels * model.pixels
        )
    ]


@register_method(
    "smooth_grad",
    group="gradient",
    fidelity="paper",
    citation="Smilkov et al., SmoothGrad, arXiv:1706.03825; magnitude=true: the authors' code",
    fast=False,
    parts=_noisy,
)
def smooth_grad(
    trace: Trace,
    *,
    samples: Annotated[int, Range(1, 1_000_000)] = 25,
    std: Annotated[float, Range(0, 100)] = 0.15,
    magnitude: bool = False,
) -> torch.Tensor:
    """sum over colour channels of |mean of dS_c/dx at x + noise|. [B,H,W], >= 0.

    std: of the normal noise, as a share of the image's range max x - min x. The absolute value is
    the authors' choice for natural images; their code sums it over channels. magnitude: the mean
    of (dS_c/dx)^2 in place of |mean|, the default of the authors' code.
    """
    mean, variance = noisy_gradients(trace, samples, std)
    return (mean**2 + variance if magnitude else mean.abs()).sum(1)


@register_method(
    "var_grad",
    group="gradient",
    fidelity="paper",
    citation="Adebayo et al., Local Explanation Methods for Deep Neural Networks Lack Sensitivity "
    "to Parameter Values, ICLR workshop 2018",
    fast=False,
    parts=_noisy,
)
def var_grad(
    trace: Trace,
    *,
    samples: Annotated[int, Range(1, 1_000_000)] = 25,
    std: Annotated[float, Range(0, 100)] = 0.15,
) -> torch.Tensor:
    """sum over colour channels of the variance of dS_c/dx over the noisy images of smooth_grad.
    [B,H,W], >= 0.
    """
    _, variance = noisy_gradients(trace, samples, std)
    return variance.sum(1)


def noisy_gradients(trace: Trace, samples: int, std: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and (population) variance over samples of dS_c/dx at x + noise, [B,3,H,W] each;
    shared.
    """

    def make() -> tuple[torch.Tensor, torch.Tensor]:
        sigma, generators = std * spread(trace), trace.generators("noisy gradients")

        def point(rows: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            return trace.images[rows] + sigma[rows] * normal(trace, generators, rows)

        mean, squares = torch.zeros_like(trace.images), torch.zeros_like(trace.images)
        for number, batch in enumerate_by_image(gradients_at(trace, samples, point)):
            row, gradient = batch
            # Welford's update: a mean of squares less a squared mean would lose a small variance.
            change = gradient - mean[row]
            mean[row] += change / number
            squares[row] += change * (gradient - mean[row])
        return mean, squares / samples

    return trace.share(f"noisy gradients {samples} {std!r}", make)


@register_method(
    "gradient_shap",
    group="gradient",
    fidelity="paper",
    citation="Lundberg and Lee, NeurIPS 2017, and Erion et al., Nature Machine Intelligence 2021 "
    "(expected gradients); as Captum's GradientShap, the references taken in turn",
    fast=False,
    forwards=lambda _, p: p["samples"],
    backwards=lambda _, p: p["samples"],
)
def gradient_shap(
    trace: Trace,
    *,
    samples: Annotated[int, Range(1, 1_000_000)] = 50,
    std: Annotated[float, Range(0, 100)] = 0.0,
) -> torch.Tensor:
    """sum over colour channels of the mean over samples of (x' - r) * dS_c/dx at r + a (x' - r).
    [B,H,W], signed.

    a: uniform in [0,1].  x': x plus normal noise of `std` times the image's range.  r: the
    references in turn (baseline, black, white, blur, noise). In expectation the sum is the mean
    over references of S_c(x) - S_c(r).
    """
    starts = torch.stack([reference_images(trace, name) for name in NAMES], 1)
    sigma, generators = std * spread(trace), trace.generators("gradient_shap")
    kept: list[torch.Tensor] = []  # x' - r of the batch that is being run

    def point(rows: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        shares = torch.empty(len(rows))
        ends = trace.images[rows]
        for place, row in enumerate(rows.tolist()):
            shares[place] = torch.rand((), generator=generators[row])
            if std > 0:
                ends[place] += sigma[row] * normal(trace, generators, rows[place : place + 1])[0]
        start = starts[rows, step % starts.shape[1]]
        kept[:] = [ends - start]
        return start + expand_per_image(shares, trace) * kept[0]

    maps = torch.zeros_like(trace.images[:, 0])
    for batch in gradients_at(trace, samples, point):
        maps.index_add_(0, batch.rows.to(maps.device), (kept[0] * batch.gradients).sum(1))
    return maps / samples


class Counted(torch.nn.Module):
    """The network as Captum wants it, every forward counted by the prober (and a backward with
    each).
    """

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._trace = [trace]  # in a list, so that the network is no submodule of this

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits [n,C]."""
        (trace,) = self._trace
        if images.requires_grad:
            trace.prober.counts.backwards += len(images)
        return trace.prober.logits(images)
