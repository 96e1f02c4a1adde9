"""Heat maps of a family's methods on one scene."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from PIL import Image

import bench
from bench.methods import Method
from docs_pages.pictures.stage import DOTS, draw_heat, draw_image, load_stage

NOT_DRAWN = {
    "raw_attention": "transformers",
    "attention_rollout": "transformers",
    "gradient_rollout": "transformers",
    "legrad": "transformers",
    "sa_cam_trained": "networks with trained queries and keys",
}
"""Methods that fit no bundled network, and what they need."""

BRANCH = "abn-scenes"
"""The bundled network whose attention `attention_branch` reads."""

ACROSS = 6
SCENE_WORDS = (
    "All of one generated scene before resnet-scenes (attention_branch: abn-scenes), for the "
    "label's class; only positive values are drawn."
)


def draws_on(method: Method) -> bool:
    """Tell whether a bundled network can be explained by a method."""
    return method.base not in NOT_DRAWN


def draw_family(methods: list[Method], path: Path) -> None:
    """Draw the scene and a map of each method into a file."""
    stage = load_stage()
    shown = [method for method in methods if draws_on(method)]
    down = -(-(len(shown) + 1) // ACROSS)
    figure, axes = plt.subplots(
        down, ACROSS, figsize=(9.6, 1.9 * down), layout="constrained", squeeze=False
    )
    tiles: list[Axes] = list(axes.ravel())
    draw_image(tiles[0], stage.pixels, "image")
    for tile, method in zip(tiles[1:], shown, strict=False):
        draw_heat(tile, explain_scene(method), method.name)
    for tile in tiles[len(shown) + 1 :]:
        tile.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS)
    plt.close(figure)
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


def explain_scene(method: Method) -> np.ndarray:
    """Return a method's map [H,W] of the scene."""
    stage = load_stage()
    if method.base != "attention_branch":
        return stage.map(method.name)
    model = bench.load_model(BRANCH)
    images = model.normalise(stage.model.denormalise(stage.images))
    return np.asarray(bench.explain(model, images, [stage.label], method.name)[0])
