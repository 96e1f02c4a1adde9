"""What a run costs, before it starts: declared counts equal those of the run, and the rest adds
up.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import bench
from bench.data import Geometry, Manifest, Subset
from bench.engine.counts import Counts
from bench.engine.folding import folds_of
from bench.engine.memory import fitting
from bench.engine.part_store import LARGE
from bench.engine.shared_parts import SharedPart
from bench.engine.trace import Trace
from bench.errors import BenchError
from bench.methods import METHODS, Method
from bench.metrics import METRICS
from bench.planning.cost import Cost
from bench.planning.estimate import count_cost, estimate
from bench.planning.imagenet_plan import imagine_models, imagine_subset
from bench.planning.storage import footprint, memory_bytes
from bench.run import declared
from bench.run.evaluate import FinishedTask, run_plan
from bench.run.network_rates import measure_rates
from bench.run.plan import Plan, make_plan
from bench.types import Sample
from tests.support.fewer import FEWER
from tests.support.nets import MEAN, STD, make_net
from tests.support.sister_nets import add_sister

ROOT = Path(__file__).parents[2]
SIDE, CLASSES = 32, 5
SMALL = {**FEWER, "extremal_perturbation": "extremal_perturbation[areas=0.1+0.2,iterations=20]"}
"""Methods whose defaults take too many forwards for this file, with fewer."""
NAMES = [SMALL.get(name, name) for name in METHODS.names]
NETS = {
    "attention_branch": "abn",
    "sa_cam_trained": "attentive",
    "cam": "gap",
    "tft(grad_cam)": "gap",
}
AGAIN = ["saliency", "a_fmi", "grad_cam", "random", "eigen_cam"]
"""Methods of every kind of cost: input gradients, a reference and replays, head gradients, none,
class-agnostic.
"""


class Pictures:
    """A source of noise with boxes, masks and a second class's objects."""

    has_boxes = has_masks = has_others = True
    num_classes, class_names = CLASSES, ("a", "b", "c", "d", "e")

    def __init__(self, labels: list[int]) -> None:
        self.labels = np.array(labels, dtype=np.int64)
        self.ids = self.image_ids = tuple(f"i{number}" for number in range(len(labels)))

    def read(self, position: int) -> Sample:
        rng = np.random.default_rng(position)
        image = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        mask, others = np.zeros((2, SIDE, SIDE), dtype=bool)
        mask[4:14, 6:20] = True
        others[20:30, 20:30] = True
        box, label = np.array([[6, 4, 20, 14]], dtype=np.float32), int(self.labels[position])
        name = self.ids[position]
        return Sample(
            name, name, image, label, box, mask, others=others, other_label=(label + 1) % CLASSES
        )

    def attribution(self, _position: int) -> str | None:
        return None


def net(kind: str = "norm") -> bench.Explainee:
    return add_sister(
        bench.Explainee(make_net(kind, side=SIDE), MEAN, STD, SIDE, layer="features", name=kind)
    )


def pictures(
    model: bench.Explainee, count: int = 2, wrong: int = 0, calibrating: int = 0
) -> Subset:
    """Return a subset whose labels are what the model predicts, but for the first `wrong`."""
    manifest = Manifest("pictures", "folder", geometry=Geometry(SIDE, "none", SIDE))
    everything = Subset(
        "pictures",
        manifest,
        Pictures([0] * (count + calibrating)),
        tuple(range(count + calibrating)),
    )
    pixels = everything.batch(range(count + calibrating), manifest.geometry).pixels
    with torch.no_grad():
        labels = model.net.eval()(model.normalise(pixels)).argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % CLASSES
    kept = tuple(range(count, count + calibrating)) or None
    return Subset("pictures", manifest, Pictures(labels.tolist()), tuple(range(count)), kept)


def planned(
    model: bench.Explainee, subset: Subset, methods: list[str], metrics: object, **given: object
) -> Plan:
    return make_plan(
        subset, [model], methods, metrics, bench.Protocol(), **{"calibration": 0, **given}
    )


def run(plan: Plan, out: Path | None = None) -> FinishedTask:
    """Return what the last task of a run was told."""
    seen: list[FinishedTask] = []
    run_plan(plan, out, finished=seen.append)
    return seen[-1]


def spared(cost: Cost, seen: FinishedTask) -> Counts:
    """Return what was run and what equal rankings and masks spared, in the plan's words."""
    return seen.counts + Counts(seen.asked.equal_probes - sum(model.masks for model in cost.models))


# ----------------------------------------------------------------------------- what is run is known


def hold(cost: Cost, seen: FinishedTask, varies: str) -> None:
    """Assert that a plan is what was run; where the data decide (varies), that it is the most that
    could be run.
    """
    ran = spared(cost, seen)
    if varies:
        assert all(most >= count for most, count in zip(cost.run.tuple, ran.tuple, strict=True))
        assert cost.run.forwards <= 1.5 * ran.forwards
        assert cost.asked >= seen.asked.everything
    else:
        assert cost.run == ran
        assert cost.asked == seen.asked.everything


@pytest.mark.parametrize("name", NAMES)
def test_the_plan_of_a_method_is_what_is_run(name):
    kind = NETS.get(name, "vit" if METHODS.get(name).group == "attention" else "norm")
    model = net(kind)
    plan = planned(
        model, pictures(model), [name], ["deletion", "average_drop", "threshold_quality"]
    )
    cost, seen = count_cost(plan), run(plan)
    hold(cost, seen, METHODS.get(name).why_varies)
    assert not cost.models[0].not_applicable
    assert cost.models[0].methods[0].varies == METHODS.get(name).why_varies


@pytest.mark.parametrize("method", AGAIN)
@pytest.mark.parametrize("metric", METRICS.names)
def test_the_plan_of_a_metric_is_what_is_run(metric, method):
    model = net()
    plan = planned(model, pictures(model, 3), [method], [metric])
    cost, seen = count_cost(plan), run(plan)
    assert cost.run == spared(cost, seen)
    assert cost.asked == seen.asked.everything


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet-scenes", "vgg-scenes", "abn-scenes"])
def test_the_plan_of_a_bundled_model_is_what_is_run(name):
    subset = bench.load_subset("scenes-val", limit=2)
    metrics = ["deletion", "average_drop", "max_sensitivity"]
    plan = make_plan(
        subset,
        [bench.load_model(name)],
        ["fast", "-tft*"],
        metrics,
        bench.Protocol(sensitivity_draws=2),
        calibration=0,
    )
    cost, seen = count_cost(plan), run(plan)
    assert cost.asked == seen.asked.everything
    assert cost.run.tuple[1:] == seen.counts.tuple[1:]
    # What a run spares beside equal masks and rankings: probes of maps that were scored before.
    assert 0 <= (cost.run - spared(cost, seen)).forwards <= seen.asked.equal_maps


@pytest.mark.parametrize("metric", METRICS.names)
def test_a_metric_declares_the_lengths_of_its_values(metric):
    model = net()
    plan = planned(model, pictures(model), ["a_fmi"], [metric])
    frame = run_plan(plan, None).frame
    vectors = frame.groupby("metric")["vector"].first()
    lengths = {name: 0 if vector is None else len(vector) for name, vector in vectors.items()}
    found = METRICS.get(metric)
    said = found.lengths(plan.protocol, SIDE * SIDE)
    assert set(said) <= set(found.values)
    assert lengths == {name: said.get(name, 0) for name in lengths}
    assert {
        name for name, value in found.values.items() if value.reduce not in ("mean", "std")
    } == set(said)


MANY = [
    "saliency",
    "input_x_gradient",
    "a_fmi",
    "grad_cam",
    "hires_cam",
    "guided_backprop",
    "guided_grad_cam",
    "random",
]
MANY += ["deep_lift_shap", "deep_lift", "full_grad", "eigen_cam"]


def test_the_plan_of_many_methods_is_what_is_run_and_what_equality_spares():
    model = net("gap")  # on which several CAMs are the same map
    plan = planned(model, pictures(model), MANY, "all")
    cost, seen = count_cost(plan), run(plan)
    assert cost.asked == seen.asked.everything
    assert seen.asked.equal_maps > 0
    # A map that was scored before spares its probes; its ends of curves and shared images would not
    # have been run.
    size, protocol = SIDE * SIDE, plan.protocol
    free = [metric for metric in plan.metrics if metric.scale_free]
    probes = sum(metric.forwards(protocol, size) for metric in free)
    asked = probes + sum(
        part.counts.forwards for metric in free for part in metric.shared(protocol)
    )
    assert seen.asked.equal_maps * probes % asked == 0
    twins = Counts(seen.asked.equal_maps * probes // asked)
    assert cost.run == spared(cost, seen) + twins
    # Parts that methods share are counted once: together they cost less than one by one.
    alone = [count_cost(planned(model, plan.subset, [name], "all")).run for name in MANY]
    assert cost.run.forwards < sum(one.forwards for one in alone)
    assert cost.run.head_forwards < sum(one.head_forwards for one in alone)


@pytest.mark.parametrize("wrong", [1, 3])
def test_labels_that_are_not_predicted_cost_a_second_map(wrong):
    model = net()
    methods = ["saliency", "a_fmi", "grad_cam", "eigen_cam"]
    plan = planned(
        model, pictures(model, 3, wrong), methods, ["deletion", "pointing_game", "class_contrast"]
    )
    cost, seen = count_cost(plan), run(plan)
    second = dataclasses.astuple(cost.models[0].second)
    # class_contrast looks at the label's other class anyway: nothing more is run for it.
    assert (
        tuple(a + wrong * b for a, b in zip(cost.run.tuple, second, strict=True))
        == spared(cost, seen).tuple
    )
    assert second[2] > 0
    assert (
        count_cost(planned(model, plan.subset, methods, ["deletion"])).models[0].second.forwards
        == 0
    )


def test_parts_that_are_too_large_to_keep_are_counted_as_often_as_they_are_made(monkeypatch):
    model = net()
    methods = ["guided_backprop", "guided_grad_cam", "deep_lift", "deep_lift_shap"]
    plan = planned(model, pictures(model, 3), methods, ["max_sensitivity"], shard_size=2)
    kept = count_cost(plan).run
    assert kept == run(plan).counts
    # Between the part of two images and that of one: the last task has one, and keeps it.
    limit = 3 * SIDE * SIDE * 4 * 3 // 2
    monkeypatch.setattr(declared, "LARGE", limit)
    monkeypatch.setattr(Trace.drop_large, "__defaults__", (limit,))
    dropped = count_cost(plan).run
    assert dropped == run(plan).counts
    assert dropped.forwards > kept.forwards
    assert limit < LARGE


def test_a_plugin_that_declares_nothing_is_counted():
    @bench.register_method("greedy")
    def greedy(trace):
        for _ in range(3):
            trace.prober.logits(trace.images)
        return trace.upsample(trace.activations.sum(1))

    model = net()
    try:
        plan = planned(model, pictures(model), ["greedy"], ["complexity"])
        assert count_cost(plan).run == run(plan).counts == Counts(2 * 4)
    finally:
        METHODS.remove("greedy")


def test_a_plugin_that_declares_its_parts_shares_them_in_the_plan():
    part = SharedPart("looks", Counts(forwards=2))

    def looks(trace):
        return trace.share("looks", lambda: [trace.prober.logits(trace.images) for _ in range(2)])

    @bench.register_method("first_look", parts=[part])
    def first_look(trace):
        looks(trace)
        return trace.upsample(trace.activations.sum(1))

    @bench.register_method("second_look", parts=[part])
    def second_look(trace):
        looks(trace)
        return trace.upsample(trace.activations[:, 0])

    model = net()
    try:
        plan = planned(model, pictures(model), ["first_look", "second_look"], ["complexity"])
        assert count_cost(plan).run == run(plan).counts == Counts(2 * 3)
    finally:
        METHODS.remove("first_look")
        METHODS.remove("second_look")


def test_a_plugin_that_declares_much_is_believed_and_not_run():
    calls = []

    @bench.register_method("patient", forwards=700)
    def patient(trace):
        calls.append(trace)
        return trace.upsample(trace.activations.sum(1))

    model = net()
    try:
        plan = planned(model, pictures(model), ["patient"], ["complexity"])
        assert count_cost(plan).run.forwards == 2 * (1 + 700)
    finally:
        METHODS.remove("patient")
    assert not calls


def test_rates_are_of_a_batch_that_memory_is_enough_for():
    model = net()
    sizes = []

    def cramped(module, args):
        sizes.append(len(args[0]))
        if len(args[0]) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    handle = model.net.register_forward_pre_hook(cramped)
    try:
        rates = measure_rates(model, 32, 8)
    finally:
        handle.remove()
    assert rates.forward > 0
    # Single images are looked at before, to find the layer and to check the network.
    assert [size for size in sizes if size > 1][:3] == [8, 4, 2]
    with pytest.raises(torch.cuda.OutOfMemoryError):
        fitting(lambda size: cramped(None, [torch.zeros(size + 3)]), 8, torch.device("cpu"))


def test_a_method_that_does_not_fit_costs_what_finding_out_takes():
    model = net()
    plan = planned(model, pictures(model), ["legrad", "random"], ["deletion"])
    cost = count_cost(plan)
    assert "attention" in cost.models[0].not_applicable["legrad"]
    assert cost.run == run(plan).counts
    assert cost.run == count_cost(planned(model, plan.subset, ["random"], ["deletion"])).run


def test_counting_runs_no_perturbed_image_of_metrics_or_costly_methods_and_leaves_the_model_alone():
    model = net()
    sizes: list[int] = []
    methods = ["lime[samples=50]", "rise[masks=40]", "kernel_shap[samples=50]"]
    plan = planned(model, pictures(model), methods, ["deletion", "insertion"])
    before = model.weights_id
    handle = model.net.features.register_forward_hook(
        lambda _m, args, _o: sizes.append(len(args[0]))
    )
    try:
        assert count_cost(plan).run.forwards > 200
    finally:
        handle.remove()
    assert sum(sizes) < 30  # the layer, its grid and the behaviour are looked at, once
    assert model.weights_id == before


# --------------------------------------------------------------------------- parts, shards, folders


def test_calibration_shards_and_tasks_add_up():
    model = net()
    plan = planned(
        model,
        pictures(model, 5, calibrating=4),
        ["grad_cam", "saliency"],
        "standard",
        calibration=4,
        shard_size=2,
    )
    cost, seen = count_cost(plan), run(plan)
    assert cost.models[0].images == {"eval": 5, "calibration": 4}
    assert cost.run == spared(cost, seen)
    shards = [count_cost(dataclasses.replace(plan, shard=(number, 2))) for number in (1, 2)]
    # The baseline's colour is run once in each.
    assert shards[0].run + shards[1].run == cost.run + Counts(1)
    assert len(shards[0].tasks) + len(shards[1].tasks) == len(cost.tasks)


def test_of_a_folder_only_what_is_missing_counts(tmp_path):
    model = net()
    subset = pictures(model, 4)
    first = planned(model, subset.limit(3), ["grad_cam"], ["deletion"], shard_size=2)
    run(first, tmp_path)
    nothing = count_cost(first, tmp_path)
    assert (nothing.run, nothing.tasks, nothing.seconds) == (Counts(), {}, 0)
    more = planned(model, subset, ["grad_cam", "saliency"], ["deletion", "insertion"], shard_size=2)
    left = count_cost(more, tmp_path)
    whole = count_cost(more)
    assert 0 < left.run.forwards < whole.run.forwards
    seen = run(more, tmp_path)
    assert left.run == spared(left, seen)
    assert left.asked == seen.asked.everything
    assert not left.whole
    assert whole.whole


# ------------------------------------------------------------------------------ time, bytes, memory


def small(**given: object) -> Plan:
    model = net()
    return planned(
        model,
        pictures(model, 6),
        ["grad_cam", "saliency"],
        ["deletion", "complexity"],
        shard_size=2,
        **given,
    )


def test_time_follows_the_rate_that_is_given():
    plan = small()
    slow, fast = (estimate(plan, forwards_per_second=rate) for rate in (100, 200))
    assert slow.seconds == pytest.approx(
        2 * fast.seconds, rel=0.5
    )  # the other rates are measured again
    assert slow.seconds >= slow.run.forwards / 100
    assert slow.models[0].rates.forward == 1 / 100
    assert not slow.models[0].rates.measured
    assert slow.seconds == pytest.approx(sum(slow.task_seconds(task) for task in plan.tasks()))
    assert slow.wall_seconds(1) == pytest.approx(slow.seconds)
    assert slow.wall_seconds(3) == pytest.approx(slow.seconds / 3)
    assert slow.wall_seconds(2) == pytest.approx(slow.seconds * 2 / 3)  # three equal tasks
    assert slow.wall_seconds(100) == slow.wall_seconds(3)


def test_nothing_is_measured_unless_asked():
    cost = count_cost(small())
    assert cost.seconds is cost.wall_seconds(4) is None
    assert cost.models[0].rates is None
    with pytest.raises(BenchError, match="is no rate"):
        estimate(small(), forwards_per_second=0)


def test_a_sample_runs_some_images_and_knows_the_bytes_of_their_records(tmp_path):
    plan = small()
    cost = estimate(plan, "sample")
    assert cost.models[0].timed == "sample"
    assert 1 <= cost.models[0].sample_images <= 2
    assert cost.seconds > 0
    assert cost.run == count_cost(plan).run
    run(plan, tmp_path)
    written = sum(file.stat().st_size for file in (tmp_path / "records").iterdir())
    for guess in (cost, count_cost(plan)):
        assert written / 2 < guess.models[0].record_bytes < 2 * written
    standard = planned(plan.models[0], plan.subset, ["grad_cam", "random"], "standard")
    run(standard, tmp_path / "standard")
    written = sum(file.stat().st_size for file in (tmp_path / "standard" / "records").iterdir())
    drawn = sum(file.stat().st_size for file in (tmp_path / "standard" / "gallery").iterdir())
    guess = count_cost(standard)
    assert written / 2 < guess.models[0].record_bytes < 2 * written
    assert drawn / 2 < guess.gallery_bytes < 2 * drawn


def test_memory_holds_weights_and_grows_with_batches_and_tasks():
    plan = small()
    found = footprint(plan.models[0])
    own = sum(t.nbytes for t in plan.models[0].net.state_dict().values())
    assert found.weights == own + folds_of(plan.models[0]).nbytes > own
    assert 0 < found.widest <= found.kept

    def bytes_of(batch_size: int, items: int, backwards: bool = False) -> float:
        return memory_bytes(
            dataclasses.replace(plan, batch_size=batch_size), found, items, 2, backwards
        )

    assert (
        found.weights
        < bytes_of(1, 1)
        < bytes_of(64, 1)
        < bytes_of(64, 25)
        < bytes_of(64, 25, backwards=True)
    )


def test_the_share_of_wrong_labels_comes_from_the_card_or_from_images():
    model = net()
    plan = planned(model, pictures(model, 4, wrong=1), ["grad_cam"], ["deletion", "pointing_game"])
    cost = count_cost(plan).models[0]
    assert (cost.wrong, cost.wrong_from) == (0.5, "2 images")
    assert cost.extra.head_forwards == pytest.approx(4 * 0.5 * cost.second.head_forwards)
    model.card["top1"] = 90.0
    cost = count_cost(plan).models[0]
    assert cost.wrong == pytest.approx(0.1)
    assert cost.wrong_from == "the model's card"


# ----------------------------------------------------------------------------------------- ImageNet


def test_the_imagined_run_has_the_size_of_the_real_one():
    subset = imagine_subset()
    assert (len(subset), len(subset.calibration()), subset.num_classes) == (49_000, 1_000, 1_000)
    assert subset.has_boxes
    assert not subset.has_masks
    (model,) = imagine_models(["test_resnet"])
    plan = make_plan(
        subset,
        [model],
        ["grad_cam"],
        ["deletion", "box_localization"],
        bench.Protocol(),
        calibration=1000,
    )
    cost = estimate(plan, "rates", forwards_per_second=1000, examined=1)
    # The pass and 27 probes of each, one pass of each that calibrates, and one grey image.
    assert cost.run.forwards == 49_000 * 28 + 1_000 + 1
    assert cost.run.head_forwards == cost.run.head_backwards == 50_000
    assert cost.models[0].wrong == pytest.approx(0.2)
    assert cost.wall_seconds(8) == pytest.approx(cost.seconds / 8, rel=0.01)
    assert cost.seconds > cost.run.forwards / 1000


# ------------------------------------------------------------------------------------- command line


def test_every_method_says_whether_its_count_hangs_on_the_image():
    said = {method.name for method in METHODS if method.why_varies}
    assert said == {"group_cam", "score_cam", "abs_cam", "abs_cam_elementwise", "tft(grad_cam)"}
    assert METHODS.get("fused(score_cam)").why_varies == METHODS.get("score_cam").why_varies
    assert isinstance(METHODS.get("score_cam"), Method)
