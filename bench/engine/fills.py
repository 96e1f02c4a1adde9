"""Fills: functions that write perturbed images into the prober's buffer, and the blur that they
use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from bench.engine.imputation import impute

Fill = Callable[[torch.Tensor, torch.Tensor], None]

FOLD_SIGMAS = 4.0
"""How far out the tails of a folded kernel are counted: scipy's `gaussian_filter` truncates
there.
"""

# --- images that jobs write


def replace_ranked(
    first: torch.Tensor,
    second: torch.Tensor,
    order: torch.Tensor,
    rows: torch.Tensor,
    cuts: torch.Tensor,
) -> Fill:
    """Images in which the first pixels of an order, as many as a cut says, come from `first`, the
    others from `second`.

    first, second: [B,3,H,W] (or [1,3,1,1] for one colour, [B,3,1,1] for one each).  order: [B,H*W]
    int64, the pixels' indices, most relevant first; or [B,3*H*W], indices channel*H*W + pixel of
    single channels.  rows, cuts: [n] - image n is made of image rows[n], with cuts[n] pixels (or
    channels) from `first`. All channels of a pixel change together where pixels are ordered.
    """
    height, width = (first if first.shape[-1] > 1 else second).shape[-2:]
    write = replace_in_place if first.device.type == "cpu" else replace_by_choice
    return write(first, second, order, rows, cuts, (height, width))


def replace_by_choice(
    first: torch.Tensor,
    second: torch.Tensor,
    order: torch.Tensor,
    rows: torch.Tensor,
    cuts: torch.Tensor,
    size: tuple[int, int],
) -> Fill:
    """Return `replace_ranked` for a GPU: all pixels of a source image's steps are chosen at once,
    by their ranks.
    """
    ranks = ranks_of(order.to(first.device, non_blocking=True)).view(len(order), -1, *size)
    levels = cuts.to(first.device, torch.int32, non_blocking=True).view(-1, 1, 1, 1)

    def fill(out: torch.Tensor, index: torch.Tensor) -> None:
        # One torch.where per source image: its steps sit side by side, so no image is gathered once
        # per step.
        start = int(index[0])
        for row, place in _runs(rows[index]):
            cut = levels[start + place.start : start + place.stop]
            torch.where(
                ranks[row] < cut, _select_row(first, row), _select_row(second, row), out=out[place]
            )

    return fill


def replace_in_place(
    first: torch.Tensor,
    second: torch.Tensor,
    order: torch.Tensor,
    rows: torch.Tensor,
    cuts: torch.Tensor,
    size: tuple[int, int],
) -> Fill:
    """Return `replace_ranked` for a CPU: each image is a copy of the one before it, with what lies
    between their cuts replaced: only what changes is written, and the same bytes.
    """
    by_channel = order.shape[1] > size[0] * size[1]

    def fill(out: torch.Tensor, index: torch.Tensor) -> None:
        for row, place in _runs(rows[index]):
            one, two = (
                _features(_select_row(images, row), size, by_channel) for images in (first, second)
            )
            places = _interleave(order[row], out.shape[1]) if by_channel else order[row]
            made = _features(out[place], size, by_channel)
            reached, before = 0, two
            for image, cut in zip(made, cuts[index[place]].tolist(), strict=True):
                if cut < reached:  # steps that do not rise start anew
                    reached, before = 0, two
                image.copy_(before)
                changed = places[reached:cut]
                image.index_copy_(0, changed, one[changed])
                reached, before = cut, image
            if made.data_ptr() != out[place].data_ptr():  # a buffer that is not channels_last
                out[place] = made.view(len(made), *size, -1).permute(0, 3, 1, 2)

    return fill


def _features(images: torch.Tensor, size: tuple[int, int], by_channel: bool) -> torch.Tensor:
    """Return images [...,3,H,W], or colours [...,3,1,1], as rows of features [...,H*W,3], by
    channel [...,3*H*W,1]; a view where channels lie last in memory.
    """
    last = images.expand(*images.shape[:-2], *size).movedim(-3, -1)
    return last.reshape(*last.shape[:-3], -1, 1 if by_channel else last.shape[-1])


def _interleave(order: torch.Tensor, channels: int) -> torch.Tensor:
    """Return indices channel*N + pixel as pixel*channels + channel, where they lie in channels_last
    memory.
    """
    pixels = len(order) // channels
    return order % pixels * channels + order // pixels


def ranks_of(order: torch.Tensor) -> torch.Tensor:
    """Return the rank [B,n] int32 of every index of an order [B,n], 0 = first."""
    places = torch.arange(order.shape[1], dtype=torch.int32, device=order.device).expand(
        order.shape
    )
    return torch.empty(order.shape, dtype=torch.int32, device=order.device).scatter_(
        1, order, places
    )


def impute_ranked(
    images: torch.Tensor,
    noise: torch.Tensor,
    rank: torch.Tensor,
    rows: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
) -> Fill:
    """Images in which the pixels ranked low <= rank < high are imputed linearly from the others,
    plus noise (ROAD).

    images, noise: [B,3,H,W].  rank: [B,H*W] int32.  rows, low, high: [n] - image n is made of image
    rows[n].
    """
    height, width = images.shape[-2:]

    def fill(out: torch.Tensor, index: torch.Tensor) -> None:
        ranks = rank[rows[index]].view(-1, height, width)
        missing = (ranks >= low[index].view(-1, 1, 1)) & (ranks < high[index].view(-1, 1, 1))
        missing = missing.to(images.device)
        source = images[rows[index]]
        out.copy_(impute(source, missing))
        out.addcmul_(noise[rows[index]], missing[:, None])

    return fill


def take_rows(images: torch.Tensor, rows: torch.Tensor) -> Fill:
    """Images as they are: image n is image rows[n] of images [B,3,H,W]."""

    def fill(out: torch.Tensor, index: torch.Tensor) -> None:
        for row, place in _runs(rows[index]):
            out[place] = images[row]

    return fill


def minus(
    images: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor
) -> Fill:
    """Images less a change: image n is image rows[n] of images [B,3,H,W] minus change(index)
    [m,3,H,W].
    """

    def fill(out: torch.Tensor, index: torch.Tensor) -> None:
        torch.sub(images[rows[index]], change(index).to(images.device), out=out)

    return fill


def blend(
    images: torch.Tensor,
    colour: torch.Tensor,
    rows: torch.Tensor,
    masks: Callable[[torch.Tensor], torch.Tensor],
) -> Fill:
    """Images m*x + (1-m)*b: image n is image rows[n] of images [B,3,H,W] under the mask m =
    masks(index) [m,H,W].

    colour: b, [3,1,1], or one background per image [B,3,H,W].
    """

    def fill(out: torch.Tensor, index: torch.Tensor) -> None:
        mask = masks(index).to(images.device)[:, None]
        for row, place in _runs(rows[index]):
            behind = colour if colour.ndim == 3 else colour[row]
            torch.lerp(behind.expand_as(images[row]), images[row], mask[place], out=out[place])

    return fill


def kernel_blur(
    images: torch.Tensor, side: int, sigma: float, *, fold: bool, padding: str
) -> torch.Tensor:
    """Blur images [B,3,H,W] with a Gaussian kernel of `side` x `side` pixels (odd), whose weights
    sum to 1.

    fold: the tails beyond the kernel's border are reflected back into it, which makes a wide
    Gaussian almost a box; else they are cut.  padding: the image beyond its border is "reflect"ed
    or "zero".
    """
    reach = side // 2
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    if fold:
        # Every whole offset out to where nothing is left, each added at the place that it is
        # reflected to.
        wide = torch.arange(-(far := int(FOLD_SIGMAS * sigma + 0.5)), far + 1)
        place = (wide + reach) % (2 * side)
        place = torch.where(place < side, place, 2 * side - 1 - place)
        weights = torch.exp(-0.5 * (wide.double() / sigma) ** 2)
        kernel = torch.zeros(side, dtype=torch.float64).index_add_(0, place, weights)
    else:
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(images.device, torch.float32)
    channels = images.shape[1]
    rows = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    columns = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    mode = {"reflect": "reflect", "zero": "constant"}[padding]
    padded = F.pad(images, (reach, reach, reach, reach), mode=mode)
    return F.conv2d(F.conv2d(padded, rows, groups=channels), columns, groups=channels)


def _select_row(images: torch.Tensor, row: int) -> torch.Tensor:
    return images[row if len(images) > 1 else 0]


def _runs(rows: torch.Tensor) -> Iterator[tuple[int, slice]]:
    """Yield (row, slice) for each run of equal values."""
    values, lengths = torch.unique_consecutive(rows, return_counts=True)
    start = 0
    for value, length in zip(values.tolist(), lengths.tolist(), strict=True):
        yield value, slice(start, start + length)
        start += length


def gaussian_blur(images: torch.Tensor, sigma: float, radius_sigmas: float) -> torch.Tensor:
    """Blur images [B,3,H,W]: Gaussian of `sigma` pixels, cut at ceil(radius_sigmas*sigma), border
    reflected.
    """
    radius = min(math.ceil(radius_sigmas * sigma), images.shape[-1] - 1, images.shape[-2] - 1)
    return kernel_blur(images, 2 * radius + 1, sigma, fold=False, padding="reflect")
