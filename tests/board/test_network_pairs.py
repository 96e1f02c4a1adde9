"""Networks of a board are compared with each other, on the same items and the same method."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

import bench
from bench.board.board import leaderboard
from bench.board.network_pairs import NetworkDifference, NetworkPair, choose_pairs
from bench.board.network_words import describe_differences, describe_pair
from bench.board.result_words import MOST_SENTENCES, describe_result
from bench.board.significance import holm, wilcoxon
from bench.errors import BenchError
from tests.support.toy_records import build, scalars

N = 40
RNG = np.random.default_rng(0)
NOISE = RNG.normal(0, 0.02, (12, N))
NOISE -= NOISE.mean(1, keepdims=True)


def around(mean: float, row: int) -> list[float]:
    return (mean + NOISE[row]).tolist()


def facts(**more: dict[str, Any]) -> dict[str, dict[str, Any]]:
    base: dict[str, Any] = {"parent": "", "top1": 0.9}
    return {name: {**base, "weights_id": f"w-{name}", **own} for name, own in more.items()}


def board_of(values: dict[str, dict[str, float]], models=None, **columns):
    """Return a board of {network: {value: mean of grad_cam}}; the second method is always 0.3."""
    rows = []
    for number, (model, means) in enumerate(values.items()):
        for place, (metric, mean) in enumerate(means.items()):
            maps = {"grad_cam": around(mean, number + 2 * place), "other": around(0.3, 11)}
            rows += scalars(metric, maps, model=model, **columns)
    models = models or facts(**{name: {} for name in values})
    return leaderboard(build(rows, models=models), resamples=2000)


def test_two_networks_are_better_worse_or_not_told_apart():
    board = board_of(
        {"a": {"deletion": 0.2, "insertion": 0.5}, "b": {"deletion": 0.4, "insertion": 0.5}}
    )
    (pair,) = board.networks
    found = {one.metric: one for one in pair.differences}
    assert found["deletion"].difference == pytest.approx(-0.2)
    gaps = np.array(around(0.2, 0)) - np.array(around(0.4, 1))
    images = np.array([f"i{k:03d}" for k in range(N)], dtype=object)
    assert found["deletion"].p >= wilcoxon(gaps, images)
    rest = f"no difference shown in insertion (n = {N})."
    sentence = board.compare_networks("a", "b")[0]
    assert sentence == f"a against b (toy, maps of grad_cam): better in deletion; {rest}"
    assert sentence in describe_result(board)
    other = board.compare_networks("b", "a")[0]
    assert other == f"b against a (toy, maps of grad_cam): worse in deletion; {rest}"


def test_holm_counts_every_comparison_that_was_asked_for():
    values = {name: {"deletion": 0.30 + 0.004 * place} for place, name in enumerate("abc")}
    board = board_of(values)
    pairs = board.networks
    assert [(one.first, one.second) for one in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    raw = np.array([pair.differences[0].p for pair in pairs])
    assert [pair.differences[0].p_holm for pair in pairs] == pytest.approx(holm(raw))
    assert holm(raw).max() > raw.max() / 1.0001


def difference(metric: str, **more: float) -> NetworkDifference:
    known = {
        "better": "lower",
        "difference": -0.1,
        "low": -0.2,
        "high": 0.0,
        "p": 0.2,
        "agree": False,
        "n": 36,
        "images": 36,
        "needed": 90.0,
        "p_holm": 0.4,
    }
    return NetworkDifference(metric=metric, **{**known, **more})


def test_images_that_would_do_are_named_where_they_are_known():
    shown = difference("insertion", better="higher", agree=True, p_holm=0.01, difference=0.1)
    found = [difference("deletion"), difference("energy", needed=np.inf, n=30), shown]
    assert describe_differences(found) == (
        "better in insertion; no difference shown in deletion (about 90 images would do), energy "
        "(n = 30 to 36)"
    )
    few = difference("deletion", needed=20.0)  # for one pair alone: the correction asks for more
    assert describe_differences([few]) == "no difference shown in deletion (n = 36)"


def test_a_difference_that_the_correction_does_not_leave_is_not_shown():
    assert difference("deletion", agree=True, p_holm=0.06).outcome == "no difference shown"
    assert difference("deletion", agree=False, p_holm=0.01).outcome == "no difference shown"
    assert difference("deletion", agree=True, p_holm=0.04).outcome == "better"


def test_layers_of_a_network_are_named():
    models = {
        "one": {"weights_id": "w0-x", "layer": "layer3"},
        "two": {"weights_id": "w0-y", "layer": "layer4"},
    }
    pair = NetworkPair("toy", "one", "two", "grad_cam", (difference("deletion"),))
    assert describe_pair(pair, models).startswith("one (layer layer3) against two (layer layer4) (")
    models["two"]["weights_id"] = "w1-y"
    assert describe_pair(pair, models).startswith("one against two (")


def test_a_tuned_network_and_its_original_are_left_to_their_own_sentence():
    values = {name: {"deletion": 0.2} for name in ("a", "b", "tuned")}
    board = board_of(values, facts(a={}, b={}, tuned={"parent": "a"}))
    assert choose_pairs(board) == [("toy", "a", "b"), ("toy", "b", "tuned")]


def test_many_networks_are_compared_when_they_are_named():
    board = board_of({name: {"deletion": 0.2} for name in "abcde"})
    assert board.networks == []
    assert len(board.compare_networks("a", "c", "e")) == 3
    with pytest.raises(BenchError, match="No network 'f'"):
        board.compare_networks("a", "f")
    with pytest.raises(BenchError, match="two networks"):
        board.compare_networks("a", "a")
    with pytest.raises(BenchError, match="two networks"):
        board.compare_networks("a")


def test_networks_with_items_of_their_own_are_not_compared():
    board = board_of({"a": {"deletion": 0.2}, "b": {"deletion": 0.4}})
    frame = board.records.frame.copy()
    frame["subset"] = "grid(toy,2)"
    own = frame["model"] == "b"
    frame.loc[own, ["item", "image"]] = "own-" + frame.loc[own, ["item", "image"]].astype(str)
    provenance = board.provenance | {"subsets": {"grid(toy,2)": board.provenance["subsets"]["toy"]}}
    apart = leaderboard(type(board.records)(frame, provenance), resamples=200)
    assert apart.compare_networks("a", "b") == [
        "a and b are not compared: they look at different items of grid(toy,2)."
    ]
    assert apart.networks[0].differences == ()


def test_pastes_of_several_networks_are_not_compared():
    board = board_of({"a": {"deletion": 0.2}, "b": {"deletion": 0.4}})
    frame = board.records.frame.copy()
    frame["subset"] = "pasted(toy," + frame["model"].astype(str) + ")"
    facts_of = board.provenance["subsets"]["toy"]
    provenance = board.provenance | {"subsets": dict.fromkeys(frame["subset"].unique(), facts_of)}
    apart = leaderboard(type(board.records)(frame, provenance), resamples=200)
    assert describe_result(apart)[-1] == (
        "The 2 networks with pastes in toy are not compared: each one looks at items of its own."
    )
    with pytest.raises(BenchError, match="no subset in common"):
        apart.compare_networks("a", "b")


def test_items_of_one_name_and_another_content_are_not_compared():
    board = board_of({"a": {"deletion": 0.2}, "b": {"deletion": 0.4}})
    frame = board.records.frame.assign(item_id="same")
    same = leaderboard(type(board.records)(frame, board.provenance), resamples=200)
    assert same.networks[0].differences
    frame.loc[frame["model"] == "b", "item_id"] = "other"
    changed = leaderboard(type(board.records)(frame, board.provenance), resamples=200)
    assert "look at different items" in changed.compare_networks("a", "b")[0]


def test_a_method_that_only_one_network_has_is_refused_in_words():
    board = board_of({"a": {"deletion": 0.2}, "b": {"deletion": 0.4}})
    rows = board.records.frame
    kept = rows[(rows["model"] == "a") | (rows["method"] == "other")]
    half = leaderboard(type(board.records)(pd.DataFrame(kept), board.provenance), resamples=200)
    assert half.networks[0].method == "other"
    (sentence,) = half.compare_networks("a", "b", method="grad_cam")
    assert sentence == "a and b are not compared: they share no maps of grad_cam."


def test_a_terminal_keeps_eight_sentences_and_the_page_has_all():
    means = {"deletion": 0.2, "insertion": 0.5}
    values = {name: {m: v + 0.1 * k for m, v in means.items()} for k, name in enumerate("abcd")}
    board = board_of(values)
    everything = describe_result(board, whole=True)
    assert len(describe_result(board)) <= MOST_SENTENCES
    assert len(describe_result(board)) < len(everything)
    assert sum(" against " in sentence for sentence in everything) == 6
    assert sum(" against " in sentence for sentence in describe_result(board)) == 3


def test_a_real_run_is_compared_as_by_hand():
    networks = ["resnet-scenes", "vgg-scenes"]
    subset = bench.load_subset("scenes-val", limit=6)
    records = bench.evaluate(
        subset, networks, ["grad_cam", "random"], ["deletion"], calibration=0, progress=False
    )
    board = leaderboard(records, resamples=2000)
    frame = records.frame[records.frame["method"] == "grad_cam"]
    frame = frame[frame["metric"] == "deletion"]
    wide = frame.pivot_table(index="item", columns="model", values="value")
    gaps = (wide[networks[0]] - wide[networks[1]]).to_numpy()
    (pair,) = board.networks
    found = {one.metric: one for one in pair.differences}["deletion"]
    assert found.difference == pytest.approx(gaps.mean())
    assert (found.n, found.images) == (6, 6)
    assert found.p >= scipy.stats.wilcoxon(gaps).pvalue - 1e-12
    word = found.outcome
    assert f"{word} in deletion" in board.compare_networks(*networks)[0]
    assert (word == "no difference shown") == (found.p_holm >= 0.05 or not found.agree)
