"""What a published board carries in git beside its records: one table and two pictures.

Everything else of a board is made from the records again, by `cambench board FOLDER`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from bench.board.scope_names import name_scopes
from bench.board.scores import list_rows
from bench.board.text import OVERALL
from bench.files import replaced_file

if TYPE_CHECKING:
    from bench.board.scores import Scores

OVERALL_TABLE = "overall.csv"
PICTURES = {"ranking": "ranking.png", "curves": "curves.png"}
"""{kind of plot: its file in a published board}, drawn of the board's first table."""


def is_published(folder: Path) -> bool:
    """Tell whether a folder is a published board: its records lie in one file."""
    return (folder / "records.parquet").is_file()


def write_light(board: Scores, folder: Path, pictures: Mapping[Path, str]) -> dict[Path, str]:
    """Write the table and the pictures that are committed; return the pictures and alt texts.

    Args:
        board: The board.
        folder: Of the published board.
        pictures: The plots of the board, in `folder/plots`, with their alt texts.
    """
    with replaced_file(folder / OVERALL_TABLE) as temporary:
        tabulate_overall(board).to_csv(temporary, index=False, lineterminator="\n")
    stem = next(iter(name_scopes(board.scopes).values()))
    drawn = {picture.name: picture for picture in pictures}
    kept = {}
    for kind, name in PICTURES.items():
        picture = drawn.get(f"{kind}--{stem}.png")
        if picture is not None:
            with replaced_file(folder / name) as temporary:
                temporary.write_bytes(picture.read_bytes())
            kept[folder / name] = pictures[picture]
    return kept


def tabulate_overall(board: Scores) -> pd.DataFrame:
    """Return the ranked values of each subset's overall table, or of its models where it has none.

    A row is a method. Each ranked value has its mean and the ends of its interval, with six
    digits; a value that was not measured is empty.
    """
    rows = []
    for subset in dict.fromkeys(subset for subset, _ in board.scopes):
        models = [model for one, model in board.scopes if one == subset]
        for model in [OVERALL] if OVERALL in models else models:
            rows += _list_methods(board, subset, model)
    return pd.DataFrame(rows)


def _list_methods(board: Scores, subset: str, model: str) -> list[dict[str, object]]:
    ranked = [name for name, _ in board.list_ranked(subset, model)]
    numbers = {
        (row["method"], row["metric"]): row
        for row in list_rows(board.select(subset=subset, model=model))
    }
    rows = []
    for method, facts in board.methods(subset, model).items():
        row: dict[str, object] = {"subset": subset, "model": model, "method": method}
        row["fidelity"] = facts["fidelity"]
        for metric in ranked:
            found = numbers.get((method, metric), {})
            for column, part in (
                (metric, "mean"),
                (f"{metric}_low", "low"),
                (f"{metric}_high", "high"),
            ):
                value = found.get(part)
                row[column] = None if value is None or pd.isna(value) else f"{value:.6g}"
        rows.append(row)
    return rows
