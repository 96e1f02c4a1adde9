"""The degradation ladder: its maps, its tau by hand and by replica, and what it says of metrics
that work, that ignore the map, and that are upside down.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

import bench
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.health.ladder import (
    IMAGE,
    IN_BLOCKS,
    compare_ladders,
    ladder_tau,
    read_ladders,
)
from bench.health.ladder_maps import (
    END,
    SHARES,
    count_waiting,
    is_on_ladder,
    list_left_out,
    list_rungs,
    make_ladder_methods,
    make_ladder_plans,
    run_ladder,
)
from bench.health.ladder_report import describe_failure, write_cell
from bench.methods import METHODS, register_method
from bench.metrics import METRICS
from bench.models.architectures import build_seeded, resnet_scenes
from bench.protocol import Protocol
from bench.run.plan import make_plan
from tests.support.toy_records import build, row, scalars

QUICK = Protocol(steps=4)
RUNGS = list_rungs("grad_cam")
FEW = ("grad_cam", "integrated_gradients")


@pytest.fixture(scope="module")
def model() -> bench.Explainee:
    return bench.Explainee(build_seeded(resnet_scenes, 0).eval(), size=96, name="small")


@pytest.fixture
def counted():
    """A method that counts how many maps it made."""
    made = []

    @register_method("counted")
    def counted(trace):
        made.append(len(trace))
        return trace.images.abs().sum(1)

    yield made
    METHODS.remove("counted")


# --- tau


def slow_tau(values: list[float]) -> float:
    """Kendall's tau-b with the order of the rungs, pair by pair; a constant value has 0."""
    wins = losses = 0
    for i in range(len(values)):
        for j in range(i + 1, len(values)):
            wins += values[i] > values[j]
            losses += values[i] < values[j]
    pairs = len(values) * (len(values) - 1) / 2
    untied = wins + losses
    return (wins - losses) / math.sqrt(pairs * untied) if untied else 0.0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.9, 0.8, 0.6, 0.5, 0.3, 0.1], 1.0),
        ([0.1, 0.3, 0.5, 0.6, 0.8, 0.9], -1.0),
        ([0.4] * 6, 0.0),
        # 13 pairs fall, one rises (.8 and .85), one ties (.5 and .5): 12 / sqrt(15 * 14)
        ([0.9, 0.8, 0.85, 0.5, 0.5, 0.1], 12 / math.sqrt(210)),
        # only the last rung differs: 5 / sqrt(15 * 5)
        ([1.0, 1.0, 1.0, 1.0, 1.0, 0.0], 5 / math.sqrt(75)),
    ],
)
def test_tau_by_hand(values, expected):
    assert ladder_tau(np.array(values)) == pytest.approx(expected, abs=1e-12)
    assert ladder_tau(np.array(values), "lower") == pytest.approx(-expected, abs=1e-12)
    assert ladder_tau(-np.array(values), "lower") == pytest.approx(expected, abs=1e-12)


def test_tau_is_its_replica():
    rng = np.random.default_rng(0)
    for _ in range(200):
        values = rng.integers(0, 5, 6) / 4 - 0.5
        assert ladder_tau(values) == pytest.approx(slow_tau(list(values)), abs=1e-12)


def test_the_last_digits_of_a_packed_batch_are_no_order():
    value = 0.371
    noisy = value * (1 + 1e-8 * np.array([3.0, 2, 1, 0, -1, -2]))
    assert ladder_tau(noisy) == 0.0
    small = 1e-7 * np.array([6.0, 5, 4, 3, 2, 1])  # a small value is no constant one
    assert ladder_tau(small) == 1.0


# --- maps


def test_the_rungs_are_ranks_that_turn_into_noise(scenes, model):
    images = model.normalise(scenes.batch(range(1), scenes.geometry).pixels)
    trace = Trace(Prober(model), images, ids=scenes.image_ids[:1])
    maps = {method.name: method(trace).double() for method in make_ladder_methods(FEW)}
    assert set(maps) == {name for start in FEW for name in list_rungs(start)}
    fresh = Trace(Prober(model), images, ids=scenes.image_ids[:1])
    noise = shares_of_pixels(METHODS.get("random")(fresh))
    torch.testing.assert_close(maps[END], noise, rtol=0, atol=1e-6)
    for start in FEW:
        own = shares_of_pixels(METHODS.get(start)(fresh))
        for share, name in zip(SHARES, list_rungs(start), strict=True):
            expected = (1 - share) * own + share * noise
            torch.testing.assert_close(maps[name], expected, rtol=0, atol=1e-6)


def shares_of_pixels(maps: torch.Tensor) -> torch.Tensor:
    """Ranks over pixels, one map at a time."""
    flat = [(rankdata(one.flatten().numpy()) - 0.5) / one.numel() for one in maps]
    return torch.from_numpy(np.stack(flat)).view(maps.shape)


def plan_of(scenes, model, metrics, count=3, protocol=QUICK, **more):
    given = (scenes.limit(count), [model], ["random"], metrics, protocol)
    return make_plan(*given, calibration=0, **more)


def test_a_ladder_makes_each_map_once(scenes, model, counted):
    run_ladder(plan_of(scenes, model, ["deletion"]), starts=["counted"])
    assert sum(counted) == 3


@pytest.fixture
def probers(monkeypatch):
    """Every prober that is made."""
    made, init = [], Prober.__init__

    def note(self, *given, **more):
        init(self, *given, **more)
        made.append(self)

    monkeypatch.setattr(Prober, "__init__", note)
    return made


def test_planned_work_is_what_is_run(scenes, probers):
    """On images whose label is predicted; nothing is left to run afterwards."""
    model = bench.load_model("resnet-scenes")
    pixels = model.normalise(scenes.batch(range(8), scenes.geometry).pixels)
    right = Trace(Prober(model), pixels).predicted.numpy() == scenes.labels[:8]
    plan = plan_of(scenes, model, ["deletion", "average_drop", "pointing_game"], 8)
    places = tuple(np.array(plan.subset.positions)[right][:3])
    plan = dataclasses.replace(
        plan,
        subset=dataclasses.replace(plan.subset, positions=tuple(int(place) for place in places)),
    )
    planned = count_waiting(plan, None, 2, FEW)
    probers.clear()
    run_ladder(plan, images=2, starts=FEW)
    run = sum(prober.counts.forwards for prober in probers)
    # At most: the cuts that all maps have in common are run once.
    assert 0.9 * planned.forwards <= run <= planned.forwards
    assert sum(p.counts.backwards for p in probers) == planned.backwards == 3 * 50


def test_a_stopped_ladder_goes_on(scenes, model, counted, tmp_path):
    plan = plan_of(scenes, model, ["pointing_game"], 3, shard_size=2)

    def stop(done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_ladder(plan, tmp_path, stop, starts=["counted"])
    made = sum(counted)
    assert made >= 2
    first = run_ladder(plan, tmp_path, starts=["counted"])
    again = run_ladder(plan, tmp_path, starts=["counted"])
    assert sum(counted) - made <= 2  # the second task's one image, and its label
    assert count_waiting(plan, tmp_path).forwards > 0  # of the usual start maps: other methods
    assert len(first.frame) == len(again.frame) > 0


def test_all_images_have_light_metrics_and_some_have_all(scenes, model):
    plan = plan_of(scenes, model, ["deletion", "pointing_game"], 5, Protocol())
    plans = make_ladder_plans(plan, images=2)
    assert {n: (len(p.subset), [m.name for m in p.metrics]) for n, p in plans.items()} == {
        "ladder": (2, ["deletion", "pointing_game"]),
        "ladder-light": (3, ["pointing_game"]),
    }
    assert not make_ladder_plans(plan_of(scenes, model, ["complexity"], 2))


# --- verdicts


def ladder_of(records, metric):
    return read_ladders(records, "toy", "net")[metric]


def rung_table(curves):
    """{rung: a value per image} of [images,6] values."""
    return {name: [curve[k] for curve in curves] for k, name in enumerate(RUNGS)}


FALLING = [0.9, 0.8, 0.6, 0.5, 0.3, 0.1]


def shifted(steps, n=6):
    return [[value + 0.01 * i for value in steps] for i in range(n)]


def test_a_value_that_falls_on_every_rung_orders():
    found = ladder_of(build(scalars("energy", rung_table(shifted(FALLING)))), "energy")
    result = found.summarise()
    assert (result.tau, result.low, result.high) == (1.0, 1.0, 1.0)
    assert (result.n, result.unit, result.told, result.orders) == (6, IMAGE, ["grad_cam"], True)
    assert write_cell(result) == "1.000 [1.000, 1.000], n=6"


def test_a_value_that_ignores_the_map_does_not_order():
    result = ladder_of(build(scalars("energy", rung_table(shifted([0.5] * 6)))), "energy")
    result = result.summarise()
    assert (result.tau, result.orders) == (0.0, False)
    assert (result.constant, result.ladders, result.told) == (6, 6, [])
    assert "does not order" in describe_failure(result)
    assert "6 of 6 ladders constant" in describe_failure(result)


def test_a_value_upside_down_does_not_order():
    records = build(scalars("deletion", rung_table(shifted(FALLING))))  # lower is better
    result = ladder_of(records, "deletion").summarise()
    assert (result.tau, result.orders, result.told) == (-1.0, False, [])
    assert "-1.000" in describe_failure(result)


def test_start_maps_that_are_no_better_than_noise_judge_nothing():
    rng = np.random.default_rng(0)
    curves = rng.random((6, 6))
    curves[:3, 0], curves[3:, 0], curves[:, 5] = 0.9, 0.1, 0.5
    result = ladder_of(build(scalars("energy", rung_table(curves.tolist()))), "energy").summarise()
    assert (result.told, result.orders) == ([], None)
    assert write_cell(result).startswith("(")


def test_a_value_that_only_tells_the_ends_apart_does_not_order():
    """It separates the map from noise, and prefers the rungs between them in the wrong order."""
    result = ladder_of(
        build(scalars("energy", rung_table(shifted([0.9, 0.3, 0.4, 0.5, 0.6, 0.2])))), "energy"
    ).summarise()
    # 9 pairs fall, 6 rise
    assert result.tau == pytest.approx(3 / 15)
    assert (result.told, result.orders) == (["grad_cam"], False)


def test_few_images_are_not_judged():
    result = ladder_of(build(scalars("energy", rung_table(shifted(FALLING, 3)))), "energy")
    assert result.summarise().orders is None


def test_an_image_that_lacks_a_rung_is_left_out():
    curves = shifted(FALLING)
    curves[2][3] = math.nan
    result = ladder_of(build(scalars("energy", rung_table(curves))), "energy").summarise()
    assert (result.n, result.ladders, result.tau) == (5, 5, 1.0)


def test_hits_are_compared_in_blocks_of_ten():
    """Of 25 images, the hits of the first ten fall by one a rung, and so do those of the second."""
    curves = [[float(i % 10 < 9 - k) for k in range(6)] for i in range(25)]
    result = ladder_of(build(scalars("pointing", rung_table(curves))), "pointing").summarise()
    assert (result.tau, result.n, result.unit, result.orders) == (1.0, 2, IN_BLOCKS, True)
    assert write_cell(result) == "1.000 [1.000, 1.000], n=2b"


def test_vectors_become_numbers_on_blocks():
    """Histograms pool over ten images; box hits take the threshold that suits the images best."""
    rows = []
    for k, rung in enumerate(RUNGS):
        for i in range(20):
            good = np.zeros(20)
            good[9], good[10 + k] = 10, 10  # object pixels on top, more and more of the rest too
            rows.append(row(f"i{i:03d}", rung, "pixel_histogram", good))
            boxes = np.full(101, 0.1)
            boxes[40] = 0.95 if i % 10 < 9 - k else 0.2
            rows.append(row(f"i{i:03d}", rung, "box_iou", boxes))
    found = read_ladders(build(rows), "toy", "net")
    assert {"pixel_ap_pooled", "box_accuracy"} <= set(found)
    hits = found["box_accuracy_50"]
    assert hits.unit == IN_BLOCKS
    assert hits.summarise().tau == 1.0
    pooled = found["pixel_ap_pooled"]
    assert (pooled.unit, len(pooled.units)) == (IN_BLOCKS, 2)
    assert pooled.summarise().constant == 2  # the object's pixels are on top on every rung


def test_the_difference_of_two_values_is_paired():
    curves = [FALLING, [0.9, 0.8, 0.85, 0.5, 0.5, 0.1]] * 3
    table = {**rung_table(curves)}
    records = build([*scalars("energy", table), *scalars("pixel_ap", rung_table(shifted(FALLING)))])
    found = read_ladders(records, "toy", "net")
    gap = compare_ladders(found["energy"], found["pixel_ap"])
    expected = (12 / math.sqrt(210) - 1) / 2
    assert gap.gap == pytest.approx(expected)
    assert gap.low < gap.gap < gap.high <= 0
    assert (gap.n, gap.starts) == (6, ("grad_cam",))
    assert compare_ladders(found["energy"], found["energy"]).low == 0.0


# --- every metric


def test_every_metric_with_a_direction_is_on_the_ladder_or_left_out_with_a_word(scenes, model):
    metrics = [METRICS.get(name) for name in METRICS.names]
    left_out = list_left_out(metrics)
    assert set(left_out) == {m.name for m in metrics if not is_on_ladder(m)}
    assert all(
        "method" in m.needs for m in metrics if left_out.get(m.name, "").startswith("it run")
    )
    named = [m.name for m in metrics if is_on_ladder(m)]
    plan = plan_of(scenes, model, named, 2)
    records = run_ladder(plan, starts=["grad_cam"])
    found = read_ladders(records, plan.subset.name, model.name)
    measured = {records.provenance["metrics"][n]["metric"] for n in found if n in value_names()}
    derived = {"box_localization", "box_sets"} & {m.name for m in plan.metrics}
    assert measured | derived == {m.name for m in plan.metrics}
    for ladder in found.values():
        taus = ladder.taus[np.isfinite(ladder.taus)]
        assert (np.abs(taus) <= 1).all()


def value_names() -> set[str]:
    return {name for metric in METRICS for name in metric.values}
