"""The page of a board: `board.md`, with its tables and plots in folders beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.board import text
from bench.board.gallery import load_gallery
from bench.board.light_board import OVERALL_TABLE, is_published, write_light
from bench.board.own_files import replace_own
from bench.board.pairs import agreements
from bench.board.plots.choices_plot import NOT_MADE, read_grid
from bench.board.plots.plot_files import Pictures, write_plots
from bench.board.result_words import describe_result
from bench.board.sample_calibration import describe_sample
from bench.board.scope_names import name_scopes
from bench.board.tables import (
    TUNED,
    build_sections,
    describe_intervals,
    render,
    tabulate_tuned,
    write_caption,
    write_tables,
    write_text,
)
from bench.board.usable_counts import describe_usable_counts
from bench.inner_places import refuse_links
from bench.records.precision_verdict import write_precision

if TYPE_CHECKING:
    from bench.board.board import Board


def write_board(board: Board, folder: Path, run: Path) -> None:
    """Write `board.md`, `tables/` and `plots/` into `folder`; tables and plots that an earlier
    board wrote go. A published board also gets what is committed of it (`light_board`), and its
    page links to nothing else.

    run: the folder whose `gallery/` and `health/grid.csv` are drawn.
    """
    refuse_links(folder, "tables")
    refuse_links(folder, "plots")
    gallery = load_gallery(run, sorted(board.provenance["models"]))
    tables = write_tables(board, folder / "tables")
    grid = read_grid(run)
    pictures = write_plots(board, folder / "plots", gallery, grid)
    light = write_light(board, folder, pictures) if is_published(folder) else None
    write_page(board, folder, pictures, light, has_grid=grid is not None)
    replace_own(folder / "tables", tables, (".csv", ".json", ".md", ".tex"))
    replace_own(folder / "plots", pictures, (".png",))


def write_page(
    board: Board,
    folder: Path,
    pictures: Pictures,
    light: Pictures | None = None,
    *,
    has_grid: bool = False,
) -> Path:
    """Write `board.md`: command, protocol, n, flags, fidelity, tables and pictures.

    Args:
        board: The board.
        folder: Where the page is written.
        pictures: The plots, in `folder/plots`, with their alt texts.
        light: The pictures of a published board, whose page shows these alone; None for a run.
        has_grid: Whether the ranks were measured under other choices of the protocol.
    """
    provenance = board.provenance
    subsets = provenance["subsets"]
    commands = provenance.get("commands") or ["made in Python with bench.evaluate(...)"]
    tables = describe_tables(board, pictures)
    shown = {p["name"] for table in tables for p in table["pictures"]}
    methods = [
        {"name": name, **facts}
        for name, facts in sorted(provenance["methods"].items())
        if name in set(board.frame["method"])
    ]
    page = render(
        "board.md.j2",
        beside=tabulate_tuned(board) if len(board.tuned) else [],
        tuned=f"tables/{TUNED}",
        command="\n".join(commands),
        provenance=provenance,
        samples={name: describe_sample(board.records, name) for name in subsets},
        usable={name: describe_usable_counts(board.records, name) for name in subsets},
        flags=board.flags,
        result=describe_result(board),
        tables=tables,
        methods=methods,
        galleries=[p for p in describe_pictures(pictures) if p["name"] not in shown],
        choices=None if has_grid else NOT_MADE,
        interval=describe_intervals(board),
        fidelity=text.FIDELITY,
        ranks=text.RANKS,
        coupling=text.COUPLING,
        precision=write_precision(provenance),
        light=None if light is None else describe_pictures(light),
        overall_table=OVERALL_TABLE,
    )
    path = folder / "board.md"
    write_text(path, page)
    return path


def describe_pictures(pictures: Pictures) -> list[dict[str, str]]:
    """Return the file name and the alt text of each picture."""
    return [{"name": path.name, "alt": alt} for path, alt in pictures.items()]


def describe_tables(board: Board, pictures: Pictures) -> list[dict[str, Any]]:
    """Return what the page shows of each (subset, model): its tables, agreement and pictures."""
    stems = name_scopes(board.scopes)
    return [
        {
            "subset": subset,
            "model": model,
            "stem": f"tables/{stems[subset, model]}",
            "caption": write_caption(board, subset, model),
            "sections": build_sections(board, subset, model)[:1],
            "agreement": ", ".join(
                f"{metric} {text.number(alpha)}"
                for metric, alpha in agreements(board, subset, model).items()
            ),
            "pictures": describe_pictures(
                {
                    path: alt
                    for path, alt in pictures.items()
                    if path.stem.partition("--")[2] == stems[subset, model]
                }
            ),
        }
        for subset, model in board.scopes
    ]
