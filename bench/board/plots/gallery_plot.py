"""The gallery plot: images under the maps of every method, with boxes and scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bench.board.gallery import Picture, draw_overlay
from bench.board.plots.figures import INK, make_figure
from bench.board.plots.method_marks import MethodMark, find_marks
from bench.board.scores import Scores
from bench.board.text import metric_label, number
from bench.identity import plain_name

GAP = 4
NAMES, HEADER, SCORE = 150, 58, 12
"""Pixels for the names left of a block, for the title, and for the number below a tile."""
BLOCK = 16
"""Methods of one column of names."""


def draw_gallery(
    board: Scores, model: str, pictures: Mapping[str, Picture], chosen: Sequence[str] | None = None
) -> Any:
    """Draw the same images under every method, at the size of the frame.

    Args:
        board: The board.
        model: Whose maps these are.
        pictures: {item: picture}, from `load_gallery`.
        chosen: The methods; by default all.

    Returns:
        A figure whose label is its statement.
    """
    scope = next(((s, m) for s, m in board.scopes if m == model), board.scopes[0])
    found = find_marks(board, *scope)
    pictures = {item: name_maps(picture, found) for item, picture in pictures.items()}
    known = {name for picture in pictures.values() for name in picture.maps}
    marks = {name: mark for name, mark in found.items() if name in known}
    methods = [*marks, *sorted(known - set(marks))]
    methods = [name for name in methods if chosen is None or name in chosen]
    value, scores = find_scores(board, *scope, list(pictures))
    side = max(max(picture.image.shape[:2]) for picture in pictures.values())
    blocks = max(1, math.ceil(len(methods) / BLOCK))
    height = math.ceil(len(methods) / blocks)
    figure, axes = make_gallery_axes(blocks, len(pictures), height + 1, side)
    for index, axis in enumerate(axes):
        shown = methods[index * height : (index + 1) * height]
        draw_gallery_block(axis, pictures, shown, marks, scores, height, side)
    figure.text(
        0.01,
        1 - 6 / (figure.get_figheight() * 100),
        _write_note(model, value, pictures),
        fontsize=8,
        va="top",
    )
    figure.set_label(_state_gallery(model, methods, pictures, value, scores))
    return figure


def name_maps(picture: Picture, names: Iterable[str]) -> Picture:
    """Return a picture whose maps have the names of the board: a map lies under the method's plain
    name, to which the board adds an older version.
    """
    shown = set(names)
    marked = {plain_name(name): name for name in sorted(shown)}
    maps = {
        name if name in shown else marked.get(name, name): values
        for name, values in picture.maps.items()
    }
    return replace(picture, maps=maps)


def find_scores(
    board: Scores, subset: str, model: str, items: Sequence[str]
) -> tuple[str, dict[tuple[str, str], float]]:
    """Return the value that scores a tile, and {(item, method): its number}.

    It is the first ranked value that judges places in the image, else the first ranked one.
    """
    ranked = board.list_ranked(subset, model)
    rows = board.select(subset=subset, model=model)
    family = dict(zip(rows["metric"], rows["family"], strict=True))
    wanted = sorted(ranked, key=lambda one: family[one[0]] != "localization")
    for name, better in wanted:
        measure = next(m for m in board.measures[subset] if m.name == name)
        if measure.reduce != "mean":
            continue
        own = measure.rows[(measure.rows["model"] == model) & measure.rows["item"].isin(items)]
        keys = zip(own["item"], own["method"], strict=True)
        return metric_label(name, better), dict(zip(keys, own["value"], strict=True))
    return "", {}


def make_gallery_axes(blocks: int, columns: int, rows: int, side: int) -> tuple[Any, list[Any]]:
    """Return a figure whose axes hold columns x rows tiles pixel for pixel at 100 dpi."""
    wide, high = columns * (side + GAP), rows * (side + GAP + SCORE)
    width, height = blocks * (NAMES + wide), HEADER + high
    figure = make_figure(width / 100, height / 100)
    lefts = [NAMES + block * (NAMES + wide) for block in range(blocks)]
    return figure, [figure.add_axes((x / width, 0, wide / width, high / height)) for x in lefts]


def draw_gallery_block(
    axis: Any,
    pictures: Mapping[str, Picture],
    methods: Sequence[str],
    marks: Mapping[str, MethodMark],
    scores: Mapping[tuple[str, str], float],
    height: int,
    side: int,
) -> None:
    """Draw one block: the images on top, a row per method below, empty rows at the end."""
    across, down = side + GAP, side + GAP + SCORE
    canvas = np.full(((height + 1) * down, len(pictures) * across, 3), 255, np.uint8)
    for i, method in enumerate([None, *methods]):
        for j, (item, picture) in enumerate(pictures.items()):
            top, left = i * down + 2, j * across + 2
            canvas[top : top + side, left : left + side] = draw_overlay(picture, method, side)
            score = scores.get((item, method or ""), math.nan)
            text = "" if math.isnan(score) else number(score)
            text = text if method else _shorten(picture.title, side)
            axis.text(left + side / 2, top + side + 1, text, fontsize=6.5, ha="center", va="top")
    axis.imshow(canvas, interpolation="none", aspect="auto")
    labels = ["image", *methods]
    axis.set_yticks([down * i + side / 2 for i in range(len(labels))], labels, fontsize=8)
    for text, method in zip(axis.get_yticklabels()[1:], methods, strict=True):
        text.set_color(marks[method].ink if method in marks else INK)
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _shorten(title: str, side: int) -> str:
    """Return a title that fits under a tile of `side` pixels."""
    letters = max(4, side // 5)
    return title if len(title) <= letters else f"{title[: letters - 1]}…"


def _write_note(model: str, value: str, pictures: Mapping[str, Picture]) -> str:
    boxes = (
        " White frame: box of the object." if any(len(p.boxes) for p in pictures.values()) else ""
    )
    below = f" Below a tile: {value}." if value else ""
    return (
        f"What do the maps show? {model}\n"
        f"Each map is scaled to [0,1]; its negative parts are left out. Bright: relevant.{boxes}\n"
        f"Grey names: controls.{below}"
    )


def _state_gallery(
    model: str,
    methods: Sequence[str],
    pictures: Mapping[str, Picture],
    value: str,
    scores: Mapping[tuple[str, str], float],
) -> str:
    """Return what the tiles show: how many, of what, and whose scores are the best on them."""
    words = "; ".join(picture.title or item for item, picture in pictures.items())
    text = f"Maps of {len(methods)} methods on {len(pictures)} images of {model} ({words})."
    means = {
        name: float(np.mean([scores[item, name] for item in pictures]))
        for name in methods
        if all((item, name) in scores for item in pictures)
    }
    known = {name: mean for name, mean in means.items() if not math.isnan(mean)}
    if not known:
        return text
    ends = [max(known, key=lambda n: known[n]), min(known, key=lambda n: known[n])]
    highest, lowest = (f"{name} ({number(known[name])})" for name in ends)
    return f"{text} Mean {value} on these images: highest {highest}, lowest {lowest}."
