"""What pictures are drawn of: one scene, one bundled network, and their maps and scores."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

import bench
from bench.engine.case import Case
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.metrics import METRICS
from bench.models import Explainee
from bench.protocol import Protocol
from bench.types import Truth

Array = np.ndarray[Any, np.dtype[Any]]
Draw = Callable[[], Figure]

PICTURES: dict[str, Draw] = {}
"""{metric: what draws its picture}; the docstring is the caption."""

MODEL = "resnet-scenes"
SUBSET = "scenes-val"
PAIRS = "scenes-pairs"
HEAT = "inferno"
DOTS = 110


@dataclass(frozen=True)
class Stage:
    """One scene before one network."""

    model: Explainee
    images: torch.Tensor
    pixels: Array
    label: int
    truth: Truth
    ids: tuple[str, ...]

    def trace(self, target: int | None = None) -> Trace:
        """Return a pass of the scene, seen from its label or another class."""
        wanted = torch.tensor([self.label if target is None else target])
        return Trace(Prober(self.model), self.images, wanted, ids=self.ids, truth=self.truth)

    def map(self, method: str, target: int | None = None) -> Array:
        """Return the map [H,W] of a method."""
        wanted = [self.label if target is None else target]
        found = bench.explain(self.model, self.images, wanted, method, self.truth, ids=self.ids)
        return np.asarray(found[0])

    def case(self, method: str, metric: str) -> Case:
        """Return the case of a method's map as a metric sees it."""
        view = Protocol().view(METRICS.get(metric).all_reads)
        return Case(self.trace(), torch.tensor(self.map(method))[None], view)

    def score(self, method: str, metric: str, *, again: bool = False) -> dict[str, Array]:
        """Return every value of a metric for a method's map, vectors too."""
        maps = torch.tensor(self.map(method))[None]
        found = bench.score(
            self.model,
            self.images,
            [self.label],
            maps,
            metric,
            self.truth,
            ids=self.ids,
            curves=True,
            method=method if again else None,
        )
        return {name: np.asarray(value[0]) for name, value in found.items()}

    def probability(self, images: torch.Tensor) -> float:
        """Return the probability of the label on an image [1,3,H,W]."""
        with torch.inference_mode():
            logits = Prober(self.model).logits(images)
        return float(logits.double().softmax(1)[0, self.label])

    def show(self, images: torch.Tensor) -> Array:
        """Return an image [1,3,H,W] as pixels [H,W,3] in 0..1."""
        pixels = self.model.denormalise(images)[0].permute(1, 2, 0).clamp(0, 1)
        return np.asarray(pixels.detach())

    @property
    def mask(self) -> Array:
        """Return the object's pixels [H,W] bool."""
        found = self.truth.pixels(*self.images.shape[-2:])
        assert found is not None
        return np.asarray(found[0])


@functools.cache
def load_stage(place: int = 22, subset: str = SUBSET) -> Stage:
    """Return a scene of a subset before the bundled network."""
    model = bench.load_model(MODEL)
    scenes = bench.load_subset(f"{subset}[:{place + 1}]")
    batch = scenes.batch([place], model.geometry)
    return Stage(
        model,
        model.normalise(batch.pixels),
        np.asarray(batch.pixels[0].permute(1, 2, 0)),
        int(scenes.labels[place]),
        batch.truth,
        tuple(batch.ids),
    )


def picture(metric: str) -> Callable[[Draw], Draw]:
    """Register what draws a metric's picture."""

    def register(draw: Draw) -> Draw:
        PICTURES[metric] = draw
        return draw

    return register


def write_caption(metric: str) -> str:
    """Return what a metric's picture shows, for readers who cannot see it, too."""
    return " ".join((inspect.getdoc(PICTURES[metric]) or "").split())


def draw_picture(metric: str, path: Path) -> None:
    """Draw a metric's picture into a file."""
    figure = PICTURES[metric]()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS)
    plt.close(figure)
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


# --- parts of pictures


def make_axes(count: int, wide: int = 0) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` tiles in a row, then one chart as wide as `wide` tiles."""
    ratios = [1.0] * count + ([float(wide)] if wide else [])
    size = (1.75 * sum(ratios) + 0.3, 2.3)
    figure, axes = plt.subplots(
        1, len(ratios), figsize=size, layout="constrained", width_ratios=ratios, squeeze=False
    )
    return figure, list(axes[0])


def draw_image(axes: Axes, pixels: Array, title: str = "") -> None:
    """Draw an image [H,W,3]."""
    axes.imshow(pixels)
    axes.set_title(title, fontsize=8)
    axes.set_axis_off()


def draw_heat(axes: Axes, heat: Array, title: str = "", mask: Array | None = None) -> None:
    """Draw a map's positive part [H,W], with the outline of a mask where one is given."""
    axes.imshow(heat.clip(0), cmap=HEAT)
    if mask is not None:
        axes.contour(mask.astype(float), levels=[0.5], colors="cyan", linewidths=1)
    axes.set_title(title, fontsize=8)
    axes.set_axis_off()


def draw_lines(axes: Axes, lines: dict[str, tuple[Array, Array]], across: str, up: str) -> None:
    """Draw named curves: {name: (x, y)}; grey and dashed for the control `random`."""
    for name, (x, y) in lines.items():
        control = name.partition(" ")[0] == "random"
        axes.plot(x, y, label=name, color="0.5" if control else None, ls="--" if control else "-")
    finish_chart(axes, across, up)
    if len(lines) > 1:
        axes.legend(fontsize=7, frameon=False)


def finish_chart(axes: Axes, across: str, up: str) -> None:
    """Name the axes of a chart and take its upper and right border away."""
    axes.set_xlabel(across, fontsize=8)
    axes.set_ylabel(up, fontsize=8)
    axes.tick_params(labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
