"""The same maps under several protocols: how each method's rank moves when only the definition of a
metric does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.board.board import Board, leaderboard
from bench.board.tables import write_csv, write_text
from bench.board.text import FIDELITY, interval, markdown, number, short_fidelity
from bench.data import Subset
from bench.errors import BenchError
from bench.files import write_json
from bench.health.checks import order_tau
from bench.health.grid import Report, run_grid
from bench.models.explainee import Explainee
from bench.protocol import Protocol, get_protocol
from bench.records.provenance import code_version
from bench.run.plan import Plan, make_plan

PARTS = "parts"
"""Folder of the protocols' run folders."""

RESAMPLES = 2_000
"""Resamples behind an interval here: tables of a dozen boards, not one."""

COLUMNS = [
    "subset",
    "model",
    "metric",
    "better",
    "protocol",
    "method",
    "n",
    "mean",
    "low",
    "high",
    "rank",
    "moved",
]


@dataclass(frozen=True)
class ProtocolComparison:
    """Ranks of methods under several protocols.

    frame: `COLUMNS`, one row per (model, metric, protocol, method); moved = rank - rank under the
    first protocol. taus: model, metric, protocol, tau (Kendall's tau-b to the first protocol's
    order, controls left out), methods. protocols: their names, the first one the reference, with
    their ids.
    """

    frame: pd.DataFrame
    taus: pd.DataFrame
    protocols: dict[str, str]
    fidelity: dict[str, str]

    @property
    def reference(self) -> str:
        """Return the first protocol's name, with which the others are compared."""
        return next(iter(self.protocols))

    def taus_in_words(self) -> list[str]:
        """Return one sentence per metric: how alike each protocol orders the methods."""
        lines = []
        for (model, metric), rows in self.taus.groupby(["model", "metric"], sort=True):
            parts = [f"{row['protocol']} {number(row['tau'])}" for row in rows.to_dict("records")]
            lines.append(
                f"{model}, {metric}: Kendall's tau to {self.reference}: {', '.join(parts)}"
            )
        return lines


def compare_protocols(
    subset: Subset,
    models: Sequence[Explainee],
    methods: str | Sequence[str],
    metrics: str | Sequence[str],
    protocols: Sequence[str | Protocol],
    out: Path | None,
    *,
    command: str = "",
    report: Report | None = None,
) -> ProtocolComparison:
    """Score every method's maps, made once, under several protocols, and write the tables.

    out: folder for protocols.md, protocols.csv and taus.csv; its parts/ keep what is done, so that
    the same call goes on. None: nothing is written.  Maps that explain another class (label instead
    of prediction) are made once as well.
    """
    rules = name_protocols(protocols)
    plans = {
        name: make_plan(subset, models, methods, metrics, protocol)
        for name, protocol in rules.items()
    }
    # The same maps need the same frames: where a protocol would squash them, the first one's are
    # taken all the same.
    frames = next(iter(plans.values())).geometry
    plans = {name: dataclasses.replace(plan, geometry=frames) for name, plan in plans.items()}
    done = run_grid(plans, None if out is None else out / PARTS, report)
    boards = {name: leaderboard(records, resamples=RESAMPLES) for name, records in done.items()}
    made = compare_boards(boards)
    if out is not None:
        write(made, plans, out, command)
    return made


def name_protocols(protocols: Sequence[str | Protocol]) -> dict[str, Protocol]:
    """Return the protocols by name; fewer than two, or two of one name, cannot be compared."""
    found: dict[str, Protocol] = {}
    for one in protocols:
        protocol = get_protocol(one)
        name = one if isinstance(one, str) else protocol.name
        if name in found:
            raise BenchError(f"The protocol {name} is there twice; give each one once.")
        found[name] = protocol
    if len(found) < 2:
        raise BenchError(
            "A comparison needs at least two protocols; name them with --protocols A,B."
        )
    return found


def compare_boards(boards: dict[str, Board]) -> ProtocolComparison:
    """Return the ranks of several boards of the same maps beside each other; the first board is the
    reference.
    """
    first = next(iter(boards))
    parts = [
        board.frame[board.frame["better"] != "none"].assign(protocol=name)
        for name, board in boards.items()
    ]
    rows = pd.concat(parts, ignore_index=True)
    rows = rows[~rows["metric"].str.contains("@") & (rows["family"] != "cost")]
    everywhere = rows.groupby("metric")["protocol"].nunique()
    rows = rows[rows["metric"].isin(everywhere[everywhere > 1].index)]
    rows = rows[rows["rank"].notna()]
    key = ["subset", "model", "metric", "method"]
    base = rows.loc[rows["protocol"] == first, [*key, "rank"]]
    rows = rows.merge(base, on=key, how="left", suffixes=("", "_first"))
    rows["moved"] = rows["rank"] - rows["rank_first"]
    board = boards[first]
    fidelity = {
        str(m): short_fidelity(f)
        for m, f in zip(board.frame["method"], board.frame["fidelity"], strict=True)
    }
    ids = {name: str(one.provenance["protocol"]["id"]) for name, one in boards.items()}
    return ProtocolComparison(
        rows[COLUMNS].reset_index(drop=True), _taus(rows, first), ids, fidelity
    )


def _taus(rows: pd.DataFrame, first: str) -> pd.DataFrame:
    """Return Kendall's tau-b of each protocol's order to the first one's; controls and repeated
    maps are left out.
    """
    rows = rows[~rows["control"] & (rows["equal_to"] == "")]
    found = []
    for (model, metric), table in rows.groupby(["model", "metric"], sort=True):
        orders = {
            str(p): part.set_index("method")["rank"]
            for p, part in table.groupby("protocol", sort=False)
        }
        for name, order in orders.items():
            if name != first and first in orders:
                tau, count = order_tau(order, orders[first])
                found.append(
                    {
                        "model": model,
                        "metric": metric,
                        "protocol": name,
                        "tau": tau,
                        "methods": count,
                    }
                )
    return pd.DataFrame(found, columns=["model", "metric", "protocol", "tau", "methods"])


# --- files


def write(made: ProtocolComparison, plans: dict[str, Plan], out: Path, command: str) -> None:
    """Write protocols.md, protocols.csv, taus.csv, and protocols.json (command, ids, code)."""
    write_csv(out / "protocols.csv", made.frame)
    write_csv(out / "taus.csv", made.taus)
    plan = plans[made.reference]
    facts = {
        "command": command,
        "protocols": made.protocols,
        "models": {m.name: m.weights_id for m in plan.models},
        "manifest_id": plan.manifest_id,
        "n": len(plan.subset),
        "code": code_version(),
    }
    write_json(out / "protocols.json", facts)
    write_text(out / "protocols.md", "\n".join(page(made, facts)))


def page(made: ProtocolComparison, facts: dict[str, object]) -> list[str]:
    """Return the lines of protocols.md."""
    lines = [
        "# How ranks move between protocols",
        "",
        "Generated; never edited by hand. The same maps, made once, are scored under each "
        "protocol.",
        "",
        *([f"```\n{facts['command']}\n```", ""] if facts["command"] else []),
        *(f"- {markdown(name)}: `{identity}`" for name, identity in made.protocols.items()),
        f"- n = {facts['n']} items; manifest `{facts['manifest_id']}`; frames of "
        f"{markdown(made.reference)} for all",
        f"- Cells: rank (places lost or won against {markdown(made.reference)}), then mean [95 % "
        "bootstrap interval over images].",
        f"- tau: Kendall's tau-b to the order of {markdown(made.reference)}, controls and "
        "repeated maps left out; n/a where fewer than 4 methods have a rank, or all the same.",
        f"- F: {markdown(FIDELITY)}.",
        "",
    ]
    for (model, metric), rows in made.frame.groupby(["model", "metric"], sort=True):
        lines += [
            f"## {markdown(model)}, {markdown(metric)}",
            "",
            *_table(made, str(model), str(metric), rows),
            "",
        ]
    return lines


def _table(made: ProtocolComparison, model: str, metric: str, rows: pd.DataFrame) -> list[str]:
    """Return one table: methods in the order of the first protocol, a column per protocol, tau in
    the last row.
    """
    names = [name for name in made.protocols if name in set(rows["protocol"])]
    ranks = rows[rows["protocol"] == made.reference].set_index("method")["rank"]
    order = sorted(set(rows["method"]), key=lambda m: (ranks.get(m, math.inf), m))
    cells = {(row["method"], row["protocol"]): _cell(row) for row in rows.to_dict("records")}
    lines = [
        "| method | F | " + " | ".join(map(markdown, names)) + " |",
        "|---|---|" + "---:|" * len(names),
    ]
    for method in order:
        own = " | ".join(cells.get((method, name), "n/a") for name in names)
        lines.append(f"| {markdown(method)} | {made.fidelity.get(method, '')} | {own} |")
    table = made.taus[(made.taus["model"] == model) & (made.taus["metric"] == metric)].set_index(
        "protocol"
    )["tau"]
    taus = [number(float(table[name])) if name in table.index else "" for name in names]
    lines.append(f"| tau | | {' | '.join(taus)} |")
    return lines


def _cell(row: dict[Any, Any]) -> str:
    """Write "rank (moved) mean [interval]"."""
    moved = float(row["moved"])
    text = "" if math.isnan(moved) or moved == 0 else f" ({moved:+.0f})"
    numbers = interval(*(float(row[key]) for key in ("mean", "low", "high")))
    return f"{float(row['rank']):.0f}{text}, {numbers}"
