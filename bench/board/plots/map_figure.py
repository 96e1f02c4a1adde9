"""A figure of images and their maps, as papers print it: `bench.show(images, maps)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.board.gallery import MAP_COLOURS
from bench.board.plots.figures import make_figure
from bench.errors import BenchError

Pixels = npt.NDArray[np.float64]

OPACITY = 0.6
INCHES = 1.5


def show(
    images: Any,
    maps: Mapping[str, Any],
    titles: Sequence[str] | None = None,
    scores: Mapping[str, Any] | None = None,
    boxes: Sequence[Any] | None = None,
) -> Any:
    """Return a figure: a row for each image, a column for each method.

    Args:
        images: Pixels in [0, 1] or 0 to 255: [B,3,H,W] tensor, or [B,H,W,3] array. Not normalised.
        maps: {method: maps [B,h,w]}, of any size; what is below 0 is drawn as 0.
        titles: A text for each image, such as its class.
        scores: {method: a number for each image [B]}, written under the maps.
        boxes: For each image its boxes [n,4] as x0, y0, x1, y1 in pixels.

    Returns:
        A `matplotlib.figure.Figure`. Its label, `figure.get_label()`, is an alt text.

    Raises:
        BenchError: Numbers of images, maps, titles, scores or boxes differ, or pixels are no
            pixels.

    Example:
        >>> maps = {"grad_cam": np.ones((1, 2, 2))}
        >>> figure = show(np.zeros((1, 8, 8, 3)), maps)
        >>> [axes.get_title() for axes in figure.axes]
        ['image', 'grad_cam']
    """
    pixels = read_pixels(images)
    found = {name: _read_array(one) for name, one in maps.items()}
    given: dict[str, Sequence[Any]] = {"titles": titles or [], "boxes": boxes or []}
    for name, one in (*found.items(), *((scores or {}).items()), *given.items()):
        if len(one) not in (0, len(pixels)) or (name in found and not len(one)):
            raise BenchError(f"{name}: {len(one)} were given for {len(pixels)} images.")
    width, height = (len(found) + 1) * INCHES, len(pixels) * (INCHES + 0.2)
    figure = make_figure(width, height, layout="constrained")
    axes = figure.subplots(len(pixels), len(found) + 1, squeeze=False)
    for row, image in enumerate(pixels):
        axes[row, 0].imshow(image)
        axes[row, 0].set_ylabel(titles[row] if titles else "", fontsize=8)
        for column, (name, one) in enumerate(found.items(), 1):
            draw_map(axes[row, column], image, one[row])
            if scores is not None and name in scores:
                axes[row, column].set_xlabel(f"{float(scores[name][row]):.3f}", fontsize=8)
        for axis, name in zip(axes[row], ["image", *found], strict=True):
            axis.set_title("" if row else name, fontsize=8)
            axis.set(xticks=[], yticks=[])
            _draw_boxes(axis, boxes[row] if boxes else ())
    figure.set_label(_state_maps(len(pixels), list(found), titles, scores))
    return figure


def _state_maps(
    count: int,
    methods: Sequence[str],
    titles: Sequence[str] | None,
    scores: Mapping[str, Any] | None,
) -> str:
    """Return what the figure shows, for its alt text."""
    words = f" ({'; '.join(titles)})" if titles else ""
    text = f"{count} images{words} and the maps of {', '.join(methods) or 'no method'} over them."
    known = {name: _read_array(one) for name, one in (scores or {}).items() if name in methods}
    means = [f"{name} {one.mean():.3f}" for name, one in known.items()]
    return f"{text} Mean score: {', '.join(means)}." if means else text


def draw_map(axis: Any, image: Pixels, heat: Pixels) -> None:
    """Draw a map over the grey version of an image [H,W,3]."""
    high, wide = image.shape[:2]
    positive = np.nan_to_num(heat.clip(0))
    axis.imshow(image.mean(-1), cmap="gray", vmin=0, vmax=1)
    axis.imshow(
        positive,
        cmap=MAP_COLOURS,
        alpha=OPACITY,
        vmin=0,
        vmax=positive.max() or 1,
        extent=(-0.5, wide - 0.5, high - 0.5, -0.5),
        interpolation="bilinear",
    )


def read_pixels(images: Any) -> Pixels:
    """Return images as [B,H,W,3] in [0, 1].

    Raises:
        BenchError: They have another shape, or values of normalised images.
    """
    pixels = _read_array(images)
    if pixels.ndim == 4 and pixels.shape[1] == 3 and pixels.shape[3] != 3:
        pixels = pixels.transpose(0, 2, 3, 1)
    if pixels.ndim != 4 or pixels.shape[3] != 3:
        raise BenchError(
            f"The images have the shape {list(pixels.shape)}; give [B,3,H,W] or [B,H,W,3]."
        )
    scaled: Pixels = pixels / (255 if pixels.max() > 1 else 1)
    if scaled.min() < 0 or scaled.max() > 1:
        raise BenchError(
            "The images hold values outside [0, 1] and 0 to 255; give pixels before normalisation."
        )
    return scaled


def _read_array(values: Any) -> Pixels:
    detach = getattr(values, "detach", None)
    return np.asarray(values if detach is None else detach().cpu(), dtype=np.float64)


def _draw_boxes(axis: Any, boxes: Any) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    dark = [withStroke(linewidth=2.4, foreground="black")]  # white shows on any colour of a map

    for x0, y0, x1, y1 in _read_array(boxes).reshape(-1, 4):
        corner = (x0 - 0.5, y0 - 0.5)
        box = Rectangle(corner, x1 - x0, y1 - y0, fill=False, ec="white", lw=1.2)
        box.set_path_effects(dark)
        axis.add_patch(box)
