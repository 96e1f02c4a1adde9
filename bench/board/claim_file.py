"""The claims ledger: a TOML file of what papers and repositories claim, checked when it is read."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from bench.board.claim_keys import ClaimKeys, QueryKeys
from bench.errors import BenchError, suggestions
from bench.schema import check_table
from bench.toml_file import read_toml

TABLE = "claim"
"""The name of the tables of a ledger: `[[claim]]`."""
CANNOT = "cannot be"


def read_claims(file: Path) -> tuple[ClaimKeys, ...]:
    """Return the claims of a ledger, in its order.

    Args:
        file: The TOML file.

    Raises:
        BenchError: it cannot be read, or something in it is wrong: one sentence on the first.
    """
    advice = "run the command in a clone of cambench, or give the path with --ledger"
    content = read_toml(file, "The ledger of claims", advice)
    for key in content:
        if key != TABLE:
            known = suggestions(key, [TABLE])
            raise BenchError(f"The ledger of claims {file} has the unknown key {key!r}.{known}")
    tables = content.get(TABLE, [])
    if not isinstance(tables, list) or not tables:
        raise BenchError(f"The ledger of claims {file} holds no claim; add a table [[{TABLE}]].")
    claims = tuple(_read_claim(table, number) for number, table in enumerate(tables, start=1))
    twice = [name for name, count in Counter(claim.id for claim in claims).items() if count > 1]
    if twice:
        raise BenchError(f"Two claims of {file} have the id {twice[0]!r}; give each its own.")
    return claims


def select_claims(claims: tuple[ClaimKeys, ...], name: str | None) -> tuple[ClaimKeys, ...]:
    """Return the claim of an id, or all where no id is given; an unknown id is a BenchError."""
    if name is None:
        return claims
    found = tuple(claim for claim in claims if claim.id == name)
    if not found:
        known = suggestions(name, [claim.id for claim in claims])
        raise BenchError(f"There is no claim {name!r} in the ledger.{known}")
    return found


def _read_claim(table: object, number: int) -> ClaimKeys:
    """Return a claim whose keys fit each other."""
    name = table.get("id") if isinstance(table, dict) else None
    where = f"The claim {name}" if isinstance(name, str) and name else f"Claim {number}"
    claim = check_table(ClaimKeys, table, where)
    _check_numbers(claim, where)
    if claim.status == CANNOT:
        if claim.query is not None:
            raise BenchError(
                f'{where} has the status "{CANNOT}" and a query; remove the query, or correct the '
                "status."
            )
        if not claim.why:
            raise BenchError(f'{where} has the status "{CANNOT}" and no why; add the reason.')
    elif claim.query is None:
        raise BenchError(
            f'{where} has the status "{claim.status}" and no query; add the table [claim.query].'
        )
    else:
        _check_query(claim.query, claim, where)
    return claim


def _check_numbers(claim: ClaimKeys, where: str) -> None:
    """Refuse numbers that are none: TOML knows nan and inf."""
    query = claim.query
    given = {"value": claim.value} | (
        {} if query is None else {"against": query.against, "margin": query.margin}
    )
    for key, number in given.items():
        if number is not None and not math.isfinite(number):
            raise BenchError(f"{where} has {key} = {number}; it must be a finite number.")


def _check_query(query: QueryKeys, claim: ClaimKeys, where: str) -> None:
    """Refuse a query that compares with two things, with nothing, or with itself."""
    place = Path(query.board)
    if place.is_absolute() or ".." in place.parts or not query.board:
        raise BenchError(
            f"{where} reads the board {query.board!r}; give the name of a folder beside the ledger."
        )
    named = bool(query.against_method or query.against_model)
    if named and query.against is not None:
        raise BenchError(
            f"{where} compares with a number and with a method or model; keep one of the two."
        )
    if not named and query.against is None and claim.value is None:
        raise BenchError(
            f"{where} compares with nothing; add a value, against, against_method or against_model."
        )
    own = (query.method, query.model)
    if named and own == (query.against_method or own[0], query.against_model or own[1]):
        raise BenchError(f"{where} compares {query.method} with itself; name another.")
    if (query.expects == "equal") != (query.margin > 0):
        raise BenchError(
            f"{where} expects {query.expects} with the margin {query.margin:g}; a margin above 0 "
            'belongs to expects = "equal" and to nothing else.'
        )
