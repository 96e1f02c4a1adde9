"""The model under explanation: network, preprocessing, and its split into features and head."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.data.decode import decode
from bench.data.geometry import Geometry
from bench.errors import BenchError, NotApplicable, suggestions
from bench.models.default_layer import find_split
from bench.models.grid_check import find_true_layout
from bench.models.layout import Layout, Size, is_stated, list_layouts
from bench.models.network_guard import State, guard_network, state_of
from bench.models.split import Captured, LayerSplit, Split, WholeSplit
from bench.models.stages import stage_layers
from bench.randomness import generator

DEFAULT_CROP = 0.875
"""Share of the resized short side that the centre crop keeps, where the model does not say (224 of
256).
"""


class Explainee:
    """A classifier to be explained.

    net: any torch classifier, images [B,3,H,W] -> logits [B,C].  mean, std: of the normalisation,
    pixel space [0,1]. size: side of its square input.  layer: name of the explained module; None
    finds the last layer with a spatial grid (timm networks: `forward_features`).  geometry:
    preprocessing of files; None resizes the short side to size/0.875 and crops the centre.

    The network must be in float32; it runs in eval mode and without parameter gradients, and is
    left as it was.
    """

    def __init__(
        self,
        net: nn.Module,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        size: int = 224,
        layer: str | None = None,
        *,
        name: str | None = None,
        parent: str = "",
        geometry: Geometry | None = None,
        card: dict[str, Any] | None = None,
    ) -> None:
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise BenchError(
                f"mean and std need three numbers each, std above 0; got mean={mean}, std={std}."
            )
        self.net = net
        self.mean = tuple(float(v) for v in mean)
        self.std = tuple(float(v) for v in std)
        self.size = int(size)
        self.name = name or type(net).__name__.lower()
        self.parent = parent
        self.card = dict(card or {})
        self.geometry = geometry or Geometry(
            self.size, "short", round(self.size / DEFAULT_CROP), "bicubic"
        )
        self._layer = layer
        self._layouts: dict[tuple[Size, tuple[int, ...]], Layout] = {}
        self._unverified: set[Layout] = set()
        self._fingerprint: tuple[State, str] | None = None
        self._elsewhere: dict[str, Explainee] = {}
        if any(p.is_floating_point() and p.dtype != torch.float32 for p in net.parameters()):
            raise BenchError(f"The network {self.name} is not in float32; give net.float().")

    # --- running

    @property
    def device(self) -> torch.device:
        """Return the device of the network's parameters."""
        tensor = next(self.net.parameters(), None)
        return torch.device("cpu") if tensor is None else tensor.device

    def to(self, device: str | torch.device) -> Explainee:
        """Move the network to a device and return self."""
        self.net.to(device)
        return self

    @cached_property
    def split(self) -> Split:
        """Return the split at the explained layer; the default one is found and checked once, on
        one noise image.
        """
        with guard_network(self.net), torch.no_grad():
            if self._layer is not None:
                return LayerSplit(self.net, self._layer)
            return find_split(self.net, self._noise())

    def _noise(self, size: Size | None = None) -> torch.Tensor:
        """Return one image of noise [1,3,H,W] in the network's own space."""
        high, wide = size or (self.size, self.size)
        return torch.randn(1, 3, high, wide, generator=generator(0, "layer")).to(self.device)

    def replace_net(self, net: nn.Module) -> Explainee:
        """Return another network of the same architecture, explained in the same way and at the
        same layer.
        """
        layer = self._layer if isinstance(self.split, WholeSplit) else self.layer
        other = Explainee(
            net,
            self.mean,
            self.std,
            self.size,
            layer,
            name=self.name,
            parent=self.parent,
            geometry=self.geometry,
        )
        # Other weights leave the grid where it is, and random ones may hide it.
        other._layouts, other._unverified = self._layouts, self._unverified
        return other

    @property
    def layer(self) -> str:
        """Return the name of the explained layer."""
        return self.split.layer

    def __repr__(self) -> str:
        """Name the model, its explained layer and grid; they are found now if they were not yet."""
        try:
            place = describe_layer(self.describe_place())
        except Exception as error:  # a network that cannot run still has a name
            place = f"{self._layer or 'no layer'}, {type(error).__name__}"
        return f"Explainee({self.name}: {place})"

    def describe_place(self) -> dict[str, Any]:
        """Return the layer, its grid "h x w", whether the grid was verified on changed images, and
        whether the logits read earlier outputs beside the layer.
        """
        _, _, height, width = self.probe_shape
        return {
            "layer": self.layer,
            "grid": f"{height}x{width}",
            "grid_verified": not self._unverified,
            "bypassed": self.split.is_bypassed,
        }

    def cut_at(self, layer: str) -> Explainee:
        """Return the same network explained at another layer; made once per layer."""
        if layer not in self._elsewhere:
            self._elsewhere[layer] = Explainee(
                self.net,
                self.mean,
                self.std,
                self.size,
                layer,
                name=self.name,
                parent=self.parent,
                geometry=self.geometry,
                card=self.card,
            )
        return self._elsewhere[layer]

    @cached_property
    def stages(self) -> list[str]:
        """Return the last module of each stage, from shallow to deep; found once, by running one
        grey image.
        """
        with guard_network(self.net), torch.no_grad():
            return stage_layers(self.net, torch.zeros_like(self._noise()))

    def layers(self, names: str) -> list[str]:
        """Return the modules that "auto" (one per stage) or names joined by "+" stand for; an
        unknown one is an error.

        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())
        >>> Explainee(net, size=8).layers("0+1")
        ['0', '1']
        """
        if names != "auto":
            modules = [name for name, _ in self.net.named_modules() if name]
            chosen = [name.strip() for name in names.split("+")]
            for name in chosen:
                if name not in modules:
                    raise BenchError(
                        f"The network {self.name} has no layer "
                        f"{name!r}.{suggestions(name, modules)}"
                    )
            return list(dict.fromkeys(chosen))
        if not self.stages:
            raise NotApplicable(
                f"{self.name} shows no stages with a spatial grid; name the layers, joined by + "
                "(layers=a+b)."
            )
        return self.stages

    def capture(self, images: torch.Tensor) -> Captured:
        """Run the network once on images [B,3,H,W] (normalised) and keep the layer's output and the
        logits.
        """
        captured = self.split.capture(images)
        if captured.logits.ndim != 2:
            raise BenchError(
                f"The network {self.name} returns logits of shape {tuple(captured.logits.shape)}; "
                "cambench explains classifiers, whose logits are [B,C]."
            )
        return captured

    def layout(self, values: torch.Tensor, size: Size | None = None) -> Layout:
        """Return how the layer's output lies as a grid; found and verified once per image size.

        size: (H, W) of the images that gave `values`; None: the network's own.
        """
        size = size or (self._noise().shape[-2], self._noise().shape[-1])
        key = size, tuple(values.shape[1:])
        if key not in self._layouts:
            self._layouts[key] = self._find_layout(values, size)
        return self._layouts[key]

    def _find_layout(self, values: torch.Tensor, size: Size) -> Layout:
        where = f"Layer {self.layer!r} of {self.name} gives {tuple(values.shape)}"
        shape = (1, *values.shape[1:])
        readings = list_layouts(self.net, shape, size)
        if not readings:
            raise NotApplicable(f"{where}, which has no spatial grid; choose another layer.")
        stated = is_stated(self.net, shape, size)
        with guard_network(self.net), torch.no_grad():
            found = find_true_layout(
                lambda image: self.split.capture(image).values,
                self._noise(size),
                readings,
                stated,
            )
        if found.layout is not None:
            return found.layout
        seen = "change elsewhere" if found.elsewhere else "change alike"
        if found.elsewhere or not stated:
            raise NotApplicable(
                f"{where}, which could be a grid of {readings[0]}; but where patches of a "
                f"{size[0]}x{size[1]} image change, its cells {seen}, so choose another layer."
            )
        self._unverified.add(readings[0])
        return readings[0]

    def grid(self, values: torch.Tensor, size: Size | None = None) -> torch.Tensor:
        """View the layer's output as [B,K,h,w], whatever its own layout (NCHW, NHWC, tokens with
        prefix); size: as in `layout`.
        """
        return self.layout(values, size).grid(values)

    def ungrid(
        self, grid: torch.Tensor, values: torch.Tensor, size: Size | None = None
    ) -> torch.Tensor:
        """Put a grid [n,K,h,w] back into the layout of the layer's own output `values` [n,...]
        (prefix tokens kept); size: as in `layout`.
        """
        return self.layout(values, size).ungrid(grid, values)

    @cached_property
    def probe_shape(self) -> tuple[int, int, int, int]:
        """Return (C, K, h, w): classes, channels and grid of the explained layer."""
        with guard_network(self.net), torch.no_grad():
            captured = self.capture(torch.zeros_like(self._noise()))
        grid = self.grid(captured.values, captured.size)
        if grid.shape[2] * grid.shape[3] < 2:
            raise NotApplicable(
                f"Layer {self.layer!r} of {self.name} has a grid of {grid.shape[2]} x "
                f"{grid.shape[3]}; choose an earlier layer."
            )
        return captured.logits.shape[1], grid.shape[1], grid.shape[2], grid.shape[3]

    @property
    def num_classes(self) -> int:
        """Return the number of logits."""
        return self.probe_shape[0]

    # --- images

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (pixels - mean) / std for pixels [...,3,H,W] in [0,1]."""
        mean, std = self._constants(pixels)
        return (pixels - mean) / std

    def denormalise(self, images: torch.Tensor) -> torch.Tensor:
        """Return pixels in [0,1] (up to rounding) for normalised images [...,3,H,W]."""
        mean, std = self._constants(images)
        return images * std + mean

    def colour(self, rgb: Sequence[float]) -> torch.Tensor:
        """Return a pixel-space colour as the network sees it: [3,1,1], normalised."""
        return self.normalise(
            torch.tensor(rgb, dtype=torch.float32, device=self.device).view(3, 1, 1)
        )

    def _constants(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = torch.tensor(self.mean, dtype=torch.float32, device=like.device).view(3, 1, 1)
        return mean, torch.tensor(self.std, dtype=torch.float32, device=like.device).view(3, 1, 1)

    def read(self, files: str | Path | Sequence[str | Path]) -> torch.Tensor:
        """Read image files and return them as the network wants them: [B,3,H,W] float32,
        normalised.
        """
        paths = [files] if isinstance(files, (str, Path)) else list(files)
        if not paths:
            raise BenchError("read() was given no files; name at least one image.")
        frames = [self.geometry.frame(read_image(path)) for path in paths]
        pixels = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255
        return self.normalise(pixels).to(self.device)

    # --- identity

    @property
    def fingerprint(self) -> str:
        """Return the sha256 (hex) of the weights: names, shapes, dtypes and bytes of parameters and
        buffers.
        """
        # Computed anew when a tensor was written or replaced: a fine-tuned network is another
        # model.
        key = state_of(self.net)
        if self._fingerprint is None or self._fingerprint[0] != key:
            self._fingerprint = key, self._hash_weights()
        return self._fingerprint[1]

    def _hash_weights(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self.net.state_dict().items()):
            tensor = tensor.detach().cpu().contiguous()
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @property
    def weights_id(self) -> str:
        """Return 12 hex digits of the fingerprint, and 6 of what else changes an explanation
        (architecture, layer).
        """
        rest = json.dumps([repr(self.net), self.layer, self.mean, self.std, self.size])
        return f"{self.fingerprint[:12]}-{hashlib.sha256(rest.encode()).hexdigest()[:6]}"

    def facts(self) -> dict[str, Any]:
        """Return what run.json says of the model."""
        classes, channels, _, _ = self.probe_shape
        return {
            "weights_id": self.weights_id,
            "weights_sha256": self.fingerprint,
            "parent": self.parent,
            **self.describe_place(),
            "channels": channels,
            "classes": classes,
            "size": self.size,
            "mean": list(self.mean),
            "std": list(self.std),
            "parameters": sum(p.numel() for p in self.net.parameters()),
            "top1": self.card.get("top1"),
            "card": self.card,
        }


def describe_layer(facts: Mapping[str, Any]) -> str:
    """Write what run.json says of a model's layer: "layer features.12, grid 13x13", and what is
    special about it; "" where it says nothing.

    >>> describe_layer({"layer": "layer4", "grid": "7x7", "bypassed": True})
    'layer layer4, grid 7x7, other paths go around it'
    """
    if not facts.get("layer"):
        return ""
    parts = [f"layer {facts['layer']}"]
    if facts.get("grid"):
        verified = facts.get("grid_verified", True)
        parts.append(f"grid {facts['grid']}" + ("" if verified else " (stated, not verified)"))
    if facts.get("bypassed"):
        parts.append("other paths go around it")
    return ", ".join(parts)


def read_image(path: str | Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Read an image file as uint8 RGB [H,W,3]."""
    if not Path(path).is_file():
        raise BenchError(f"There is no image file {path}; check the path.")
    return decode({"bytes": Path(path).read_bytes()}, str(path))
