"""The registry of methods, and the decorator that puts a function into it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict, Unpack

from bench.errors import BenchError
from bench.function_source import is_built_in, note_source
from bench.methods import variants
from bench.methods.base import FIDELITY, Method, MethodFunction, Parts, PerModel, PerVariant
from bench.models.explainee import Explainee
from bench.registry import Registry


class MethodRegistry(Registry[Method]):
    """Methods by name, and variants and wrapped methods by address."""

    def __init__(self) -> None:
        super().__init__("method")
        self._wrappers: dict[str, Method] = {}
        self._unlisted: dict[str, str] = {}

    def add_wrapper(self, entry: Method, inner: str, *, listed: bool = True) -> Method:
        """Add a wrapper (`tft`); its bare name means the one around `inner`, which is listed by
        name, too, unless not `listed`.
        """
        self._wrappers[entry.name] = entry
        found = entry.wrap(self.get(inner))
        if not listed:
            self._unlisted[entry.name] = inner
            return found
        return self.add(found)

    @property
    def unlisted(self) -> list[str]:
        """Return the wrappers that no list, group or wildcard holds, around their usual method."""
        return [self.get(name).name for name in self._unlisted]

    def get(self, name: str) -> Method:
        """Return the method of this address; an unknown one is an error with suggestions."""
        address = variants.read_address(name)
        if name in self or address is None:
            return super().get(name)
        if address.base in self._wrappers:
            found = self._wrappers[address.base]
            inner = (
                address.inner
                or self._unlisted.get(address.base)
                or next(m.inner.name for m in self if m.inner and m.base == address.base)
            )
            return found.wrap(self.get(inner)).variant(**address.settings)
        if address.inner:
            raise BenchError(
                f"{name}: {address.base} is not a method that wraps another; those are "
                f"{', '.join(self._wrappers)}."
            )
        return super().get(address.base).variant(**address.settings)

    def _match(self, pattern: str) -> list[str]:
        address = variants.read_address(pattern)
        if address and (address.inner or address.settings or address.base in self._wrappers):
            return [self.get(pattern).name]
        return super()._match(pattern)


METHODS = MethodRegistry()

REFERENCE_WORDS = ("zero", "baseline", "black", "white", "blur")
"""What a method can declare that it compares an image with."""


class MethodOptions(TypedDict, total=False):
    """The options of `register_method`; `Method` has the same fields."""

    group: str
    fidelity: str
    citation: str
    needs: tuple[str, ...]
    fast: bool
    class_agnostic: bool
    forwards: PerModel
    backwards: PerModel
    heads: PerModel
    head_backwards: PerModel
    more_groups: tuple[str, ...]
    parts: Parts
    varies: str
    inner_models: Callable[[Explainee, Mapping[str, Any]], Sequence[Explainee]] | None
    reference: PerVariant
    version: int
    transform: bool
    caveat: str


def register_method(
    name: str | None = None,
    *,
    wraps: str = "",
    around: str = "",
    listed: bool = True,
    **options: Unpack[MethodOptions],
) -> Callable[[MethodFunction], MethodFunction]:
    """Register a method: a function from a `Trace` to maps [B,H,W].

    A higher value is more evidence for the target. An address can set the keyword parameters of
    the function that have defaults (`mine[sigma=2]`).

    Args:
        name: how boards and lists call the method; default: the function's name.
        wraps: the method that this one refines where an address names none. The function then
            takes (trace, inner).
        around: the one method that this one refines always. The function takes (trace, inner), and
            the method keeps its own name.
        listed: whether lists, groups and wildcards hold a wrapper around `wraps`; default True.
        group: the group that lists can name it by; default "plugin".
        fidelity: one of `FIDELITY`; default "unstated".
        citation: the paper, for a reader.
        needs: ("truth",) where the method reads ground truth.
        fast: whether a few forwards are enough; default True.
        class_agnostic: whether the map ignores the target.
        forwards, backwards: whole passes per image beyond the shared one. A number, or a function
            of the model and the parameters.
        heads, head_backwards: replays and backwards of the head per image, likewise.
        more_groups: other groups that lists can name it by.
        parts: the shared parts that it reads, with their work.
        varies: why the number of forwards depends on the image. `forwards` is then the maximum.
        inner_models: the models that a wrapper runs the inner method on, for plans.
        reference: what the map compares an image with, one of `REFERENCE_WORDS`, or a function of
            the parameters that returns one. Boards mark values that paint with the same.
        version: of a built-in method; raise it when the method's numbers change.
        transform: whether a wrapper reads the other method's map and nothing else of the trace's
            network. A run then makes that map once.
        caveat: what a reader must know wherever boards rank it.

    Returns:
        A decorator that registers the function and returns it unchanged.

    Raises:
        BenchError: `fidelity` or `reference` is unknown, or the name is taken.

    Example:
        >>> @register_method("doc_sum", citation="nobody, never")
        ... def doc_sum(trace, *, power=1.0):
        ...     return trace.upsample((trace.activations**power).sum(1))
        >>> METHODS.get("doc_sum[power=2]").parameters
        {'power': 2.0}
        >>> METHODS.remove("doc_sum")
    """
    if callable(name):  # @register_method without brackets
        return register_method()(name)  # type: ignore[unreachable]
    facts: MethodOptions = {"group": "plugin", "fidelity": "unstated", **options}
    _check_options(name, facts["fidelity"], facts.get("reference", ""))

    def register(function: MethodFunction) -> MethodFunction:
        entry = Method(name or function.__name__, function, **facts)
        if not is_built_in(function):
            note_source(function)
        if wraps:
            METHODS.add_wrapper(entry, wraps, listed=listed)
        elif around:
            METHODS.add(replace(entry.wrap(METHODS.get(around)), name=entry.name))
        else:
            METHODS.add(entry)
        return function

    return register


def _check_options(name: str | None, fidelity: str, reference: PerVariant) -> None:
    """Raise BenchError where a word is none of those that the option can be."""
    if fidelity not in FIDELITY:
        raise BenchError(
            f"fidelity {fidelity!r} of method {name!r} is not one of {', '.join(FIDELITY)}."
        )
    if not callable(reference) and reference not in ("", *REFERENCE_WORDS):
        raise BenchError(
            f"reference {reference!r} of method {name!r} is not one of "
            f"{', '.join(REFERENCE_WORDS)}."
        )
