"""Figures of a board: what they show, their alt texts, and that they are the same each time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.transforms import Bbox
from PIL import Image

from bench.board.board import Board, leaderboard
from bench.board.gallery import MAP_COLOURS, Picture, draw_overlay, load_gallery, save_gallery_part
from bench.board.plots.board_figure import KINDS
from bench.board.plots.choices_plot import NOT_MADE
from bench.board.plots.cost_plot import find_frontier
from bench.board.plots.curves_plot import MOST_METHODS
from bench.board.plots.figures import DESCRIPTION
from bench.board.plots.gallery_plot import find_scores, name_maps
from bench.board.plots.leaders import find_value_leads
from bench.board.plots.method_marks import find_marks
from bench.board.plots.ranking_plot import LEAD_TINT
from bench.board.publish import publish_board
from bench.editor.server import COLOUR_MAPS
from bench.errors import BenchError
from bench.records.store import Records
from tests.board.test_board_files import pictures, write_run
from tests.board.test_tie_groups import grid
from tests.support.toy_records import build, random_records, row, scalars

ROOT = Path(__file__).parents[2]
IMAGE = re.compile(r"!\[(.*?)\]\(([^()\s]+\.png)\)")
NOT_UNIFORM = re.compile(
    r"[\"'](jet|turbo|rainbow|gist_rainbow|hsv|nipy_spectral|gist_ncar|hot|Spectral)[\"']"
)
N = 40


def around(mean: float, seed: int) -> list[float]:
    noise = np.random.default_rng(seed).normal(0, 0.02, N)
    return (mean + noise - noise.mean()).tolist()


def costs(passes: dict[str, float]) -> list[dict]:
    return scalars("forwards", {name: [cost] * N for name, cost in passes.items()})


@pytest.fixture(scope="module")
def known() -> Board:
    """deletion: dear < cheap = close < random, lower is better; insertion: the reverse."""
    table = {
        "dear": around(0.1, 0),
        "cheap": around(0.3, 1),
        "close": around(0.299, 2),
        "random": around(0.6, 3),
    }
    curves = [
        row(f"i{k:03d}", name, "deletion_curve", [1.0, values[k], 0.0])
        for name, values in table.items()
        for k in range(N)
    ]
    forwards = costs({"dear": 99, "close": 9, "cheap": 1, "random": 0})
    rows = [*scalars("deletion", table), *scalars("insertion", table), *curves, *forwards]
    return leaderboard(build(rows), resamples=300)


@pytest.fixture(scope="module")
def crowd() -> Board:
    """Fifty methods with long names and equal numbers."""
    rng = np.random.default_rng(0)
    table = {f"a_long_name_of_method_{i:02d}": rng.normal(0.4, 0.1, 6) for i in range(49)}
    table["random"] = rng.normal(0.6, 0.1, 6)
    passes = {name: [float(1 + i % 7) ** 2] * 6 for i, name in enumerate(table)}
    rows = [r for m in ("deletion", "insertion", "pointing", "energy") for r in scalars(m, table)]
    return leaderboard(build([*rows, *scalars("forwards", passes)]), resamples=50)


def list_labels(axis) -> list[str]:
    write = axis.yaxis.get_major_formatter()  # the labels of inner panels are hidden
    return [write(y, place) for place, y in enumerate(axis.get_yticks())]


def list_boxes(figure, texts) -> list:
    renderer = figure.canvas.get_renderer()
    figure.canvas.draw()
    return sorted((text.get_window_extent(renderer) for text in texts), key=lambda box: box.y0)


# --- ranking


def test_all_panels_of_a_ranking_have_one_order(known):
    figure = known.plot("ranking")
    names = ["dear", "close", "cheap", "random"]
    assert [list_labels(axis) for axis in figure.axes] == [names, names]
    shaded = [
        [list_labels(axis)[round(find_middle(axis, patch))] for patch in axis.patches]
        for axis in figure.axes
    ]
    leads = find_value_leads(known, "toy", "net")
    assert shaded == [["dear"], sorted(leads["insertion"].methods, key=names.index)]
    assert {"cheap", "close"} == set(shaded[1])  # the control that wins is left out
    assert figure.axes[0].patches[0].get_facecolor()[:3] == pytest.approx(_read(LEAD_TINT))


def find_middle(axis, patch) -> float:
    ends = axis.transData.inverted().transform(patch.get_extents().get_points())
    return float(ends[:, 1].mean())


def _read(colour: str) -> list[float]:
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def test_marks_are_family_and_fidelity(known):
    marks = find_marks(known, "toy", "net")
    assert (marks["random"].family, marks["random"].shape) == ("control", "X")
    assert marks["dear"].family == "cam"
    assert marks["dear"].colour != marks["random"].colour
    fidelity = known.methods("toy", "net")["dear"]["fidelity"]
    assert marks["dear"].fidelity == fidelity
    legend = {text.get_text() for text in known.plot("ranking").legends[0].get_texts()}
    assert {"class activation", "control"} <= legend


def test_names_do_not_overlap_where_there_are_fifty(crowd):
    figure = crowd.plot("ranking")
    boxes = list_boxes(figure, figure.axes[0].get_yticklabels())
    assert len(boxes) == 50
    assert lie_apart(boxes)
    panel = figure.axes[0].get_window_extent()
    assert all(box.x1 <= panel.x0 for box in boxes)
    assert min(box.x0 for box in boxes) >= 0


def lie_apart(boxes) -> bool:
    return all(low.y1 <= high.y0 + 0.5 for low, high in pairwise(boxes))


def test_names_that_overlap_are_found():
    low, high = Bbox([[0, 0], [9, 5]]), Bbox([[0, 4], [9, 9]])
    assert not lie_apart([low, high])
    assert lie_apart([low, high.translated(0, 1)])


def test_the_cost_figure_names_few_methods_and_none_overlaps(crowd):
    figure = crowd.plot("cost")
    for axis in figure.axes:
        boxes = list_boxes(figure, axis.texts)
        assert 1 <= len(boxes) <= 9
        assert lie_apart(boxes)


# --- cost


def test_the_frontier_takes_a_dearer_method_only_where_it_is_better(known):
    table = known.table("deletion").assign(
        cost=lambda t: t["method"].map({"dear": 100, "close": 10, "cheap": 2, "random": 1})
    )
    compared = known.comparisons["toy", "net", "deletion"]
    assert find_frontier(table, "lower", compared) == ["cheap", "dear"]
    assert find_frontier(table.assign(cost=5), "lower", compared) == ["dear"]
    assert find_frontier(table, "lower", None) == ["cheap"]
    label = known.plot("cost", values=["deletion"]).get_label()
    assert "deletion: cheap .300" in label
    assert "then dear .100" in label
    assert "at 100 passes" in label


def test_head_replays_count_in_the_cost(known):
    more = scalars("head_forwards", {"cheap": [500.0] * N})
    frame = pd.concat([known.records.frame, build(more).frame], ignore_index=True)
    facts = {**known.provenance["metrics"], **build(more).provenance["metrics"]}
    board = leaderboard(Records(frame, {**known.provenance, "metrics": facts}), resamples=50)
    axis = board.plot("cost", values=["deletion"]).axes[0]
    assert axis.get_xlim()[1] > 501
    assert "head replays" in axis.get_xlabel()
    assert axis.get_xscale() == "log"


# --- curves


def test_curves_lie_over_one_another_with_units(known):
    figure = known.plot("curves", methods=["cheap", "random"])
    (axis,) = figure.axes
    names = [text.get_text().split()[1] for text in axis.get_legend().get_texts()]
    assert names == ["cheap", "random"]  # the best first
    assert "% of the image" in axis.get_xlabel()
    assert axis.get_ylabel() == "probability of the explained class"
    own = axis.lines[0]
    np.testing.assert_allclose(own.get_xdata(), [0, 50, 100])
    np.testing.assert_allclose(own.get_ydata(), [1, 0.3, 0], atol=1e-6)
    assert axis.lines[0].get_linestyle() != axis.lines[1].get_linestyle()


def test_few_curves_are_chosen_where_there_are_many():
    names = ["random", "oracle", "grad_cam", *(f"m{i}" for i in range(20))]
    table = {name: around(0.1 + i / 40, i)[:8] for i, name in enumerate(reversed(names))}
    curves = [
        row(f"i{k:03d}", name, "deletion_curve", [1.0, values[k], 0.0])
        for name, values in table.items()
        for k in range(8)
    ]
    board = leaderboard(build([*scalars("deletion", table), *curves]), resamples=50)
    label = board.plot("curves").get_label()
    shown = {name for name in names if re.search(rf"\b{name} \.", label)}
    assert shown == {"m19", "grad_cam", "random", "oracle"}
    assert len(shown) <= MOST_METHODS


# --- choices


def test_a_page_without_a_grid_has_a_sentence_in_place_of_the_figure(known, tmp_path):
    run = write_run(tmp_path / "run", known.records)
    known.save(run)
    assert NOT_MADE in (run / "board.md").read_text()
    (run / "health").mkdir()
    ranks = grid({"default": [1, 2, 3, 4], "baseline=black": [4, 3, 2, 1]})
    names = {"a": "dear", "b": "close", "c": "cheap", "d": "other"}
    ranks.assign(method=ranks["method"].map(names)).to_csv(run / "health" / "grid.csv", index=False)
    known.save(run)
    page = (run / "board.md").read_text()
    assert NOT_MADE not in page
    alts = {Path(link).name: alt for alt, link in IMAGE.findall(page)}
    assert "baseline=black turns the order most" in alts["choices--toy--net.png"]
    with pytest.raises(BenchError, match=r"No figure shows how the ranks turn"):
        known.plot("choices", run=tmp_path)


# --- every kind


def test_every_kind_is_drawn_from_python(board, tmp_path):
    from matplotlib.figure import Figure

    pictures(tmp_path)
    ranks = [
        {"subset": "toy", "model": "net-a", "metric": "deletion", "choice": choice}
        | {"value": "deletion", "method": method, "n": 12, "mean": 0.1, "rank": i}
        for choice in ("default", "baseline=black")
        for i, method in enumerate(board.order("toy", "net-a"))
    ]
    (tmp_path / "health").mkdir()
    pd.DataFrame(ranks).to_csv(tmp_path / "health" / "grid.csv", index=False)
    for kind in KINDS:
        figure = board.plot(kind, run=tmp_path)
        assert isinstance(figure, Figure)
        assert says_something(figure.get_label()), kind


def test_short_sentences_refuse_what_cannot_be_drawn(known):
    with pytest.raises(BenchError, match=r"no plot 'curve'; choose from .*Did you mean"):
        known.plot("curve")
    with pytest.raises(BenchError, match="Give run="):
        known.plot("choices")
    with pytest.raises(BenchError, match="Give run="):
        known.plot("gallery")
    with pytest.raises(BenchError, match="do not hold what the plot 'correlation'"):
        known.plot("correlation", values=["deletion"])


# --- alt texts


def says_something(alt: str) -> bool:
    """Tell whether an alt text is a statement: sentences with numbers, and no mere title."""
    return len(alt) > 60 and alt.rstrip().endswith(".") and bool(re.search(r"\d", alt))


def test_a_title_is_no_statement():
    assert not says_something("")
    assert not says_something("ranking of scenes-val, overall")


def test_every_image_of_a_page_has_its_statement(tmp_path):
    records = random_records(n=4, k=7, models=("net-a",))
    frame = records.frame[records.frame["metric"] != "pixel_histogram"]
    run = write_run(tmp_path / "run", Records(frame, records.provenance))
    pictures(run, ("net-a",))
    board = leaderboard(Records.load(run), resamples=50)
    board.save(run)
    shown = IMAGE.findall((run / "board.md").read_text())
    kinds = {Path(link).name.partition("--")[0] for _, link in shown}
    assert kinds == {"ranking", "curves", "correlation", "cost", "stability", "gallery"}
    for alt, link in shown:
        assert says_something(alt), link
        with Image.open(run / link) as image:
            assert plain(alt) == image.info[DESCRIPTION]
    (ranking,) = [alt for alt, link in shown if "ranking" in link]
    lead = find_value_leads(board, "toy", "net-a")["deletion"]
    best = board.table("deletion").set_index("method").loc[lead.methods[0]]
    number = f"{best['mean']:.3f}".removeprefix("0")
    assert f"deletion: {lead.methods[0]} leads with {number} [" in plain(ranking)
    published = publish_board(run, tmp_path / "out")
    light = IMAGE.findall((tmp_path / "out" / "board.md").read_text())
    assert {link for _, link in light} == {"ranking.png", "curves.png"}
    assert all(says_something(alt) for alt, _ in light)
    assert published.plot("ranking").get_label() in {plain(alt) for alt, _ in light}


def plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def test_a_notebook_shows_the_ranking_with_its_statement(known):
    shown = known._repr_html_()
    (alt,) = re.findall(r'<img alt="([^"]*)"', shown)
    assert alt == known.plot("ranking").get_label()
    assert says_something(alt)
    assert 'src="data:image/png;base64,' in shown


# --- colours


@pytest.mark.parametrize("name", [MAP_COLOURS, *COLOUR_MAPS])
def test_colours_of_maps_grow_lighter_from_end_to_end(name):
    steps = luminance(name)
    assert (np.diff(steps) > 0).all()
    assert not (np.diff(luminance("jet")) > 0).all()


def luminance(name: str) -> np.ndarray:
    import matplotlib as mpl

    return mpl.colormaps[name](np.linspace(0, 1, 64))[:, :3] @ [0.2126, 0.7152, 0.0722]


def test_no_rainbow_is_in_the_package():
    found = [
        f"{path.name}: {match.group()}"
        for folder in ("bench", "tools")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".js", ".css", ".html")
        for match in NOT_UNIFORM.finditer(path.read_text())
    ]
    assert found == []
    assert NOT_UNIFORM.search('cmap="jet"')


# --- gallery


def test_tiles_have_the_size_of_the_frame_boxes_and_scores(board, tmp_path):
    image = np.full((96, 96, 3), 128, np.uint8)
    items = [f"i{k:03d}:0" for k in range(2)]
    save_gallery_part(
        tmp_path / "gallery" / "net-a-0.npz",
        dict.fromkeys(items, image),
        {item: {"oracle": np.eye(8)} for item in items},
        boxes={items[0]: np.array([[10, 20, 50, 60]], np.float32)},
    )
    found = load_gallery(tmp_path, ["net-a"])["net-a"]
    assert [len(found[item].boxes) for item in items] == [1, 0]
    tile = draw_overlay(found[items[0]], None, 96)
    assert tile.shape == (96, 96, 3)
    assert (tile[20, 10:50] == 255).all()
    assert (tile[59, 10:50] == 255).all()
    assert (tile[20:60, 49] == 255).all()
    assert (tile[19, 10:50] == 0).all()
    assert (draw_overlay(found[items[1]], None, 96) == 128).all()
    figure = board.plot("gallery", model="net-a", run=tmp_path)
    value, scores = find_scores(board, "toy", "net-a", items)
    name = value.split()[0]
    rows = board.records.frame
    own = rows[(rows["metric"] == name) & (rows["model"] == "net-a") & (rows["method"] == "oracle")]
    expected = own.set_index("item")["value"].loc[items]
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    for item, number in expected.items():
        assert scores[item, "oracle"] == number
        assert f"{number:.3f}".removeprefix("0") in texts


def test_maps_of_an_older_version_have_the_name_of_the_board():
    heat = np.ones((1, 1), np.float32)
    picture = Picture(np.zeros((2, 2, 3), np.uint8), maps=dict.fromkeys("ab", heat))
    assert set(name_maps(picture, ["a (v1)", "b"]).maps) == {"a (v1)", "b"}
    assert set(name_maps(picture, ["a", "a (v1)"]).maps) == {"a", "b"}


# --- the same each time

DRAW = """
import hashlib, sys
from pathlib import Path
from bench.board.board import leaderboard
from bench.board.gallery import load_gallery
from bench.board.plots.figures import encode_figure, make_figure
from bench.board.plots.plot_files import write_plots
from bench.records.store import Records
run, out = Path(sys.argv[1]), Path(sys.argv[2])
board = leaderboard(Records.load(run), resamples=50)
for file in write_plots(board, out, load_gallery(run, ["net-a"])):
    print(file.name, hashlib.sha256(file.read_bytes()).hexdigest())
figure = make_figure(3, 2)
figure.text(0.1, 0.5, " ".join({f"method_{i}" for i in range(20)}))
print("order", hashlib.sha256(encode_figure(figure)).hexdigest())
"""


@pytest.mark.slow
def test_two_processes_draw_the_same_bytes(tmp_path):
    records = random_records(n=4, k=9, models=("net-a",))
    frame = records.frame[records.frame["metric"] != "pixel_histogram"]
    run = write_run(tmp_path / "run", Records(frame, records.provenance))
    pictures(run, ("net-a",))
    found = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", DRAW, str(run), str(tmp_path / seed)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(dict(line.rsplit(" ", 1) for line in done.stdout.splitlines()))
    one, two = found
    assert one.pop("order") != two.pop("order")  # the seeds do change an order of hashes
    assert len(one) >= 6
    assert one == two
