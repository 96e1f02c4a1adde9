"""`cambench claims`: what papers claim beside what the committed records say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from bench.cli.options import JUDGE
from bench.cli.output import console, say, warn
from bench.cli.registration import command

if TYPE_CHECKING:
    from bench.board.claims import CheckedClaim

LEDGER = Path("leaderboards/claims.toml")

EPILOG = """**Examples**

- `cambench claims` - all claims of the ledger, recomputed from the committed records

- `cambench claims --id abs-cam-deletion` - one claim, its source and the command that runs it anew
"""


@command(panel=JUDGE, epilog=EPILOG)
def claims(
    name: Annotated[
        str | None, typer.Option("--id", help="Show one claim with its source and its command.")
    ] = None,
    ledger: Annotated[
        Path, typer.Option(help="Ledger of claims, in the folder of the boards that it reads.")
    ] = LEDGER,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Compare what papers claim with the committed records: claimed, recomputed, verdict."""
    from bench.board.claims import check_claims

    checked = check_claims(ledger, name)
    if as_json:
        table = [one.to_table() for one in checked]
        say(json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False))
        return
    if name is not None:
        for line in describe_claim(checked[0]):
            say(line)
    else:
        print_claims(checked)
    for one in checked:
        if one.misfit:
            warn(one.misfit)


def print_claims(checked: tuple[CheckedClaim, ...]) -> None:
    """Print a row for each claim, and how often each verdict occurs."""
    table = Table(box=None, pad_edge=False)
    for heading in ("claim", "claimed", "recomputed [95 % interval]", "verdict"):
        table.add_column(heading)
    for one in checked:
        table.add_row(one.claim.id, one.claimed, one.recomputed, one.verdict)
    console.print(table)
    verdicts = [one.verdict for one in checked]
    counts = ", ".join(f"{name} {verdicts.count(name)}" for name in dict.fromkeys(verdicts))
    word = "claim" if len(checked) == 1 else "claims"
    say(f"{len(checked)} {word}: {counts}. cambench claims --id NAME shows one in full.")


def describe_claim(one: CheckedClaim) -> list[str]:
    """Return the lines about one claim."""
    claim, query = one.claim, one.claim.query
    lines = [
        f"{claim.id}: {claim.says}",
        f"Source: {claim.source}, {claim.table} ({claim.reference})",
        f"There: {claim.network}; {claim.data}; {claim.protocol}",
        f"Claimed: {one.claimed}",
    ]
    if query is not None and one.numbers is not None:
        other = " ".join(filter(None, (query.against_method, query.against_model)))
        against = f"{other or 'the number'} ({one.numbers.against:.3f})"
        lines += [
            f"Here: {one.numbers.method} on {query.model}, {query.metric} {one.numbers.value:.3f}, "
            f"against {against}; n = {one.numbers.n}; board {query.board}",
            f"Recomputed: {one.recomputed}",
        ]
    lines.append(f"Verdict: {one.verdict}")
    if claim.why:
        lines.append(f"Why: {claim.why}")
    return [*lines, "Command:", f"  {claim.command}"]
