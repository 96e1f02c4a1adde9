"""The tuner of activation fine-tuning (AFT): a small network that re-weights the explained layer's
activations.

`add_tuner` puts it into any classifier. Where that has timm's split it stands between
`forward_features` and `forward_head` (`TunedNet`); elsewhere it stands behind the named module
(`TunedLayer`), which keeps its name. Either way the explained layer of the result is the tuned one,
by the ordinary rules.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bench.errors import BenchError
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network
from bench.models.split import WholeSplit
from bench.randomness import generator

REDUCTION = 8
"""Channels of the layer per channel inside the tuner."""
SIDE = 224
"""Side of the image that a network is looked at with, where it does not state its own."""


class Tuner(nn.Module):
    """A^ = A * 2 sigmoid(g(A)), [B,K,h,w] -> [B,K,h,w]: every activation kept, damped to 0, or
    raised up to twofold.

    g = Conv1x1(K/r -> K) ReLU BN Conv3x3(K/r -> K/r) ReLU BN Conv1x1(K -> K/r), r = reduction. The
    last convolution starts at zero, so that A^ = A exactly; the others are drawn from the seed.
    """

    def __init__(self, channels: int, reduction: int = REDUCTION, seed: int = 0) -> None:
        super().__init__()
        inner = max(1, channels // reduction)
        self.channels = channels
        self.gate = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, channels, 1),
        )
        self._draw(seed)

    def _draw(self, seed: int) -> None:
        rng = generator(seed, "tuner")
        *first, last = [module for module in self.gate if isinstance(module, nn.Conv2d)]
        for convolution in first:
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu", generator=rng)
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)

    def forward(self, activations: torch.Tensor) -> torch.Tensor:
        """Return A^ [B,K,h,w] of A [B,K,h,w]."""
        return activations * (2 * torch.sigmoid(self.gate(activations)))


class TunedNet(nn.Module):
    """A timm network with a tuner between its features and its head: `forward_features` returns A^.

    Whatever else code asks of a timm network (`global_pool`, `get_classifier`, `num_features`, ...)
    the inner network answers; its modules are found under `net.`.
    """

    def __init__(self, net: nn.Module, tuner: Tuner) -> None:
        super().__init__()
        # First, because what goes through a network from its classifier down takes the last module
        # for that.
        self.tuner = tuner
        self.net = net

    def __getattr__(self, name: str) -> Any:
        """Return the inner network's attribute where this has none."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Return timm's list of stages under their new names; the last one is the tuner, if that is
        what it reads.
        """
        entries = [
            entry
            for entry in getattr(self.net, "feature_info", None) or ()
            if isinstance(entry, dict)
        ]
        renamed = [{**entry, "module": f"net.{entry['module']}"} for entry in entries]
        if renamed and renamed[-1].get("num_chs") == self.tuner.channels:
            renamed[-1]["module"] = "tuner"
        return renamed

    def forward_features(self, x: torch.Tensor, **options: Any) -> torch.Tensor:
        """Return A^ [B,K,h,w] of images [B,3,H,W]."""
        features = self.net.forward_features(x, **options)  # type: ignore[operator]
        tuned: torch.Tensor = self.tuner(features)
        return tuned

    def forward_head(self, features: torch.Tensor, **options: Any) -> torch.Tensor:
        """Return logits [B,C] of A^ [B,K,h,w]."""
        logits: torch.Tensor = self.net.forward_head(features, **options)  # type: ignore[operator]
        return logits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits [B,C] of images [B,3,H,W]."""
        return self.forward_head(self.forward_features(x))


class TunedLayer(nn.Module):
    """A module and a tuner behind it, in the module's place."""

    def __init__(self, layer: nn.Module, tuner: Tuner) -> None:
        super().__init__()
        self.layer = layer
        self.tuner = tuner

    def __getattr__(self, name: str) -> Any:
        """Return the module's attribute where this has none: networks look at their parts."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the module's output [B,K,h,w], tuned."""
        tuned: torch.Tensor = self.tuner(self.layer(*args, **kwargs))
        return tuned


def add_tuner(
    net: nn.Module,
    layer: str | None = None,
    reduction: int = REDUCTION,
    channels: int | None = None,
    seed: int = 0,
) -> nn.Module:
    """Return a network with a tuner at a layer, of the same logits until the tuner is trained;
    `net` becomes a part.

    layer: name of the tuned module; None is the default layer, as of an `Explainee`.  channels: K
    of that layer; None finds it by running the network once.  seed: of the tuner's weights. Raises
    BenchError where the layer's output is no grid [B,K,h,w].
    """
    whole = layer is None and hasattr(net, "forward_features") and hasattr(net, "forward_head")
    if channels is None or (layer is None and not whole):
        place = find_tuner_place(Explainee(net, size=_side(net), layer=layer))
        layer, channels = place["layer"], place["channels"]
    tuner = Tuner(channels, reduction, seed)
    if layer is None:
        return TunedNet(net, tuner)
    parent, _, name = layer.rpartition(".")
    setattr(net.get_submodule(parent), name, TunedLayer(net.get_submodule(layer), tuner))
    return net


def find_tuner_place(model: Explainee) -> dict[str, Any]:
    """Return where a model's tuner stands: {"layer": name, or None for timm's split, "channels":
    K}.

    Raises BenchError where the explained layer's output is no grid [B,K,h,w] (tokens, channels
    last).
    """
    _, *grid = model.probe_shape
    with guard_network(model.net), torch.no_grad():
        values = model.capture(torch.zeros(1, *model.input_shape, device=model.device)).values
    if [*values.shape[1:]] != grid:
        raise BenchError(
            f"The tuner needs activations [B,K,h,w], and layer {model.layer!r} of {model.name} "
            f"gives {tuple(values.shape)} (tokens or channels last); name a convolutional layer "
            "(layer=...)."
        )
    return {
        "layer": None if isinstance(model.split, WholeSplit) else model.layer,
        "channels": grid[0],
    }


def find_tuner(net: nn.Module) -> Tuner:
    """Return the tuner inside a network; one without is an error."""
    for module in net.modules():
        if isinstance(module, Tuner):
            return module
    raise BenchError(f"The network {type(net).__name__} has no tuner; make one with add_tuner.")


def _side(net: nn.Module) -> int:
    """Return the side of the input that a timm network states, else `SIDE`."""
    stated = (getattr(net, "default_cfg", None) or {}).get("input_size")
    return int(stated[-1]) if stated else SIDE
