"""Which reading of a layer's output as a grid is true, found out by changing the image.

Five patches of an image are changed, one at a time: its centre and one at each edge. In the true
grid the cells that change most lie where the patches do. That costs six forwards, once per network,
layer and image size; they are no part of a run's counts. More are run only where the answer is
unclear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from bench.models.layout import ImageSize, Layout
from bench.randomness import generator

PLACES = ((0.5, 0.5), (1 / 3, 0.0), (2 / 3, 1.0), (0.0, 2 / 3), (1.0, 1 / 3))
"""Where patches are changed, as shares of the free height and width.

No place is the mirror image of another, so that a grid that is turned or mirrored is seen. Two are
at the left and right edge, where tokens that are counted wrongly by one change sides.
"""

ENOUGH = len(PLACES) - 1
"""So many patches must stand out at their place: a deep network may move one of them."""

CLEAR = 2.0
"""Sharpness of a reading that nothing but the changed patches speaks for."""

ATTEMPTS = ((1 / 8, 0.5), (1 / 4, 0.5), (1 / 8, 0.0), (1 / 4, 0.0))
"""(side of a patch as a share of the image's, deviation of the noise around it), until one is
clear: small patches are sharp; larger ones, and those on a grey image, get through more layers.
"""

WINDOW = 0.15
"""Width of the window around a place, as a share of the image's side."""

COARSE = 3
"""Cells along a side up to which several patches share a window."""

PEAK = 0.7
"""A cell whose changes come from one patch alone, to this share, belongs to that patch."""

Run = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Finding:
    """What the changed patches showed.

    layout: the reading that fits; None: none does.  elsewhere: cells respond to one patch each, but
    not those at its place.
    """

    layout: Layout | None
    elsewhere: bool = False


def find_true_layout(
    run: Run, like: torch.Tensor, layouts: Sequence[Layout], stated: bool = False
) -> Finding:
    """Return which of the layouts fits.

    Args:
        run: Images [1,C,H,W] -> the layer's output [1,...].
        like: An image [1,C,H,W] of the size in question; only its shape and device are used.
        layouts: Readings of the output, the likeliest first. Of readings that fit about equally
            well the first is taken.
        stated: Whether the first follows from what the network states. Any other must fit beyond
            doubt, since one of many readings fits somewhat by chance.
    """
    elsewhere = False
    for share, contrast in ATTEMPTS:
        boxes = list(list_boxes((like.shape[-2], like.shape[-1]), share))
        images = make_changed_images(like, boxes, contrast)
        values = torch.cat([run(image[None]) for image in images]).double()
        if not bool(torch.isfinite(values).all()):
            break
        scores = [score_layout(layout, values, boxes, like) for layout in layouts]
        fitting = [
            (layout, score.sharpness)
            for place, (layout, score) in enumerate(zip(layouts, scores, strict=True))
            if score.fits(doubtful=place > 0 or not stated)
        ]
        if fitting:
            best = max(sharpness for _, sharpness in fitting)
            return Finding(next(layout for layout, sharp in fitting if sharp >= 0.9 * best))
        elsewhere = elsewhere or any(score.peaks >= ENOUGH for score in scores[:1])
    return Finding(None, elsewhere)


Box = tuple[int, int, int, int]
"""Pixels of a patch: top, bottom, left, right."""


def list_boxes(size: ImageSize, share: float) -> Iterator[Box]:
    """Yield the patches of an image of this size; `share` is a patch's side by the image's."""
    high, wide = (max(1, round(side * share)) for side in size)
    for down, right in PLACES:
        top, left = round(down * (size[0] - high)), round(right * (size[1] - wide))
        yield top, top + high, left, left + wide


def make_changed_images(like: torch.Tensor, boxes: Sequence[Box], contrast: float) -> torch.Tensor:
    """Return [1+n,C,H,W]: an image of noise of deviation `contrast`, and copies of it with one
    patch changed.

    A changed patch is noise of deviation 2 around a colour of +-2: noise alone is lost in layers
    that average.
    """
    rng = generator(0, "grid")
    base = contrast * torch.randn(like.shape[1:], generator=rng)
    images = [base]
    for top, bottom, left, right in boxes:
        image = base.clone()
        patch = image[:, top:bottom, left:right]
        colour = 2 * torch.randn(len(image), 1, 1, generator=rng).sign()
        patch.copy_(2 * torch.randn(patch.shape, generator=rng) + colour)
        images.append(image)
    return torch.stack(images).to(like.device)


@dataclass(frozen=True)
class Score:
    """How well a reading fits.

    hits: patches whose own place changes more than any other patch's place does.  sharpness: the
    change at its own place by the mean change there, from 0 to the number of patches; 1: no place
    is known.  peaks: patches that some cell responds to almost alone.
    """

    hits: int
    sharpness: float
    peaks: int

    def fits(self, doubtful: bool) -> bool:
        """Return whether the patches stand out at their places; all of them, and clearly, where the
        reading is doubtful.
        """
        if doubtful:
            return self.hits == len(PLACES) and self.sharpness > CLEAR
        return self.hits >= ENOUGH and self.sharpness > 1


def score_layout(
    layout: Layout, values: torch.Tensor, boxes: Sequence[Box], like: torch.Tensor
) -> Score:
    """Return how well a layout fits the layer's outputs [1+n,...] for `make_changed_images`.

    Each cell's change is taken by its mean over the patches: attention and gates change all cells,
    and cells at an edge may be more or less sensitive.
    """
    grid = layout.grid(values)
    change = (grid[1:] - grid[:1]).norm(dim=1)
    mean = change.mean(0, keepdim=True)
    if not bool(mean.any()):
        return Score(0, 0.0, 0)
    relative = change / (mean + 1e-3 * mean.mean())
    own = _cover(boxes, like, layout).to(values)
    sharpness = (relative * own).sum((1, 2)) / own.sum((1, 2))
    windows = _windows(boxes, like, layout).to(values)
    at_places = torch.einsum("phw,qhw->pq", relative, windows)
    found = (at_places - at_places.mean(0)).argmax(1)
    hits = int((found == torch.arange(len(boxes), device=found.device)).sum())
    if min(layout.height, layout.width) <= COARSE:
        # Windows are as wide as such a grid; each patch must change most a cell that it covers.
        most = relative.flatten(1).argmax(1, keepdim=True)
        hits = max(hits, int((own.flatten(1).gather(1, most) > 0).sum()))
    return Score(
        hits,
        float(sharpness.mean()),
        int((relative.flatten(1).amax(1) > PEAK * len(boxes)).sum()),
    )


def _cover(boxes: Sequence[Box], like: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Return which share of each cell a patch covers [n,h,w]."""

    def measure_along(start: int, end: int, side: int, count: int) -> torch.Tensor:
        edges = torch.arange(count + 1, dtype=torch.float64) * side / count
        return (edges[1:].clamp(max=end) - edges[:-1].clamp(min=start)).clamp(min=0)

    return _measure_boxes(boxes, like, layout, measure_along)


def _windows(boxes: Sequence[Box], like: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Return a Gaussian window around each patch [n,h,w], of sum 1."""

    def measure_along(start: int, end: int, side: int, count: int) -> torch.Tensor:
        cells = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        return torch.exp(-((cells - (start + end) / 2 / side) ** 2) / 2 / WINDOW**2)

    windows = _measure_boxes(boxes, like, layout, measure_along)
    return windows / windows.sum((1, 2), keepdim=True).clamp(min=1e-300)


def _measure_boxes(
    boxes: Sequence[Box],
    like: torch.Tensor,
    layout: Layout,
    measure_along: Callable[[int, int, int, int], torch.Tensor],
) -> torch.Tensor:
    """Return the product of a measure along both axes, for each patch [n,h,w].

    measure_along: (start, end, side of the image, cells) -> [cells].
    """
    height, width = like.shape[-2:]
    return torch.stack(
        [
            measure_along(top, bottom, height, layout.height)[:, None]
            * measure_along(left, right, width, layout.width)
            for top, bottom, left, right in boxes
        ]
    )
