"""The model under explanation: network, preprocessing, and its split into features and head."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from bench.data.decode import read_image as read_image
from bench.data.geometry import Geometry
from bench.data.input_size import Size, read_size
from bench.errors import BenchError, NotApplicable, state_assumption, suggestions
from bench.models.behaviour import Behaviour
from bench.models.default_layer import find_split
from bench.models.input_channels import (
    check_channels,
    read_constants,
)
from bench.models.input_side import InputSide
from bench.models.layer_grid import LayerGrids, describe_layer
from bench.models.layout import ImageSize, Layout
from bench.models.logits_reader import read_class_names, read_logits_of, read_name
from bench.models.network_guard import State, guard_network, hash_weights, leave_modes, state_of
from bench.models.output_kind import describe_output, read_output
from bench.models.preprocessing import check_network, fill_preprocessing
from bench.models.runnable import check_runnable
from bench.models.split import Captured, LayerSplit, Split, WholeSplit
from bench.models.stages import stage_layers
from bench.randomness import generator


class Explainee(InputSide):
    """A classifier to be explained.

    net: any torch classifier, images [B,3,H,W] -> logits [B,C]; of `transformers` ones the logits
    are read.  mean, std: of the normalisation, pixel space [0,1], one number for each channel of
    the images: three of RGB, one of grey, or any other count (then images are given as tensors);
    None: of the image processor, else ImageNet's.  size: of its input, a number (the side of a
    square) or (height, width); None: what the network states, else 224.  processor: an image
    processor of `transformers`, for what is not given.  layer: name of the explained module; None
    finds the last layer with a spatial grid (timm networks: `forward_features`).  geometry:
    preprocessing of files; None resizes the short side to size/0.875 and crops the centre.

    The network must be in float32; it runs in eval mode and without parameter gradients, and is
    left as it was.
    """

    def __init__(
        self,
        net: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        size: Size | str | None = None,
        layer: str | None = None,
        *,
        name: str | None = None,
        parent: str = "",
        geometry: Geometry | None = None,
        card: dict[str, Any] | None = None,
        processor: Any = None,
    ) -> None:
        net = read_logits_of(check_network(net))
        filled = fill_preprocessing(net, mean, std, size, geometry, processor)
        self.net = net
        self.name = name or read_name(net)
        self.mean, self.std = read_constants(filled.mean, filled.std, self.name)
        self.size = read_size(filled.size, self.name)
        check_runnable(net, self.name)
        check_channels(net, self.input_shape, self.name)
        self.parent = parent
        self.card = dict(card or {})
        if filled.source:
            self.card["preprocessing"] = filled.source
        self.geometry = self._match_geometry(filled.geometry)
        self.notes: list[str] = []
        self.behaviour = Behaviour()
        self.sister: Explainee | None = None  # see `bench.models.sisters`
        self._layer = layer
        self.grids = LayerGrids()
        self._layouts = self.grids.found
        self._fingerprint: tuple[State, str] | None = None
        self._elsewhere: dict[str, Explainee] = {}

    # --- running

    def to(self, device: str | torch.device) -> Explainee:
        """Move the network to a device and return self."""
        self.net.to(device)
        return self

    @cached_property
    def split(self) -> Split:
        """Return the split at the explained layer; the default one is found once, on noise."""
        noise = self.draw_noise()
        with leave_modes(), guard_network(self.net), torch.no_grad():
            self._read_output(noise)
            if self._layer is not None:
                return LayerSplit(self.net, self._layer)
            return find_split(self.net, noise)

    def draw_noise(self, size: ImageSize | None = None) -> torch.Tensor:
        """Return one image of noise [1,C,H,W] in the network's own space."""
        shape = (self.channels, *(size or self.frame))
        return torch.randn(1, *shape, generator=generator(0, "layer")).to(self.device)

    def _read_output(self, noise: torch.Tensor) -> None:
        """Take the network so that it returns logits [B,C], and note what was assumed."""
        reading = read_output(self.net, noise, self.name)
        self.net = reading.net
        if reading.note:
            self.notes.append(f"{self.name} returns {reading.note}.")
            state_assumption(self.notes[-1])

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
        # Whoever replaces weights by random ones has asked for what they give.
        other.behaviour.checked = state_of(net)
        # Other weights leave the grid where it is, and random ones may hide it.
        other.grids, other._layouts = self.grids, self._layouts
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
            "grid_verified": not self.grids.unverified,
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
            self._elsewhere[layer].behaviour = self.behaviour
        return self._elsewhere[layer]

    @cached_property
    def stages(self) -> list[str]:
        """Return the last module of each stage, from shallow to deep; found once, by running one
        grey image.
        """
        with guard_network(self.net), torch.no_grad():
            return stage_layers(self.net, torch.zeros_like(self.draw_noise()))

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
            raise BenchError(describe_output(captured.logits))
        return captured

    def layout(self, values: torch.Tensor, size: ImageSize | None = None) -> Layout:
        """Return how the layer's output lies as a grid; found and verified once per image size.

        size: (H, W) of the images that gave `values`; None: the network's own.
        """
        return self.grids.find(self, values, size or self.frame)

    def grid(self, values: torch.Tensor, size: ImageSize | None = None) -> torch.Tensor:
        """View the layer's output as [B,K,h,w], whatever its own layout (NCHW, NHWC, tokens with
        prefix); size: as in `layout`.
        """
        return self.layout(values, size).grid(values)

    def ungrid(
        self, grid: torch.Tensor, values: torch.Tensor, size: ImageSize | None = None
    ) -> torch.Tensor:
        """Put a grid [n,K,h,w] back into the layout of the layer's own output `values` [n,...]
        (prefix tokens kept); size: as in `layout`.
        """
        return self.layout(values, size).ungrid(grid, values)

    @cached_property
    def probe_shape(self) -> tuple[int, int, int, int]:
        """Return (C, K, h, w): classes, channels and grid of the explained layer."""
        with guard_network(self.net), torch.no_grad():
            captured = self.capture(torch.zeros_like(self.draw_noise()))
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

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes that the network states, in the order of its logits; ()
        where it states none.
        """
        return read_class_names(self.net)

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
            self._fingerprint = key, hash_weights(self.net)
        return self._fingerprint[1]

    @property
    def weights_id(self) -> str:
        """Return 12 hex digits of the fingerprint, and 6 of what else changes an explanation
        (architecture, layer).
        """
        layer = self.layer  # first: finding it may wrap the network
        rest = json.dumps([repr(self.net), layer, self.mean, self.std, self.size])
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
            **({"notes": list(self.notes)} if self.notes else {}),
        }
