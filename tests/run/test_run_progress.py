"""Progress moves within a task, and changes nothing of a run."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest

import bench

METHODS = ["score_cam", "grad_cam", "integrated_gradients", "random"]
METRICS = ["deletion", "insertion", "energy"]


@pytest.fixture(scope="module")
def network():
    return bench.load_model("resnet-scenes")


@pytest.fixture(scope="module")
def subset():
    return bench.load_subset("scenes-val", limit=2)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr("bench.work_stages.INTERVAL", 0.0)


def run(subset, network, **more):
    return bench.evaluate(subset, network, METHODS, METRICS, calibration=0, **more)


def test_one_task_moves_in_many_steps_and_gives_the_same_records(subset, network):
    seen: list[tuple[float, float, str]] = []
    heard = run(subset, network, progress=lambda *state: seen.append(state))
    tasks = [state for state in seen if state[2].startswith("resnet-scenes: images 1-2 of 2")]
    done = [state[0] for state in tasks]
    assert done == sorted(done)
    assert done[0] == 0
    assert seen[-1][:2] == (2, 2)
    assert {total for _, total, _ in tasks} == {2}
    assert len(set(done)) > 20  # methods, scores, and the batches of probes within them
    assert max(b - a for a, b in itertools.pairwise(done)) < 0.6
    silent = run(subset, network, progress=False)
    columns = ["item", "method", "metric", "value", "metric_id", "method_id"]
    order = ["item", "method", "metric"]
    left, right = (
        records.frame[columns].sort_values(order, ignore_index=True) for records in (heard, silent)
    )
    pd.testing.assert_frame_equal(left, right, check_exact=True)


def test_a_function_that_raises_stops_a_run_and_blames_no_method(subset, network, tmp_path):
    def stop(done: float, total: float, words: str) -> None:
        if "images" in words and done > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(subset, network, progress=stop, out=tmp_path)
    again = run(subset, network, progress=False, out=tmp_path)
    assert not again.provenance.get("failed")
    assert again.frame["value"].notna().all()


def test_explaining_counts_the_passes_of_a_method(network, subset):
    seen: list[tuple[float, float, str]] = []
    images = network.normalise(subset.batch([0], network.geometry).pixels)
    maps = bench.explain(
        network, images, method=["score_cam", "random"], progress=lambda *s: seen.append(s)
    )
    assert set(maps) == {"score_cam", "random"}
    # Its start, its two batches of 96 masked images, and its end.
    assert len({done for done, _, words in seen if words == "score_cam"}) > 3
    alone = bench.explain(network, images, method="score_cam", progress=False)
    assert alone.equal(maps["score_cam"])
