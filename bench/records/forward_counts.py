"""The ledger of a run: how many forwards were asked for, how many were run, and why the others were
not.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.engine.counts import Asked, Counts

FIELDS = ("asked", "run", "equal_maps", "equal_probes")


def describe_forwards(asked: Asked, counts: Counts) -> dict[str, int]:
    """Return the ledger as run.json has it: whole forwards in images, of all models."""
    values = (asked.everything, counts.forwards, asked.equal_maps, asked.equal_probes)
    return dict(zip(FIELDS, values, strict=True))


def add_forwards(one: Mapping[str, int] | None, two: Mapping[str, int] | None) -> dict[str, int]:
    """Return the sum of two ledgers: of a run and what was added to it, or of two shards; None is
    an empty one.
    """
    return {
        name: sum(int(ledger.get(name, 0)) for ledger in (one or {}, two or {})) for name in FIELDS
    }


def write_forwards(ledger: Mapping[str, int]) -> str:
    """Return what the ledger says to a reader.

    >>> counts = {"asked": 1000, "run": 600, "equal_maps": 200, "equal_probes": 50}
    >>> print(write_forwards(counts).replace("; ", "\\n"))
    1,000 forwards were asked for and 600 were run
    spared: equal maps 200, equal rankings and masks 50, shared passes and ends of curves 150.
    """
    asked, run, maps, probes = (ledger[name] for name in FIELDS)
    shared = max(0, asked - run - maps - probes)
    return (
        f"{asked:,} forwards were asked for and {run:,} were run; spared: equal maps {maps:,}, "
        f"equal rankings and masks {probes:,}, shared passes and ends of curves {shared:,}."
    )
