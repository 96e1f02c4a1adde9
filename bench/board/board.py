"""A board: scores that can be saved and printed.

    board = leaderboard(records)

It is disposable: it needs records and run.json, no image, model or plug-in.
"""

from __future__ import annotations

import html
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from bench.board.board_page import write_board
from bench.board.console import print_board
from bench.board.flags import find_flags
from bench.board.measures import list_measures
from bench.board.older_versions import mark_older
from bench.board.paper_report import make_report
from bench.board.partial_runs import note_partial
from bench.board.plots.board_figure import draw_board, write_image
from bench.board.present_tags import renew_tags
from bench.board.record_checks import check_records
from bench.board.result_words import choose_scopes, describe_result
from bench.board.scores import COLUMNS, Scores, list_scopes, summarise
from bench.board.statistics import RESAMPLES
from bench.board.tuned import compare_tuned
from bench.errors import BenchError
from bench.folder_owner import own_folder
from bench.records.store import Records

if TYPE_CHECKING:
    from rich.console import Console


class Board(Scores):
    """Scores that can be saved, printed, and compared with those of a model before it was
    fine-tuned.
    """

    @cached_property
    def tuned(self) -> pd.DataFrame:
        """Return every difference between a fine-tuned model and its original (see
        `bench.board.tuned`).
        """
        return compare_tuned(self)

    def save(self, folder: str | Path, gallery: str | Path | None = None) -> None:
        """Write every table and plot into `folder`, replacing those of an earlier board.

        gallery: the run folder whose `gallery/` is drawn; default `folder` itself.
        """
        with own_folder(Path(folder), "board"):
            write_board(self, Path(folder), Path(gallery) if gallery is not None else Path(folder))

    report = make_report
    plot = draw_board

    def __repr__(self) -> str:
        scopes = ", ".join(f"{subset}/{model}" for subset, model in self.scopes)
        return f"Board({self.frame['method'].nunique()} methods on {scopes})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the result in words, the ranking and the first table."""
        words = "".join(f"<li>{html.escape(line)}</li>" for line in describe_result(self))
        scope = next(iter(choose_scopes(self)), self.scopes[0])
        rows = self.wide(*scope).to_html(escape=True)
        return f"<ul>{words}</ul>{write_image(self, *scope)}{rows}"

    def print(self, console: Console | None = None) -> None:
        """Print the ranked values of every table in the terminal."""
        print_board(self, console)


def leaderboard(records: Records, *, resamples: int = RESAMPLES, seed: int = 0) -> Board:
    """Reduce records to a board: tables per subset and model, and over the models of a subset.

    resamples, seed: of the bootstrap.  Raises BenchError where the records are empty or mix what
    cannot be compared.
    """
    check_records(records)
    records = renew_tags(mark_older(note_partial(records)))
    provenance = records.provenance
    found = {
        str(s): list(list_measures(rows, provenance))
        for s, rows in records.frame.groupby("subset", sort=True)
    }
    reduced = {
        (subset, model, measure.name): summarise(
            subset, measure, model, models, provenance, resamples, seed
        )
        for subset, several in found.items()
        for measure in several
        if measure.reduce != "curve"
        for model, models in list_scopes(measure, several, provenance)
    }
    tables = [table for table, _ in reduced.values() if not table.empty]
    if not tables:
        raise BenchError(
            "The records hold no scored item, only calibration rows or curves; run `cambench run` "
            "again."
        )
    frame = pd.concat(tables, ignore_index=True)[COLUMNS]
    comparisons = {key: compared for key, (_, compared) in reduced.items() if compared is not None}
    return Board(frame, records, found, comparisons, find_flags(frame, records), resamples, seed)
