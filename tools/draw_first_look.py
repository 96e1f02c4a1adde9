"""Draw README's picture: maps of six methods on two generated scenes, and their insertion.

    python tools/draw_first_look.py

It reads leaderboards/scenes (means and intervals over three networks) and explains the scenes with
a bundled network. The picture goes to docs/images/first-look.png.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from PIL import Image

import bench
from bench.board import leaderboard
from bench.records.store import Records

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "images" / "first-look.png"
METHODS = ["grad_cam", "sa_cam", "tft(grad_cam)", "integrated_gradients", "saliency", "random"]
SCENES = (4, 11)
VALUE = "insertion"


def draw(target: Path = TARGET) -> None:
    """Draw the picture into a file."""
    model = bench.load_model("resnet-scenes")
    subset = bench.load_subset("scenes-val", limit=max(SCENES) + 1)
    batch = subset.batch(SCENES, model.geometry)
    labels = [subset.labels[place] for place in SCENES]
    found = bench.explain(model, model.normalise(batch.pixels), labels, METHODS)
    pixels = batch.pixels.permute(0, 2, 3, 1).numpy()
    pixels = pixels / (255 if pixels.max() > 1 else 1)
    columns = len(METHODS) + 1
    figure = plt.figure(figsize=(11, 4.6), layout="constrained")
    grid = figure.add_gridspec(3, columns, height_ratios=(1, 1, 0.9))
    for row in range(len(SCENES)):
        draw_tile(figure.add_subplot(grid[row, 0]), pixels[row], None, "image" if not row else "")
        for column, method in enumerate(METHODS, 1):
            axes = figure.add_subplot(grid[row, column])
            draw_tile(axes, pixels[row], found[method][row].numpy(), "" if row else method)
    draw_bars(figure.add_subplot(grid[2, 1:]))
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=100)
    Image.open(target).convert("RGB").quantize(128).save(target, optimize=True)


def draw_tile(axes: Axes, image: np.ndarray, heat: np.ndarray | None, title: str) -> None:
    """Draw an image, with a map over its grey version where there is one."""
    if heat is None:
        axes.imshow(image)
    else:
        axes.imshow(image.mean(-1), cmap="gray", vmin=0, vmax=1)
        axes.imshow(heat.clip(0), cmap="inferno", alpha=0.65)
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def draw_bars(axes: Axes) -> None:
    """Draw the value's mean over the networks, with its interval, for each method."""
    board = leaderboard(Records.load(ROOT / "leaderboards" / "scenes"))
    table = board.table(VALUE, model="overall").set_index("method").loc[METHODS]
    places = np.arange(len(METHODS))
    colours = ["0.6" if control else "tab:blue" for control in table["control"]]
    ends = np.abs(table[["low", "high"]].to_numpy().T - table["mean"].to_numpy())
    axes.bar(places, table["mean"], color=colours, width=0.5, yerr=ends, capsize=4)
    axes.set_xticks(places, METHODS, fontsize=9)
    axes.set_xlim(-0.5, len(METHODS) - 0.5)
    axes.set_ylabel(f"{VALUE} ↑", fontsize=9)
    axes.set_title(
        f"mean of three networks, 95 % interval, n = {int(table['n'].max())} images; grey: control",
        fontsize=9,
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


if __name__ == "__main__":
    draw()
