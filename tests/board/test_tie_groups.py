"""Tie groups, ranges of ranks and what is said beside a table, on tables that a reader can redo by
hand.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from bench.board import tables
from bench.board.board import Board, leaderboard
from bench.board.comparison import Comparison
from bench.board.pairs import compare_all_pairs, compare_pairs, find_comparison
from bench.board.plots import choices_plot, stability_plot
from bench.board.rank_notes import write_caveats, write_order
from bench.board.statistics import Sampled
from bench.board.tie_groups import find_tie_groups
from bench.errors import BenchError
from bench.metrics import METRICS
from bench.metrics.base import Derived

WAVE = np.tile([1.0, -1.0], 20)
"""Noise of 40 images with mean 0."""


def table(gaps: dict[str, tuple[float, float]]) -> dict[str, list[float]]:
    """{method: (mean, noise)} on 40 images. Every method's noise has a period of its own, so the
    pairs' differences vary."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=40)
    own = {name: rng.permutation(WAVE) for name in gaps}
    return {
        name: list(mean + 0.2 * shared + noise * own[name]) for name, (mean, noise) in gaps.items()
    }


@pytest.fixture(scope="module")
def tied(toy: SimpleNamespace) -> Board:
    """a and b are close, c is far off, d is farther; "same" has a's map."""
    values = table({"a": (0.10, 0.02), "b": (0.101, 0.02), "c": (0.3, 0.02), "d": (0.5, 0.02)})
    values["same"] = [v + 1e-9 for v in values["a"]]
    records = toy.build(toy.scalars("deletion", values), equal={"net": {"same": "a"}})
    return leaderboard(records, resamples=500)


def test_ranges_and_runs_by_hand(tied: Board) -> None:
    found = tied.table("deletion").set_index("method")
    ranges = {m: (r["rank"], r["rank_best"], r["rank_worst"]) for m, r in found.iterrows()}
    # a and same share rank 1; with b they are three rows of which none is told apart, then c and d,
    # each for itself
    assert ranges == {
        "a": (1, 1, 2),
        "same": (1, 1, 2),
        "b": (3, 1, 3),
        "c": (4, 4, 4),
        "d": (5, 5, 5),
    }
    one = tied.comparisons["toy", "net", "deletion"]
    assert [one.methods[place] for place in one.order] == ["a", "same", "b", "c", "d"]
    assert one.tie_groups == [(1, 3)]


def test_what_is_said_beside_the_table(tied: Board) -> None:
    facts = find_tie_groups(tied, "toy", "net")["deletion"]
    assert facts["runs"] == [[1, 3]]
    assert facts["same_maps"] == [["a", "same"]]
    assert facts["first_two"]["a"] == "a"
    assert facts["first_two"]["b"] == "b"
    assert not facts["first_two"]["apart"]
    words = write_order("deletion", facts)
    assert words.startswith(
        "deletion: 1-3 cannot be told apart at n=40; a = same: the same map; n needed to separate "
        "a "
    )
    assert "from b, the first two that are no controls:" in words


def test_pairs_of_the_same_map_are_not_tested(tied: Board) -> None:
    found = compare_pairs(tied, "deletion", "toy", "net").set_index(["a", "b"])
    assert len(found) == 10
    same = found.loc[("a", "same")]
    assert same["same_map"]
    assert not same["apart"]
    assert same["difference"] == 0
    assert np.isnan([same["p"], same["p_holm"], same["p_bootstrap"]]).all()
    numbers = ["difference", "p_holm", "effect", "n_needed"]
    mirrored = found.loc[("d", "same"), numbers].astype(float) * [-1, 1, -1, 1]
    np.testing.assert_array_equal(found.loc[("a", "d"), numbers].astype(float), mirrored)
    # Holm's correction counts the pairs of the four distinct maps, six of them
    distinct = found[~found["same_map"]].drop(index=[("b", "same"), ("c", "same"), ("d", "same")])
    assert len(distinct) == 6
    assert distinct["p_holm"].min() == pytest.approx(6 * distinct["p"].min())


def slow_runs(apart: np.ndarray) -> Iterator[tuple[int, int]]:
    """Every interval without a pair told apart that lies in no larger one."""
    size = len(apart)
    free = [
        (s, e)
        for s in range(size)
        for e in range(s + 1, size)
        if not apart[s : e + 1, s : e + 1].any()
    ]
    for s, e in free:
        if not any((t <= s and e <= f) and (t, f) != (s, e) for t, f in free):
            yield s + 1, e + 1


@given(
    st.integers(2, 7).flatmap(
        lambda k: st.tuples(st.just(k), st.lists(st.booleans(), min_size=k * k, max_size=k * k))
    )
)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_runs_are_the_longest_intervals(case: tuple[int, list[bool]]) -> None:
    size, draws = case
    wins = np.triu(
        np.array(draws).reshape(size, size), 1
    )  # a better method never loses to a worse one
    drawn = Sampled(np.arange(size, dtype=float), np.zeros((1, size)))
    place = np.zeros((size, size), dtype=np.int64)
    one = Comparison(
        [f"m{k}" for k in range(size)], 9, drawn, np.arange(size), pd.DataFrame(), place, wins, 1.0
    )
    assert one.tie_groups == list(slow_runs(wins | wins.T))
    best, worst = one.ranges
    for k in range(size):
        assert best[k] == 1 + wins[:, k].sum() <= k + 1 <= worst[k] == size - wins[k].sum()


def test_a_mean_made_by_one_image_is_not_believed(toy: SimpleNamespace) -> None:
    """b is worse on every image but one, on which it is so much better that its mean is: the two
    tests disagree.
    """
    a = np.zeros(30)
    b = np.full(30, 0.02) + 1e-4 * np.arange(30)
    b[0] = -9.0
    found = leaderboard(
        toy.build(toy.scalars("deletion", {"a": list(a), "b": list(b)})), resamples=500
    )
    row = compare_pairs(found, "deletion", "toy", "net").iloc[0]
    assert row["p"] < 0.001
    assert row["difference"] > 0  # deletion: lower is better, so b ranks first
    assert not row["apart"]


def test_both_tests_must_point_the_same_way(toy: SimpleNamespace) -> None:
    """170 small losses and 30 large wins: the mean and the ranks are both clear, and contradict
    each other.
    """
    gap = np.concatenate([np.full(170, 0.1), np.full(30, -2.0)]) + 1e-3 * np.random.default_rng(
        0
    ).normal(size=200)
    records = toy.build(toy.scalars("deletion", {"a": list(gap), "b": [0.0] * 200}))
    row = compare_pairs(leaderboard(records, resamples=500), "deletion", "toy", "net").iloc[0]
    assert row["p_bootstrap_holm"] < 0.001
    assert row["p_holm"] < 0.001
    assert row["difference"] < 0
    assert not row["apart"]


def test_few_images_tell_nothing_apart_and_say_how_many_could(toy: SimpleNamespace) -> None:
    rng = np.random.default_rng(0)
    values = {f"m{k}": list(k + 0.01 * rng.normal(size=6)) for k in range(4)}
    board = leaderboard(toy.build(toy.scalars("deletion", values)), resamples=200)
    # six pairs: 2^(1-n) <= .05 / 6 needs n = 8
    assert write_order("deletion", find_tie_groups(board, "toy", "net")["deletion"]).startswith(
        "deletion: 1-4 cannot be told apart at n=6 (no two methods can below n=8)"
    )
    values = {f"m{k}": list(k + 0.01 * rng.normal(size=8)) for k in range(4)}
    enough = leaderboard(toy.build(toy.scalars("deletion", values)), resamples=200)
    assert find_tie_groups(enough, "toy", "net")["deletion"]["runs"] == []
    assert "all 4 places can be told apart at n=8" in write_order(
        "deletion", find_tie_groups(enough, "toy", "net")["deletion"]
    )


def test_one_image_or_one_method_is_no_comparison(toy: SimpleNamespace) -> None:
    alone = leaderboard(toy.build(toy.scalars("deletion", {"a": [0.1], "b": [0.2]})), resamples=20)
    assert alone.table("deletion")["rank_worst"].tolist() == [2, 2]
    single = leaderboard(toy.build(toy.scalars("deletion", {"a": [0.1, 0.3]})), resamples=20)
    for board in (alone, single):
        assert compare_all_pairs(board, "toy", "net").empty
        with pytest.raises(BenchError, match="needs two of each") as error:
            compare_pairs(board, "deletion", "toy", "net")
        assert "\n" not in str(error.value)
    assert find_tie_groups(single, "toy", "net") == {}


def test_pooled_values_have_the_bootstrap_alone(toy: SimpleNamespace) -> None:
    records = toy.random_records()
    # A plug-in's own histograms, which it ranks by; those of unit(L) are moved by sharpening.
    derived = dataclasses.asdict(Derived("mine_pooled", "mine"))
    records.provenance["metrics"]["pixel_histogram"]["derived"] = derived
    board = leaderboard(records, resamples=200)
    found = compare_pairs(board, "mine_pooled", "toy", "net-a")
    assert found["p"].isna().all()
    assert found["p_bootstrap"].notna().all()
    assert np.isfinite(found["effect"]).all()
    one = find_comparison(board, "mine_pooled", "toy", "net-a")
    gap = one.drawn.replicates[:, 0] - one.drawn.replicates[:, 1]
    t = found["difference"][0] / (gap.std(ddof=1) * np.sqrt(12 / 11))
    assert found["effect"][0] == pytest.approx(t / np.sqrt(12), rel=1e-6)


def test_every_table_carries_the_tie_groups(tied: Board, tmp_path: Path) -> None:
    tables.write_tables(tied, tmp_path)
    words = "1-3 cannot be told apart at n=40"
    found = json.loads((tmp_path / "toy--net.json").read_text())
    assert found["ties"]["deletion"]["runs"] == [[1, 3]]
    csv = pd.read_csv(tmp_path / "toy--net.csv").set_index("method")
    assert csv.loc["b", ["rank_best", "rank_worst"]].tolist() == [1, 3]
    for ending in ("md", "tex"):
        content = (tmp_path / f"toy--net.{ending}").read_text()
        assert words in content
        assert "(1-3)" in content
    stream = io.StringIO()
    tied.print(Console(file=stream, width=300, color_system=None))
    assert words in stream.getvalue()
    assert "(1-3)" in stream.getvalue()


def test_ranks_over_resamples_by_hand(toy: SimpleNamespace) -> None:
    # Two images: a wins on one by 2, b on the other by 1. Resamples (1/4, 1/2, 1/4): a leads in
    # three of four.
    records = toy.build(
        toy.scalars("deletion", {"a": [0.0, 1.0], "b": [2.0, 0.0], "z": [9.0, 9.0]})
    )
    one = leaderboard(records, resamples=2000).comparisons["toy", "net", "deletion"]
    places, shares = stability_plot.count_ranks(one)
    assert [one.methods[place] for place in places] == ["a", "b", "z"]
    np.testing.assert_allclose(shares, [[0.75, 0.25, 0], [0.25, 0.75, 0], [0, 0, 1]], atol=0.04)
    np.testing.assert_allclose(shares.sum(1), 1)


def grid(choices: dict[str, list[float]]) -> pd.DataFrame:
    rows = [
        {
            "subset": "toy",
            "model": "net",
            "metric": "deletion",
            "choice": choice,
            "value": "deletion",
        }
        | {"method": method, "n": 40, "mean": rank / 10, "rank": rank}
        for choice, ranks in choices.items()
        for method, rank in zip(["a", "b", "c", "d"], ranks, strict=True)
    ]
    return pd.DataFrame(rows)


def test_ranks_under_choices_are_drawn_where_they_lie_beside_the_run(
    tied: Board, tmp_path: Path
) -> None:
    file = tmp_path / choices_plot.GRID
    file.parent.mkdir()
    grid(
        {"default": [1, 2, 3, 4], "steps=14": [1, 2, 3, 4], "baseline=black": [4, 3, 2, 1]}
    ).to_csv(file, index=False)
    read = choices_plot.read_grid(tmp_path)
    assert read is not None
    figure = tied.plot("choices", run=tmp_path)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["default", "steps=14\nτ 1.000", "baseline=black\nτ -1.000"]
    assert choices_plot.sketch_choices(tied, read, "toy", "other") is None
    assert choices_plot.read_grid(tmp_path / "elsewhere") is None
    file.write_text("subset,model\n")
    with pytest.raises(BenchError, match="has no column metric"):
        choices_plot.read_grid(tmp_path)


def test_values_that_a_trivial_map_wins_are_shown_and_not_ranked(toy: SimpleNamespace) -> None:
    facts = METRICS.get("average_drop").values
    assert {name: value.ranked for name, value in facts.items()} == dict.fromkeys(facts, False)
    assert {"average_drop", "average_increase", "average_gain"} <= set(facts)
    rows = toy.scalars("average_drop", {"fake_cam": [0.0, 0.001], "a": [0.2, 0.3]})
    rows += toy.scalars("deletion", {"fake_cam": [0.5, 0.6], "a": [0.2, 0.3]})
    board = leaderboard(toy.build(rows), resamples=50)
    drop = board.table("average_drop").set_index("method")
    assert drop.loc["fake_cam", "mean"] < drop.loc["a", "mean"]
    assert drop[["rank", "rank_best", "rank_worst"]].isna().all().all()
    assert [metric for metric, _ in board.list_ranked("toy", "net")] == ["deletion"]
    assert (
        "average_drop ↓§"
        in next(
            s for s in tables.build_sections(board, "toy", "net") if "not ranked" in s.title
        ).headers
    )
    assert not any("won by a control" in flag for flag in board.flags)


def test_a_ranked_value_that_a_control_wins_is_flagged(toy: SimpleNamespace) -> None:
    rows = toy.scalars("pixel_ap", {"center": [0.9, 0.8], "oracle": [1.0, 1.0], "a": [0.7, 0.8]})
    flags = leaderboard(toy.build(rows), resamples=50).flags
    assert [flag for flag in flags if "won by a control" in flag] == [
        "toy, net: pixel_ap is won by a control, center (.850; best method: a .750): "
        "no explanation is needed to do best."
    ]


def test_equal_maps_are_no_places_of_their_own() -> None:
    facts = {
        "methods": 3,
        "images": 60,
        "images_to_separate": 8,
        "runs": [],
        "same_maps": [["a", "b"]],
    }
    assert (
        write_order("x", facts)
        == "x: all 2 different maps can be told apart at n=60; a = b: the same map."
    )
    assert write_order("x", {**facts, "methods": 2}) == "x: one map, n=60; a = b: the same map."


def test_a_method_that_lacks_a_part_says_so_wherever_it_is_ranked(
    toy: SimpleNamespace,
) -> None:
    names = ["sa_cam", "tft(sa_cam)", "sa_cam (v1)", "grad_cam", "nobody[x=1]"]
    (sentence,) = write_caveats(names)
    assert sentence.startswith("sa_cam, tft(sa_cam), sa_cam (v1): the paper's abstract names an")
    values = {"sa_cam": [0.9, 0.8], "a": [0.7, 0.8]}
    rows = toy.scalars("deletion", values) + toy.scalars("energy", values)
    board = leaderboard(toy.build(rows), resamples=50)
    for section in tables.build_sections(board, "toy", "net"):
        said = any("no branch" in note for note in section.notes)
        assert said == section.title.startswith("Ranked values")
