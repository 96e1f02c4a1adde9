"""Fine-tuned models beside their originals: differences that a reader can redo, on the same images
only.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.board import text
from bench.board.board import leaderboard
from bench.board.significance import wilcoxon
from bench.board.tables import tabulate_tuned
from bench.board.tuned import COLUMNS, compare_tuned, find_pairs, list_shown_values
from tests.support.toy_records import build, random_records, row, scalars

BEFORE, AFTER = [0.5, 0.4, 0.6, 0.5], [0.4, 0.4, 0.3, 0.2]


def models(simulated: bool = False):
    return {
        "net": {"weights_id": "w-net", "parent": "", "top1": 90.0},
        "tuned": {
            "weights_id": "w-tuned",
            "parent": "net",
            "top1": 91.0,
            "card": {"simulated": simulated},
        },
    }


def records(simulated: bool = False):
    rows = [
        *scalars("deletion", {"a": BEFORE, "b": [0.1] * 4}, model="net"),
        *scalars("deletion", {"a": AFTER, "b": [0.1] * 4}, model="tuned", parent="net"),
    ]
    for number, one in enumerate(rows):
        one["correct"] = number % 4 != 0 if one["model"] == "net" else True
    return build(rows, models=models(simulated))


def only(table, **wanted):
    for column, value in wanted.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_a_difference_is_tuned_minus_original_on_the_same_images():
    board = leaderboard(records(), resamples=500)
    (pair,) = find_pairs(board)
    assert (pair.model, pair.parent) == ("tuned", "net")
    found = only(compare_tuned(board), metric="deletion", method="a")
    assert found["before"] == pytest.approx(0.5)
    assert found["after"] == pytest.approx(0.325)
    assert found["difference"] == pytest.approx(-0.175)
    gaps = np.array(AFTER) - np.array(BEFORE)
    assert found["low"] == pytest.approx(np.percentile(resampled_means(gaps), 2.5), abs=0.03)
    assert found["high"] == pytest.approx(np.percentile(resampled_means(gaps), 97.5), abs=0.03)
    assert found["p"] == pytest.approx(wilcoxon(gaps, np.array(list("abcd"), dtype=object)))
    assert found["p_holm"] == pytest.approx(2 * found["p"])  # two methods were tested
    same = only(compare_tuned(board), metric="deletion", method="b")
    assert (same["difference"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)


def resampled_means(values):
    draws = np.random.default_rng(1).integers(len(values), size=(4000, len(values)))
    return values[draws].mean(1)


def test_a_plain_map_is_compared_with_the_originals_search():
    rows = [
        *scalars(
            "energy", {"a": [0.2, 0.3, 0.4], "tft(a)": [0.5, 0.5, 0.5], "b": [0.1] * 3}, model="net"
        ),
        *scalars(
            "energy",
            {"a": [0.6, 0.7, 0.8], "tft(a)": [0.9] * 3, "b": [0.1] * 3},
            model="tuned",
            parent="net",
        ),
    ]
    table = compare_tuned(leaderboard(build(rows, models=models()), resamples=500))
    energy = table[table["metric"] == "energy"]
    assert set(zip(energy["method"], energy["against"], strict=True)) == {
        *(("a", "a"), ("b", "b"), ("tft(a)", "tft(a)")),
        ("a", "tft(a)"),
    }
    found = only(energy, method="a", against="tft(a)")
    assert (found["before"], found["after"]) == (pytest.approx(0.5), pytest.approx(0.7))
    assert found["difference"] == pytest.approx(0.2)


def test_accuracy_on_the_boards_images_is_a_row_of_its_own():
    found = only(compare_tuned(leaderboard(records(), resamples=500)), metric="top1")
    assert (found["before"], found["after"], found["difference"], found["n"]) == (
        0.75,
        1.0,
        0.25,
        4,
    )
    assert found["method"] == ""


def test_an_image_that_one_of_them_did_not_score_is_left_out_of_both():
    rows = records().frame
    gap = (rows["model"] == "tuned") & (rows["method"] == "a") & (rows["item"] == "i000")
    rows.loc[gap, "value"] = math.nan
    found = only(
        compare_tuned(leaderboard(build(rows.to_dict("records"), models=models()))),
        metric="deletion",
        method="a",
    )
    assert found["n"] == 3
    assert found["before"] == pytest.approx(0.5)
    assert found["after"] == pytest.approx(0.3)


def test_every_kind_of_value_has_its_difference():
    made = random_records(models=("net", "tuned"))
    made.provenance["models"]["tuned"]["parent"] = "net"
    board = leaderboard(made, resamples=200)
    table = compare_tuned(board)
    assert list(table.columns) == COLUMNS
    for metric in ("deletion", "box_accuracy", "pixel_ap_pooled", "best_tau"):
        for method in ("oracle", "random"):
            found = only(table, metric=metric, method=method)
            both = board.select(metric=metric, method=method).set_index("model")["mean"]
            assert found["difference"] == pytest.approx(both["tuned"] - both["net"]), metric
            assert found["low"] <= found["difference"] <= found["high"], metric
    assert not table["metric"].str.endswith("_curve").any()


def test_without_an_original_on_the_board_there_is_no_table():
    made = random_records(models=("net", "tuned"))
    assert compare_tuned(leaderboard(made, resamples=50)).empty
    made.provenance["models"]["tuned"]["parent"] = "somebody"
    assert compare_tuned(leaderboard(made, resamples=50)).empty


def test_the_page_shows_both_and_says_what_was_simulated(tmp_path):
    board = leaderboard(records(simulated=True), resamples=500)
    board.save(tmp_path)
    page = (tmp_path / "board.md").read_text()
    assert "fine-tuned from net with SIMULATED maps" in page
    assert "### toy: tuned against net (simulated maps)" in page
    assert "tuned was fine-tuned with SIMULATED attention maps" in page
    assert "toy, model tuned (simulated maps); n = 4" in page
    assert "Top-1 on these images: 75.0 % before, 100.0 % after, +25.000" in page
    assert "**-.175** [-.3" in page
    assert "| b | paper | .000 [" in page
    assert (tmp_path / "tables" / "fine-tuned.csv").read_text().count("\n") == 4
    plain = leaderboard(
        build([row("i0", "a", "deletion", 0.5), row("i1", "a", "deletion", 0.4)]), resamples=50
    )
    plain.save(tmp_path)
    assert "originals" not in (tmp_path / "board.md").read_text()
    assert not (tmp_path / "tables" / "fine-tuned.csv").exists()


@pytest.mark.slow
def test_the_overall_table_is_over_originals_alone():
    made = random_records(models=("net-a", "net-b", "tuned"))
    assert (
        leaderboard(made, resamples=50).select(model="overall", metric="deletion")["n"].iloc[0] > 0
    )
    three = (
        leaderboard(made, resamples=50)
        .select(model="overall", metric="deletion", method="oracle")["mean"]
        .item()
    )
    made.provenance["models"]["tuned"]["parent"] = "net-a"
    board = leaderboard(made, resamples=50)
    means = board.select(metric="deletion", method="oracle").set_index("model")["mean"]
    assert means["overall"] == pytest.approx((means["net-a"] + means["net-b"]) / 2)
    assert means["overall"] != pytest.approx(three)
    assert {"tuned", "net-a", "overall"} <= set(means.index)


def test_what_sharpening_moves_is_marked_and_never_bold():
    rows = []
    for value in ("insertion", "dr"):
        rows += scalars(value, {"a": [0.2, 0.3, 0.4]}, model="net")
        rows += scalars(value, {"a": [0.6, 0.7, 0.8]}, model="tuned", parent="net")
    (beside,) = tabulate_tuned(leaderboard(build(rows, models=models()), resamples=500))
    (section,) = beside.sections
    (line,) = section.lines
    bold = dict(zip(section.headers, (cell.best for cell in line.cells), strict=True))
    assert bold == {"dr§": False, "insertion ↑": True}
    assert section.notes == [text.SHARPENING]


def test_an_older_version_of_a_shown_value_is_shown():
    rows = scalars("dr", {"a": [0.2, 0.3, 0.4]}, model="net")
    rows += scalars("dr", {"a": [0.6, 0.7, 0.8]}, model="tuned", parent="net")
    table = compare_tuned(leaderboard(build(rows, models=models()), resamples=500))
    table["metric"] = table["metric"].replace("dr", "dr (v1)")
    assert [name for name, _ in list_shown_values(table)] == ["dr (v1)"]
