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
from bench.errors import BenchError, NotApplicable, state_assumption
from bench.models.behaviour import Behaviour
from bench.models.default_layer import find_split
from bench.models.input_channels import (
    check_channels,
    read_constants,
)
from bench.models.layer_grid import LayerGrids, describe_layer
from bench.models.layout import ImageSize, Layout
from bench.models.logits_reader import read_class_names, read_logits_of, read_name
from bench.models.network_guard import State, guard_network, hash_weights, leave_modes, state_of
from bench.models.network_layers import NetworkLayers
from bench.models.output_kind import describe_output, read_output
from bench.models.preprocessing import check_network, fill_preprocessing
from bench.models.runnable import check_runnable
from bench.models.split import Captured, LayerSplit, Split, WholeSplit


class Explainee(NetworkLayers):
    """A classifier to be explained: network, preprocessing, and the layer where it is cut.

    The network runs in eval mode and without parameter gradients, and is left as it was.

    Args:
        net: A torch classifier in float32, images [B,C,H,W] to logits [B,classes]. Of a classifier
            of `transformers` the logits are read.
        mean: Mean of each channel for the normalisation, pixel space [0,1]: three numbers of RGB,
            one of grey, or any other count (then give images as tensors). None takes that of the
            image processor, else ImageNet's.
        std: Standard deviation of each channel, likewise.
        size: The side of a square input, or (height, width), in pixels; None takes what the network
            states, else 224.
        layer: Name of the explained module; None finds the last layer with a spatial grid.
        name: Name on boards; None takes one from the network.
        parent: Name of the model that this one was fine-tuned from, or "".
        geometry: How files become frames; None resizes the short side to size/0.875 and crops the
            centre.
        card: Facts about the model, for run.json.
        processor: An image processor of `transformers`, for what is not given.

    Attributes:
        notes: What was assumed about the network's output, one sentence each.
        sister: A network of equal logits with another computation, or None.

    Raises:
        BenchError: The network is no float32 torch classifier, or size, mean, std and geometry do
            not fit it.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten())
        >>> bench.Explainee(net, size=8, layer="1", name="tiny").probe_shape
        (144, 4, 6, 6)
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

    @cached_property
    def split(self) -> Split:
        """Return the split at the explained layer; the default one is found once, on noise."""
        noise = self.draw_noise()
        with leave_modes(), guard_network(self.net), torch.no_grad():
            self._read_output(noise)
            if self._layer is not None:
                return LayerSplit(self.net, self._layer)
            return find_split(self.net, noise)

    def _read_output(self, noise: torch.Tensor) -> None:
        """Take the network so that it returns logits [B,C], and note what was assumed."""
        reading = read_output(self.net, noise, self.name)
        self.net = reading.net
        if reading.note:
            self.notes.append(f"{self.name} returns {reading.note}.")
            state_assumption(self.notes[-1])

    def replace_net(self, net: nn.Module) -> Explainee:
        """Return another network of the same architecture, explained at the same layer.

        Args:
            net: The other network, such as one with random weights.

        Returns:
            A model with this one's preprocessing.

        Raises:
            BenchError: The network is no float32 torch classifier.

        Example:
            >>> model.replace_net(model.net).layer
            '1'
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
        """Return the facts about the explained layer.

        Returns:
            {"layer": name, "grid": "h x w", "grid_verified": whether changed images confirm the
            grid, "bypassed": whether the logits read earlier outputs beside the layer}.

        Raises:
            NotApplicable: The layer's grid has fewer than two cells.

        Example:
            >>> model.describe_place()["grid"]
            '8x8'
        """
        _, _, height, width = self.probe_shape
        return {
            "layer": self.layer,
            "grid": f"{height}x{width}",
            "grid_verified": not self.grids.unverified,
            "bypassed": self.split.is_bypassed,
        }

    def cut_at(self, layer: str) -> Explainee:
        """Return the same network explained at another layer; made once per layer.

        Args:
            layer: Name of a module.

        Returns:
            A model; a wrong name is found when it is first split.

        Example:
            >>> model.cut_at("0").layer
            '0'
        """
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

    def capture(self, images: torch.Tensor) -> Captured:
        """Run the network once and keep the layer's output and the logits.

        Args:
            images: Images [B,C,H,W] float32, normalised.

        Returns:
            The captured pass: `values` in the layer's own layout, `logits` [B,classes], `size` (H,
                W).

        Raises:
            BenchError: The network returns no logits [B,classes].

        Example:
            >>> model.capture(images).logits.shape
            torch.Size([2, 3])
        """
        captured = self.split.capture(images)
        if captured.logits.ndim != 2:
            raise BenchError(describe_output(captured.logits))
        return captured

    def layout(self, values: torch.Tensor, size: ImageSize | None = None) -> Layout:
        """Return how the layer's output lies as a grid; it is checked once per image size.

        Args:
            values: The layer's output [B,...] in its own layout.
            size: (H, W) of the images that gave it; None takes the network's own.

        Returns:
            The layout.

        Raises:
            NotApplicable: The output is no grid.

        Example:
            >>> captured = model.capture(images)
            >>> model.layout(captured.values).grid(captured.values).shape
            torch.Size([2, 4, 8, 8])
        """
        return self.grids.find(self, values, size or self.frame)

    def grid(self, values: torch.Tensor, size: ImageSize | None = None) -> torch.Tensor:
        """Return the layer's output as a grid, from NCHW, NHWC or tokens with prefix.

        Args:
            values: The layer's output [B,...] in its own layout.
            size: (H, W) of the images that gave it; None takes the network's own.

        Returns:
            A view [B,K,h,w].

        Raises:
            NotApplicable: The output is no grid.

        Example:
            >>> model.grid(model.capture(images).values).shape
            torch.Size([2, 4, 8, 8])
        """
        return self.layout(values, size).grid(values)

    def ungrid(
        self, grid: torch.Tensor, values: torch.Tensor, size: ImageSize | None = None
    ) -> torch.Tensor:
        """Return a grid in the layout of the layer's own output; prefix tokens are kept.

        Args:
            grid: Activations [n,K,h,w].
            values: The layer's own output [n,...] for these images.
            size: (H, W) of the images that gave it; None takes the network's own.

        Returns:
            Values [n,...] that the head can read.

        Raises:
            NotApplicable: The output is no grid.

        Example:
            >>> values = model.capture(images).values
            >>> torch.equal(model.ungrid(model.grid(values), values), values)
            True
        """
        return self.layout(values, size).ungrid(grid, values)

    @cached_property
    def probe_shape(self) -> tuple[int, int, int, int]:
        """Return (classes, K, h, w): number of logits, and channels and grid of the layer.

        Raises:
            NotApplicable: The grid has fewer than two cells.
        """
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
        """Return the network's class names, in the order of its logits; () where it has none."""
        return read_class_names(self.net)

    # --- identity

    @property
    def fingerprint(self) -> str:
        """Return the sha256 (64 hex digits) of the weights.

        It covers names, shapes, dtypes and bytes of parameters and buffers.
        """
        # Computed anew when a tensor was written or replaced: a fine-tuned network is another
        # model.
        key = state_of(self.net)
        if self._fingerprint is None or self._fingerprint[0] != key:
            self._fingerprint = key, hash_weights(self.net)
        return self._fingerprint[1]

    @property
    def weights_id(self) -> str:
        """Return the id in records: 12 hex digits of the fingerprint and 6 of the place.

        The place is architecture, layer and preprocessing.
        """
        layer = self.layer  # first: finding it may wrap the network
        rest = json.dumps([repr(self.net), layer, self.mean, self.std, self.size])
        return f"{self.fingerprint[:12]}-{hashlib.sha256(rest.encode()).hexdigest()[:6]}"

    def facts(self) -> dict[str, Any]:
        """Return what run.json holds about the model.

        Returns:
            Ids, layer, grid, channels, classes, size, normalisation, parameters, card and notes.

        Raises:
            NotApplicable: The layer's grid has fewer than two cells.

        Example:
            >>> model.facts()["classes"]
            3
        """
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
