"""Failed parts: methods and metrics that raised, or were refused, and why; run.json keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

FAILED = "failed"
"""Key of run.json: {model: {"method" or "metric": {name: reason}}}."""

Failures = dict[str, dict[str, dict[str, str]]]
"""What run.json holds under `FAILED`."""


def note_failure(provenance: dict[str, Any], model: str, kind: str, name: str, reason: str) -> bool:
    """Note a failure in run.json's content; return whether it is the first of this name."""
    known = provenance.setdefault(FAILED, {}).setdefault(model, {}).setdefault(kind, {})
    first = name not in known
    known.setdefault(name, reason)
    return first


def describe_failed(model: str, kind: str, name: str, reason: str) -> str:
    """Return what a reader must know of a failure.

    >>> describe_failed("vit", "method", "mine", "it failed on a.jpg (ValueError: no edges)")
    'mine is n/a on vit: it failed on a.jpg (ValueError: no edges).'
    """
    what = f"the metric {name}" if kind == "metric" else name
    return f"{what} is n/a on {model}: {reason}."


def list_failed(provenance: Mapping[str, Any]) -> Iterator[str]:
    """Yield the sentence of each failure that run.json holds."""
    for model, kinds in sorted(provenance.get(FAILED, {}).items()):
        for kind, found in sorted(kinds.items(), reverse=True):
            for name, reason in sorted(found.items()):
                yield describe_failed(model, kind, name, reason)


def keep_failures(old: Mapping[str, Any], new: Mapping[str, Any]) -> Failures:
    """Return the failures of an earlier run that the new one does not try again."""
    kept: Failures = {}
    for model, kinds in old.get(FAILED, {}).items():
        for kind, found in kinds.items():
            names = {facts.get("metric", name) for name, facts in new["metrics"].items()}
            again = {*new["methods"]} if kind == "method" else names
            rest = {
                name: reason
                for name, reason in found.items()
                if model not in new["models"] or name not in again
            }
            if rest:
                kept.setdefault(model, {})[kind] = rest
    return kept


def join_failures(several: list[dict[str, Any]]) -> Failures:
    """Return the failures of several finished runs."""
    joined: dict[str, Any] = {}
    for provenance in several:
        for model, kinds in provenance.get(FAILED, {}).items():
            for kind, found in kinds.items():
                for name, reason in found.items():
                    note_failure(joined, model, kind, name, reason)
    failures: Failures = joined.get(FAILED, {})
    return failures
