"""Channel importance by intervention: how the score changes when a channel is taken away or shown
alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch

from bench.engine.counts import Counts
from bench.engine.fills import blend
from bench.engine.prober import Job, probability
from bench.engine.shared_parts import GRADIENTS, SharedPart
from bench.engine.trace import Trace
from bench.methods.cam import weigh_channels
from bench.methods.references import MASK_COLOUR, Reference, read_reference, reference_images
from bench.methods.registration import register_method
from bench.methods.variants import write_value
from bench.models.explainee import Explainee
from bench.ranges import Range

CONSTANT = "constant channels are skipped"


@register_method(
    "ablation_cam",
    group="cam",
    fidelity="paper",
    citation="Ramaswamy et al., Ablation-CAM, WACV 2020, eq. 3",
    heads=lambda model, _: model.probe_shape[1],
)
def ablation_cam(trace: Trace) -> torch.Tensor:
    """ReLU(sum_k w_k A_k), w_k = S_c - S_c(A without channel k), by replaying the head. [B,H,W], >=
    0.

    The paper divides by S_c; a negative S_c would flip the map, and a positive one does not change
    it, so it is not done here.
    """
    return trace.upsample(weigh_channels(channel_drops(trace), trace.activations).relu())


def channel_drops(trace: Trace, instead: torch.Tensor | None = None) -> torch.Tensor:
    """Return S_c(A) - S_c(A with channel k replaced) for every channel, [B,K]; K head replays per
    image.

    instead: what replaces the channels, [B,K,h,w]; None replaces them by 0.
    """
    return trace.target_logits[:, None] - trace.replace_channels(instead)


IRRELEVANT = 1e-6
"""Share of the largest importance below which a feature map plays no part."""


def _fmi_parts(model: Explainee, p: Mapping[str, Any]) -> list[SharedPart]:
    """Return the declared parts of `a_fmi`: the reference's pass, and the drops of all channels."""
    name, replace = write_value(p["reference"]), p["replace"]
    _, channels, height, width = model.probe_shape
    return [
        SharedPart(
            f"reference {name}",
            Counts(forwards=1),
            model.channels * model.pixels + channels * height * width,
        ),
        SharedPart(
            f"a_fmi {replace} {name if replace == 'reference' else ''}",
            Counts(head_forwards=channels),
            channels,
        ),
    ]


@register_method(
    "a_fmi",
    group="cam",
    more_groups=("focus", "seed"),
    fidelity="reconstruction",
    citation="after Zhang et al., A-FMI: feature map importance, arXiv:2104.05527; formulas "
    "reconstructed",
    parts=_fmi_parts,
    reference=lambda p: read_reference(p) if p["replace"] == "reference" else "",
)
def a_fmi(
    trace: Trace,
    *,
    form: Literal["product", "complete", "absdiff"] = "product",
    reference: Reference = "baseline",
    replace: Literal["reference", "zero"] = "reference",
    positive_only: bool = False,
    selection: Literal["largest", "cumulative"] = "largest",
    share: Annotated[float, Range(0, 1)] = IRRELEVANT,
) -> torch.Tensor:
    """ReLU(sum_k FMI_k * D_k): importance by difference from a reference, so no saturated gradient
    plays a part.

    A' = features(reference), D = A - A'; FMI_k = S_c(A) - S_c(A with channel k from A', or 0), by
    head replay;
    the channels of strong relevance, chosen by `selection`, play a part. [B,H,W], >= 0.
    largest: |FMI_k| > share * max_k |FMI_k|; the default share 1e-6 leaves out rounding alone,
    since no share that was tried made deletion or insertion better (docs/fidelity.md).
    cumulative: the fewest channels, largest first, that hold `share` of sum_k |FMI_k|.
    complete: sum_k m_k D_k with m_k = FMI_k / sum_ij D_k (0 where that sum cancels), signed; at
    layer resolution it sums to sum_k FMI_k. absdiff: ReLU(sum_k FMI_k |D_k|); in the product FMI <
    0 times D < 0 counts as evidence.
    """
    name = write_value(reference)
    start = trace.share(
        f"reference {name}", lambda: trace.trace_images(reference_images(trace, reference))
    ).activations
    drops = trace.share(
        f"a_fmi {replace} {name if replace == 'reference' else ''}",
        lambda: channel_drops(trace, start if replace == "reference" else None),
    )
    importance = torch.where(find_strong(drops.abs(), selection, share), drops, 0.0)
    if positive_only:
        importance = importance.clamp(min=0)
    difference = trace.activations - start
    if form == "complete":
        return trace.upsample(weigh_channels(importance * _reciprocal_sums(difference), difference))
    return trace.upsample(
        weigh_channels(importance, difference.abs() if form == "absdiff" else difference).relu()
    )


def find_strong(
    sizes: torch.Tensor, selection: Literal["largest", "cumulative"], share: float
) -> torch.Tensor:
    """Return which channels [B,K] are strongly relevant; sizes: |FMI|, [B,K]."""
    if selection == "largest":
        return sizes > share * sizes.amax(1, keepdim=True)
    order = sizes.argsort(dim=1, descending=True, stable=True)
    ranked = sizes.double().gather(1, order)
    before = ranked.cumsum(1) - ranked
    kept = before < share * ranked.sum(1, keepdim=True)
    return torch.zeros_like(kept).scatter(1, order, kept)


CANCELLED = 1e-3
"""Share of sum_ij |D_k| below which sum_ij D_k has cancelled: its reciprocal would only magnify
rounding.
"""


def _reciprocal_sums(difference: torch.Tensor) -> torch.Tensor:
    """Return 1 / sum_ij D_k, [B,K]; 0 where the sum has cancelled."""
    sums, sizes = difference.sum((2, 3)), difference.abs().sum((2, 3))
    usable = sums.abs() > CANCELLED * sizes
    return torch.where(usable, 1 / torch.where(usable, sums, 1.0), 0.0)


def score_cam_part(model: Explainee) -> SharedPart:
    """Return the declared part of `score_cam_weights`: at most one forward per channel."""
    channels = model.probe_shape[1]
    return SharedPart("score_cam weights", Counts(forwards=channels), channels, varies=CONSTANT)


@register_method(
    "score_cam",
    group="cam",
    fidelity="official",
    citation="Wang et al., Score-CAM, CVPRW 2020, eq. 5-7, and the authors' code",
    fast=False,
    parts=lambda model, _: [score_cam_part(model)],
    varies=CONSTANT,
    reference="baseline",
    version=2,
)
def score_cam(trace: Trace) -> torch.Tensor:
    """ReLU(Up(sum_k w_k A_k)), w_k = p_c(H_k masking x), H_k = mm(Up A_k); one forward per channel.
    [B,H,W], >= 0.

    Constant channels are skipped (weight 0). As in the authors' code the ReLU comes after the
    upsampling, which shows on layers with negative activations, and the weights are probabilities
    of the masked image, without subtracting a baseline. pytorch-grad-cam and torchcam use a softmax
    over channels of the logits.
    """
    return trace.upsample(weigh_channels(score_cam_weights(trace), trace.activations)).relu()


def score_cam_weights(trace: Trace) -> torch.Tensor:
    """Return S_k = p_c(mm(Up A_k) masking x), [B,K]; run once for every method that reads them."""
    return trace.share("score_cam weights", lambda: probe_channel_masks(trace, trace.activations))


def probe_channel_masks(trace: Trace, channels: torch.Tensor) -> torch.Tensor:
    """Return p_c(H_k masking x), H_k = mm(Up channel k), of channels [B,K,h,w]: [B,K] float32; 0
    for a constant one.
    """
    flat = channels.flatten(2)
    images, varying = torch.nonzero(flat.amax(2) > flat.amin(2), as_tuple=True)
    rows = images.cpu()

    def masks(index: torch.Tensor) -> torch.Tensor:
        return min_max(trace.upsample(channels[images[index], varying[index]]))

    fill = blend(trace.images, trace.model.colour(MASK_COLOUR), rows, masks)
    (odds,) = trace.prober.log_odds([Job(trace.targets[rows], fill)], trace.size)
    weights = torch.zeros(channels.shape[:2], device=channels.device)
    weights[images, varying] = probability(odds).to(channels.device, torch.float32)
    return weights


@register_method(
    "abs_cam_init",
    group="cam",
    more_groups=("focus", "seed"),
    fidelity="paper",
    citation="Zeng et al., Abs-CAM, arXiv:2207.03648, phase 1",
    parts=(GRADIENTS,),
)
def abs_cam_init(trace: Trace) -> torch.Tensor:
    """ReLU(sum_k w_k A_k), w_k = mean_ij |G_k|: Abs-CAM's first phase. [B,H,W], >= 0.

    The sign of the gradient is lost, so on a head of GAP and a linear layer the map hardly depends
    on the class.
    """
    return trace.upsample(weigh_channels(absolute_weights(trace), trace.activations).relu())


def absolute_weights(trace: Trace) -> torch.Tensor:
    """Return mean_ij |G_k|, [B,K]."""
    return trace.gradients.abs().mean((2, 3))


@register_method(
    "abs_cam",
    group="cam",
    more_groups=("focus", "seed"),
    fidelity="reconstruction",
    citation="after Zeng et al., Abs-CAM, arXiv:2207.03648; phase 2 reconstructed",
    fast=False,
    parts=lambda model, p: [
        score_cam_part(model),
        *([GRADIENTS] if p["form"] == "activations" else []),
    ],
    varies=CONSTANT,
    reference="baseline",
    version=2,
)
def abs_cam(
    trace: Trace, *, form: Literal["activations", "normalised"] = "normalised"
) -> torch.Tensor:
    """sum_k S_k mm(Up(w_k A_k)), w_k = mean_ij |G_k|, S_k = p_c(mm(Up w_k A_k) masking x). [B,H,W],
    >= 0.

    w_k > 0 cancels when a map is normalised: the weights |G| play no part in this form, and S_k are
    Score-CAM's, so one set of forwards serves both. Two public readings of the paper by others sum
    normalised maps, too. activations: ReLU(sum_k w_k S_k Up(A_k)), in which the weights count.
    """
    scores = score_cam_weights(trace)
    if form == "normalised":
        return sum_of_masks(trace, scores, trace.activations)
    return trace.upsample(
        weigh_channels(absolute_weights(trace) * scores, trace.activations)
    ).relu()


def sum_of_masks(trace: Trace, weights: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """Return sum_k weights_k mm(Up channel k), [B,H,W], of channels [B,K,h,w], image by image: all
    masks at once would not fit in memory.
    """
    sums = [
        torch.einsum("k,khw->hw", w, min_max(trace.upsample(a[None])[0]))
        for w, a in zip(weights, channels, strict=True)
    ]
    return torch.stack(sums)


@register_method(
    "abs_cam_elementwise",
    group="cam",
    more_groups=("focus", "seed"),
    fidelity="reconstruction",
    citation="after Zeng et al., Abs-CAM, arXiv:2207.03648; element-wise reading of phase 2",
    fast=False,
    forwards=lambda model, _: model.probe_shape[1],
    parts=(GRADIENTS,),
    varies=CONSTANT,
    reference="baseline",
)
def abs_cam_elementwise(trace: Trace) -> torch.Tensor:
    """ReLU(sum_k S_k Up(E_k)), E_k = |G_k| * A_k element by element, S_k = p_c(mm(Up E_k) masking
    x). [B,H,W], >= 0.
    """
    channels = trace.gradients.abs() * trace.activations
    scores = probe_channel_masks(trace, channels)
    return trace.upsample(weigh_channels(scores, channels)).relu()


def min_max(maps: torch.Tensor) -> torch.Tensor:
    """Return maps [...,h,w] scaled to [0,1] each; a constant one is zeros."""
    low, high = (
        maps.flatten(-2).amin(-1)[..., None, None],
        maps.flatten(-2).amax(-1)[..., None, None],
    )
    return torch.where(high > low, (maps - low) / torch.where(high > low, high - low, 1.0), 0.0)
