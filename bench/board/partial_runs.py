"""Partial runs: a board of half a run says so, and is published only where that is wanted."""

from __future__ import annotations

from pathlib import Path

from bench.errors import BenchError
from bench.records.planned_work import PARTIAL, describe_absent
from bench.records.store import Records


def note_partial(records: Records) -> Records:
    """Return records whose run.json says what is absent of what was planned."""
    sentences = describe_absent(records.frame, records.provenance)
    facts = {key: value for key, value in records.provenance.items() if key != PARTIAL}
    return Records(records.frame, {**facts, **({PARTIAL: sentences} if sentences else {})})


def refuse_partial(records: Records, place: str | Path, purpose: str) -> None:
    """Refuse half a run.

    Args:
        records: of the run, see `note_partial`.
        place: where the run is.
        purpose: what it was to be used for, as an infinitive.

    Raises:
        BenchError: something that was planned is absent.
    """
    refuse_sentences(records.provenance.get(PARTIAL, ()), place, purpose)


def refuse_sentences(sentences: object, place: str | Path, purpose: str) -> None:
    """Refuse half a run by what was said of it; see `refuse_partial`."""
    said = [*sentences] if isinstance(sentences, (list, tuple)) else []
    if said:
        what = " ".join(sentence.removeprefix("PARTIAL: ") for sentence in said)
        raise BenchError(
            f"The run at {place} is not whole: {what.rstrip('.')}; or add --partial to {purpose} "
            "as it is."
        )
