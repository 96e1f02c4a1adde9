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

import torch

from bench.data.input_size import find_side
from bench.engine.counts import Counts
from bench.engine.folding import folds_of
from bench.engine.jobs import USUAL
from bench.engine.jobs import Job as Job
from bench.engine.jobs import Mode as Mode
from bench.engine.jobs import Piece as Piece
from bench.engine.jobs import Started as Started
from bench.engine.jobs import halves as halves
from bench.engine.log_odds import probability as probability
from bench.engine.log_odds import read_log_odds, read_target_logits
from bench.engine.log_odds import target_log_odds as target_log_odds
from bench.engine.log_odds import target_logits as target_logits
from bench.engine.memory import is_out_of_memory, keep_memory, memory_of, release_memory
from bench.errors import BenchError
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network
from bench.models.sisters import require_sister
from bench.protocol import FLOAT32
from bench.work_stages import look_at_work

Read = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Prober:
    """Runs jobs through one model in full batches, and counts what is run.

    Where memory is too short for a batch, the prober goes on with smaller ones.

    Args:
        model: The model.
        batch_size: Images per forward; None takes the default of the device. It is part of the
            plan, since it may move the last bits of a result.
        compiled: Run jobs through `torch.compile`: the same values to 1e-4, after some seconds.

    Attributes:
        counts: Forwards, backwards and replays so far.
        reduced_to: The smaller batch size after memory was too short, else None.

    Example:
        >>> Prober(model, batch_size=4).counts.forwards
        0
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
        """Return a prober of another network that counts into the same counts.

        Args:
            model: The other model, such as a randomised copy.

        Returns:
            A prober with this one's batch size.

        Example:
            >>> prober.fork(model).counts is prober.counts
            True
        """
        other = Prober(model, self.batch_size)
        other.counts = self.counts
        return other

    @property
    def sister(self) -> Prober:
        """Return a prober of the network's sister that counts into the same counts.

        Raises:
            NotApplicable: The network has no sister.
        """
        if self._sister is None:
            self._sister = self.fork(require_sister(self.model))
        return self._sister

    def cut_at(self, layer: str) -> Prober:
        """Return a prober of the same network explained at another layer, with the same counts.

        Args:
            layer: Name of a module.

        Returns:
            A prober; a wrong name is found when its model is first split.

        Example:
            >>> prober.cut_at("0").model.layer
            '0'
        """
        other = copy.copy(self)
        other.model = self.model.cut_at(layer)
        return other

    def log_odds(self, jobs: Sequence[Job], size: tuple[int, int]) -> list[torch.Tensor]:
        """Return log(p_c / (1 - p_c)) of every image of every job.

        p_c is the float64 softmax of the float32 logits. Log-odds keep what p_c loses near 1; p_c
        is their sigmoid.

        Args:
            jobs: Jobs; their images are packed into full batches.
            size: (H, W) of the images in pixels.

        Returns:
            Log-odds [n] float64 on the CPU, for each job.

        Example:
            >>> job = Job(trace.targets, lambda out, index: out.copy_(trace.images[index]))
            >>> (odds,) = prober.log_odds([job], trace.size)
            >>> torch.allclose(odds, trace.log_odds)
            True
        """
        return self.start(jobs, size).values()

    def target_logits(self, jobs: Sequence[Job], size: tuple[int, int]) -> list[torch.Tensor]:
        """Return the target's logit S_c of every image of every job.

        Args:
            jobs: Jobs; their images are packed into full batches.
            size: (H, W) of the images in pixels.

        Returns:
            Logits [n] float64 on the CPU, for each job.

        Example:
            >>> job = Job(trace.targets, lambda out, index: out.copy_(trace.images[index]))
            >>> prober.target_logits([job], trace.size)[0].shape
            torch.Size([2])
        """
        return self.start(jobs, size, Mode(raw=True)).values()

    @torch.inference_mode()
    def start(self, jobs: Sequence[Job], size: tuple[int, int], mode: Mode = USUAL) -> Started:
        """Run jobs and return an object that holds their values.

        A GPU works on until its `values` are read, while the CPU does other things.

        Args:
            jobs: Jobs; their images are packed into full batches.
            size: (H, W) of the images in pixels.
            mode: How they are run: logits in place of log-odds, precision, or the sister network.

        Returns:
            The started jobs; their `values()` waits for the device.

        Raises:
            NotApplicable: The mode asks for a sister, and the network has none.

        Example:
            >>> job = Job(trace.targets, lambda out, index: out.copy_(trace.images[index]))
            >>> len(prober.start([job, job], trace.size).values())
            2
        """
        if mode.sister:
            with guard_network(self.sister.model.net):
                started = self.sister.start(jobs, size, mode._replace(sister=False))
            self.reduced_to = self.reduced_to or self.sister.reduced_to
            return started
        read = read_target_logits if mode.raw else read_log_odds
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
        """Run smaller batches from now on, and give back memory that they do not need.

        Args:
            batch_size: Images per forward; less than 1 counts as 1.

        Example:
            >>> small = Prober(model)
            >>> small.shrink(2)
            >>> small.reduced_to
            2
        """
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
        """Run images once and return their logits, under autograd where it is on.

        Args:
            images: Images [n,C,H,W] float32, normalised, on the network's device.

        Returns:
            Logits [n,C].

        Raises:
            NotApplicable: A gradient at the images is wanted, and the network cuts the graph.

        Example:
            >>> prober.logits(trace.images).shape
            torch.Size([2, 3])
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
        """Return the logits of an image of one colour; it runs once per model and size.

        Args:
            rgb: The colour in pixel space, [0,1] each.
            size: (H, W) of the image in pixels.

        Returns:
            Logits [C].

        Example:
            >>> prober.colour_logits((0.5, 0.5, 0.5), (8, 8)).shape
            torch.Size([3])
        """
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
