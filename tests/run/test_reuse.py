"""A run packs and shares: the same values as one map and one metric at a time, and a ledger that
adds up.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import bench
from bench.engine.prober import Prober
from bench.errors import BenchError, NotApplicable
from bench.methods import METHODS
from bench.metrics import METRICS as REGISTRY
from bench.models.architectures import build_seeded, resnet_scenes
from bench.records.forward_counts import add_forwards, write_forwards
from bench.run import batch as batch_module
from bench.run.evaluate import FinishedTask
from bench.run.plan import make_plan
from bench.run.task import run_task
from tests.support.nets import Cramped

METRICS = [
    "deletion",
    "insertion",
    "average_drop",
    "threshold_quality",
    "pointing_game",
    "infidelity",
    "road",
]
CHOSEN = ["grad_cam", "xgrad_cam", "tft(grad_cam)", "layer_cam", "random", "a_fmi"]


def ran(subset, model, methods, metrics, **options):
    states: list[FinishedTask] = []
    records = bench.evaluate(
        subset, model, methods, metrics, calibration=0, finished=states.append, **options
    )
    return records, states[-1]


def values(records):
    keys = ["item", "method", "metric"]
    return records.frame.set_index(keys)["value"].sort_index()


@pytest.mark.slow
def test_a_run_gives_what_each_method_and_metric_gives_alone(subset, model):
    together = values(ran(subset, model, CHOSEN, METRICS)[0])
    batch = subset.batch(range(3), subset.geometry)
    images = model.normalise(batch.pixels)
    for method in CHOSEN:
        for metric in ("deletion", "insertion", "average_drop", "threshold_quality", "road"):
            maps = bench.explain(model, images, None, method, seed=0, ids=batch.image_ids)
            for name, alone in bench.score(
                model, images, None, maps, metric, ids=batch.image_ids
            ).items():
                found = [together[item, method, name] for item in batch.ids]
                np.testing.assert_allclose(
                    found, alone, rtol=0, atol=1e-4, err_msg=f"{method} {name}"
                )


@pytest.mark.slow
def test_waves_and_batch_sizes_move_no_value(subset, model, monkeypatch):
    one = values(ran(subset, model, CHOSEN, METRICS)[0])
    monkeypatch.setattr(batch_module, "WAVE_BYTES", 1)  # each method scored by itself
    two, _ = ran(subset, model, CHOSEN, METRICS, batch_size=5)
    np.testing.assert_allclose(one, values(two), rtol=0, atol=1e-4)
    assert (one.index == values(two).index).all()


def test_metrics_and_methods_are_packed_into_full_batches(subset, model):
    sizes = []
    handle = model.net.register_forward_hook(lambda _m, inputs, _o: sizes.append(len(inputs[0])))
    ran(subset, model, ["random", "center_gaussian"], ["deletion", "insertion"], batch_size=16)
    handle.remove()
    probes = 3 * 2 * 2 * (bench.Protocol().steps - 1)
    assert (
        sizes.count(16) == probes // 16
    )  # two methods, two metrics, three images: one rest in all
    assert sizes.count(probes % 16) == 1


def test_the_ledger_adds_up(subset, model):
    records, last = ran(subset, model, CHOSEN, METRICS)
    ledger = records.provenance["forwards"]
    assert ledger["run"] == last.counts.forwards
    assert ledger["asked"] == last.asked.everything
    assert ledger["asked"] - ledger["run"] >= ledger["equal_maps"] + ledger["equal_probes"] > 0
    # xgrad_cam is grad_cam here (up to a factor): all that its probing metrics ask for, ends
    # included
    steps, p = bench.Protocol().steps - 1, bench.Protocol()
    each = 2 * (steps + 2) + 1 + p.thresholds + p.infidelity_draws + 2 * len(p.road_fractions)
    assert ledger["equal_maps"] == 3 * each
    # t = 0 of two metrics; nine masks that tft's search has run (some of which are those of t = 0)
    assert 3 * (len(CHOSEN) - 1) <= ledger["equal_probes"]
    assert "were asked for" in write_forwards(ledger)


def test_one_map_and_one_metric_ask_for_what_they_run(subset, model):
    records, _ = ran(subset, model, ["random"], ["deletion"])
    ledger = records.provenance["forwards"]
    steps = bench.Protocol().steps - 1
    assert ledger["asked"] == 3 * (
        1 + 1 + steps + 2
    )  # what is predicted, the map alone, the steps, both ends
    assert (
        ledger["run"] == 3 * (1 + steps) + 1
    )  # the clean end is the pass, the empty one is one image
    assert ledger["equal_maps"] == ledger["equal_probes"] == 0


def test_a_run_that_goes_on_adds_to_its_ledger(subset, model, tmp_path):
    first, _ = ran(subset, model, ["random"], ["deletion"], out=tmp_path)
    second, _ = ran(subset, model, ["random", "center_gaussian"], ["deletion"], out=tmp_path)
    assert second.provenance["forwards"]["run"] > first.provenance["forwards"]["run"]
    third = bench.evaluate(subset, model, ["random"], ["deletion"], calibration=0, out=tmp_path)
    assert third.provenance["forwards"] == second.provenance["forwards"]
    assert add_forwards(None, None) == {"asked": 0, "run": 0, "equal_maps": 0, "equal_probes": 0}


def test_a_task_that_memory_is_too_short_for_is_run_in_parts(subset):
    free = bench.Explainee(build_seeded(resnet_scenes, 0), size=96, layer="layer4", name="net")
    tight = bench.Explainee(
        Cramped(build_seeded(resnet_scenes, 0), 2), size=96, layer="net.layer4", name="net"
    )
    methods, metrics = ["grad_cam", "random"], ["deletion", "pointing_game"]
    expected = values(ran(subset, free, methods, metrics)[0])
    records, _ = ran(subset, tight, methods, metrics)
    np.testing.assert_allclose(values(records), expected, rtol=0, atol=1e-4)
    assert len(records.frame) == len(expected)  # what a half had made is not there twice
    notes = records.provenance["notes"]
    assert any("went on with 2" in note for note in notes)
    assert any("3 images of net in one task" in note for note in notes)


def test_memory_too_short_for_one_image_is_one_sentence(subset):
    none = bench.Explainee(build_seeded(resnet_scenes, 0), size=96, layer="layer4", name="net")
    plan = make_plan(subset, [none], ["random"], ["deletion"], bench.Protocol(), calibration=0)
    groups = {
        frozenset(
            (method.id, metric.id(plan.protocol))
            for method in plan.methods
            for metric in plan.metrics
        ): [0, 1]
    }
    none.net.forward = lambda x: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("out of memory"))
    with pytest.raises(BenchError, match="Memory is too short for net and one image of 96 pixels"):
        run_task(plan, next(plan.tasks()), groups, Prober(none, 4))


def test_a_metric_of_a_plugin_is_called_once_per_map(subset, model):
    calls = []

    @bench.register_metric("counted", better="higher", forwards=1)
    def counted(case):
        calls.append(len(case))
        return {"counted": case.probe_masks((0.0, 0.0, 0.0), [0], 10)[:, 0]}

    try:
        records, _ = ran(subset, model, ["random", "center_gaussian"], ["counted", "deletion"])
    finally:
        REGISTRY.remove("counted")
    assert calls == [3, 3]
    assert records.frame.query("metric == 'counted'")["value"].notna().all()


def test_a_metric_of_a_plugin_shares_what_deletion_has_asked_for(subset, model):
    """It does not wait as ours do, and wants probes that are under way."""

    @bench.register_metric(
        "theirs", better="lower", reads=("steps", "baseline", "removed", "score")
    )
    def theirs(case):
        pixels = case.maps[0].numel()
        cuts = [round(i * pixels / case.protocol.steps) for i in range(1, case.protocol.steps)]
        odds = case.curve(case.background.empty(case.removed), case.trace.images, cuts)
        return {"theirs": case.score_evidence(odds).mean(1)}

    try:
        both, _ = ran(subset, model, ["random"], ["deletion", "theirs"])
        alone, _ = ran(subset, model, ["random"], ["theirs"])
        own, _ = ran(subset, model, ["random"], ["deletion"])
    finally:
        REGISTRY.remove("theirs")
    found = both.frame.query("metric == 'theirs'")["value"]
    np.testing.assert_allclose(found, alone.frame["value"], rtol=0, atol=1e-6)
    assert both.provenance["forwards"]["run"] == own.provenance["forwards"]["run"]


def test_a_run_that_is_stopped_has_run_what_it_has_run(subset, model, tmp_path):
    def stop(state):
        raise KeyboardInterrupt

    whole = bench.evaluate(subset, model, ["random"], ["deletion"], calibration=0, shard_size=2)
    with pytest.raises(KeyboardInterrupt):
        bench.evaluate(
            subset,
            model,
            ["random"],
            ["deletion"],
            calibration=0,
            shard_size=2,
            out=tmp_path,
            finished=stop,
        )
    stopped = json.loads((tmp_path / "run.json").read_text())["forwards"]
    assert 0 < stopped["run"] < whole.provenance["forwards"]["run"]
    records = bench.evaluate(
        subset, model, ["random"], ["deletion"], calibration=0, shard_size=2, out=tmp_path
    )
    assert records.provenance["forwards"]["asked"] == whole.provenance["forwards"]["asked"]


def test_what_memory_was_too_short_for_was_not_run(subset):
    tight = bench.Explainee(
        Cramped(build_seeded(resnet_scenes, 0), 2), size=96, layer="net.layer4", name="net"
    )
    records, state = ran(subset, tight, ["random"], ["deletion"])
    ledger = records.provenance["forwards"]
    assert ledger["run"] == state.counts.forwards
    assert ledger["run"] <= ledger["asked"] < 2 * ledger["run"]
    free = bench.Explainee(build_seeded(resnet_scenes, 0), size=96, layer="layer4", name="net")
    records, _ = ran(subset, free, ["random"], ["deletion"])
    # The colour is run once more by each half; nothing else is.
    assert ledger["run"] - records.provenance["forwards"]["run"] <= 1


def test_what_a_method_runs_before_it_says_that_it_does_not_fit_was_asked_for(subset, model):
    @bench.register_method("hesitant")
    def hesitant(trace):
        trace.prober.logits(trace.images)
        raise NotApplicable("It does not fit.")

    try:
        one, two = (
            ran(subset, model, names, ["complexity"])[0]
            for names in (["random"], ["random", "hesitant"])
        )
    finally:
        METHODS.remove("hesitant")
    ledgers = [records.provenance["forwards"] for records in (one, two)]
    assert [ledgers[1][name] - ledgers[0][name] for name in ("asked", "run")] == [3, 3]


def test_the_maps_of_methods_are_made_before_any_is_scored_and_cost_the_same(subset, model):
    method = METHODS.get("tft(grad_cam)")
    frames = [
        ran(subset, model, names, ["average_drop"])[0].frame for names in (CHOSEN, [method.name])
    ]
    costs = [
        frame[frame["method"] == method.name]["forwards"].unique().tolist() for frame in frames
    ]
    assert costs[0] == costs[1]
