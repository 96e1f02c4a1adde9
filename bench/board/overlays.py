"""One picture of one image under several methods, for `cambench explain`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from bench.board.gallery import Picture, draw_overlay
from bench.board.plots.figures import DESCRIPTION, make_figure, write_figure

COLUMNS = 5
SIDE = 224


def draw_overlays(
    pixels: torch.Tensor,
    maps: Mapping[str, torch.Tensor],
    title: str,
    path: Path,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write a PNG: the image (pixels [C,H,W] in [0,1], RGB or grey) and, beside it, each map [H,W]
    over it.

    texts: {key: text} that the file carries, beside what it shows ("Description").
    """
    levels = (pixels.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    image = levels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    picture = Picture(image, title, {name: values.numpy() for name, values in maps.items()})
    panels: list[str | None] = [None, *maps]
    rows = math.ceil(len(panels) / COLUMNS)
    columns = min(len(panels), COLUMNS)
    figure = make_figure(2.2 * columns, 2.4 * rows + 0.3 * (1 + title.count("\n")))
    for number, method in enumerate(panels):
        axis = figure.add_subplot(rows, columns, number + 1)
        axis.imshow(draw_overlay(picture, method, SIDE))
        axis.set_title(method or "image", fontsize=9)
        axis.set_axis_off()
    figure.suptitle(title, fontsize=10)
    alt = f"The image, and over it the maps of {', '.join(maps)}. {' '.join(title.split())}."
    write_figure(figure, path, texts={DESCRIPTION: alt, **(texts or {})})
