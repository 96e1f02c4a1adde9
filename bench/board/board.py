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
from bench.board.network_pairs import (
    NetworkPair,
    choose_pairs,
    compare_pairs_of_networks,
    name_pairs,
)
from bench.board.network_words import describe_pair
from bench.board.older_versions import mark_older
from bench.board.paper_report import make_report
from bench.board.partial_runs import note_partial
from bench.board.plots.board_figure import draw_board, write_image
from bench.board.present_tags import renew_tags
from bench.board.record_checks import check_records
from bench.board.result_words import choose_scopes, describe_result
from bench.board.scores import COLUMNS, Scores
from bench.board.statistics import RESAMPLES
from bench.board.summaries import list_scopes, summarise
from bench.board.tuned import compare_tuned
from bench.errors import BenchError
from bench.folder_owner import own_folder
from bench.progress import Choice, follow
from bench.records.store import Records
from bench.work_stages import track

if TYPE_CHECKING:
    from rich.console import Console


class Board(Scores):
    """Scores that can be saved, printed and drawn; `leaderboard` makes one.

    Args:
        frame: One row per subset, model, method and value (`COLUMNS`): "mean" is the reduced
            number, [low, high] its 95 % interval, `rank` NaN where coverage is incomplete.
        records: The records behind it.
        measures: {subset: its measures}.
        comparisons: {(subset, model, value): which methods differ}, of ranked values.
        flags: Warnings, one sentence each.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.

    Example:
        >>> bench.leaderboard(records, resamples=20).scopes
        [('toy', 'net-a')]
    """

    @cached_property
    def tuned(self) -> pd.DataFrame:
        """Return every difference between a fine-tuned model and its original, one per row."""
        return compare_tuned(self)

    @cached_property
    def networks(self) -> list[NetworkPair]:
        """Return how the networks of each subset differ from each other, one pair per entry."""
        return compare_pairs_of_networks(self, choose_pairs(self))

    def compare_networks(self, *names: str, method: str | None = None) -> list[str]:
        """Say how networks, or layers of a network, differ by the maps of one method.

        Args:
            names: Two or more networks of the board.
            method: Whose maps are compared; None: grad_cam, where both have it.

        Returns:
            A sentence for each pair and subset: better, worse, or no difference shown. Holm's
            correction is over all values of all these pairs.

        Raises:
            BenchError: a network is unknown, or two share no subset.

        Example:
            >>> board.compare_networks("resnet-scenes", "vgg-scenes")  # doctest: +SKIP
        """
        pairs = compare_pairs_of_networks(self, name_pairs(self, names), method)
        return [describe_pair(pair, self.provenance["models"]) for pair in pairs]

    def save(self, folder: str | Path, gallery: str | Path | None = None) -> None:
        """Write every table and plot into a folder, in place of those of an earlier board.

        Args:
            folder: The folder; it is made.
            gallery: The run folder whose `gallery/` is drawn; None takes `folder` itself.

        Raises:
            BenchError: Another process writes there, or it cannot be written to.

        Example:
            >>> board.save("boards/mine", gallery="runs/mine")  # doctest: +SKIP
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
        """Print the ranked values of every table in the terminal.

        Args:
            console: A console of rich; None takes the terminal.

        Example:
            >>> board.print()  # doctest: +SKIP
        """
        print_board(self, console)


def leaderboard(
    records: Records, *, resamples: int = RESAMPLES, seed: int = 0, progress: Choice = None
) -> Board:
    """Reduce records to a board: tables per subset and model, and over the models of a subset.

    Args:
        records: Records of one run or of several merged ones.
        resamples: Number of bootstrap resamples, at least 1.
        seed: Seed of the bootstrap.
        progress: As in `bench.evaluate`.

    Returns:
        The board.

    Raises:
        BenchError: The records are empty, or mix what cannot be compared.

    Example:
        >>> bench.leaderboard(records, resamples=20)
        Board(... methods on toy/net-a)
    """
    with follow(progress):
        return _make_board(records, resamples, seed)


def _make_board(records: Records, resamples: int, seed: int) -> Board:
    check_records(records)
    records = renew_tags(mark_older(note_partial(records)))
    provenance = records.provenance
    found = {
        str(s): list(list_measures(rows, provenance))
        for s, rows in records.frame.groupby("subset", sort=True)
    }
    wanted = [
        (subset, measure, model, models)
        for subset, several in found.items()
        for measure in several
        if measure.reduce != "curve"
        for model, models in list_scopes(measure, several, provenance)
    ]
    reduced = {
        (subset, model, measure.name): summarise(
            subset, measure, model, models, provenance, resamples, seed
        )
        for subset, measure, model, models in track(wanted, "Intervals and tests")
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
