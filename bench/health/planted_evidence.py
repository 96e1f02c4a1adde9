"""Planted evidence: nets whose answer depends on a known region only, made of a real network
without training.

Faithfulness has no oracle on a real network: nobody knows which pixels it reads. So the network
gets to see one tile of a 2 x 2 mosaic of the run's own images, at its own resolution, and nothing
else. What it reads is then known exactly: outside the tile no pixel changes its answer by a bit. A
faithfulness metric that works puts the map of that tile above random maps, the centre, maps of one
value, and the map of everything else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bench.data import Geometry, Subset
from bench.data.input_size import enlarge, split_size
from bench.data.subset import Int64s
from bench.engine.trace import Trace
from bench.errors import NotApplicable
from bench.health.grid import Report, run_grid, select_map_metrics
from bench.methods import METHODS, Method
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network
from bench.models.stages import list_outputs
from bench.models.tile_net import TileNet
from bench.records.store import Records
from bench.run.plan import Plan
from bench.types import Sample

TILES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""(row, column) of the tile that is read; mosaic i plants its evidence in tile i mod 4."""

PLANTED, GRADED = "planted", "planted_graded"
CONTROLS = ("random", "center_gaussian", "fake_cam", "inverted")
"""The maps that know nothing of the tile: smooth noise, the centre, ones but for one pixel, and all
but the tile.
"""

NEEDED = ("random", "center_gaussian", "inverted")
"""Those that every faithful metric must tell from the planted map; Fake-CAM beside them, for
masking metrics.
"""

GRADE_SIGMA = 0.25
"""Standard deviation of the graded map's bump, as a share of the tile's side."""


def plant_model(model: Explainee, tile: int) -> Explainee:
    """Return the explainee that reads tile 0..3 of a mosaic with twice the model's side; its
    weights are the model's.

    Gradients and maps of the input are exactly 0 outside the tile.
    """
    row, column = TILES[tile]
    size = enlarge(model.size, 0.5)
    net = TileNet(model.net, row, column, model.size)
    planted = Explainee(
        net,
        model.mean,
        model.std,
        size,
        find_last_map(net, torch.zeros(1, model.channels, *split_size(size))),
        name=f"{model.name}/tile{tile}",
        parent=model.name,
        geometry=Geometry(size, "none", size),
    )
    planted.grids.trusted = True
    return planted


def find_last_map(net: nn.Module, image: torch.Tensor) -> str:
    """Return the last module whose output is a grid [1,K,h,w] and no class map."""
    with guard_network(net), torch.no_grad():
        calls, classes = list_outputs(net, image)
    maps = [
        name
        for name, shape in calls
        if shape is not None and len(shape) == 4 and min(shape[2:]) > 1 and shape[1] != classes
    ]
    if not maps:
        raise NotApplicable("No layer of this network has a spatial grid.")
    return maps[-1]


@dataclass(frozen=True)
class Mosaics:
    """Mosaics of four of a subset's frames, as a source of samples; truth is the tile that the net
    reads.

    Mosaic i holds frame i in its tile, and the frames after it elsewhere, round the subset.
    """

    subset: Subset
    frames: Geometry
    tile: int

    has_boxes = False
    has_masks = True
    class_names: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the mosaics' ids: the item in the tile, and the tile."""
        return tuple(f"{item}|tile{self.tile}" for item in self.subset.ids)

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Return the ids that draws come from."""
        return tuple(f"{image}|tile{self.tile}" for image in self.subset.image_ids)

    @property
    def labels(self) -> Int64s:
        """Return the labels of the frames in the tile."""
        return self.subset.labels

    @property
    def num_classes(self) -> int:
        """Return the subset's number of classes."""
        return self.subset.num_classes

    def read(self, position: int) -> Sample:
        """Return one mosaic: uint8 [2H,2W,3], and the tile as its mask."""
        (height, width), count = self.frames.shape, len(self.subset)
        image = np.zeros((2 * height, 2 * width, 3), np.uint8)
        mask = np.zeros((2 * height, 2 * width), np.bool_)
        for step in range(len(TILES)):
            row, column = TILES[(self.tile + step) % len(TILES)]
            top, left = row * height, column * width
            place = np.s_[top : top + height, left : left + width]
            image[place] = self.frames.frame(self.subset[(position + step) % count].image)
            mask[place] = step == 0
        return Sample(
            id=self.ids[position],
            image_id=self.image_ids[position],
            image=image,
            label=int(self.labels[position]),
            mask=mask,
        )

    def attribution(self, position: int) -> str | None:
        """Return who must be named where mosaic `position` is shown."""
        return self.subset.attribution(position)


def make_mosaics(subset: Subset, frames: Geometry, tile: int) -> Subset:
    """Return the mosaics whose evidence lies in this tile: every fourth item of the subset, the
    tile's own first.
    """
    name = f"{subset.name}/tile{tile}"
    manifest = dataclasses.replace(subset.manifest, name=name, geometry=None, calibration="none")
    source = Mosaics(subset, frames, tile)
    return Subset(name, manifest, source, tuple(range(tile, len(subset), len(TILES))))


def grade_tile(trace: Trace) -> torch.Tensor:
    """The planted tile, graded: a Gaussian bump at the tile's centre, 0 outside it. [B,H,W] in
    [0,1].
    """
    masks = trace.truth.masks
    assert masks is not None
    height, width = trace.size
    rows, columns = masks.any(2).double(), masks.any(1).double()
    y, x = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    centre_y, centre_x = (rows * y).sum(1) / rows.sum(1), (columns * x).sum(1) / columns.sum(1)
    # Each side of the bump is measured in tiles.
    away_y = (y[None] - centre_y[:, None]) / rows.sum(1)[:, None]
    away_x = (x[None] - centre_x[:, None]) / columns.sum(1)[:, None]
    bump = torch.exp(-0.5 * (away_y[:, :, None] ** 2 + away_x[:, None, :] ** 2) / GRADE_SIGMA**2)
    return (bump * masks).float()


def make_planted_methods() -> tuple[Method, ...]:
    """Return the maps that are scored on mosaics, as methods: the tile, the graded tile, and the
    controls.
    """
    base = METHODS.get("oracle")
    return (
        dataclasses.replace(base, name=PLANTED),
        dataclasses.replace(base, name=GRADED, function=grade_tile),
        dataclasses.replace(METHODS.get("inverted_oracle"), name="inverted"),
        *(METHODS.get(name) for name in CONTROLS if name != "inverted"),
    )


def make_planted_plans(plan: Plan, model: Explainee) -> dict[str, Plan]:
    """Return {"tileN": plan}: the run's metrics of maps but localisation, on this model's planted
    nets.

    plan: the sample's plan, whose images make the mosaics.  A subset of fewer than four images
    leaves tiles out.
    """
    metrics = tuple(
        m
        for m in select_map_metrics(plan.metrics)
        if m.family != "localization" and set(m.needs) <= {"truth"}
    )
    return {
        f"tile{tile}": dataclasses.replace(
            plan,
            subset=make_mosaics(plan.subset, plan.geometry, tile),
            calibration=None,
            geometry=(planted := plant_model(model, tile)).geometry,
            models=(planted,),
            methods=make_planted_methods(),
            metrics=metrics,
            compiled=False,
        )
        for tile in range(min(len(TILES), len(plan.subset)))
        if metrics
    }


def run_planted(
    plans: dict[str, Plan], folder: Path | None, report: Report | None = None
) -> Records | None:
    """Score the planted maps and return the records of all tiles as one, or None where no metric
    can be judged.
    """
    import pandas as pd

    done: Sequence[Records] = list(run_grid(plans, folder, report).values())
    if not done:
        return None
    return Records(
        pd.concat([records.frame for records in done], ignore_index=True), done[0].provenance
    )
