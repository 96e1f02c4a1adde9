"""Box thresholds of two runs: the baseline's, unless the run's own are better on calibration
images.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.board.box_thresholds import apply_taus, choose_taus, find_hits
from bench.board.older_versions import mark_older
from bench.gate.baseline import from_records, load_baseline, load_run, save_baseline
from bench.gate.baseline_taus import (
    choose_better,
    find_box_values,
    from_facts,
    list_choices,
    to_facts,
)
from bench.gate.judge import judge
from bench.records.store import Records

BOARD = Path(__file__).parents[2] / "leaderboards" / "scenes"
IOUS = (0.5,)


def calibration(hit_at: list[list[int]]) -> pd.DataFrame:
    """Return one row per image, whose box is right at these taus (of four) and wrong at the
    others.
    """
    vectors = [
        np.array([0.9 if tau in taus else 0.1 for tau in range(4)], np.float32) for taus in hit_at
    ]
    return pd.DataFrame({"image": [f"i{n:03d}" for n in range(len(vectors))], "vector": vectors})


def test_taus_are_the_first_best_and_hits_are_taken_there():
    rows = calibration([[1, 2], [2, 1], [2], [1], [3]])
    assert choose_taus(rows, IOUS, least=5) == [1]
    assert choose_taus(rows, IOUS, least=6) is None
    vectors = np.stack(list(rows["vector"]))
    assert apply_taus(vectors, [1], IOUS)[:, 0].tolist() == [1, 1, 0, 1, 0]
    np.testing.assert_array_equal(
        find_hits(rows, rows, IOUS, least=5), apply_taus(vectors, [1], IOUS)
    )


@pytest.mark.parametrize(
    ("won", "lost", "kept"),
    [
        (0, 0, 0),  # equally good
        (1, 0, 0),  # gain .01, error .01: a tie
        (3, 1, 0),  # gain .02, error .02: a tie
        (3, 2, 0),  # gain .01, error .0224
        (2, 0, 1),  # gain .02, error .0141
        (12, 2, 1),  # gain .10, error .0362
    ],
)
def test_a_run_keeps_the_old_tau_unless_its_own_is_better_by_a_standard_error(won, lost, kept):
    """By hand: gain (won - lost)/100, error = sqrt((won + lost)/100 - gain^2) / sqrt(99)."""
    rows = calibration([[1]] * won + [[0]] * lost + [[0, 1]] * (100 - won - lost))
    assert choose_better(rows, [1], [0], IOUS) == [kept]


def test_a_tau_of_another_grid_is_not_kept():
    rows = calibration([[1]] * 60)
    assert choose_better(rows, [1], [7], IOUS) == [1]
    assert choose_better(rows, [1], [0, 0], IOUS) == [1]


def test_facts_are_json_and_models_can_stand_for_others():
    taus = {("toy", "net", "box_iou", "cam"): [1, 2, 3]}
    facts = json.loads(json.dumps(to_facts(taus)))
    assert from_facts(facts) == taus
    assert from_facts(facts, {"net": "tuned"}) == {("toy", "tuned", "box_iou", "cam"): [1, 2, 3]}


def test_a_run_is_taken_at_the_baselines_taus_where_they_are_as_good():
    """A neighbour of the run's own tau is kept where it is nearly as good, and the values are those
    there.
    """
    records = mark_older(Records.load(BOARD))
    (boxes,) = find_box_values(records)
    own = {key: taus for key, (taus, _) in list_choices(records).items()}
    key = ("scenes-val", "resnet-scenes", boxes, "grad_cam")
    tied = [own[key][0] + 1, *own[key][1:]]
    choosing = list_choices(records)[key][1]
    expected = choose_better(choosing, own[key], tied, (0.3, 0.5, 0.7))
    made = from_records(records, {**own, key: tied})
    assert from_facts(made.facts["thresholds"])[key] == expected
    rows = records.frame
    rows = rows[(rows["model"] == key[1]) & (rows["method"] == key[3]) & (rows["metric"] == boxes)]
    scored = rows[rows["part"] == "eval"].set_index("item")["vector"]
    values = made.frame[(made.frame["model"] == key[1]) & (made.frame["method"] == key[3])]
    name = boxes.replace("box_iou", "box_accuracy")
    values = values[values["metric"] == name].set_index("item")["value"]
    hit = apply_taus(np.stack(list(scored.loc[values.index])), expected, (0.3, 0.5, 0.7))
    np.testing.assert_allclose(values, hit.mean(1))


def test_what_the_baseline_chose_travels_in_its_file(tmp_path):
    baseline = load_baseline(BOARD)
    save_baseline(baseline, tmp_path / "b.parquet")
    again = load_baseline(tmp_path / "b.parquet")
    assert from_facts(again.facts["thresholds"]) == from_facts(baseline.facts["thresholds"])
    assert judge(again.choose(models="resnet-scenes"), load_run(BOARD, again)).exit_code == 0


def test_where_scored_images_choose_nothing_is_kept():
    records = Records.load(BOARD)
    records.provenance["protocol"]["box_tau_from"] = "scored"
    assert list_choices(records) == {}
