"""The result in words follows from the tests that the board made."""

from __future__ import annotations

import numpy as np
import pytest

from bench.board.board import leaderboard
from bench.board.result_words import (
    MOST_SENTENCES,
    count_passes,
    describe_result,
    find_leads,
)
from tests.support.toy_records import build, scalars

N = 40
RNG = np.random.default_rng(0)
NOISE = RNG.normal(0, 0.02, (6, N))
NOISE -= NOISE.mean(1, keepdims=True)  # so that the means of rows are what is asked for


def around(mean: float, row: int) -> list[float]:
    return (mean + NOISE[row]).tolist()


def board_of(*rows, **provenance):
    return leaderboard(build([one for part in rows for one in part], **provenance), resamples=2000)


def costs(**passes: float):
    return scalars("forwards", {name: [float(count)] * N for name, count in passes.items()})


def test_one_method_that_every_test_puts_first_is_named_alone():
    table = {"good": around(0.1, 0), "fair": around(0.3, 1), "poor": around(0.5, 2)}
    board = board_of(
        scalars("deletion", {**table, "random": around(0.9, 3)}),
        scalars("insertion", {name: [1 - v for v in values] for name, values in table.items()}),
    )
    assert describe_result(board) == [
        "Faithfulness (deletion, insertion): no method beats good.",
        "Use good: no method beats it in 2 of 2 ranked values.",
    ]


def test_methods_that_the_images_cannot_rank_stand_together():
    deletion = {"dear": around(0.102, 0), "cheap": around(0.1, 1), "poor": around(0.5, 2)}
    board = board_of(scalars("deletion", deletion), costs(dear=99, cheap=1, poor=0))
    (leads,) = find_leads(board, "toy", "net").values()
    assert leads[0].methods == ("cheap", "dear")
    faithful, advice = describe_result(board)
    assert faithful.startswith("Faithfulness (deletion): no method beats cheap, dear; 40 images")
    assert advice == "Use cheap: no method beats it in 1 of 1 ranked values."
    assert count_passes(board.select(subset="toy", model="net")) == {
        "dear": 100,
        "cheap": 2,
        "poor": 1,
    }


def test_a_cheaper_equal_and_a_method_without_a_class_are_named():
    deletion = {"dear": around(0.1, 0), "cheap": around(0.102, 1), "poor": around(0.5, 2)}
    board = board_of(scalars("deletion", deletion), costs(dear=99, cheap=1, poor=0))
    board.provenance["methods"]["cheap"]["class_agnostic"] = True
    assert describe_result(board)[-1] == (
        "Use dear: no method beats it in 1 of 1 ranked values; cheap equals it at 1/50 of the "
        "passes; cheap draws one map for all classes."
    )


def test_a_method_that_leads_other_values_is_no_equal():
    board = board_of(
        scalars("deletion", {"a": around(0.1, 0), "b": around(0.5, 1)}),
        scalars("insertion", {"a": around(0.1, 2), "b": around(0.5, 3)}),
        costs(a=99, b=1),
    )
    advice = describe_result(board)[-1]
    assert "no method beats it in 1 of 2 ranked values" in advice
    assert "equals it" not in advice


def test_values_that_disagree_are_said_one_by_one():
    board = board_of(
        scalars("deletion", {"a": around(0.1, 0), "b": around(0.5, 1)}),
        scalars("insertion", {"a": around(0.1, 2), "b": around(0.5, 3)}),
    )
    assert describe_result(board)[0] == "Faithfulness disagrees: deletion: a; insertion: b."


def test_a_control_that_wins_comes_first():
    board = board_of(
        scalars("deletion", {"a": around(0.3, 0), "b": around(0.5, 1), "random": around(0.1, 2)})
    )
    assert describe_result(board)[0].startswith("A control beats every method")


def test_a_tuned_network_is_better_worse_or_not_told_apart():
    rows = []
    for model, deletion, insertion, shift in (("net", 0.4, 0.5, 0), ("tuned", 0.2, 0.5, 2)):
        own = {"model": model, "parent": "net" if model == "tuned" else ""}
        pairs = {"grad_cam": around(deletion, shift), "b": around(0.6, 4)}
        rows += [scalars("deletion", pairs, **own)]
        pairs = {"grad_cam": around(insertion, shift + 1), "b": around(0.2, 5)}
        rows += [scalars("insertion", pairs, **own)]
    models = {
        "net": {"weights_id": "w-net", "parent": "", "top1": 0.9},
        "tuned": {"weights_id": "w-tuned", "parent": "net", "top1": 0.9},
    }
    found = describe_result(board_of(*rows, models=models))
    assert found[-1] == (
        "tuned against net (toy, maps of grad_cam): better in deletion; no difference shown in "
        f"insertion (n = {N})."
    )
    assert len(found) <= MOST_SENTENCES


def test_one_method_alone_gives_no_words():
    assert describe_result(board_of(scalars("deletion", {"a": around(0.1, 0)}))) == []


@pytest.mark.parametrize("seed", range(3))
def test_noise_names_no_winner(seed):
    rng = np.random.default_rng(seed)
    table = {name: rng.normal(0.5, 0.1, N).tolist() for name in "abcd"}
    (leads,) = find_leads(board_of(scalars("deletion", table)), "toy", "net").values()
    assert len(leads[0].methods) == 4
