"""Networks that are asked and not run: methods and metrics go through all their steps, and what they ask is counted.

Real are the shared pass of each image and what somebody looks into (hooks, watched operations, gradients of the head),
since methods decide by it what they ask next. Perturbed images, heads that are replayed without gradients and bare
forwards are counted and answered at random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack

from bench.engine.case import Background
from bench.engine.prober import USUAL, Counts, Job, Mode, Prober, Started
from bench.engine.probes import Key, Probes
from bench.engine.trace import Trace
from bench.models.explainee import Explainee
from bench.models.split import Captured
from bench.randomness import generator

T = TypeVar("T")

HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def noise(*shape: int) -> torch.Tensor:
    """Return normal numbers, the same for the same shape: answers that no two questions of a job share."""
    return torch.randn(*shape, generator=generator(0, "dry", str(shape)))


class _DrySplit:
    """A split whose pass and gradients are real, and whose replays are answered at random."""

    def __init__(self, model: Explainee) -> None:
        self._split, self._classes = model.split, model.num_classes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._split, name)

    def head(self, values: torch.Tensor, captured: Captured, rows: torch.Tensor) -> torch.Tensor:
        """Return logits [n,C] for activations [n,...]."""
        if torch.is_grad_enabled() or len(values) <= len(captured.values):  # a check of the head, not a replay
            return self._split.head(values, captured, rows)
        return noise(len(values), self._classes).to(values.device)


class DryExplainee(Explainee):
    """A model whose head is not replayed (see the module)."""

    def __init__(self, model: Explainee) -> None:
        self.__dict__.update(model.__dict__)
        self.__dict__.pop("split", None)
        self._real = model

    @cached_property
    def split(self) -> Any:
        """Return the split at the explained layer."""
        return _DrySplit(self._real)

    def at(self, layer: str) -> Explainee:
        """Return the same network explained at another layer."""
        return DryExplainee(self._real.at(layer))

    def with_net(self, net: nn.Module) -> Explainee:
        """Return another network of the same architecture, explained at the same layer."""
        return DryExplainee(self._real.with_net(net))


class Endless(Exception):  # noqa: N818 - the answers were at random
    """What is counted asks on and on, as what waits for an answer does that random numbers never give."""


@dataclass
class Limit:
    """The count of forwards that one method or metric is let ask for, in all of a prober's copies."""

    forwards: float = math.inf


class DryProber(Prober):
    """A prober that counts and runs little.

    colours: images of one colour that were asked for, run once per model.  limit: raises `Endless` beyond it.
    """

    def __init__(self, model: Explainee, batch_size: int | None = None) -> None:
        super().__init__(model if isinstance(model, DryExplainee) else DryExplainee(model), batch_size)
        self.colours: set[tuple[float, ...]] = set()
        self.limit = Limit()

    def of(self, model: Explainee) -> Prober:
        """Return a prober of another network, counted with this one."""
        other = DryProber(model, self.batch_size)
        other.counts, other.colours, other.limit = self.counts, self.colours, self.limit
        return other

    def start(self, jobs: Sequence[Job], size: tuple[int, int], mode: Mode = USUAL) -> Started:
        """Count jobs and answer them at random."""
        lengths = [len(job) for job in jobs]
        self._count(sum(lengths))
        return Started(lengths, [noise(n).double() for n in lengths])

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits [n,C] of images [n,3,H,W]: real ones where somebody looks into the network."""
        if self._watched():
            return super().logits(images)
        self._count(len(images))
        weights = noise(self.model.num_classes).to(images.device)
        return images.mean((1, 2, 3))[:, None] * weights

    def _count(self, forwards: int) -> None:
        self.counts.forwards += forwards
        if self.counts.forwards > self.limit.forwards:
            raise Endless

    def _watched(self) -> bool:
        hooked = any(getattr(module, table, None) for module in self.model.net.modules() for table in HOOKS)
        return hooked or bool(_get_current_function_mode_stack())  # type: ignore[no-untyped-call]

    def colour_logits(self, rgb: Sequence[float], size: tuple[int, int]) -> torch.Tensor:
        """Note the colour and return logits [C]."""
        self.colours.add((*rgb, *size))
        return noise(self.model.num_classes).to(self.model.device)


# --- what metrics share


@dataclass
class SeenProbes(Probes):
    """Probes that remember by name which were asked for since `seen` was emptied."""

    seen: set[Key] = field(default_factory=set)

    def values(self, keys: Sequence[Key], job: Callable[[list[int]], Job], mode: Mode) -> list[float]:
        """Return the value of each probe, and remember it."""
        self.seen.update(keys)
        return super().values(keys, job, mode)


CLEAN: Hashable = "clean"
"""The trace of the images as they are."""


class DryBackground(Background):
    """A background that says what each shared thing cost, and which were read since `read` was emptied.

    costs: counts of making each, without the others that it is made of.  inside: those, by name.  places: {id of a
    trace that all methods share: its name}.
    """

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace)
        self.probes: SeenProbes = SeenProbes(trace.prober, trace.size)
        self.costs: dict[Hashable, Counts] = {}
        self.inside: dict[Hashable, frozenset[Hashable]] = {}
        self.places: dict[int, Hashable] = {id(trace): CLEAN}
        self.read: set[Hashable] = set()

    def shared(self, key: Hashable, make: Callable[[], T]) -> tuple[T, int]:
        """Return what several cases need, and the forwards that it took."""
        made = self._noted(key, lambda: Background.shared(self, key, make))
        for number, trace in enumerate(_traces(made[0])):
            self.places.setdefault(id(trace), (key, number))
        return made

    def _run_once(self, key: Hashable, make: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return self._noted(key, lambda: Background._run_once(self, key, make))

    def _noted(self, key: Hashable, ask: Callable[[], T]) -> T:
        outside, self.read = self.read, set()
        before, known = self.trace.prober.counts.copy(), set(self.costs)
        value = ask()
        if key not in self.costs:
            cost = self.trace.prober.counts - before
            for inner in set(self.costs) - known:
                cost -= self.costs[inner]
            self.costs[key], self.inside[key] = cost, frozenset(self.read)
        self.read = outside | {key} | self.inside[key]
        return value


def _traces(value: Any) -> Iterator[Trace]:
    if isinstance(value, Trace):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _traces(part)


@dataclass(frozen=True)
class Repeat:
    """A method that is run again: on which trace, and with which parameters that are not its own."""

    place: Hashable
    parameters: tuple[tuple[str, Any], ...] = ()


class DryAgain:
    """The method behind a case's maps, which is not run again: what is wanted of it is noted."""

    def __init__(self, background: DryBackground, parameters: Mapping[str, Any]) -> None:
        self.parameters = parameters
        self.repeats: list[Repeat] = []
        self._background = background
        self._kept: list[Trace] = []  # an id is a name only while its owner lives

    def __call__(self, trace: Trace, **parameters: Any) -> torch.Tensor:
        """Return maps [B,H,W] at random."""
        place = self._background.places.get(id(trace), ("of its own", len(self.repeats)))
        self._kept.append(trace)
        self.repeats.append(Repeat(place, tuple(sorted(parameters.items()))))
        return noise(len(trace), *trace.size)
