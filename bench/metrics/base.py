"""What a metric is: a function from a `Case` to named per-image values, and the facts that go with
it.

A metric never averages over images; the board does. Missing is NaN (could not be scored, counted)
and `OUTSIDE` (the image is not in this value's set: no row is written).
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from bench.engine.shared_parts import SharedPart
from bench.errors import BenchError, suggestions
from bench.identity import digest, is_built_in
from bench.protocol import Protocol
from bench.registry import Registry
from bench.source_walk import note_source, source_digest

if TYPE_CHECKING:
    from bench.engine.case import Case

OUTSIDE = float("inf")
"""An image that does not belong to a value's set (e.g. a large object in the pointing game's
primary set).
"""

ENGINE_VERSION = 1
"""Raised when a change in `bench.engine` changes numbers; part of every metric's id."""

BETTER = ("lower", "higher", "none")
NEEDS = ("boxes", "masks", "truth", "others", "method")
PAINTS = ("removed", "insertion_start")
"""What a metric can put in place of pixels: what the protocol's `removed` or `insertion_start`
says.
"""
REDUCE = ("mean", "std", "curve", "box_accuracy", "pooled_precision")


RELATIVE = "_relative"
"""Ending of the name that boards give to an area over the clean probability."""


@dataclass(frozen=True)
class Derived:
    """Facts about the value that boards make of vectors; boards show it in their place.

    Args:
        name: The name on boards.
        title: A title for a reader.
        better: The better direction, "lower", "higher" or "none".
        ranked: Whether boards rank by it.
        lower: The lowest possible number.
        upper: The highest possible number.
    """

    name: str
    title: str
    better: str = "higher"
    ranked: bool = True
    lower: float | None = 0.0
    upper: float | None = 1.0


DERIVED = {
    "box_accuracy": Derived("_accuracy", "box accuracy"),
    "pooled_precision": Derived("_pooled", "pooled pixel average precision"),
}
"""{reduce: what boards make of vectors where a value declares nothing}; names are endings."""


@dataclass(frozen=True)
class Value:
    """Facts about one named value of a metric; immutable, shown by boards.

    better: "lower", "higher" or "none".  ranked: whether boards rank by it.  reduce: how the board
    gets from images to one number: "mean" and "std" of scalars; "curve" (drawn, not tabled);
    "box_accuracy" (vectors of best IoU per tau) and "pooled_precision" (histograms).  title: for a
    reader.  lower, upper: the range. derived: what boards make of vectors ("box_accuracy" and
    "pooled_precision"), see `find_derived`. curve: the value that holds the curve of this area, and
    clean_end the place on it of the clean image, 0 or -1.
    """

    title: str
    better: str = "none"
    ranked: bool = False
    reduce: str = "mean"
    lower: float | None = None
    upper: float | None = None
    derived: Derived | None = None
    curve: str = ""
    clean_end: int = 0

    def __post_init__(self) -> None:
        if self.better not in BETTER or self.reduce not in REDUCE:
            raise BenchError(
                f"Value {self.title!r}: better must be one of {BETTER} and reduce one of {REDUCE}."
            )


Scores = dict[str, torch.Tensor]
MetricFunction = Callable[["Case"], Scores]


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    name: also its family in records.  function: Case -> {value name: [B] or [B,n]}.  family:
    "faithfulness", "localization", "threshold", "complexity", ...; localisation explains the label,
    the others the prediction. needs: any of "boxes", "masks", "truth" (boxes or masks), "others"
    (another class's objects), "method" (maps alone are not enough, since it runs the method again).
    reads: the protocol fields it may read. version: raised when its numbers change.  standard: part
    of the default run; others are costly or say something only of few methods or subsets.
    parameter: the method's parameter that it is about; n/a to methods without.
    """

    name: str
    function: MetricFunction
    values: Mapping[str, Value]
    family: str
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    version: int = 1
    calibrates: bool = False  # also run on the calibration part, where the board chooses thresholds
    # forwards per image, given the protocol and the pixels; an upper bound, since equal images are
    # run once
    forwards: Callable[[Protocol, int], int] = lambda *_: 0
    # of these, cuts 0, 1, ... of unit(L) that mask the image, which metrics of one map share
    masks: Callable[[Protocol], int] = lambda _: 0
    # how many times the method is run again, per image: each time on a trace of its own, which all
    # methods share
    repeats: Callable[[Protocol], int] = lambda _: 0
    # or on the clean image, with these values of `parameter`, but for the method's own
    settings: Callable[[Protocol], tuple[Any, ...]] = lambda _: ()
    # what is made once per image, whatever the number of methods; not the gradients that methods
    # read there
    shared: Callable[[Protocol], Sequence[SharedPart]] = lambda _: ()
    # lengths of the values that are vectors, given the protocol and the pixels
    lengths: Callable[[Protocol, int], Mapping[str, int]] = lambda *_: {}
    standard: bool = True
    parameter: str = ""
    paints: str = ""
    builtin: bool = True
    # a positive factor on the map changes nothing, so equal maps may share one probe
    scale_free: bool = False
    # the facts of a value under a protocol, where they are not those of `cambench-1` (a logit has
    # no bounds)
    under: Callable[[Protocol, Value], Value] = lambda _, value: value

    @property
    def groups(self) -> tuple[str, ...]:
        """Return the groups that lists can name this metric by."""
        return (self.family, "standard" if self.standard else "costly")

    def probes(self, protocol: Protocol, pixels: int) -> bool:
        """Return whether all that the metric runs are probes of finished maps: ours, and nothing
        that knows a method.

        Those may wait to be run with others, and be run in a lower precision.
        """
        return self.builtin and self.forwards(protocol, pixels) > 0 and "method" not in self.needs

    def id(self, protocol: Protocol) -> str:
        """Return name@hash of version, engine version, the protocol fields read, and a plug-in's
        source.
        """
        parts: dict[str, Any] = {
            "version": self.version,
            "engine": ENGINE_VERSION,
            "fields": protocol.view(self.all_reads).hash,
        }
        if not self.builtin:
            parts["source"] = source_digest(self.function)
        return f"{self.name}@{digest(parts)}"

    def facts(self, protocol: Protocol) -> dict[str, Value]:
        """Return the facts about each value under a protocol."""
        return {name: self.under(protocol, value) for name, value in self.values.items()}

    @property
    def all_reads(self) -> tuple[str, ...]:
        """Return the fields read by the function and by the pipeline for it (its target rule,
        precision, seed).
        """
        return tuple(dict.fromkeys((*self.reads, self.target_field, "precision", "seed")))

    @property
    def target_field(self) -> str:
        """Return the protocol field that says which class is explained for this metric."""
        return "localization_target" if self.family == "localization" else "faithfulness_target"


def find_derived(name: str, value: Value) -> Derived | None:
    """Return what boards make of a value's vectors: declared, or named after the value.

    Returns:
        None for a value that boards show as it is.
    """
    if value.derived is not None or value.reduce not in DERIVED:
        return value.derived
    usual = DERIVED[value.reduce]
    return dataclasses.replace(usual, name=f"{name}{usual.name}")


def board_names(name: str, value: Value) -> tuple[str, ...]:
    """Return what boards call a value of a metric: what they derive from it first, then its own
    name.
    """
    derived = find_derived(name, value)
    if derived is not None:
        return (derived.name, name)
    return (name, f"{name}{RELATIVE}") if value.curve else (name,)


class MetricRegistry(Registry[Metric]):
    """Metrics by name, and by the names that their values have on boards."""

    def other_names(self) -> dict[str, str]:
        """Return {name of a value on boards: name of its metric}."""
        return {
            shown: metric.name
            for metric in self
            for name, value in metric.values.items()
            for shown in board_names(name, value)
            if shown not in self
        }


METRICS = MetricRegistry("metric")


def find_owner(value: str) -> Metric | None:
    """Return the metric that a value belongs to, or None; a value's name belongs to one metric."""
    return next((metric for metric in METRICS if value in metric.values), None)


def register_metric(
    name: str | None = None,
    *,
    values: Mapping[str, Value] | None = None,
    better: str = "none",
    family: str = "plugin",
    needs: tuple[str, ...] = (),
    reads: tuple[str, ...] = (),
    version: int = 1,
    calibrates: bool = False,
    scale_free: bool | None = None,
    forwards: Callable[[Protocol, int], int] | Callable[[Protocol], int] | int = 0,
    masks: Callable[[Protocol], int] = lambda _: 0,
    repeats: Callable[[Protocol], int] | int = 0,
    settings: Callable[[Protocol], tuple[Any, ...]] = lambda _: (),
    shared: Callable[[Protocol], Sequence[SharedPart]] = lambda _: (),
    lengths: Callable[[Protocol, int], Mapping[str, int]] = lambda *_: {},
    standard: bool = True,
    parameter: str = "",
    paints: str = "",
    under: Callable[[Protocol, Value], Value] = lambda _, value: value,
) -> Callable[[MetricFunction], MetricFunction]:
    """Register a metric: a function from a `Case` to {value name: [B] or [B,n]}.

    Without `values` the metric has one value of its own name, ranked in the direction `better`.
    scale_free: a positive factor on the map changes nothing; built-in metrics are, but for the cost
    and for those that need the method (equal maps need not be equal on other images).  forwards:
    per image and map: a number, or a function of the protocol, or of the protocol and the image's
    pixels.  paints: what the metric puts in place of pixels, one of `PAINTS`; boards mark methods
    that compare an image with the same.

    >>> @register_metric("doc_peak", better="higher")
    ... def doc_peak(case):
    ...     return {"doc_peak": case.maps.flatten(1).amax(1)}
    >>> METRICS.remove("doc_peak")
    """

    if callable(name):  # @register_metric without brackets
        return register_metric()(name)  # type: ignore[unreachable]
    if paints not in ("", *PAINTS):
        raise BenchError(f"paints {paints!r} of metric {name!r} is not one of {', '.join(PAINTS)}.")

    def register(function: MetricFunction) -> MetricFunction:
        chosen = name or function.__name__
        facts = values or {
            chosen: Value(chosen.replace("_", " "), better=better, ranked=better != "none")
        }
        independent = family != "cost" and "method" not in needs
        builtin = is_built_in(function)
        if not builtin:
            note_source(function)
        _check_metric(chosen, facts, needs, reads)
        METRICS.add(
            Metric(
                name=chosen,
                function=function,
                values=facts,
                family=family,
                needs=needs,
                reads=reads,
                version=version,
                calibrates=calibrates,
                forwards=_per_frame(forwards),
                masks=masks,
                repeats=_counted(repeats),
                settings=settings,
                shared=shared,
                lengths=lengths,
                standard=standard,
                parameter=parameter,
                paints=paints,
                builtin=builtin,
                under=under,
                scale_free=scale_free if scale_free is not None else builtin and independent,
            )
        )
        return function

    return register


def _per_frame(
    count: Callable[[Protocol, int], int] | Callable[[Protocol], int] | int,
) -> Callable[[Protocol, int], int]:
    """Return a count as a function of the protocol and the pixels, whichever of them it asks
    for.
    """
    if not callable(count):
        return lambda *_: count
    if len(inspect.signature(count).parameters) > 1:
        return count  # type: ignore[return-value]
    return lambda protocol, _: count(protocol)  # type: ignore[call-arg]


def _counted(count: Callable[[Protocol], int] | int) -> Callable[[Protocol], int]:
    return count if callable(count) else lambda _: count


def _check_metric(
    name: str, values: Mapping[str, Value], needs: tuple[str, ...], reads: tuple[str, ...]
) -> None:
    fields = {field.name for field in dataclasses.fields(Protocol)}
    for what, given, known in (("needs", needs, set(NEEDS)), ("reads", reads, fields)):
        for word in given:
            if word not in known:
                raise BenchError(f"Metric {name}: {what} has {word!r}.{suggestions(word, known)}")
    for other in METRICS:
        taken = sorted(set(values) & set(other.values))
        if taken and other.name != name:
            raise BenchError(
                f"Metric {name}: the value {taken[0]!r} belongs to the metric {other.name}; rename "
                "it."
            )
