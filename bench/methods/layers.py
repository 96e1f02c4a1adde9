"""Methods that look at several layers at once: fused CAMs, and the gradients of all biases."""

from __future__ import annotations

import weakref
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from bench.engine.counts import Counts
from bench.engine.prober import Prober
from bench.engine.shared_parts import INPUT_GRADIENTS, SharedPart
from bench.engine.trace import Trace
from bench.errors import NotApplicable
from bench.methods.base import Method
from bench.methods.importance import min_max
from bench.methods.registration import register_method
from bench.models.explainee import Explainee
from bench.randomness import generator

GAMMA = 2.0
"""LayerCAM's scale of shallow layers, tanh(2 * L / max L)."""
CODE_EPS = 1e-6
"""What FullGrad's code adds to the maxima."""
DEEP = 2
"""The last layers that LayerCAM does not scale: two of VGG's five stages."""


@register_method(
    "layer_cam_fused",
    group="cam",
    fidelity="reconstruction",
    citation="Jiang et al., LayerCAM, IEEE TIP 2021, eq. 9 as torchcam quotes it; the authors' "
    "code has no fusion",
    parts=lambda model, p: [
        SharedPart(f"taps {' '.join(model.layers(p['layers']))}", Counts(forwards=1, backwards=1))
    ],
)
def layer_cam_fused(trace: Trace, *, layers: str = "auto") -> torch.Tensor:
    """max over layers of Up(N_l), N_l = L_l / max L_l, L_l = ReLU(sum_k ReLU(G_k) * A_k) at layer
    l. [B,H,W] in [0,1].

    All but the last two layers are scaled, N_l = tanh(2 L_l / max L_l), since shallow maps are
    weak: in the paper the first three of five stages. A layer without positive part gives zeros.
    layers: names joined by "+", shallow first; "auto" is the last module of each stage. One whole
    forward and backward.
    """
    names = trace.model.layers(layers)
    taps = trace.taps(names)
    maps = []
    for place, name in enumerate(names):
        if name not in taps:
            raise NotApplicable(
                f"Layer {name!r} of {trace.model.name} does not run once, with one tensor that "
                "reaches the logits; choose other layers."
            )
        cut = trace.model.cut_at(name)
        activations, gradients = (cut.grid(values, trace.size) for values in taps[name])
        low = (gradients.relu() * activations).sum(1).relu()
        high = low.flatten(1).amax(1)[:, None, None]
        share = torch.where(high > 0, low / torch.where(high > 0, high, 1.0), 0.0)
        maps.append(
            trace.upsample(torch.tanh(GAMMA * share) if place < len(names) - DEEP else share)
        )
    return torch.stack(maps).amax(0)


def _places(model: Explainee, layers: str) -> list[Explainee]:
    """Return the model at each layer, for plans; none where the method will say that it is not
    applicable.
    """
    try:
        return [model.cut_at(name) for name in model.layers(layers)]
    except NotApplicable:
        return []


@register_method(
    "fused",
    wraps="grad_cam",
    group="cam",
    fidelity="reconstruction",
    citation="the mean over layers of pytorch-grad-cam, and the maximum of LayerCAM, around any "
    "method",
    forwards=lambda model, p: len(_places(model, p["layers"])),
    inner_models=lambda model, p: _places(model, p["layers"]),
)
def fused(
    trace: Trace, inner: Method, *, layers: str = "auto", reduce: Literal["mean", "max"] = "mean"
) -> torch.Tensor:
    """Mean (or maximum) over layers of unit(map of another method at that layer). [B,H,W] in [0,1].

    layers: names joined by "+"; "auto" is the last module of each stage. Each layer costs one pass,
    the gradient there, and what the method costs there. A layer at which the map has no positive
    part gives zeros.
    """
    units = [
        min_max(inner.maps(trace.trace_layer(name)).clamp(min=0))
        for name in trace.model.layers(layers)
    ]
    stacked = torch.stack([unit.cpu() for unit in units])
    return stacked.mean(0) if reduce == "mean" else stacked.amax(0)


# --- FullGrad


@register_method(
    "full_grad",
    group="cam",
    fidelity="paper",
    citation="Srinivas and Fleuret, Full-Gradient Representation, NeurIPS 2019, eq. 5; form=code: "
    "the authors' code",
    forwards=1,
    backwards=1,
    parts=(INPUT_GRADIENTS,),
    reference="zero",  # its input term
)
def full_grad(trace: Trace, *, form: Literal["paper", "code"] = "paper") -> torch.Tensor:
    """psi(x * dS/dx) + sum over convolutions and batch norms of psi(b * dS/d output), b their bias.
    [B,H,W], >= 0.

    psi: absolute value, min-max over all channels and positions of an image together, Up, sum over
    channels. The bias of a batch norm in eval mode is beta - mean * gamma / sqrt(var + eps). Linear
    layers' biases belong to the decomposition S_c = sum x dS/dx + sum b dS/d output but not to the
    map. Where it does not add up (SiLU, GELU, layer norm, attention: biases that no layer states),
    the method is not applicable, as in the authors' code, which checks it on a random image too.
    code: as theirs, 1e-6 is added to the maxima, and Up has align_corners=True.
    """
    biases = find_biases(trace.model.net)
    if not any(spatial for _, spatial in biases.values()):
        raise NotApplicable(
            f"{trace.model.name} has no convolution or batch norm with a bias; full_grad needs "
            "some."
        )
    if not adds_up(trace.model):
        raise NotApplicable(
            f"The input and bias terms of {trace.model.name} do not add up to its logits, as "
            "full_grad needs: they do where all biases are those of convolutions, batch norms "
            "and linear layers (ReLU networks)."
        )

    def keep(name: str, gradient: torch.Tensor) -> torch.Tensor | None:
        bias, spatial = biases[name]
        return _spread(trace, bias.view(-1, 1, 1) * gradient, form) if spatial else None

    maps = _spread(trace, trace.images * trace.input_gradients, form)
    for part in trace.output_gradients(list(biases), keep).values():
        maps = maps if part is None else maps + part
    return maps


def _spread(trace: Trace, terms: torch.Tensor, form: str) -> torch.Tensor:
    """Return psi [B,H,W] of terms [B,K,h,w]; Up and the sum over channels commute."""
    flat = terms.abs().flatten(1)  # one minimum and maximum per image
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    if form == "code":
        scaled = (flat - low) / (high - low + CODE_EPS)
    else:
        scaled = torch.where(high > low, (flat - low) / torch.where(high > low, high - low, 1), 0.0)
    maps = scaled.view_as(terms).sum(1)
    if form != "code":
        return trace.upsample(maps)
    return F.interpolate(maps[:, None], size=trace.size, mode="bilinear", align_corners=True)[:, 0]


def find_biases(net: nn.Module) -> dict[str, tuple[torch.Tensor, bool]]:
    """Return {module whose output the bias is added to: (bias [K], whether it has positions)}."""
    biases: dict[str, tuple[torch.Tensor, bool]] = {}
    for name, module in net.named_modules():
        if (
            isinstance(module, nn.BatchNorm2d)
            and module.running_mean is not None
            and module.running_var is not None
        ):
            scale = (module.running_var + module.eps).rsqrt() * (
                1.0 if module.weight is None else module.weight
            )
            shift = -module.running_mean * scale + (0.0 if module.bias is None else module.bias)
            # timm's BatchNormAct2d goes on to an activation; what its own `drop` returns is the
            # batch norm's output.
            output = f"{name}.drop" if hasattr(module, "drop") and hasattr(module, "act") else name
            biases[output] = shift.detach(), True
        elif isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            biases[name] = module.bias.detach(), isinstance(module, nn.Conv2d)
    return biases


_ADDS_UP: weakref.WeakKeyDictionary[Explainee, bool] = weakref.WeakKeyDictionary()

TOLERANCE = 1e-3
"""What may be missing of the logit, as a share of the terms' size."""


def adds_up(model: Explainee) -> bool:
    """Return whether input and bias terms add up to the logit, looked at once per model on one
    random image.
    """
    if model not in _ADDS_UP:
        image = torch.randn(1, *model.input_shape, generator=generator(0, "full_grad")).to(
            model.device
        )
        trace = Trace(Prober(model, 1), image)
        terms = torch.tensor(full_gradient_terms(trace), dtype=torch.float64)
        _ADDS_UP[model] = bool(
            (terms.sum(0) - trace.target_logits.cpu()).abs().amax() <= TOLERANCE * terms.abs().sum()
        )
    return _ADDS_UP[model]


def full_gradient_terms(trace: Trace) -> list[list[float]]:
    """Return the sums of x dS/dx and of every layer's bias terms, [layers][B]; they add up to S_c
    on ReLU nets.
    """
    biases = find_biases(trace.model.net)

    def keep(name: str, gradient: torch.Tensor) -> list[float]:
        bias, spatial = biases[name]
        terms = gradient * (bias.view(-1, 1, 1) if spatial else bias)
        # Window attention lays windows end to end along the batch axis, an image's side by side.
        return terms.reshape(len(trace), -1).sum(1, dtype=torch.float64).tolist()

    inputs = (trace.images * trace.input_gradients).flatten(1).sum(1, dtype=torch.float64).tolist()
    return [inputs, *trace.output_gradients(list(biases), keep).values()]
