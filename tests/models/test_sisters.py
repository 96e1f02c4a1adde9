"""Sisters are found by their parent's weights, and no other network's sister is taken."""

from __future__ import annotations

import pytest

import bench
from bench.errors import BenchError
from bench.models.sisters import attach_sister, attach_sisters, find_sister
from bench.records.sister_ids import drop_sister_ids, keep_sisters
from bench.run.plan import make_plan
from tests.support.nets import MEAN, STD, make_net
from tests.support.sister_nets import add_sister


def net(seed: int, name: str = "own") -> bench.Explainee:
    return bench.Explainee(make_net("norm", seed), MEAN, STD, 32, layer="features", name=name)


def test_a_bundled_sister_is_found_by_the_weights():
    model = bench.load_model("resnet-scenes@layer3.0.bn2")
    sister = find_sister(model)
    assert sister.name == "resnet-scenes-masked"
    assert sister.card["sister_of"] == model.fingerprint
    assert sister.card["top1_half_masked"] > sister.card["held_out"]["top1_half_masked"][0] + 10
    assert sister.card["top1"] >= sister.card["held_out"]["top1"][0] - 2
    assert find_sister(net(0)) is None


def test_a_sister_goes_to_its_parent_alone():
    parent, other = add_sister(net(0)), net(1)
    sister, parent.sister = parent.sister, None
    attach_sister([other, parent], sister)
    assert parent.sister is sister
    assert other.sister is None
    with pytest.raises(BenchError, match="which no model of the run has"):
        attach_sister([other], sister)
    with pytest.raises(BenchError, match=r"resnet-scenes is no sister network"):
        attach_sisters([parent], ["resnet-scenes"])
    with pytest.raises(BenchError, match="no card file"):
        attach_sisters([parent], ["nowhere.json"])


def test_a_sister_answers_for_itself(tmp_path):
    """Maps of the sister, scored by the sister: `--models resnet-scenes-masked`."""
    model = bench.load_model("resnet-scenes-masked")
    assert find_sister(model) is model
    subset = bench.load_subset("scenes-val", limit=2)
    found = bench.evaluate(
        subset, model, "grad_cam", "masked_deletion", out=tmp_path, calibration=0, gallery=0
    )
    rows = found.frame
    scored = rows[rows.metric == "masked_deletion"].sort_values("item")
    assert scored.metric_id.str.endswith(f"~{model.weights_id}").all()
    batch = subset.batch([0, 1], model.geometry)
    images = model.normalise(batch.pixels)
    maps = bench.explain(model, images, subset.labels, "grad_cam")
    other = bench.load_model("resnet-scenes")  # whose bundled sister is the same network
    same = bench.score(
        other, images, subset.labels, maps, ["masked_deletion"], ids=list(subset.ids)
    )
    expected = dict(zip(subset.ids, same["masked_deletion"].tolist(), strict=True))
    assert dict(zip(scored["item"], scored["value"], strict=True)) == pytest.approx(
        expected, abs=1e-6
    )


def make(models, metrics):
    subset = bench.load_subset("scenes-val", limit=2)
    return make_plan(subset, models, ["grad_cam"], metrics, bench.Protocol(), calibration=0)


def test_ids_of_records_hold_the_sister_and_those_of_others_do_not():
    model = bench.load_model("resnet-scenes")
    plan = make([model], ["masked_deletion", "deletion"])
    masked, plain = sorted((q for _, q in plan.cells(model.name, "eval")), reverse=True)
    assert masked.endswith(f"~{find_sister(model).weights_id}")
    assert plain == plan.metrics[1].id(plan.protocol) or plain == plan.metrics[0].id(plan.protocol)
    other = bench.load_model("resnet-scenes")
    add_sister(other)
    assert make([other], ["masked_deletion"]).cells(model.name, "eval") != {
        (plan.methods[0].id, masked)
    }


def test_networks_without_a_sister_leave_the_metric_out_with_the_command():
    lonely = bench.load_model("resnet-scenes-aft")
    plan = make([lonely], ["masked_deletion", "deletion"])
    assert [metric.name for metric in plan.metrics] == ["deletion"]
    assert "cambench finetune masked --model resnet-scenes-aft" in plan.unserved[0]
    with pytest.raises(BenchError, match="masked_deletion is n/a: resnet-scenes-aft has no sister"):
        make([lonely], ["masked_deletion"])


def test_records_of_another_sister_are_not_taken_for_current_ones(tmp_path):
    model = bench.load_model("resnet-scenes")
    subset = bench.load_subset("scenes-val", limit=1)
    run = bench.evaluate(
        subset, model, ["random"], ["idsds"], out=tmp_path, calibration=0, shard_size=1
    )
    assert set(run.frame["metric"]) == {"idsds", "idsds_ranked"}
    assert run.frame["metric_id"].str.endswith(f"~{find_sister(model).weights_id}").all()
    facts = run.provenance
    assert drop_sister_ids(run.frame, facts)["metric_id"].nunique() == 1
    assert "~" not in drop_sister_ids(run.frame, facts)["metric_id"].iloc[0]
    again = bench.load_model("resnet-scenes")
    add_sister(again)
    other = bench.evaluate(
        subset, again, ["random"], ["idsds"], out=tmp_path, calibration=0, shard_size=1
    )
    assert len(other.frame) == len(run.frame)
    assert other.frame["metric_id"].str.endswith(f"~{again.sister.weights_id}").all()
    plain = {"own": {"weights_id": "w", "sister": {"weights_id": "s"}}}
    assert keep_sisters(plain, {"own": {"weights_id": "w"}}) == plain
    assert keep_sisters(plain, {"own": {"weights_id": "v"}}) == {"own": {"weights_id": "v"}}
