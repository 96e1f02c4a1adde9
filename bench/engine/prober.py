"""The prober: the only place where perturbed images are built, packed into full batches, run and
counted.

Methods (Score-CAM) and metrics (deletion) hand it jobs; a job knows how to write its images into a
buffer. Jobs that are handed over together are packed together, so batches stay full across images,
steps, channels, maps and metrics.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch

from bench.data.input_size import find_side
from bench.engine.counts import Counts
from bench.engine.fills import Fill
from bench.engine.folding import folds_of
from bench.engine.memory import is_out_of_memory, keep_memory, memory_of, release_memory
from bench.errors import BenchError
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network
from bench.models.sisters import require_sister
from bench.protocol import FLOAT32
from bench.work_stages import look_at_work

Read = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Job:
    """Perturbed images to run: `fill(out, index)` writes images number `index` [m] into out
    [m,C,H,W].

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
    clean image's value: of two networks that differ by rounding, rounding could decide.  sister:
    the network's sister runs them.
    """

    raw: bool = False
    precision: str = FLOAT32
    folded: bool = True
    sister: bool = False


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
            find_side(model.size), model.device.type, memory_of(model.device)
        )
        self.counts = Counts()
        self.reduced_to: int | None = None
        self._precision = FLOAT32
        self._buffer: torch.Tensor | None = None
        self._colour_logits: dict[tuple[float, ...], torch.Tensor] = {}
        self._sister: Prober | None = None

    def fork(self, model: Explainee) -> Prober:
        """Return a prober of another network, counted with this one (a randomised copy)."""
        other = Prober(model, self.batch_size)
        other.counts = self.counts
        return other

    @property
    def sister(self) -> Prober:
        """Return a prober of the network's sister, counted with this one.

        Raises:
            NotApplicable: the network has no sister.
        """
        if self._sister is None:
            self._sister = self.fork(require_sister(self.model))
        return self._sister

    def cut_at(self, layer: str) -> Prober:
        """Return a prober of the same network explained at another layer, which counts into the
        same counts.
        """
        other = copy.copy(self)
        other.model = self.model.cut_at(layer)
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
        if mode.sister:
            with guard_network(self.sister.model.net):
                started = self.sister.start(jobs, size, mode._replace(sister=False))
            self.reduced_to = self.reduced_to or self.sister.reduced_to
            return started
        read = _own_logits if mode.raw else _log_odds
        parts: list[torch.Tensor] = []
        with self._lower_precision(mode.precision), self._folding(mode.folded):
            for pieces in self._batches(jobs):
                parts += self._values(
                    [Piece(jobs[number], index) for number, index in pieces], size, read
                )
        return Started([len(job) for job in jobs], parts)

    @contextmanager
    def _lower_precision(self, precision: str) -> Iterator[None]:
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
            folds_of(self.model).apply() if wanted and not self._wants_compiled else nullcontext()
        )

    def _values(self, pieces: list[Piece], size: tuple[int, int], read: Read) -> list[torch.Tensor]:
        """Return the values of one batch, on the device; a batch that memory is too short for is
        run in halves.
        """
        count = sum(map(len, pieces))
        try:
            return [self._batch(pieces, count, size, read)]
        except (RuntimeError, MemoryError) as error:
            if count == 1 or not is_out_of_memory(error):
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
                (max(count, self.batch_size), self.model.channels, *size), device=self.model.device
            ).contiguous(memory_format=torch.channels_last)
        return self._buffer[:count]

    def _run(self, images: torch.Tensor, count: int) -> torch.Tensor:
        if self._precision != FLOAT32:
            with torch.autocast(self.model.device.type, torch.bfloat16):
                return self.logits(images)
        if not self._wants_compiled or self._buffer is None:
            return self.logits(images)
        if self._compiled is None:  # not `or`: a compiled module has no truth value
            self._compiled = compile_net(self.model, self._buffer)
        # Always the whole buffer: one shape means one compilation. What lies behind `count` is not
        # looked at.
        logits: torch.Tensor = self._compiled(self._buffer)[:count]
        self.counts.forwards += count
        look_at_work()
        return logits

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Run images [n,C,H,W] once and return logits [n,C]; under autograd when it is on.

        Raises:
            NotApplicable: a gradient at the images is wanted, and the network cuts the graph.
        """
        if images.requires_grad and torch.is_grad_enabled():
            self.model.behaviour.require_gradient(self.model.name)
        logits: torch.Tensor = self.model.net(images)
        # Not before: what memory was too short for has not been run.
        self.counts.forwards += len(images)
        look_at_work()
        return logits

    @torch.inference_mode()
    def colour_logits(self, rgb: Sequence[float], size: tuple[int, int]) -> torch.Tensor:
        """Return the logits [C] of an image of one colour; run once per model and size."""
        key = (*rgb, *size)
        if key not in self._colour_logits:
            image = (
                self.model.colour(rgb)
                .expand(1, -1, *size)
                .contiguous(memory_format=torch.channels_last)
            )
            self._colour_logits[key] = self.logits(image)[0]
        return self._colour_logits[key]


def compile_net(model: Explainee, images: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the network compiled for images of this one shape, weights frozen in; no compiler is
    one sentence.
    """
    try:
        net = torch.compile(model.net, dynamic=False, options={"freezing": True})
        with guard_network(model.net), torch.inference_mode():
            net(images)
    except Exception as error:  # dynamo and inductor have many
        if is_out_of_memory(error):
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BenchError(
            f"{model.name} cannot be compiled here ({reason}); run without --compile."
        ) from error
    return net


def default_batch_size(side: float, device: str = "cpu", memory: int = 0) -> int:
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
