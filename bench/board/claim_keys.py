"""The keys of the claims ledger `leaderboards/claims.toml`: what each means, and its type."""

from __future__ import annotations

from typing import Literal

from bench.schema import Keys, describe_key

TEXT, NUMBER = "text", "a number"


class QueryKeys(Keys):
    """The keys of a claim's query: which committed numbers answer it.

    The number of one method is compared with another method's, with the same method's on another
    model, or with a number.
    """

    board: str = describe_key(..., TEXT, "folder of a committed board, beside the ledger")
    model: str = describe_key(..., TEXT, "model of the board")
    method: str = describe_key(..., TEXT, "method of the board")
    metric: str = describe_key(..., TEXT, "value of the board, or top1")
    expects: Literal["higher", "lower", "equal"] = describe_key(
        ..., "", "how the number lies to the one it is compared with"
    )
    against_method: str = describe_key("", TEXT, "method it is compared with; else the same")
    against_model: str = describe_key("", TEXT, "model it is compared with; else the same")
    against: int | float | None = describe_key(
        None, NUMBER, "number it is compared with, where it is no method's; else the claim's value"
    )
    margin: int | float = describe_key(
        0, NUMBER, "difference up to which numbers count as equal (expects equal)"
    )


class ClaimKeys(Keys):
    """The keys of a claim."""

    id: str = describe_key(..., TEXT, "short name of the claim")
    says: str = describe_key(..., TEXT, "the claim, in one sentence")
    source: str = describe_key(..., TEXT, "paper or repository")
    reference: str = describe_key(..., TEXT, "where to find it: arXiv, DOI or address")
    table: str = describe_key(..., TEXT, "table, figure or section; or abstract")
    network: str = describe_key(..., TEXT, "the source's network")
    data: str = describe_key(..., TEXT, "the source's images")
    protocol: str = describe_key(..., TEXT, "how the source measures")
    value: int | float | None = describe_key(
        None, NUMBER, "the source's number; missing where only the direction is known"
    )
    focus: str = describe_key("", TEXT, "the system of the suite that the claim is about")
    status: Literal["recomputed", "differs", "cannot be"] = describe_key(
        ..., "", "what the committed records say of it"
    )
    why: str = describe_key("", TEXT, "why it differs, or why it cannot be recomputed")
    command: str = describe_key(..., TEXT, "command that makes the records anew")
    query: QueryKeys | None = describe_key(
        None, "a table with board, model, method, metric and expects", "the numbers that answer it"
    )
