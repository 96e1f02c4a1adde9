"""The prober: the only place where perturbed images are built, packed into full batches, run and
counted.

Methods (Score-CAM) and metrics (deletion) hand it jobs; a job knows how to write its images into a
buffer. Jobs that are handed over together are packed together, so batches stay full across images,
steps, channels, maps and metrics.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from bench.engine.folding import folds_of
from bench.engine.imputation import impute
from bench.engine.memory import keep_memory, memory_of, out_of_memory, release_memory
from bench.errors import BenchError
from bench.models.explainee import Explainee, untouched
from bench.protocol import FLOAT32

Fill = Callable[[torch.Tensor, torch.Tensor], None]
Read = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

FOLD_SIGMAS = 4.0
"""How far out the tails of a folded kernel are counted: scipy's `gaussian_filter` truncates
there.
"""


@dataclass
class Counts:
    """What a network was asked for, in images: whole forwards and backwards, and those of the head
    alone.
    """

    forwards: int = 0
    backwards: int = 0
    head_forwards: int = 0
    head_backwards: int = 0

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(a - b for a, b in zip(self.tuple, other.tuple, strict=True)))

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(self.tuple, other.tuple, strict=True)))

    def times(self, images: int) -> Counts:
        """Return the counts of so many equal images."""
        return Counts(*(images * count for count in self.tuple))

    def copy(self) -> Counts:
        """Return the counts as they stand now."""
        return Counts(*self.tuple)

    @property
    def tuple(self) -> tuple[int, int, int, int]:
        """Return the four counts in the order of the fields."""
        return self.forwards, self.backwards, self.head_forwards, self.head_backwards


@dataclass(frozen=True)
class Job:
    """Perturbed images to run: `fill(out, index)` writes images number `index` [m] into out
    [m,3,H,W].

    targets: [n] int64, the class whose log-odds is wanted of each image; n is the size of the job.
    """

    targets: torch.Tensor
    fill: Fill

    def __len__(self) -> int:
        return len(self.targets)


class Mode(NamedTuple):
    """How jobs are run; only those of one mode can share a batch.

    raw: the target's logit is wanted instead of its log-odds.  precision: of the network's layers
    (torch.autocast); images are made, and logits read, as in float32.  folded: normalisations run
    inside convolutions, which is faster. Not for what is asked whether it is above or below the
    clean image's value: of two networks that differ by rounding, rounding could decide.
    """

    raw: bool = False
    precision: str = FLOAT32
    folded: bool = True


USUAL = Mode()


@dataclass(frozen=True)
class Piece:
    """Images number `index` [m] of a job, which lie side by side in a batch."""

    job: Job
    index: torch.Tensor

    def __len__(self) -> int:
        return len(self.index)


def halves(pieces: Sequence[Piece], count: int) -> tuple[list[Piece], list[Piece]]:
    """Cut the pieces of a batch of `count` images in two: the first count // 2 images, and the
    others.
    """
    first, second, room = [], [], count // 2
    for piece in pieces:
        first += [Piece(piece.job, piece.index[:room])] if room else []
        second += [Piece(piece.job, piece.index[room:])] if len(piece) > room else []
        room = max(0, room - len(piece))
    return first, second


@dataclass(frozen=True)
class Started:
    """Jobs that have been given to the device: their lengths, and the values of all of them, end to
    end, in parts.
    """

    lengths: list[int]
    parts: list[torch.Tensor]

    def values(self) -> list[torch.Tensor]:
        """Wait for the device and return each job's values, [n] float64 on the CPU."""
        everything = (
            torch.cat(self.parts).cpu() if self.parts else torch.empty(0, dtype=torch.float64)
        )
        return list(torch.split(everything, self.lengths))


class Prober:
    """Runs jobs through one model in full batches and counts what is run.

    batch_size: images per forward; part of the plan, since it may move the last bits of a result.
    Where memory is too short for it the prober goes on with smaller batches, and `reduced_to` says
    with which. compiled: run jobs through `torch.compile` (fused layers, the same values to 1e-4);
    takes some seconds to make.
    """

    def __init__(
        self, model: Explainee, batch_size: int | None = None, compiled: bool = False
    ) -> None:
        self.model = model
        self._wants_compiled = compiled
        self._compiled: Callable[[torch.Tensor], torch.Tensor] | None = None
        if model.device.type == "cpu":
            keep_memory()
        self.batch_size = batch_size or default_batch_size(
            model.size, model.device.type, memory_of(model.device)
        )
        self.counts = Counts()
        self.reduced_to: int | None = None
        self._precision = FLOAT32
        self._buffer: torch.Tensor | None = None
        self._colour_logits: dict[tuple[float, ...], torch.Tensor] = {}

    def of(self, model: Explainee) -> Prober:
        """Return a prober of another network, counted with this one (a randomised copy)."""
        other = Prober(model, self.batch_size)
        other.counts = self.counts
        return other

    def at(self, layer: str) -> Prober:
        """Return a prober of the same network explained at another layer, which counts into the
        same counts.
        """
        other = copy.copy(self)
        other.model = self.model.at(layer)
        return other

    def log_odds(self, jobs: Sequence[Job], size: tuple[int, int]) -> list[torch.Tensor]:
        """Return log(p_c / (1 - p_c)) of every image of every job, each [n] float64 on the CPU.

        p_c = sigmoid(log-odds) is the float64 softmax of the float32 logits; the log-odds keep what
        p loses near 1.
        """
        return self.start(jobs, size).values()

    def target_logits(self, jobs: Sequence[Job], size: tuple[int, int]) -> list[torch.Tensor]:
        """Return the target's logit S_c of every image of every job, each [n] float64 on the
        CPU.
        """
        return self.start(jobs, size, Mode(raw=True)).values()

    @torch.inference_mode()
    def start(self, jobs: Sequence[Job], size: tuple[int, int], mode: Mode = USUAL) -> Started:
        """Run jobs and return what holds their log-odds (or, raw, their target logits).

        A GPU is only told what to do: it works on until `values` is read, while the CPU does other
        things.
        """
        read = _own_logits if mode.raw else _log_odds
        parts: list[torch.Tensor] = []
        with self._in_precision(mode.precision), self._folding(mode.folded):
            for pieces in self._batches(jobs):
                parts += self._values(
                    [Piece(jobs[number], index) for number, index in pieces], size, read
                )
        return Started([len(job) for job in jobs], parts)

    @contextmanager
    def _in_precision(self, precision: str) -> Iterator[None]:
        """Inside, `_run` lowers the network's precision; whatever fails inside, it is float32 again
        outside.
        """
        self._precision = precision
        try:
            yield
        finally:
            self._precision = FLOAT32

    def _folding(self, wanted: bool) -> AbstractContextManager[None]:
        """Inside, the network's normalisations are folded if that is wanted; a compiler folds by
        itself.
        """
        return (
            folds_of(self.model).applied() if wanted and not self._wants_compiled else nullcontext()
        )

    def _values(self, pieces: list[Piece], size: tuple[int, int], read: Read) -> list[torch.Tensor]:
        """Return the values of one batch, on the device; a batch that memory is too short for is
        run in halves.
        """
        count = sum(map(len, pieces))
        try:
            return [self._batch(pieces, count, size, read)]
        except (RuntimeError, MemoryError) as error:
            if count == 1 or not out_of_memory(error):
                raise
        # Outside the except: the error's traceback holds on to what is to be freed.
        self.shrink(count // 2)
        return [part for half in halves(pieces, count) for part in self._values(half, size, read)]

    def _batch(
        self, pieces: list[Piece], count: int, size: tuple[int, int], read: Read
    ) -> torch.Tensor:
        out = self._images(count, size)
        at = 0
        for piece in pieces:
            piece.job.fill(out[at : at + len(piece)], piece.index)
            at += len(piece)
        targets = torch.cat([piece.job.targets[piece.index] for piece in pieces])
        return read(self._run(out, count), targets)

    def shrink(self, batch_size: int) -> None:
        """Run smaller batches from now on, and give back the memory that is not needed for them."""
        self.batch_size = self.reduced_to = max(1, batch_size)
        self._buffer = self._compiled = None
        release_memory(self.model.device)

    def _batches(self, jobs: Sequence[Job]) -> Iterator[list[tuple[int, torch.Tensor]]]:
        """Cut the jobs, laid end to end, into full batches: lists of (job number, indices into that
        job).
        """
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
            self._buffer = torch.empty(
                (max(count, self.batch_size), 3, *size), device=self.model.device
            ).contiguous(memory_format=torch.channels_last)
        return self._buffer[:count]

    def _run(self, images: torch.Tensor, count: int) -> torch.Tensor:
        if self._precision != FLOAT32:
            with torch.autocast(self.model.device.type, torch.bfloat16):
                return self.logits(images)
        if not self._wants_compiled or self._buffer is None:
            return self.logits(images)
        if self._compiled is None:  # not `or`: a compiled module has no truth value
            self._compiled = compiled_net(self.model, self._buffer)
        # Always the whole buffer: one shape means one compilation. What lies behind `count` is not
        # looked at.
        logits: torch.Tensor = self._compiled(self._buffer)[:count]
        self.counts.forwards += count
        return logits

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Run images [n,3,H,W] once and return logits [n,C]; under autograd when it is on."""
        logits: torch.Tensor = self.model.net(images)
        self.counts.forwards += len(
            images
        )  # not before: what memory was too short for has not been run
        return logits

    @torch.inference_mode()
    def colour_logits(self, rgb: Sequence[float], size: tuple[int, int]) -> torch.Tensor:
        """Return the logits [C] of an image of one colour; run once per model and size."""
        key = (*rgb, *size)
        if key not in self._colour_logits:
            image = (
                self.model.colour(rgb)
                .expand(1, 3, *size)
                .contiguous(memory_format=torch.channels_last)
            )
            self._colour_logits[key] = self.logits(image)[0]
        return self._colour_logits[key]


def compiled_net(model: Explainee, images: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the network compiled for images of this one shape, weights frozen in; no compiler is
    one sentence.
    """
    try:
        net = torch.compile(model.net, dynamic=False, options={"freezing": True})
        with untouched(model.net), torch.inference_mode():
            net(images)
    except Exception as error:  # dynamo and inductor have many
        if out_of_memory(error):
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BenchError(
            f"{model.name} cannot be compiled here ({reason}); run without --compile."
        ) from error
    return net


def default_batch_size(side: int, device: str = "cpu", memory: int = 0) -> int:
    """Return the default images per forward: at a side of 224 16 on a CPU, 64 to 256 elsewhere;
    more of smaller images.

    On a CPU larger batches gain nothing and leave the cache.  memory: bytes that the device has in
    all, not those that are free now: two runs on one kind of device then have the same batches, so
    the same plan and the same bytes.
    """
    gibibytes = memory / 2**30
    base = 16 if device == "cpu" else 64 if gibibytes < 36 else 128 if gibibytes < 72 else 256
    return max(8, min(256 if device == "cpu" else 1024, round(base * (224 / side) ** 2 / 8) * 8))


def target_log_odds(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the log-odds [n] float64 of the targets [n] for float32 logits [n,C]: S_c - logsumexp
    of the others.
    """
    return _log_odds(logits, targets).cpu()


def target_logits(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the targets' logits [n] float64 of logits [n,C]."""
    return _own_logits(logits, targets).cpu()


def _log_odds(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return `target_log_odds` where the logits are: on a GPU nothing waits for it."""
    wide, index = _wide(logits, targets)
    own = wide.gather(1, index)[:, 0]
    if wide.shape[1] == 1:
        return torch.full_like(own, torch.inf)
    return own - wide.scatter(1, index, -torch.inf).logsumexp(1)


def _own_logits(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    wide, index = _wide(logits, targets)
    return wide.gather(1, index)[:, 0]


def _wide(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits [n,C] as float64, and targets [n,1] beside them; Apple's GPUs have no
    float64.
    """
    device = "cpu" if logits.device.type == "mps" else logits.device
    wide = logits.detach().to(device).double()
    return wide, targets.to(device, non_blocking=True)[:, None]


def probability(log_odds: torch.Tensor) -> torch.Tensor:
    """Return p = sigmoid(log-odds), the softmax probability, in float64."""
    return torch.sigmoid(log_odds)


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
    write = replaced_in_place if first.device.type == "cpu" else replaced_by_choice
    return write(first, second, order, rows, cuts, (height, width))


def replaced_by_choice(
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
            torch.where(ranks[row] < cut, _at(first, row), _at(second, row), out=out[place])

    return fill


def replaced_in_place(
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
            one, two = (_features(_at(images, row), size, by_channel) for images in (first, second))
            places = _interleaved(order[row]) if by_channel else order[row]
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


def _interleaved(order: torch.Tensor) -> torch.Tensor:
    """Return indices channel*N + pixel as pixel*3 + channel, where they lie in channels_last
    memory.
    """
    pixels = len(order) // 3
    return order % pixels * 3 + order // pixels


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


def unchanged(images: torch.Tensor, rows: torch.Tensor) -> Fill:
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
    """Blur images [B,3,H,W]: Gaussian of `sigma` pixels, cut at ceil(radius_sigmas*sigma), border
    reflected.
    """
    radius = min(math.ceil(radius_sigmas * sigma), images.shape[-1] - 1, images.shape[-2] - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(images.device, torch.float32)
    channels = images.shape[1]
    rows = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    columns = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    padded = F.pad(images, (radius, radius, radius, radius), mode="reflect")
    return F.conv2d(F.conv2d(padded, rows, groups=channels), columns, groups=channels)
