"""The prober: the only place where perturbed images are built, packed into full batches, run and counted.

Methods (Score-CAM) and metrics (deletion) hand it jobs; a job knows how to write its images into a buffer. Jobs that
are handed over together are packed together, so batches stay full across images, steps and channels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from bench.engine.imputation import impute
from bench.engine.memory import keep_memory
from bench.errors import BenchError
from bench.models.explainee import Explainee, untouched

Fill = Callable[[torch.Tensor, torch.Tensor], None]

FOLD_SIGMAS = 4.0
"""How far out the tails of a folded kernel are counted: scipy's `gaussian_filter` truncates there."""


@dataclass
class Counts:
    """What a network was asked for, in images: whole forwards and backwards, and those of the head alone."""

    forwards: int = 0
    backwards: int = 0
    head_forwards: int = 0
    head_backwards: int = 0

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(a - b for a, b in zip(self.tuple, other.tuple, strict=True)))

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(self.tuple, other.tuple, strict=True)))

    def copy(self) -> Counts:
        """Return the counts as they stand now."""
        return Counts(*self.tuple)

    @property
    def tuple(self) -> tuple[int, int, int, int]:
        """Return the four counts in the order of the fields."""
        return self.forwards, self.backwards, self.head_forwards, self.head_backwards


@dataclass(frozen=True)
class Job:
    """Perturbed images to run: `fill(out, index)` writes images number `index` [m] into out [m,3,H,W].

    targets: [n] int64, the class whose log-odds is wanted of each image; n is the size of the job.
    """

    targets: torch.Tensor
    fill: Fill

    def __len__(self) -> int:
        return len(self.targets)


class Prober:
    """Runs jobs through one model in full batches and counts what is run.

    batch_size: images per forward; part of the plan, since it may move the last bits of a result.
    compiled: run jobs through `torch.compile` (fused layers, the same values to 1e-4); takes some seconds to make.
    """

    def __init__(self, model: Explainee, batch_size: int | None = None, compiled: bool = False) -> None:
        self.model = model
        self._wants_compiled = compiled
        self._compiled: Callable[[torch.Tensor], torch.Tensor] | None = None
        if model.device.type == "cpu":
            keep_memory()
        self.batch_size = batch_size or default_batch_size(model.size, model.device.type)
        self.counts = Counts()
        self._buffer: torch.Tensor | None = None
        self._colour_logits: dict[tuple[float, ...], torch.Tensor] = {}

    def of(self, model: Explainee) -> Prober:
        """Return a prober of another network, counted with this one (a randomised copy)."""
        other = Prober(model, self.batch_size)
        other.counts = self.counts
        return other

    def at(self, layer: str) -> Prober:
        """Return a prober of the same network explained at another layer, which counts into the same counts."""
        other = copy.copy(self)
        other.model = self.model.at(layer)
        return other

    @torch.inference_mode()
    def log_odds(self, jobs: Sequence[Job], size: tuple[int, int]) -> list[torch.Tensor]:
        """Return log(p_c / (1 - p_c)) of every image of every job, each [n] float64 on the CPU.

        p_c = sigmoid(log-odds) is the float64 softmax of the float32 logits; the log-odds keep what p loses near 1.
        """
        return self._run_jobs(jobs, size, target_log_odds)

    @torch.inference_mode()
    def target_logits(self, jobs: Sequence[Job], size: tuple[int, int]) -> list[torch.Tensor]:
        """Return the target's logit S_c of every image of every job, each [n] float64 on the CPU."""
        return self._run_jobs(jobs, size, target_logits)

    def _run_jobs(
        self,
        jobs: Sequence[Job],
        size: tuple[int, int],
        read: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> list[torch.Tensor]:
        results = [torch.empty(len(job), dtype=torch.float64) for job in jobs]
        for pieces in self._batches(jobs):
            count = sum(len(index) for _, index in pieces)
            out = self._images(count, size)
            at = 0
            for number, index in pieces:
                jobs[number].fill(out[at : at + len(index)], index)
                at += len(index)
            values = read(self._run(out, count), torch.cat([jobs[n].targets[index] for n, index in pieces]))
            parts = torch.split(values, [len(index) for _, index in pieces])
            for (number, index), part in zip(pieces, parts, strict=True):
                results[number][index] = part
        return results

    def _batches(self, jobs: Sequence[Job]) -> Iterator[list[tuple[int, torch.Tensor]]]:
        """Cut the jobs, laid end to end, into full batches: lists of (job number, indices into that job)."""
        pieces: list[tuple[int, torch.Tensor]] = []
        room = self.batch_size
        for number, job in enumerate(jobs):
            start = 0
            while start < len(job):
                take = min(room, len(job) - start)
                pieces.append((number, torch.arange(start, start + take)))
                start += take
                room -= take
                if room == 0:
                    yield pieces
                    pieces, room = [], self.batch_size
        if pieces:
            yield pieces

    def _images(self, count: int, size: tuple[int, int]) -> torch.Tensor:
        """Return the first `count` images of one reused channels_last buffer."""
        if self._buffer is None or self._buffer.shape[2:] != size or len(self._buffer) < count:
            self._buffer = torch.empty((max(count, self.batch_size), 3, *size), device=self.model.device).contiguous(
                memory_format=torch.channels_last
            )
        return self._buffer[:count]

    def _run(self, images: torch.Tensor, count: int) -> torch.Tensor:
        if not self._wants_compiled or self._buffer is None:
            return self.logits(images)
        if self._compiled is None:  # not `or`: a compiled module has no truth value
            self._compiled = compiled_net(self.model, self._buffer)
        # Always the whole buffer: one shape means one compilation. What lies behind `count` is not looked at.
        self.counts.forwards += count
        logits: torch.Tensor = self._compiled(self._buffer)[:count]
        return logits

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Run images [n,3,H,W] once and return logits [n,C]; under autograd when it is on."""
        self.counts.forwards += len(images)
        logits: torch.Tensor = self.model.net(images)
        return logits

    @torch.inference_mode()
    def colour_logits(self, rgb: Sequence[float], size: tuple[int, int]) -> torch.Tensor:
        """Return the logits [C] of an image of one colour; run once per model and size."""
        key = (*rgb, *size)
        if key not in self._colour_logits:
            image = self.model.colour(rgb).expand(1, 3, *size).contiguous(memory_format=torch.channels_last)
            self._colour_logits[key] = self.logits(image)[0]
        return self._colour_logits[key]


def compiled_net(model: Explainee, images: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the network compiled for images of this one shape, weights frozen in; no compiler is one sentence."""
    try:
        net = torch.compile(model.net, dynamic=False, options={"freezing": True})
        with untouched(model.net), torch.inference_mode():
            net(images)
    except Exception as error:  # dynamo and inductor have many
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BenchError(f"{model.name} cannot be compiled here ({reason}); run without --compile.") from error
    return net


def default_batch_size(side: int, device: str = "cpu") -> int:
    """Return the default images per forward: 16 on a CPU and 64 elsewhere at a side of 224, more for smaller images.

    On a CPU larger batches gain nothing and leave the cache.
    """
    base = 16 if device == "cpu" else 64
    return max(8, min(256, round(base * (224 / side) ** 2 / 8) * 8))


def target_log_odds(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the float64 log-odds [n] of the targets [n] for float32 logits [n,C]: S_c - logsumexp of the others."""
    wide = logits.detach().to("cpu", torch.float64)
    index = targets.cpu()[:, None]
    own = wide.gather(1, index)[:, 0]
    if wide.shape[1] == 1:
        return torch.full_like(own, torch.inf)
    return own - wide.scatter(1, index, -torch.inf).logsumexp(1)


def target_logits(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the targets' logits [n] float64 of logits [n,C]."""
    return logits.detach().to("cpu", torch.float64).gather(1, targets.cpu()[:, None])[:, 0]


def probability(log_odds: torch.Tensor) -> torch.Tensor:
    """Return p = sigmoid(log-odds), the softmax probability, in float64."""
    return torch.sigmoid(log_odds)


# --- images that jobs write


def replace_ranked(
    first: torch.Tensor, second: torch.Tensor, rank: torch.Tensor, rows: torch.Tensor, cuts: torch.Tensor
) -> Fill:
    """Images in which the pixels ranked below a cut come from `first`, the others from `second`.

    first, second: [B,3,H,W] (or [1,3,1,1] for one colour, [B,3,1,1] for one each).  rank: [B,H*W] int32, 0 = most
    relevant; or [B,3*H*W], the ranks of single channels.  rows, cuts: [n] - image n is made of image rows[n], with
    cuts[n] pixels (or channels) from `first`. All channels of a pixel change together where pixels are ranked.
    """
    height, width = (first if first.shape[-1] > 1 else second).shape[-2:]
    ranks = rank.view(len(rank), -1, height, width)
    if first.device.type != "cpu":
        ranks = ranks.to(first.device)

    def fill(out: torch.Tensor, index: torch.Tensor) -> None:
        # One torch.where per source image: its steps sit side by side, so no image is gathered once per step.
        for row, place in _runs(rows[index]):
            cut = cuts[index[place]].to(ranks.device, torch.int32).view(-1, 1, 1, 1)
            torch.where(ranks[row] < cut, _at(first, row), _at(second, row), out=out[place])

    return fill


def impute_ranked(
    images: torch.Tensor,
    noise: torch.Tensor,
    rank: torch.Tensor,
    rows: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
) -> Fill:
    """Images in which the pixels ranked low <= rank < high are imputed linearly from the others, plus noise (ROAD).

    images, noise: [B,3,H,W].  rank: [B,H*W] int32.  rows, low, high: [n] - image n is made of image rows[n].
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


def minus(images: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> Fill:
    """Images less a change: image n is image rows[n] of images [B,3,H,W] minus change(index) [m,3,H,W]."""

    def fill(out: torch.Tensor, index: torch.Tensor) -> None:
        torch.sub(images[rows[index]], change(index).to(images.device), out=out)

    return fill


def blend(
    images: torch.Tensor, colour: torch.Tensor, rows: torch.Tensor, masks: Callable[[torch.Tensor], torch.Tensor]
) -> Fill:
    """Images m*x + (1-m)*b: image n is image rows[n] of images [B,3,H,W] under the mask m = masks(index) [m,H,W].

    colour: b, [3,1,1], or one background per image [B,3,H,W].
    """

    def fill(out: torch.Tensor, index: torch.Tensor) -> None:
        mask = masks(index).to(images.device)[:, None]
        for row, place in _runs(rows[index]):
            behind = colour if colour.ndim == 3 else colour[row]
            torch.lerp(behind.expand_as(images[row]), images[row], mask[place], out=out[place])

    return fill


def kernel_blur(images: torch.Tensor, side: int, sigma: float, *, fold: bool, padding: str) -> torch.Tensor:
    """Blur images [B,3,H,W] with a Gaussian kernel of `side` x `side` pixels (odd), whose weights sum to 1.

    fold: the tails beyond the kernel's border are reflected back into it, which makes a wide Gaussian almost a box;
    else they are cut.  padding: the image beyond its border is "reflect"ed or "zero".
    """
    reach = side // 2
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    if fold:
        # Every whole offset out to where nothing is left, each added at the place that it is reflected to.
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


def _at(images: torch.Tensor, row: int) -> torch.Tensor:
    return images[row if len(images) > 1 else 0]


def _runs(rows: torch.Tensor) -> Iterator[tuple[int, slice]]:
    """Yield (row, slice) for each run of equal values."""
    values, lengths = torch.unique_consecutive(rows, return_counts=True)
    start = 0
    for value, length in zip(values.tolist(), lengths.tolist(), strict=True):
        yield value, slice(start, start + length)
        start += length


def gaussian_blur(images: torch.Tensor, sigma: float, radius_sigmas: float) -> torch.Tensor:
    """Blur images [B,3,H,W]: Gaussian of `sigma` pixels, cut at ceil(radius_sigmas*sigma), border reflected."""
    radius = min(math.ceil(radius_sigmas * sigma), images.shape[-1] - 1, images.shape[-2] - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(images.device, torch.float32)
    channels = images.shape[1]
    rows = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    columns = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    padded = F.pad(images, (radius, radius, radius, radius), mode="reflect")
    return F.conv2d(F.conv2d(padded, rows, groups=channels), columns, groups=channels)
