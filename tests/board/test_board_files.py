"""Files of a board: tables, pages, plots, galleries, publishing and rebuilding."""

from __future__ import annotations

import doctest
import importlib
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from bench import files as files_module
from bench.board import gallery, publish, tables, text
from bench.board.board import Board, leaderboard
from bench.board.plots import cost_plot, curves_plot, plot_files
from bench.errors import BenchError
from bench.files import write_json
from bench.records.store import KEY, Records, write_parquet
from tests.support.shared_folders import copy_shared


def write_run(folder: Path, records: Records) -> Path:
    write_parquet(folder / "records" / "part-0.parquet", records.frame)
    write_json(folder / "run.json", records.provenance)
    return folder


def pictures(folder: Path, models: tuple[str, ...] = ("net-a", "net-b")) -> None:
    rng = np.random.default_rng(0)
    for model in models:
        images = {
            f"i{k:03d}:0": rng.integers(0, 255, (96, 96, 3), dtype=np.uint8) for k in range(2)
        }
        maps = {
            item: {m: rng.normal(size=(6, 6)) for m in ("oracle", "random", "method_00")}
            for item in images
        }
        path = folder / "gallery" / f"{model}-0.npz"
        gallery.save_gallery_part(path, images, maps, {item: f"class of {item}" for item in images})


@pytest.fixture(scope="module")
def saved(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Path:

    def make(folder: Path) -> None:
        pictures(folder)
        board.save(folder)

    return copy_shared(tmp_path_factory, "saved", make)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


@pytest.fixture(scope="module")
def small(toy: SimpleNamespace) -> Records:
    """A run of one model, three methods and four images, without the slow pooled histograms."""
    records = toy.random_records(n=4, k=3, models=("net-a",))
    return Records(records.frame[records.frame["metric"] != "pixel_histogram"], records.provenance)


BOARD_MODULES = sorted(
    ".".join(file.relative_to(folder).with_suffix("").parts)
    for folder in [Path(importlib.import_module("bench.board").__file__ or "").parent]
    for file in folder.rglob("*.py")
    # the examples of these three use a board: tests/test_docstrings.py runs them
    if file.name not in ("__init__.py", "board.py", "scores.py", "paper_report.py")
)


@pytest.mark.parametrize("name", BOARD_MODULES)
def test_doctests(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"bench.board.{name}")).failed == 0


@pytest.mark.slow
def test_every_file_is_written_and_none_is_empty(saved: Path) -> None:
    for model in ("overall", "net-a", "net-b"):
        for ending in ("csv", "json", "md", "tex"):
            assert (saved / "tables" / f"toy--{model}.{ending}").stat().st_size > 500
        for kind in ("ranking", "curves", "correlation", "cost", "stability"):
            with Image.open(saved / "plots" / f"{kind}--toy--{model}.png") as image:
                assert min(image.size) > 200
                assert len(image.getcolors(1 << 20) or []) > 5  # something is drawn
                assert image.info.get("Software") is None
    for model in ("net-a", "net-b"):
        assert (saved / "plots" / f"gallery--{model}.png").stat().st_size > 5000
    assert not list(saved.rglob("*.tmp"))


def test_csv_and_json_hold_every_row(board: Board, saved: Path) -> None:
    rows = board.select(subset="toy", model="net-a")
    table = pd.read_csv(
        saved / "tables" / "toy--net-a.csv", keep_default_na=False, na_values={"mean": [""]}
    )
    assert len(table) == len(rows)
    np.testing.assert_allclose(table["mean"], rows["mean"], atol=1e-6)
    found = json.loads((saved / "tables" / "toy--net-a.json").read_text())
    assert len(found["rows"]) == len(rows)
    assert {r["fidelity"] for r in found["rows"]} == {"official", "paper", "reconstruction"}
    assert found["rows"][0].keys() == set(rows.columns)


def test_json_writes_missing_as_null(toy: SimpleNamespace, tmp_path: Path) -> None:
    board = leaderboard(
        toy.build(toy.scalars("deletion", {"a": [0.1, 0.2], "b": [0.1, float("nan")]}))
    )
    tables.write_tables(board, tmp_path)
    rows = json.loads((tmp_path / "toy--net.json").read_text())["rows"]
    assert [r["rank"] for r in rows] == [1.0, None]
    assert "n=1/2" in (tmp_path / "toy--net.md").read_text()


def test_latex_is_balanced_and_escaped(saved: Path) -> None:
    source = (saved / "tables" / "toy--net-a.tex").read_text()
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", source):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    begun = re.findall(r"\\begin\{(\w+)\}", source)
    ended = re.findall(r"\\end\{(\w+)\}", source)
    assert sorted(begun) == sorted(ended)
    body = re.sub(r"^%.*$|(?<=\{!\}\{)%$", "", source, flags=re.MULTILINE)
    assert not re.search(
        r"(?<!\\)[_#$%&]", re.sub(r" & |\$\\(downarrow|uparrow|d?dagger)\$", " ", body)
    )
    assert r"deletion $\downarrow$" in source
    assert r"\textbf{" in source
    for table in re.findall(r"\\toprule(.*?)\\bottomrule", source, flags=re.DOTALL):
        lines = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert len({line.count(" & ") for line in lines}) == 1


def test_latex_escapes_every_special_character() -> None:
    assert text.escape_latex("a_b & 5 % {x} #1 $ ~ ^ \\") == (
        r"a\_b \& 5 \% \{x\} \#1 \$ \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )


def test_markdown_tables_are_rectangular(saved: Path) -> None:
    for file in [*saved.rglob("*.md")]:
        block: list[str] = []
        for line in [*file.read_text().splitlines(), ""]:
            if line.startswith("|"):
                block.append(line)
                continue
            assert len({len(re.findall(r"(?<!\\)\|", row)) for row in block}) <= 1
            block = []


def test_first_page_says_what_the_numbers_are(saved: Path, run: Records) -> None:
    content = (saved / "board.md").read_text()
    for words in (
        "cambench run --subset toy",
        "cambench-1@x",
        "recon.",
        "manifest `m`",
        "n = 12 items",
        "CC0",
    ):
        assert words in content
    links = re.findall(r"\]\(([^)]+)\)", content)
    assert len(links) == 3 * 5 + 3 * 5 + 2
    assert all((saved / link).is_file() for link in links)
    for method in run.provenance["methods"]:
        assert text.markdown(method) in content


def test_best_is_bold_and_never_a_control(board: Board) -> None:
    section = tables.build_sections(board, "toy", "net-a")[0]
    for column in range(len(section.headers)):
        best = [line for line in section.lines if line.cells[column].best]
        assert best
        assert not any(line.control for line in best)


def test_many_values_make_several_tables(toy: SimpleNamespace) -> None:
    names = [f"value_{k:02d}" for k in range(20)]
    board = leaderboard(
        toy.build([r for n in names for r in toy.scalars(n, {"a": [0.1], "b": [0.2]})]),
        resamples=10,
    )
    found = tables.build_sections(board, "toy", "net")
    assert [len(s.headers) for s in found] == [8, 8, 4]
    assert found[0].title.endswith("(1 of 3)")


@pytest.mark.parametrize("width", [60, 80, 120, 250])
def test_terminal_shows_every_number_at_any_width(board: Board, width: int) -> None:
    stream = io.StringIO()
    board.print(Console(file=stream, width=width, color_system=None))
    shown = stream.getvalue()
    assert "…" not in shown
    for row in board.table("deletion").itertuples():
        assert text.number(row.mean) in shown
    assert "recon." in shown
    assert "↓" in shown
    assert "↑" in shown
    first = next(line for line in shown.splitlines() if line.startswith("  method_"))
    assert ("[" in first) == (width == 250)


def test_terminal_takes_names_and_flags_literally(toy: SimpleNamespace) -> None:
    board = leaderboard(
        toy.build(toy.scalars("deletion", {"[red]x": [0.1, 0.2], "b": [0.1, float("nan")]}))
    )
    stream = io.StringIO()
    board.print(Console(file=stream, width=100, color_system=None))
    assert "[red]x" in stream.getvalue()
    assert "! toy, net: b is scored on 1 of 2" in stream.getvalue()


def test_plots_take_a_single_method_and_missing_values(
    toy: SimpleNamespace, tmp_path: Path
) -> None:
    rows = toy.scalars("deletion", {"a": [0.1]}) + toy.scalars("forwards", {"a": [0.0]})
    rows += toy.scalars("insertion", {"a": [float("nan")]})
    files = plot_files.write_plots(leaderboard(toy.build(rows)), tmp_path)
    assert {f.name for f in files} == {"ranking--toy--net.png", "cost--toy--net.png"}


def test_spread_keeps_names_apart() -> None:
    moved = cost_plot.spread(np.array([0.5, 0.5, 0.51, 0.9]), 0.1)
    assert np.diff(moved).min() >= 0.1 - 1e-12
    assert moved.min() >= 0
    assert moved.max() <= 1


def test_curve_means_by_hand(toy: SimpleNamespace) -> None:
    rows = [
        toy.row(f"i{k}", "a", "deletion_curve", v)
        for k, v in enumerate(([1.0, 0.5, 0.0], [0.5, 0.25, 0.25]))
    ]
    board = leaderboard(toy.build([*rows, *toy.scalars("deletion", {"a": [0.5, 0.3]})]))
    table = curves_plot.average_curves(board, "toy", "net")["deletion"]
    np.testing.assert_allclose(table["mean"], [0.75, 0.375, 0.125])
    np.testing.assert_allclose(table["share"], [0, 50, 100])
    assert (table["low"] <= table["mean"]).all()


def test_gallery_round_trip_and_bytes(tmp_path: Path) -> None:
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    maps = {"a|b:1": {"cam": np.linspace(-1, 1, 4).reshape(2, 2)}}
    for name in ("net-a-0", "net-a-1"):
        gallery.save_gallery_part(
            tmp_path / "gallery" / f"{name}.npz", {"a|b:1": image}, maps, {"a|b:1": "dog"}
        )
    parts = [p.read_bytes() for p in (tmp_path / "gallery").iterdir()]
    assert parts[0] == parts[1]
    found = gallery.load_gallery(tmp_path, ["net", "net-a"])
    assert list(found) == ["net-a"]
    picture = found["net-a"]["a|b:1"]
    assert picture.title == "dog"
    np.testing.assert_array_equal(picture.image, image)
    np.testing.assert_allclose(picture.maps["cam"], maps["a|b:1"]["cam"], atol=1e-3)


def test_gallery_may_be_absent_or_broken(tmp_path: Path) -> None:
    assert gallery.load_gallery(tmp_path) == {}
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "net-0.npz").write_bytes(b"not a zip")
    with pytest.raises(BenchError, match="cannot be read"):
        gallery.load_gallery(tmp_path)


def test_overlay_keeps_what_the_map_says() -> None:
    heat = np.zeros((8, 8), np.float32)
    heat[:, :4] = 1
    picture = gallery.Picture(
        np.full((8, 8, 3), 128, np.uint8), maps={"cam": heat, "flat": np.full((8, 8), -1.0)}
    )
    tile = gallery.draw_overlay(picture, "cam", side=16).astype(int)
    assert tile.shape == (16, 16, 3)
    assert (tile[:, 2, 0] > tile[:, 2, 2]).all()  # warm and light where the map is high
    assert (tile[:, 2].mean(axis=1) > tile[:, 13].mean(axis=1) + 50).all()
    assert (gallery.draw_overlay(picture, "missing", side=16) == 255).all()
    assert np.isfinite(gallery.draw_overlay(picture, "flat", side=16)).all()


def test_shrinking_twice_is_shrinking_once() -> None:
    image = np.random.default_rng(0).integers(0, 255, (300, 200, 3), dtype=np.uint8)
    once = gallery.shrink_image(image, 80)
    assert once.shape == (80, 53, 3)
    np.testing.assert_array_equal(gallery.shrink_image(once, 80), once)


def test_published_board_rebuilds_without_the_run(small: Records, tmp_path: Path) -> None:
    source = write_run(tmp_path / "run", small)
    pictures(source, ("net-a",))
    target = tmp_path / "leaderboards" / "toy"
    publish.publish_board(source, target)
    before = contents(target)
    assert {
        "records.parquet",
        "run.json",
        "board.md",
        "gallery/net-a-0.npz",
        "plots/gallery--net-a.png",
    } <= set(before)
    leaderboard(Records.load(target)).save(target)
    assert contents(target) == before
    publish.publish_board(target, target)  # a published board publishes to itself
    assert contents(target) == before


@pytest.mark.slow
def test_published_curves_are_rounded_and_values_are_not(small: Records, tmp_path: Path) -> None:
    publish.publish_board(write_run(tmp_path / "run", small), tmp_path / "out", image_curves=True)
    whole, kept = (
        r.frame.sort_values(KEY, ignore_index=True) for r in (small, Records.load(tmp_path / "out"))
    )
    np.testing.assert_array_equal(whole["value"], kept["value"])
    slack = {"curve": 2.0**-17, "box_accuracy": 2.0**-12}
    reduced = whole["metric"].map(lambda name: small.provenance["metrics"][name]["reduce"])
    assert set(slack) <= set(reduced)
    for row, (before, after) in enumerate(zip(whole["vector"], kept["vector"], strict=True)):
        if before is not None:
            error = np.abs(np.asarray(before) - np.asarray(after)).max()
            assert error <= slack.get(reduced[row], 0)


@pytest.mark.slow
def test_pictures_that_are_not_free_stay_home(small: Records, tmp_path: Path) -> None:
    subsets = {"toy": {**small.provenance["subsets"]["toy"], "pictures": False}}
    source = write_run(
        tmp_path / "run", Records(small.frame, {**small.provenance, "subsets": subsets})
    )
    pictures(source, ("net-a",))
    publish.publish_board(source, tmp_path / "out")
    kept = gallery.load_gallery(tmp_path / "out")["net-a"]
    assert all((picture.image == gallery.GREY_PIXEL).all() for picture in kept.values())
    assert all(picture.maps for picture in kept.values())


def test_too_many_records_are_refused(
    small: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "COMMITTED_LIMIT", 1000)
    source = write_run(tmp_path / "run", small)
    with pytest.raises(BenchError, match="fewer images"):
        publish.publish_board(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [source]


def test_private_paths_do_not_leave_the_machine() -> None:
    private = {
        "command": "cambench run --data-root /home/me/data/val --out ~/runs/x --subset "
        "../shared/data/ilsvrc",
        "user": "me",
        "source": "https://example.org/a/b",
        "models": {"net": {"weights": "/srv/models/net.pth", "top1": 0.9}},
        "list": ["C:\\Users\\me\\x.txt", "n/a", 3, None],
    }
    assert files_module.public(private) == {
        "command": "cambench run --data-root PATH/val --out PATH/x --subset ../shared/data/ilsvrc",
        "source": "https://example.org/a/b",
        "models": {"net": {"weights": "PATH/net.pth", "top1": 0.9}},
        "list": ["PATH/x.txt", "n/a", 3, None],
    }


def test_gallery_files_are_matched_to_the_longest_model_name() -> None:
    models = ["resnet", "resnet-scenes", "hub_a/b"]
    assert gallery.find_model("resnet-scenes-eval-000000-000050-0", models) == "resnet-scenes"
    assert gallery.find_model("resnet-eval-000000-000050-0", models) == "resnet"
    assert gallery.find_model("hub_a_b-0", models) == "hub_a/b"
