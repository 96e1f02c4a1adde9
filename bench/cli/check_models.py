"""`cambench list models --check`: which timm architectures can be explained."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from bench.cli.output import say, stoppable
from bench.folder_owner import own_file
from bench.health.timm_coverage import Row, run, select, summary
from bench.progress import show_steps


def check_models(pattern: str, out: Path | None, limit: float) -> None:
    """Check timm architectures; print each one when it is done, with the reason if it fails."""
    names = select(pattern)
    rows: list[Row] = []
    kept = f"; {out} keeps what is done, and the same command goes on" if out else ""
    with (
        stoppable(f"Stopped{kept}."),
        nullcontext() if out is None else own_file(out, "check of models"),
        show_steps() as report,
    ):
        for row in run(names, out, limit, lambda done, total, what: report(what, done, total)):
            rows.append(row)
            facts = (
                row.parameters + "M",
                row.size + "px",
                row.layer,
                row.grid,
                row.in_place,
                row.seconds + "s",
            )
            say(f"{row.name}: {row.reason or ' '.join(facts)}")
    say(summary(rows))
