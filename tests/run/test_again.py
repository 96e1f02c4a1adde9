"""Metrics that run a method again, in a run: what is shared, what is counted, what is n/a, and what
the default is.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bench
from bench.errors import BenchError
from bench.metrics import METRICS
from bench.models.architectures import build_seeded, resnet_scenes
from bench.planning.estimate import count_cost
from bench.records.store import KEY
from bench.run.evaluate import FinishedTask
from bench.run.plan import make_plan
from tests.support.sister_nets import add_sister

ROOT = Path(__file__).parents[2]
COSTLY = {
    "robustness",
    "max_sensitivity",
    "infidelity",
    "road",
    "sanity",
    "reference_insensitivity",
    "class_contrast",
    "grid_localization",
    "masked_deletion",
    "masked_insertion",
    "idsds",
    "ffid_plus",
    "ffid_minus",
}


@pytest.fixture(scope="module")
def model() -> bench.Explainee:
    return add_sister(bench.Explainee(build_seeded(resnet_scenes, 0), size=96, name="small"))


@pytest.fixture(scope="module")
def subset() -> bench.Subset:
    return bench.load_subset("scenes-val", limit=2)


def evaluate(subset, model, out=None, **more):
    given = {
        "methods": ["grad_cam", "center_gaussian"],
        "metrics": ["infidelity"],
        "calibration": 0,
        **more,
    }
    return bench.evaluate(subset, model, out=out, **given)


def wide(records: bench.Records) -> pd.DataFrame:
    frame = records.frame[records.frame["vector"].isna()]
    return frame.pivot_table(index="metric", columns="method", values="value", dropna=False)


def test_the_default_leaves_out_what_is_costly(subset, model):
    plan = make_plan(subset, [model], ["grad_cam"], "standard", bench.Protocol(), calibration=0)
    assert not COSTLY & {m.name for m in plan.metrics}
    assert set(METRICS.select("costly")) == COSTLY
    assert (
        set(METRICS.select("standard")) | COSTLY == set(METRICS.select("all")) == set(METRICS.names)
    )
    import inspect

    assert inspect.signature(bench.evaluate).parameters["metrics"].default == "standard"


def test_a_metric_that_says_nothing_of_a_method_is_na_and_not_computed_again(
    subset, model, tmp_path
):
    given = {
        "methods": ["a_fmi", "center_gaussian"],
        "metrics": ["reference_insensitivity", "complexity"],
    }
    records = evaluate(subset, model, tmp_path, **given)
    table = wide(records).loc["reference_spearman"]
    assert np.isfinite(table["a_fmi"])
    assert np.isnan(table["center_gaussian"])
    seen: list[FinishedTask] = []
    again = evaluate(subset, model, tmp_path, finished=seen.append, **given)
    assert seen == []
    board = bench.leaderboard(again)
    row = (
        board.table("reference_spearman", "scenes-val", "small")
        .set_index("method")
        .loc["center_gaussian"]
    )
    assert row["n"] == 0
    board.save(tmp_path / "board")
    text = (tmp_path / "board" / "tables" / "scenes-val--small.md").read_text()
    (line,) = [
        row for row in text.splitlines() if row.startswith("| *center") and "reference" not in row
    ][:1]
    assert "n/a" in "".join(row for row in text.splitlines() if "center" in row), line


def test_records_hold_what_score_gives(subset, model):
    metrics = ["robustness", "sanity", "road", "infidelity", "max_sensitivity"]
    records = evaluate(subset, model, methods=["grad_cam"], metrics=metrics)
    batch = subset.batch(range(2), subset.geometry)
    images = model.normalise(batch.pixels)
    maps = bench.explain(model, images, ids=batch.image_ids)
    scores = bench.score(model, images, None, maps, metrics, ids=batch.image_ids, method="grad_cam")
    frame = records.frame[records.frame["vector"].isna()]
    for name, values in scores.items():
        rows = frame[frame["metric"] == name].set_index("item")["value"]
        expected = [v for v in values.tolist() if v != np.inf]  # outside the value's set: no row
        np.testing.assert_allclose(sorted(rows), sorted(expected), atol=1e-4, err_msg=name)


def test_batch_mates_change_no_value(subset, model):
    metrics = ["infidelity", "road", "sanity", "max_sensitivity"]
    one = evaluate(subset, model, metrics=metrics, shard_size=1)
    two = evaluate(subset, model, metrics=metrics, shard_size=2)
    both = one.frame.merge(two.frame, on=KEY)
    assert len(both) == len(one.frame)
    np.testing.assert_allclose(both["value_x"], both["value_y"], atol=1e-4)


def test_what_methods_share_is_made_once(subset, model):
    counts = {}
    metrics = ["robustness", "max_sensitivity", "sanity"]
    for methods in (["grad_cam"], ["grad_cam", "hires_cam", "layer_cam", "random"]):
        seen: list[FinishedTask] = []
        evaluate(subset, model, methods=methods, metrics=metrics, finished=seen.append)
        counts[len(methods)] = seen[-1].counts
    # They read activations and gradients of traces that are there: attacked images and networks
    # cost nothing more.
    assert counts[1].forwards == counts[4].forwards
    assert counts[1].backwards == counts[4].backwards


@pytest.mark.parametrize("method", ["saliency", "a_fmi"])
@pytest.mark.parametrize("metric", sorted(COSTLY - {"class_contrast"}))
def test_the_plan_counts_what_is_run(subset, model, metric, method):
    plan = make_plan(subset, [model], [method], [metric], bench.Protocol(), calibration=0)
    seen: list[FinishedTask] = []
    evaluate(subset, model, methods=[method], metrics=[metric], finished=seen.append)
    assert count_cost(plan).run == seen[-1].counts


def test_two_equal_clean_maps_are_not_taken_for_equal_under_attack(subset, model):
    """A method that looks at the class only on the clean images must be run on the attacked
    ones.
    """
    from bench.methods import METHODS

    batch = subset.batch(range(2), subset.geometry)
    clean = model.normalise(batch.pixels)

    @bench.register_method("turncoat")
    def turncoat(trace):
        maps = METHODS.get("grad_cam").maps(trace)
        return maps if (trace.images - clean).abs().max() < 1e-6 else maps.flip(2)

    try:
        records = evaluate(
            subset, model, methods=["grad_cam", "turncoat"], metrics=["robustness", "complexity"]
        )
    finally:
        METHODS.remove("turncoat")
    table = wide(records)
    assert table.loc["entropy", "grad_cam"] == table.loc["entropy", "turncoat"]
    assert table.loc["noise_pearson", "grad_cam"] > table.loc["noise_pearson", "turncoat"] + 0.1


def test_scenes_with_two_classes_have_discriminability(model):
    pairs = bench.load_subset("scenes-pairs", limit=4)
    records = evaluate(
        pairs,
        model,
        methods=["oracle", "inverted_oracle", "constant"],
        metrics=["discriminability", "class_contrast"],
    )
    table = wide(records)
    assert table.loc["discriminability", "oracle"] == 1.0
    assert table.loc["discriminability", "inverted_oracle"] == 0.0
    assert 0.3 < table.loc["discriminability", "constant"] < 0.7
    assert table.loc["map_contrast", "constant"] == 1.0


def test_other_subsets_have_none(subset, model):
    with pytest.raises(BenchError, match="fits the subset scenes-val"):
        evaluate(subset, model, metrics=["discriminability"])


def test_later_fields_leave_published_ids_as_they_are():
    """Records made before a field existed stay those of the same protocol and metrics."""
    protocol = bench.Protocol()
    for folder in sorted((ROOT / "leaderboards").glob("*/run.json")):
        published = json.loads(folder.read_text())
        assert published["protocol"]["id"] == protocol.id
        for name, facts in published["metrics"].items():
            owner = next(m for m in METRICS if name in m.values)
            if facts.get("version", 1) == owner.version:
                assert facts["id"] == owner.id(protocol), name
    assert bench.Protocol(road_noise=0.02).id != protocol.id
    assert METRICS.get("road").id(bench.Protocol(road_noise=0.02)) != METRICS.get("road").id(
        protocol
    )
    assert METRICS.get("deletion").id(bench.Protocol(road_noise=0.02)) == METRICS.get(
        "deletion"
    ).id(protocol)
