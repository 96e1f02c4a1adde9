"""Claims of papers beside what the committed records say: holds, differs, not shown, cannot be."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.board.claim_file import CANNOT, read_claims, select_claims
from bench.board.claim_keys import ClaimKeys, QueryKeys
from bench.board.claim_numbers import Recomputed, recompute
from bench.errors import BenchError

HOLDS, DIFFERS, NOT_SHOWN = "holds", "differs", "not shown"

STATUS = {HOLDS: "recomputed", NOT_SHOWN: "recomputed", DIFFERS: "differs", CANNOT: CANNOT}
"""The status that a ledger must give a claim, by its verdict."""


@dataclass(frozen=True)
class CheckedClaim:
    """A claim, what the records say of it, and the verdict."""

    claim: ClaimKeys
    numbers: Recomputed | None
    verdict: str

    @property
    def claimed(self) -> str:
        """Return the claim in short: its number, or how the source's numbers lie."""
        if self.claim.value is not None:
            return f"{self.claim.value:g}"
        query = self.claim.query
        return "in words" if query is None else query.expects

    @property
    def recomputed(self) -> str:
        """Return the recomputed difference with its interval; the number itself, where the claim
        is a number.
        """
        found, query = self.numbers, self.claim.query
        if found is None or query is None:
            return "-"
        if query.against_method or query.against_model:
            shown = (found.difference, found.low, found.high)
            return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*shown)
        ends = (found.value, found.low + found.against, found.high + found.against)
        return "{:.3f} [{:.3f}, {:.3f}]".format(*ends)

    @property
    def misfit(self) -> str:
        """Return a sentence where the ledger's status is not what the records say, else ""."""
        wanted = STATUS[self.verdict]
        if self.claim.status == wanted:
            return ""
        return (
            f'The ledger gives {self.claim.id} the status "{self.claim.status}", and by the '
            f'records it {self.verdict}; write status = "{wanted}".'
        )

    def to_table(self) -> dict[str, Any]:
        """Return the claim, its numbers and its verdict as plain values, for JSON."""
        numbers = None if self.numbers is None else dataclasses.asdict(self.numbers)
        return {**self.claim.model_dump(), "recomputed": numbers, "verdict": self.verdict}


def check_claims(ledger: Path, name: str | None = None) -> tuple[CheckedClaim, ...]:
    """Recompute the claims of a ledger from the boards beside it.

    Args:
        ledger: The TOML file, in the folder of the boards.
        name: Id of the only claim to check; None checks all.

    Returns:
        Each claim with its numbers and verdict, in the ledger's order.

    Raises:
        BenchError: the ledger is wrong, or a query asks for what no board has.
    """
    chosen = select_claims(read_claims(ledger), name)
    return tuple(_check_claim(claim, ledger.parent) for claim in chosen)


def _check_claim(claim: ClaimKeys, folder: Path) -> CheckedClaim:
    if claim.query is None:
        return CheckedClaim(claim, None, CANNOT)
    numbers = recompute(claim.query, folder, claim.value, f"The claim {claim.id}")
    return CheckedClaim(claim, numbers, judge_difference(claim.query, numbers.low, numbers.high))


def judge_difference(query: QueryKeys, low: float, high: float) -> str:
    """Return the verdict on the interval of a difference.

    Args:
        query: What the claim expects of the difference.
        low: Lower end of its 95 % interval.
        high: Upper end.

    Raises:
        BenchError: there is no interval.
    """
    if low != low or high != high:
        raise BenchError(
            f"{query.method} has no interval in {query.metric} on {query.board}; a claim needs at "
            "least two images."
        )
    if query.expects == "equal":
        if -query.margin <= low and high <= query.margin:
            return HOLDS
        return DIFFERS if low > query.margin or high < -query.margin else NOT_SHOWN
    if query.expects == "lower":
        low, high = -high, -low
    return HOLDS if low > 0 else DIFFERS if high < 0 else NOT_SHOWN
