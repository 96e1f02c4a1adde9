"""Write the taus of the degradation ladder of some runs into docs/ladder-taus.md.

    python tools/write_ladder_taus.py docs/ladder-taus.md RUN...

Each RUN is a folder that `cambench health` has looked at.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

from bench.board.text import code_block
from bench.health.ladder import LadderResult
from bench.health.ladder_report import EXPLANATION, list_ladder_rows


def list_lines(runs: list[Path], command: str) -> list[str]:
    """Return the lines of the page: a table for each run and subset."""
    lines = [
        "# Taus of the degradation ladder",
        "",
        "A command wrote this page from the health.json of each run:",
        "",
        code_block(command),
        "",
        EXPLANATION,
        "",
    ]
    for run in runs:
        told = json.loads((run / "health.json").read_text())
        found = [read_verdict(one) for one in told["verdicts"] if one.get("ladder")]
        for subset in dict.fromkeys(one.subset for one in found):
            lines += [f"## {subset}", "", code_block(told["command"]), ""]
            lines += list_ladder_rows([one for one in found if one.subset == subset])
    return lines


def read_verdict(facts: dict[str, object]) -> SimpleNamespace:
    """Return a verdict of health.json with its ladder; a missing number is NaN."""
    ladder = {
        key: float("nan") if value is None and key != "orders" else value
        for key, value in dict(facts["ladder"]).items()  # type: ignore[call-overload]
    }
    return SimpleNamespace(**{**facts, "ladder": LadderResult(**ladder)})


if __name__ == "__main__":
    page, *given = sys.argv[1:]
    command = " ".join(["python tools/write_ladder_taus.py", page, *given])
    Path(page).write_text("\n".join(list_lines([Path(run) for run in given], command)) + "\n")
