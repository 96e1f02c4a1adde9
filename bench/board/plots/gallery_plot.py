"""The gallery plot: images under the maps of every method."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bench.board.gallery import TILE, draw_overlay
from bench.board.plots.figures import INK, LEGEND, choose_ink, make_figure
from bench.board.scores import Scores
from bench.board.text import plot_label


def draw_gallery(board: Scores, model: str, pictures: dict[str, Any]) -> Any:
    """The same images under every method, in blocks of methods side by side."""
    known = {name for picture in pictures.values() for name in picture.maps}
    scope = next(((s, m) for s, m in board.scopes if m == model), board.scopes[0])
    facts = {name: row for name, row in board.methods(*scope).items() if name in known}
    methods = [*facts, *sorted(known - set(facts))]
    blocks = 1 if len(methods) <= 8 else math.ceil(len(methods) / 16) + (len(methods) <= 16)
    height = math.ceil(len(methods) / blocks)
    words = "; ".join(picture.title or item for item, picture in pictures.items())
    shown = words if len(words) < 150 else words[:147] + "..."
    figure, axes = make_gallery_axes(blocks, len(pictures), height + 1)
    for index, axis in enumerate(axes):
        draw_gallery_block(
            axis, pictures, methods[index * height : (index + 1) * height], facts, height
        )
    note = f"Gallery, {model}: each map scaled to [0,1], negative parts left out\n{shown}\n{LEGEND}"
    figure.text(0.01, 1 - 6 / (figure.get_figheight() * 100), note, fontsize=8, va="top")
    return figure


STEP = TILE + 4
NAMES, HEADER = 150, 56
"""Pixels for the names left of a block and for the title."""


def make_gallery_axes(blocks: int, columns: int, rows: int) -> tuple[Any, list[Any]]:
    """Return a figure whose axes hold columns x rows tiles pixel for pixel at 100 dpi."""
    width, height = blocks * (NAMES + columns * STEP), HEADER + rows * STEP
    figure = make_figure(width / 100, height / 100)
    lefts = [NAMES + block * (NAMES + columns * STEP) for block in range(blocks)]
    return figure, [
        figure.add_axes((x / width, 0, columns * STEP / width, rows * STEP / height)) for x in lefts
    ]


def draw_gallery_block(
    axis: Any, pictures: dict[str, Any], methods: list[str], facts: dict[str, Any], height: int
) -> None:
    """Draw one block: the images on top, a row per method below, empty rows at the end."""
    canvas = np.full(((height + 1) * STEP, len(pictures) * STEP, 3), 255, np.uint8)
    for i, method in enumerate([None, *methods]):
        for j, picture in enumerate(pictures.values()):
            canvas[i * STEP + 2 : i * STEP + 2 + TILE, j * STEP + 2 : j * STEP + 2 + TILE] = (
                draw_overlay(picture, method)
            )
    axis.imshow(canvas, interpolation="none", aspect="auto")
    labels = ["image", *(plot_label(facts[m]) if m in facts else m for m in methods)]
    axis.set_yticks([STEP * (i + 0.5) for i in range(len(labels))], labels, fontsize=8)
    for text, method in zip(axis.get_yticklabels()[1:], methods, strict=True):
        text.set_color(choose_ink(facts[method]) if method in facts else INK)
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
