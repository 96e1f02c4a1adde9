"""What methods and metrics of one batch share, as it was before a plug-in could reach it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.engine.background import Background
from bench.engine.case import Case
from bench.engine.part_store import PartStore
from bench.engine.prober import Prober
from bench.engine.probes import Probes
from bench.engine.trace import Trace
from bench.function_source import is_built_in
from bench.models.held_tensors import HeldTensor, can_hold
from bench.models.split import Captured
from bench.types import Truth

_WALKED = (Trace, Captured, Truth, Case, Background, Probes, Prober)
"""Types whose attributes are shared; what else is reached keeps what it holds."""

_OWN_WAY = ("counts", "_buffer", "_compiled", "asked", "probed", "read")
"""Attributes that go on counting, or that everybody writes before reading."""


class SharedState:
    """Tensors, tables and attributes that are reached from a trace or a case.

    Args:
        roots: traces, cases and probers, in the order in which changes are named.
    """

    def __init__(self, *roots: object) -> None:
        self._tables: dict[int, tuple[dict[Any, Any], dict[Any, Any], str]] = {}
        self._held: dict[int, tuple[HeldTensor, str]] = {}
        self._stores: list[PartStore | Background] = []
        self._cases = [root for root in roots if isinstance(root, Case)]
        for root in roots:
            self._enter(root, _name(root), trace=True)

    def watch(self) -> None:
        """Hold the shared parts too that are made from now on, as they are when they are made."""
        for store in self._stores:
            store.watch = self._note_part

    def find_changes(self) -> list[str]:
        """Return what was written or put in the place of another, in words."""
        for store in self._stores:
            store.watch = None
        written = [words for held, words in self._held.values() if not held.is_same()]
        replaced = [
            f"{words}{'' if isinstance(key, tuple) else f' {key}'}"
            for live, copy, words in self._tables.values()
            for key, value in copy.items()
            if _is_shared(value) and live.get(key, value) is not value
        ]
        return list(dict.fromkeys([*written, *replaced]))

    def restore(self) -> None:
        """Put everything back; what was added since goes."""
        for store in self._stores:
            store.watch = None
        for live, copy, _ in self._tables.values():
            own = {key: live[key] for key in _OWN_WAY if key in live}
            live.clear()
            live.update({**copy, **own})
        for held, _ in self._held.values():
            if not held.is_same():
                held.put_back()
        self.restore_flags()

    def restore_flags(self) -> None:
        """Put back whether tensors take part in gradients, and how many images a batch has."""
        for held, _ in self._held.values():
            held.put_flags_back()
        for live, copy, _ in self._tables.values():
            if "batch_size" in copy:
                live.update({key: copy[key] for key in ("batch_size", "model")})

    def forget_views(self) -> None:
        """Drop the views of a map that were made since; the next reader makes its own."""
        for case in self._cases:
            live, copy, _ = self._tables[id(vars(case))]
            for key in [key for key in live if key not in copy]:
                del live[key]
            for one in live.values():
                if isinstance(one, dict) and id(one) in self._tables:
                    one.clear()
                    one.update(self._tables[id(one)][1])

    def _note_part(self, name: str, value: Any, make: Callable[..., Any] | None) -> None:
        """Hold a part that cambench has made; a plug-in may write into what it has made itself."""
        if make is None or is_built_in(make):
            self._enter(value, f"the shared {name}")

    def _enter(self, value: Any, words: str, *, trace: bool = False) -> None:
        """Hold a value and what is in it; other traces, of which there may be dozens, are not."""
        if can_hold(value):
            if id(value) not in self._held:
                self._held[id(value)] = HeldTensor(value), words
        elif type(value) is dict:
            self._enter_table(value, words)
        elif isinstance(value, (list, tuple, Mapping)):
            for one in value.values() if isinstance(value, Mapping) else value:
                self._enter(one, words)
        elif isinstance(value, _WALKED) and (trace or not isinstance(value, Trace)):
            if isinstance(value, (PartStore, Background)) and value not in self._stores:
                self._stores.append(value)
            self._enter_table(vars(value), _name(value))

    def _enter_table(self, table: dict[Any, Any], words: str) -> None:
        if id(table) in self._tables:
            return
        self._tables[id(table)] = table, dict(table), words
        for key, value in [*table.items()]:
            if not isinstance(value, (int, float, str)) and key not in _OWN_WAY:
                named = isinstance(key, str) and key not in ("_shared", "captured")
                inner = f"{words} {key.strip('_')}" if named else words
                self._enter(value, inner, trace=key == "trace")


def _name(root: object) -> str:
    named = {Case: "the case's", Background: "the background's", Prober: "the prober's"}
    return next((words for kind, words in named.items() if isinstance(root, kind)), "the trace's")


def _is_shared(value: Any) -> bool:
    """Return whether an attribute must stay the object that it is."""
    return can_hold(value) or isinstance(value, (Captured, Truth, Background, Prober, Trace))
