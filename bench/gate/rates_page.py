"""The page of the gate's error rates: `error-rates.md` and its CSV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from bench.files import replaced_file
from bench.gate.judge import BETTER, CHANGED, REGRESSION
from bench.gate.rates import VERDICTS, Study
from bench.records.provenance import code_version


def is_as_expected(planted: dict[str, Any]) -> bool:
    """Tell whether the gate said of a planted defect what it must say."""
    if planted["expected"] == REGRESSION:
        return bool(planted["exit_code"] == 1)
    changed = planted[CHANGED] + planted[BETTER] > 0
    return not planted["expected"] or bool(planted["exit_code"] == 0 and changed)


def write_rates(found: dict[str, list[dict[str, Any]]], study: Study, folder: Path) -> None:
    """Write `error-rates.csv` and `error-rates.md`."""
    rows = [{"part": part, **one} for part, several in found.items() for one in several]
    table = pd.DataFrame(rows).drop(columns=["settings", "found"], errors="ignore")
    with replaced_file(folder / "error-rates.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    with replaced_file(folder / "error-rates.md") as temporary:
        temporary.write_text("\n".join(write_page_lines(found, study)) + "\n", encoding="utf-8")


RUN_COLUMNS = ("exit code", *VERDICTS, "largest loss")
"""Columns of a judged run, filled by `list_run_cells`."""

NULL_COLUMNS = (
    *("null", "cells", "images", "resamples", "false alarms", "rate (95 % upper bound)"),
    *("cells passed", "cells open"),
)


def write_page_lines(found: dict[str, list[dict[str, Any]]], study: Study) -> Iterator[str]:
    """Yield the lines of the page."""
    yield from write_head(study)
    yield from write_resampled(found["resampled"])
    yield from write_reruns(found["reruns"])
    yield from write_planted(found["planted"])


def write_head(study: Study) -> Iterator[str]:
    """Yield the page's title, and the settings that its rates are for."""
    rules = study.rules
    yield "# Error rates of the gate"
    yield ""
    yield (
        "Made by `cambench gate-rates --out leaderboards/gate`, not by hand; docs/gate.md "
        "explains the words."
    )
    limit = f" --limit {study.limit}" if study.limit else ""
    yield (
        f"Tier: `cambench run --tier gate{limit}`. Margin {rules.margin:.0%} of the distance from "
        f"random, family-wise alpha {rules.alpha:.0%}, miss {rules.miss:.0%}. Code "
        f"{code_version()}."
    )
    yield ""


def write_resampled(nulls: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the part on resampled runs without a true difference."""
    yield "## Nothing is wrong: resampled"
    yield ""
    yield (
        "Images of two runs are drawn with replacement and the two exchanged by a coin per image, "
        "so that the true difference is 0. *At the margin*: then every cell is made worse by "
        "exactly the margin, the hardest case that is no regression; there alpha is what the rate "
        "may reach."
    )
    yield ""
    body: list[tuple[Any, ...]] = [
        (
            f"{one['title']}{', at the margin' * one['at_the_margin']}",
            *(one[key] for key in ("cells", "images", "resamples", "false_alarms")),
            f"{one['rate']:.2%} ({one['rate_upper']:.2%})",
            f"{one['cells_passed']:.1%}",
            f"{one['cells_unjudged']:.1%}",
        )
        for one in nulls
    ]
    yield from write_table_lines(NULL_COLUMNS, body)


def write_reruns(reruns: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the part on real re-runs in which nothing is wrong."""
    yield "## Nothing is wrong: re-run"
    yield ""
    alarms = sum(one["exit_code"] == 1 for one in reruns)
    yield f"{alarms} false alarms in {len(reruns)} real re-runs of the tier."
    yield ""
    body = [(one["title"], *list_run_cells(one)) for one in reruns]
    yield from write_table_lines(("re-run", *RUN_COLUMNS), body)


def write_planted(planted: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the part on real re-runs with a planted defect."""
    yield "## Something is wrong: planted"
    yield ""
    wanted = [one for one in planted if one["expected"]]
    yield (
        f"{sum(map(is_as_expected, wanted))} of {len(wanted)} planted changes are judged as they "
        "must be."
    )
    yield ""
    body = [
        (
            one["title"],
            {REGRESSION: "exit 1", CHANGED: "exit 0, changed", "": "(shown)"}[one["expected"]],
            *list_run_cells(one),
            ("yes" if is_as_expected(one) else "**no**") if one["expected"] else "",
            write_found_by(one["found"]),
        )
        for one in planted
    ]
    header = ("planted", "must be", *RUN_COLUMNS, "as it must be", "found by")
    yield from write_table_lines(header, body)


def list_run_cells(one: dict[str, Any]) -> tuple[Any, ...]:
    """Return a run's exit code, cells by verdict, and largest loss in % of the distance from
    random.
    """
    return (
        one["exit_code"],
        *(one[verdict] for verdict in VERDICTS),
        f"{min(100 * one['worst_change'], 0) + 0.0:.1f} %",
    )


def write_found_by(names: list[str]) -> str:
    """Write the cells that saw a regression, at most three."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def write_table_lines(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Iterator[str]:
    """Yield the lines of a table and an empty one."""
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for one in rows:
        yield "| " + " | ".join(str(cell).replace("|", "\\|") for cell in one) + " |"
    yield ""
