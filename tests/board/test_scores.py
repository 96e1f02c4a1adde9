"""Boards of small tables that a reader can redo by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from bench.board.board import Board, leaderboard
from bench.board.scores import COLUMNS
from bench.board.text import OVERALL
from bench.errors import BenchError
from bench.records.store import Records

NAN = float("nan")


def by_method(board: Board, metric: str, column: str, model: str = "net") -> dict[str, float]:
    table = board.table(metric, model=model)
    return dict(zip(table["method"], table[column], strict=True))


def test_mean_median_and_rank_by_hand(toy: SimpleNamespace) -> None:
    rows = toy.scalars(
        "deletion", {"a": [0.1, 0.2, 0.6], "b": [0.2, 0.2, 0.2], "random": [0.5, 0.5, 0.8]}
    )
    board = leaderboard(toy.build(rows))
    assert by_method(board, "deletion", "mean") == pytest.approx(
        {"a": 0.3, "b": 0.2, "random": 0.6}
    )
    assert by_method(board, "deletion", "median") == pytest.approx(
        {"a": 0.2, "b": 0.2, "random": 0.5}
    )
    assert by_method(board, "deletion", "rank") == {"b": 1, "a": 2, "random": 3}
    assert by_method(board, "deletion", "control") == {"a": False, "b": False, "random": True}
    assert by_method(board, "deletion", "low")["b"] == pytest.approx(0.2)
    assert list(board.frame.columns) == COLUMNS


def test_incomplete_coverage_is_shown_and_unranked(toy: SimpleNamespace) -> None:
    rows = toy.scalars(
        "insertion", {"a": [0.9, NAN, 0.9], "b": [0.2, 0.4, 0.6], "c": [0.1, 0.1, 0.1]}
    )
    rows += toy.scalars("insertion", {"few": [0.99]})
    board = leaderboard(toy.build(rows))
    assert by_method(board, "insertion", "rank") == pytest.approx(
        {"b": 1, "c": 2, "a": NAN, "few": NAN}, nan_ok=True
    )
    assert by_method(board, "insertion", "n") == {"a": 2, "b": 3, "c": 3, "few": 1}
    assert by_method(board, "insertion", "n_nan") == {"a": 1, "b": 0, "c": 0, "few": 0}
    assert set(by_method(board, "insertion", "expected").values()) == {3}
    assert by_method(board, "insertion", "coverage")["few"] == pytest.approx(1 / 3)
    assert by_method(board, "insertion", "mean")["a"] == pytest.approx(0.9)
    assert any("a is scored on 2 of 3 items in insertion" in flag for flag in board.flags)


def test_a_method_scored_nowhere_is_a_row_without_numbers(toy: SimpleNamespace) -> None:
    board = leaderboard(toy.build(toy.scalars("deletion", {"a": [0.1, 0.2], "dead": [NAN, NAN]})))
    dead = board.table("deletion").set_index("method").loc["dead"]
    assert dead["n"] == 0
    assert dead["n_nan"] == 2
    assert np.isnan([dead["mean"], dead["median"], dead["low"], dead["rank"]]).all()


def test_values_that_are_not_ranked_have_no_rank(toy: SimpleNamespace) -> None:
    board = leaderboard(toy.build(toy.scalars("average_drop", {"a": [0.1], "b": [0.2]})))
    assert board.frame["rank"].isna().all()


def test_overall_takes_the_shared_items_and_methods(toy: SimpleNamespace) -> None:
    rows = toy.scalars("deletion", {"a": [0.1, 0.3, 0.9], "b": [0.2, 0.2, 0.2]}, model="x")
    rows += toy.scalars("deletion", {"a": [0.3, 0.5], "c": [0.0, 0.0]}, model="y")
    board = leaderboard(toy.build(rows))
    table = board.table("deletion", model=OVERALL)
    assert table["method"].tolist() == ["a"]  # b and c are not on both models
    assert table["expected"].tolist() == [2]  # i002 is on one model only
    assert table["mean"].tolist() == pytest.approx([(0.2 + 0.4) / 2])
    assert board.scopes == [("toy", OVERALL), ("toy", "x"), ("toy", "y")]


def test_overall_counts_an_item_only_where_every_model_scored_it(toy: SimpleNamespace) -> None:
    rows = toy.scalars("deletion", {"a": [0.1, NAN], "b": [0.5, 0.5]}, model="x")
    rows += toy.scalars("deletion", {"a": [0.3, 0.5], "b": [0.5, 0.5]}, model="y")
    table = leaderboard(toy.build(rows)).table("deletion", model=OVERALL).set_index("method")
    assert table.loc["a", "n"] == 1
    assert table.loc["a", "mean"] == pytest.approx(0.2)
    assert np.isnan(table.loc["a", "rank"])


def test_a_value_that_one_model_lacks_is_not_overall(toy: SimpleNamespace) -> None:
    rows = toy.scalars("deletion", {"a": [0.1]}, model="x") + toy.scalars(
        "deletion", {"a": [0.1]}, model="y"
    )
    rows += toy.scalars("pointing", {"a": [1.0]}, model="x")
    board = leaderboard(toy.build(rows))
    assert set(board.select(metric="pointing")["model"]) == {"x"}


def test_equal_maps_share_a_rank_and_say_so(toy: SimpleNamespace) -> None:
    rows = toy.scalars(
        "deletion", {"cam": [0.2, 0.2], "grad_cam": [0.2, 0.2001], "z": [0.20001, 0.20001]}
    )
    board = leaderboard(toy.build(rows, equal={"net": {"grad_cam": "cam"}}))
    assert by_method(board, "deletion", "rank") == {"cam": 1, "grad_cam": 1, "z": 3}
    assert by_method(board, "deletion", "equal_to") == {"cam": "", "grad_cam": "cam", "z": ""}
    assert board.wide("toy", "net").loc["grad_cam", "equal_to"] == "cam"


def test_overall_equality_holds_only_where_every_model_has_it(toy: SimpleNamespace) -> None:
    rows = [
        r
        for m in "xy"
        for r in toy.scalars("deletion", {"a": [0.1, 0.2], "b": [0.1, 0.2]}, model=m)
    ]
    one = leaderboard(toy.build(rows, equal={"x": {"b": "a"}}))
    both = leaderboard(toy.build(rows, equal={"x": {"b": "a"}, "y": {"b": "a"}}))
    assert by_method(one, "deletion", "equal_to", OVERALL)["b"] == ""
    assert by_method(both, "deletion", "equal_to", OVERALL)["b"] == "a"


def test_correct_variants_for_localisation_only(toy: SimpleNamespace) -> None:
    rows = toy.scalars("pointing", {"a": [1.0, 0.0, 1.0, 1.0]}) + toy.scalars(
        "deletion", {"a": [0.1] * 4}
    )
    for record in rows:
        record["correct"] = record["item"] != "i001"
    board = leaderboard(toy.build(rows))
    assert by_method(board, "pointing", "mean")["a"] == 0.75
    assert by_method(board, "pointing@correct", "mean")["a"] == 1.0
    assert by_method(board, "pointing@correct", "expected")["a"] == 3
    assert "deletion@correct" not in set(board.frame["metric"])


def test_share_of_the_gap_from_random_to_oracle(toy: SimpleNamespace) -> None:
    table = {"random": [0.2, 0.2], "oracle": [1.0, 1.0], "a": [0.6, 0.8], "part": [0.9, NAN]}
    board = leaderboard(toy.build(toy.scalars("energy", table) + toy.scalars("deletion", table)))
    expected = {"random": 0.0, "oracle": 1.0, "a": 0.625, "part": NAN}
    assert by_method(board, "energy", "share") == pytest.approx(expected, nan_ok=True)
    assert board.table("deletion")["share"].isna().all()


def spike(tau: int, iou: float, width: int = 1) -> np.ndarray:
    """Best IoU per tau: `iou` at tau (and after), 0 elsewhere."""
    vector = np.zeros(101, np.float32)
    vector[tau : tau + width] = iou
    return vector


def boxes(toy: SimpleNamespace, calibration: int, scored: list[np.ndarray | None]) -> Board:
    rows = [
        toy.row(f"c{k:03d}", "a", "box_iou", spike(20, 0.8), part="calibration")
        for k in range(calibration)
    ]
    rows += [toy.row(f"i{k:03d}", "a", "box_iou", vector) for k, vector in enumerate(scored)]
    return leaderboard(toy.build(rows))


def test_box_accuracy_by_hand(toy: SimpleNamespace) -> None:
    # Calibration chooses tau .20. There: IoU .7 (hits .3, .5, .7: >=), .5 (two hits), 0; the oracle
    # sees .9 at tau .40.
    board = boxes(toy, 50, [spike(20, 0.7), spike(20, 0.5), spike(40, 0.9)])
    means = {m: by_method(board, m, "mean")["a"] for m in set(board.frame["metric"])}
    assert means["box_accuracy_30"] == pytest.approx(2 / 3)
    assert means["box_accuracy_50"] == pytest.approx(2 / 3)
    assert means["box_accuracy_70"] == pytest.approx(1 / 3)
    assert means["box_accuracy"] == pytest.approx(5 / 9)
    # Oracle: .20 hits 2, 2, 1; the first best tau counts; at .7 both .20 and .40 hit one.
    assert means["box_accuracy_oracle"] == pytest.approx(5 / 9)
    assert "box_iou" not in means
    # The thresholds are shares of the maximum, so that sharpening moves all of them.
    assert board.frame["peaked"].all()
    assert not board.frame["ranked"].any()


def test_oracle_tau_is_chosen_on_the_scored_part(toy: SimpleNamespace) -> None:
    board = boxes(toy, 50, [spike(60, 0.9), spike(60, 0.9)])
    assert by_method(board, "box_accuracy", "mean")["a"] == 0
    assert by_method(board, "box_accuracy_oracle", "mean")["a"] == 1


def test_few_calibration_images_leave_only_the_oracle(toy: SimpleNamespace) -> None:
    board = boxes(toy, 49, [spike(20, 0.9)] * 2)
    assert by_method(board, "box_accuracy", "n")["a"] == 0
    assert np.isnan(by_method(board, "box_accuracy", "mean")["a"])
    assert by_method(board, "box_accuracy_oracle", "mean")["a"] == 1
    assert any("49 calibration images" in flag for flag in board.flags)


def test_no_calibration_part_at_all(toy: SimpleNamespace) -> None:
    board = boxes(toy, 0, [spike(20, 0.9)] * 2)
    assert np.isnan(by_method(board, "box_accuracy", "mean")["a"])
    assert any("0 calibration images" in flag for flag in board.flags)


def test_a_map_without_boxes_is_missing_not_zero(toy: SimpleNamespace) -> None:
    board = boxes(toy, 50, [spike(20, 0.9), np.full(101, np.nan, np.float32), None])
    table = board.table("box_accuracy").iloc[0]
    assert (table["n"], table["expected"], table["n_nan"]) == (1, 3, 2)
    assert table["mean"] == 1
    assert np.isnan(table["rank"])


def test_calibration_rows_are_never_scored(toy: SimpleNamespace) -> None:
    rows = [
        *toy.scalars("deletion", {"a": [0.2, 0.4]}),
        toy.row("c0", "a", "deletion", 9.0, part="calibration"),
    ]
    assert by_method(leaderboard(toy.build(rows)), "deletion", "mean")["a"] == pytest.approx(0.3)


def test_pooled_pixel_precision_by_hand(toy: SimpleNamespace) -> None:
    # Two images of three bins: pooled object pixels (1, 0, 2), others (3, 1, 0), as in
    # test_board_statistics.
    rows = [toy.row("i0", "a", "pixel_histogram", [1, 0, 1, 0, 1, 0])]
    rows += [toy.row("i1", "a", "pixel_histogram", [0, 0, 1, 3, 0, 0])]
    rows += [
        toy.row(f"i{k}", "b", "pixel_histogram", v)
        for k, v in enumerate(([0, 0, 1, 1, 0, 0], None))
    ]
    table = leaderboard(toy.build(rows)).table("pixel_ap_pooled").set_index("method")
    assert table.loc["a", "mean"] == pytest.approx(2 / 3 + 1 / 7)
    assert table.loc["b", "mean"] == 1
    assert (table.loc["b", "n"], table.loc["b", "n_nan"]) == (1, 1)
    assert table["peaked"].all()
    assert table["rank"].isna().all()  # histograms of unit(L): sharpening moves them


def test_std_values(toy: SimpleNamespace) -> None:
    board = leaderboard(toy.build(toy.scalars("best_tau", {"a": [1.0, 2.0, 4.0]})))
    assert by_method(board, "best_tau", "mean")["a"] == pytest.approx(np.std([1, 2, 4], ddof=1))


def test_curves_are_not_tabled(run: Records, board: Board) -> None:
    assert not board.frame["metric"].str.endswith("_curve").any()
    assert len(board.frame) > 0


def test_flag_where_oracle_and_random_are_not_apart(toy: SimpleNamespace) -> None:
    rng = np.random.default_rng(0)
    same = {"oracle": list(rng.random(20)), "random": list(rng.random(20))}
    apart = {"oracle": [0.9] * 20, "random": [0.1] * 20}
    board = leaderboard(toy.build(toy.scalars("pointing", same) + toy.scalars("pixel_ap", apart)))
    assert next(flag for flag in board.flags if "does not separate" in flag).startswith(
        "toy, net: pointing "
    )
    assert not any("pixel_ap " in flag for flag in board.flags)


def test_flag_where_insertion_starts_too_high(toy: SimpleNamespace) -> None:
    flags = [
        leaderboard(toy.build(toy.scalars("insertion_start", {"a": [s] * 3}))).flags
        for s in (0.049, 0.08)
    ]
    assert flags[0] == []
    assert "insertion starts at a mean probability of .080" in flags[1][0]


def test_compare_is_paired_on_common_items(toy: SimpleNamespace) -> None:
    rows = toy.scalars("deletion", {"mine": [0.1, 0.2, 0.3], "grad_cam": [0.2, 0.3, 0.4, 0.9]})
    lines = leaderboard(toy.build(rows)).compare("mine", "grad_cam")
    # Three images can show nothing: no p of theirs is below 2^-2.
    (line,) = lines
    assert line.startswith(
        "mine against grad_cam: deletion -.100 [-.100, -.100], n=3: not separable"
    )
    assert line.endswith("(p = .250 after Holm), over this pair alone")


@pytest.mark.parametrize(
    ("shift", "word"), [(-0.1, "better"), (0.1, "worse"), (0.0, "not separable")]
)
def test_compare_says_what_the_images_show(toy: SimpleNamespace, shift: float, word: str) -> None:
    """Lower is better; names with parameters are names. Holm's correction is the table's."""
    rng = np.random.default_rng(0)
    theirs = rng.uniform(0.3, 0.7, 40)
    mine = theirs + shift + 0.01 * rng.choice([-1, 1], 40)
    far = theirs + 0.3
    rows = toy.scalars("deletion", {"mine[a=2]": mine, "grad_cam": theirs, "random": far})
    board = leaderboard(toy.build(rows), resamples=200)
    (line,) = board.compare("mine[a=2]", "grad_cam")
    assert f", n=40: {word} (p " in line
    assert line.endswith("after Holm)")
    (same,) = board.compare("grad_cam", "grad_cam") or ["nothing"]
    assert "better" not in same
    assert "worse" not in same


def test_compare_names_the_model_where_there_are_several(board: Board) -> None:
    lines = board.compare("method_00", "method_01")
    assert sum("(toy, net-a)" in line for line in lines) == len(lines) / 2
    assert len([line for line in lines if "pixel_ap" in line]) == 2
    assert not any("energy" in line or "pooled" in line for line in lines)
    with pytest.raises(BenchError, match=r"No method 'method_0'.*Did you mean"):
        board.compare("method_0", "method_01")


def test_wide_holds_ranked_values_as_text(board: Board) -> None:
    wide = board.wide("toy", "net-a")
    expected = [
        "deletion",
        "insertion",
        "pixel_ap",
        "pointing",
    ]
    assert list(wide.columns) == ["fidelity", "equal_to", *expected]
    assert wide.index[0] == "oracle"
    assert wide.index[-1] == "random"
    assert wide["deletion"].str.fullmatch(r"\.\d{3} \[-?\.\d{3}, \.\d{3}\]").all()


def test_table_selects_and_names_what_is_unknown(board: Board) -> None:
    table = board.table("deletion", "toy", "net-a")
    assert table["rank"].tolist() == sorted(table["rank"])
    with pytest.raises(BenchError, match=r"No metric 'deltion'.*deletion"):
        board.table("deltion")


def test_the_same_records_give_the_same_board(run: Records, board: Board) -> None:
    shuffled = Records(run.frame.sample(frac=1, random_state=1), run.provenance)
    pd.testing.assert_frame_equal(leaderboard(shuffled, resamples=500).frame, board.frame)


def refused(toy: SimpleNamespace, *changes: dict[str, object]) -> pytest.ExceptionInfo[BenchError]:
    rows = [{**toy.row("i0", "a", "deletion", 0.1), **change} for change in changes]
    with pytest.raises(BenchError) as error:
        leaderboard(toy.build(rows))
    assert "\n" not in str(error.value)
    return error


def test_refuses_what_cannot_be_compared(toy: SimpleNamespace) -> None:
    assert "no records" in str(refused(toy))
    assert "mix protocols" in str(refused(toy, {}, {"item": "i1", "protocol_id": "other@1"}))
    assert "several metric_ids for metric deletion" in str(
        refused(toy, {}, {"item": "i1", "metric_id": "d@2"})
    )
    assert "several method_ids for method a" in str(
        refused(toy, {}, {"item": "i1", "method_id": "a@2"})
    )
    assert "there twice" in str(refused(toy, {}, {}))
    assert "no scored item" in str(refused(toy, {"part": "calibration"}))


def test_refuses_rows_without_facts(toy: SimpleNamespace) -> None:
    records = toy.build(toy.scalars("deletion", {"a": [0.1]}))
    for key in ("methods", "metrics", "models", "subsets"):
        with pytest.raises(BenchError, match="says nothing"):
            leaderboard(Records(records.frame, {**records.provenance, key: {}}))


def test_a_method_that_does_not_fit_is_named(toy: SimpleNamespace) -> None:
    reason = "cam needs a linear head."
    records = toy.build(
        toy.scalars("deletion", {"a": [0.1]}), not_applicable={"net": {"cam": reason}}
    )
    assert leaderboard(records).flags == [f"cam is n/a on net: {reason}"]


def test_relative_areas_divide_by_the_clean_probability_by_hand(toy: SimpleNamespace) -> None:
    """Deletion .2 from p = .8 is .25 of it; insertion .3 up to p = .5 is .6; not ranked."""
    rows = [
        toy.row("i0", "a", "deletion", 0.2),
        toy.row("i0", "a", "deletion_curve", np.array([0.8, 0.1, 0.0])),
        toy.row("i0", "a", "insertion", 0.3),
        toy.row("i0", "a", "insertion_curve", np.array([0.0, 0.2, 0.5])),
    ]
    board = leaderboard(toy.build(rows))
    for metric, expected in (("deletion_relative", 0.25), ("insertion_relative", 0.6)):
        table = board.table(metric, "toy", "net")
        assert table["mean"].item() == pytest.approx(expected, abs=1e-6)
        assert not table["ranked"].item()
