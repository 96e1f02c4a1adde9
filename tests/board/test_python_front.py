"""What a board gives in Python: a table for a paper, figures, and what a notebook shows."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import torch

import bench
from bench.board.board import leaderboard
from bench.errors import BenchError
from tests.support.toy_records import build, scalars

N = 40
NOISE = np.random.default_rng(0).normal(0, 0.02, (4, N))


def around(mean: float, row: int) -> list[float]:
    noise = NOISE[row] - NOISE[row].mean()
    return (mean + noise).tolist()


@pytest.fixture(scope="module")
def known():
    """deletion: good < grad_cam = same < bad, where lower is better."""
    table = {
        "good": around(0.1, 0),
        "grad_cam": around(0.3, 1),
        "same": around(0.3, 2),
        "bad_one": around(0.6, 3),
    }
    rows = [*scalars("deletion", table), *scalars("insertion", table)]
    return leaderboard(build(rows), resamples=1000)


def test_a_report_marks_what_is_better_and_worse_than_the_reference(known):
    report = known.report(values=["deletion"])
    marks = {method: cells["deletion"].mark for method, cells in report.rows.items()}
    assert marks == {"good": "+", "grad_cam": "", "same": "", "bad_one": "-"}
    other = known.report(values=["insertion"], reference="good")
    assert {m: c["insertion"].mark for m, c in other.rows.items()} == {
        "good": "",
        "grad_cam": "+",
        "same": "+",
        "bad_one": "+",
    }
    assert known.report(reference="").caption.endswith("cambench-1@x.")


def test_names_methods_and_decimals_are_those_that_are_asked_for(known):
    report = known.report(["deletion"], ["good", "bad_one"], {"good": "Ours"}, "good", 1)
    assert report.to_csv().splitlines() == [
        "method,deletion,deletion_low,deletion_high,deletion_mark",
        "Ours,0.1,0.1,0.1,",
        "bad_one,0.6,0.6,0.6,-",
    ]
    text = report.to_latex()
    assert r"bad\_one & 0.6 [0.6, 0.6]$^{-}$ \\" in text
    assert r"\label{tab:toy-net}" in text
    assert r"deletion $\downarrow$" in text
    assert text.count("Ours") == 2  # its row, and the caption
    assert "| Ours | 0.1 [0.1, 0.1] |" in report.to_markdown()


def test_the_csv_of_a_report_holds_the_numbers_of_the_board(known):
    rows = list(csv.DictReader(io.StringIO(known.report(decimals=6).to_csv())))
    table = known.table("deletion").set_index("method")
    for row in rows:
        assert float(row["deletion"]) == pytest.approx(table.loc[row["method"], "mean"], abs=1e-6)
        assert float(row["deletion_high"]) == pytest.approx(
            table.loc[row["method"], "high"], abs=1e-6
        )


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"values": ["deletions"]}, "No value 'deletions'.*deletion"),
        ({"methods": ["gradcam"]}, "No method 'gradcam'.*grad_cam"),
        ({"reference": "nobody"}, "reference 'nobody' is not on the board"),
        ({"decimals": 0}, "1 to 6 decimals"),
        ({"model": "other"}, "no table"),
    ],
)
def test_what_a_report_cannot_hold_is_refused(known, given, sentence):
    with pytest.raises(BenchError, match=sentence):
        known.report(**given)


def test_plots_show_the_methods_and_values_that_are_asked_for(known):
    from matplotlib.figure import Figure

    figure = known.plot("ranking", methods=["good", "bad_one"], values=["deletion"])
    assert isinstance(figure, Figure)
    drawn = [axis for axis in figure.axes if axis.has_data()]
    assert len(drawn) == 1
    labels = [label.get_text() for label in drawn[0].get_yticklabels()]
    assert labels == ["good", "bad_one"]
    with pytest.raises(BenchError, match=r"no plot 'rankings'.*ranking"):
        known.plot("rankings")
    with pytest.raises(BenchError, match=r"No method 'gradcam'.*grad_cam"):
        known.plot("ranking", methods=["gradcam"])
    with pytest.raises(BenchError, match=r"No value 'deletions'.*deletion"):
        known.plot("ranking", values="deletions")
    with pytest.raises(BenchError, match="do not hold"):
        known.plot("curves")


def test_plots_can_be_drawn_on_axes_of_the_caller(known):
    from matplotlib.figure import Figure

    own = Figure()
    axes = own.subplots(1, 2)
    assert known.plot("ranking", ax=list(axes)) is own
    assert all(axis.has_data() for axis in axes)
    with pytest.raises(BenchError, match=r"needs 2 axes .deletion .*, and 1"):
        known.plot("ranking", ax=axes[0])
    with pytest.raises(BenchError, match="needs 1 axes"):
        known.plot("correlation", ax=axes)
    with pytest.raises(BenchError, match="makes its own figure"):
        known.plot("gallery", ax=axes)


def test_curves_and_cost_of_a_whole_run(board):
    figure = board.plot("curves", methods=["method_00", "random"], model="net-a")
    assert sum(axis.has_data() for axis in figure.axes) == 2
    assert board.plot("cost", values=["deletion"]).axes


def test_a_notebook_shows_words_and_a_table(known):
    shown = known._repr_html_()
    assert "deletion: good; insertion: bad_one" in shown
    assert shown.count("<tr") == 2 + 4  # two of headers, one for each method
    assert repr(known) == "Board(4 methods on toy/net)"
    assert len(repr(known.records)) < 200
    assert "160" in known.records._repr_html_() or "320" in known.records._repr_html_()


def test_show_draws_images_maps_titles_scores_and_boxes():
    images = torch.rand(2, 3, 16, 20)
    maps = {"a": torch.rand(2, 4, 5), "b": np.random.default_rng(0).normal(size=(2, 16, 20))}
    boxes = [[[2, 3, 8, 9]], []]
    figure = bench.show(images, maps, ["cat", "dog"], {"a": [0.25, 0.5]}, boxes)
    assert [axis.get_title() for axis in figure.axes[:3]] == ["image", "a", "b"]
    assert figure.axes[0].get_ylabel() == "cat"
    assert figure.axes[1].get_xlabel() == "0.250"
    assert [len(axis.patches) for axis in figure.axes] == [1, 1, 1, 0, 0, 0]
    box = figure.axes[0].patches[0]
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (1.5, 2.5, 6, 6)
    np.testing.assert_allclose(
        figure.axes[0].images[0].get_array(), images[0].permute(1, 2, 0).numpy(), atol=1e-6
    )
    as_bytes = (images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    again = bench.show(as_bytes, maps)
    np.testing.assert_allclose(
        again.axes[0].images[0].get_array(), images[0].permute(1, 2, 0).numpy(), atol=0.01
    )


@pytest.mark.parametrize(
    ("images", "maps", "sentence"),
    [
        (torch.zeros(2, 1, 8, 8), {}, "give"),
        (torch.randn(2, 3, 8, 8), {}, "before normalisation"),
        (torch.zeros(2, 3, 8, 8), {"a": torch.zeros(3, 8, 8)}, "a: 3 were given for 2 images"),
    ],
)
def test_show_refuses_what_is_no_picture(images, maps, sentence):
    with pytest.raises(BenchError, match=sentence):
        bench.show(images, maps)
