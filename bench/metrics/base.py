"""What a metric is: a function from a `Case` to named per-image values, and the facts that go with
it.

A metric never averages over images; the board does. Missing is NaN (could not be scored, counted)
and `OUTSIDE` (the image is not in this value's set: no row is written).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import torch

from bench.engine.shared_parts import SharedPart
from bench.errors import BenchError, suggestions
from bench.function_source import is_built_in, note_source, source_digest
from bench.identity import digest
from bench.metrics.declared_counts import take_pixels, take_protocol
from bench.metrics.peaked import refuse_peaked_rank
from bench.protocol import Protocol
from bench.registry import Registry

if TYPE_CHECKING:
    from bench.engine.case import Case

OUTSIDE = float("inf")
"""An image that does not belong to a value's set (e.g. a large object in the pointing game's
primary set).
"""

ENGINE_VERSION = 1
"""Raised when a change in `bench.engine` changes numbers; part of every metric's id."""

BETTER = ("lower", "higher", "none")
NEEDS = ("boxes", "masks", "truth", "others", "method", "sister")
PAINTS = ("removed", "insertion_start")
"""What a metric can put in place of pixels: what the protocol's `removed` or `insertion_start`
says.
"""
REDUCE = ("mean", "std", "curve", "box_accuracy", "box_sets", "pooled_precision")


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
        peaked: Whether sharpening the maps moves it; then boards mark it and never rank by it.

    Raises:
        BenchError: It is both peaked and ranked.
    """

    name: str
    title: str
    better: str = "higher"
    ranked: bool = True
    lower: float | None = 0.0
    upper: float | None = 1.0
    peaked: bool = False

    def __post_init__(self) -> None:
        refuse_peaked_rank(self.title, self.ranked, self.peaked)


DERIVED = {
    "box_accuracy": Derived("_accuracy", "box accuracy", ranked=False, peaked=True),
    "box_sets": Derived("_accuracy_ranked", "box accuracy of upper sets"),
    "pooled_precision": Derived(
        "_pooled", "pooled pixel average precision", ranked=False, peaked=True
    ),
}
"""{reduce: what boards make of vectors where a value declares nothing}; names are endings."""


@dataclass(frozen=True)
class Value:
    """Facts about one named value of a metric; immutable, shown by boards.

    Args:
        title: for a reader.
        better: "lower", "higher" or "none".
        ranked: whether boards rank by it.
        reduce: how the board gets from images to one number. "mean" and "std" take scalars,
            "box_accuracy" vectors of best IoU per tau, "box_sets" those of `box_sets`,
            "pooled_precision" histograms. A "curve" is drawn.
        lower, upper: the range of the value, or None.
        derived: what boards make of vectors or histograms, see `find_derived`.
        curve: the value that holds the curve of which this one is the area.
        clean_end: the place of the clean image on that curve, 0 or -1.
        peaked: whether sharpening the map moves it (one rising function of max(L,0), the same for
            all images). Boards show it with a mark and never rank by it.

    Raises:
        BenchError: `better` or `reduce` is unknown, or the value is both peaked and ranked.

    Example:
        >>> Value("Deletion", better="lower", ranked=True, lower=0.0, upper=1.0).reduce
        'mean'
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
    peaked: bool = False

    def __post_init__(self) -> None:
        refuse_peaked_rank(self.title, self.ranked, self.peaked)
        if self.better not in BETTER or self.reduce not in REDUCE:
            raise BenchError(
                f"Value {self.title!r}: better must be one of {BETTER} and reduce one of {REDUCE}."
            )


Scores = dict[str, torch.Tensor]
MetricFunction = Callable[["Case"], Scores]


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    Args:
        name: its name, and its family in records.
        function: Case -> {value name: [B] or [B,n]}.
        values: the facts of each value.
        family: "faithfulness", "localization", "threshold", "complexity", ... Localisation explains
            the label, the others explain the prediction.
        needs: any of "boxes", "masks", "truth" (boxes or masks), "others" (another class's
            objects), "method" (it runs the method again) and "sister" (it runs the sister network).
        reads: the protocol fields that it may read.
        version: raised by hand when its numbers change; part of its id.
        standard: whether the default run holds it. The others are costly, or fit few methods or
            subsets.
        parameter: the method's parameter that it is about. It skips methods without one.
        paints: what it puts in place of pixels, one of `PAINTS` or "".

    The comments below describe the other fields.

    Example:
        >>> METRICS.get("deletion").family
        'faithfulness'
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
        usual = (self.family, "standard" if self.standard else "costly")
        return (*usual, "masked") if "sister" in self.needs else usual

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


class MetricOptions(TypedDict, total=False):
    """The options of `register_metric` that `Metric` holds as they are."""

    family: str
    needs: tuple[str, ...]
    reads: tuple[str, ...]
    version: int
    calibrates: bool
    scale_free: bool
    masks: Callable[[Protocol], int]
    settings: Callable[[Protocol], tuple[Any, ...]]
    shared: Callable[[Protocol], Sequence[SharedPart]]
    lengths: Callable[[Protocol, int], Mapping[str, int]]
    standard: bool
    parameter: str
    paints: str
    under: Callable[[Protocol, Value], Value]


def register_metric(
    name: str | None = None,
    *,
    values: Mapping[str, Value] | None = None,
    better: str = "none",
    forwards: Callable[[Protocol, int], int] | Callable[[Protocol], int] | int = 0,
    repeats: Callable[[Protocol], int] | int = 0,
    **options: Unpack[MetricOptions],
) -> Callable[[MetricFunction], MetricFunction]:
    """Register a metric: a function from a `Case` to {value name: [B] or [B,n]}.

    Args:
        name: the metric's name; default: the function's name.
        values: the facts of each value. Without them the metric has one value of its own name.
        better: "lower", "higher" or "none", for that one value. Boards rank it unless "none".
        forwards: per image and map. A number, or a function of the protocol, or of the protocol
            and the image's pixels.
        repeats: how many times the metric runs the method again per image, likewise.
        family: "faithfulness", "localization", ...; default "plugin". A metric of localisation
            explains the label.
        needs: any of `NEEDS`.
        reads: the protocol fields that the function reads.
        version: raise it when the numbers change.
        calibrates: whether it also runs on the calibration images.
        scale_free: whether a positive factor on the map changes nothing. Default: True for
            built-in metrics, but for the cost and for those that need the method.
        masks: how many of the forwards cut unit(L) and mask the image with it.
        settings: the values of `parameter` that it runs the method with.
        shared: the parts that it makes once per image, for all methods.
        lengths: the lengths of the values that are vectors.
        standard: whether the default run holds it; default True.
        parameter: the method's parameter that the metric is about.
        paints: what the metric puts in place of pixels, one of `PAINTS`. Boards mark methods that
            compare an image with the same.
        under: the facts of a value under another protocol.

    Returns:
        A decorator that registers the function and returns it unchanged.

    Raises:
        BenchError: a word of `needs`, `reads` or `paints` is unknown, or a name is taken.

    Example:
        >>> @register_metric("doc_peak", better="higher")
        ... def doc_peak(case):
        ...     return {"doc_peak": case.maps.flatten(1).amax(1)}
        >>> METRICS.remove("doc_peak")
    """
    if callable(name):  # @register_metric without brackets
        return register_metric()(name)  # type: ignore[unreachable]
    given: MetricOptions = {"family": "plugin", **options}

    def register(function: MetricFunction) -> MetricFunction:
        chosen = name or function.__name__
        builtin = is_built_in(function)
        if not builtin:
            note_source(function)
        independent = given["family"] != "cost" and "method" not in given.get("needs", ())
        facts: MetricOptions = {"scale_free": builtin and independent, **given}
        entry = Metric(
            name=chosen,
            function=function,
            values=values
            or {chosen: Value(chosen.replace("_", " "), better=better, ranked=better != "none")},
            builtin=builtin,
            forwards=take_pixels(forwards),
            repeats=take_protocol(repeats),
            **facts,
        )
        _check_metric(entry)
        METRICS.add(entry)
        return function

    return register


def _check_metric(entry: Metric) -> None:
    """Raise BenchError where a word is unknown or a value belongs to another metric."""
    name, fields = entry.name, {field.name for field in dataclasses.fields(Protocol)}
    if entry.paints not in ("", *PAINTS):
        raise BenchError(
            f"paints {entry.paints!r} of metric {name!r} is not one of {', '.join(PAINTS)}."
        )
    for what, given, known in (("needs", entry.needs, set(NEEDS)), ("reads", entry.reads, fields)):
        for word in given:
            if word not in known:
                raise BenchError(f"Metric {name}: {what} has {word!r}.{suggestions(word, known)}")
    for other in METRICS:
        taken = sorted(set(entry.values) & set(other.values))
        if taken and other.name != name:
            raise BenchError(
                f"Metric {name}: the value {taken[0]!r} belongs to the metric {other.name}; rename "
                "it."
            )
