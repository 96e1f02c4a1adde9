"""The grid: maps made once, values as without it, and what is done is kept."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import bench
from bench.engine.case import Case
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.errors import BenchError
from bench.health.grid import (
    baseline_choices,
    blur_choices,
    blur_method,
    change_background,
    deletion_onto,
    insertion_from,
    run_grid,
    steps_below,
    target_choices,
)
from bench.health.protocol_comparison import compare_protocols
from bench.methods import METHODS, register_method
from bench.metrics import METRICS
from bench.models.architectures import build_seeded, resnet_scenes
from bench.protocol import Protocol
from bench.records.store import KEY
from bench.run.plan import make_plan

QUICK = Protocol(steps=4)


@pytest.fixture(scope="module")
def model() -> bench.Explainee:
    # In eval mode: some tests call a metric's bare function, outside the sealed call that sees to
    # it.
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


def plans_of(scenes, model, methods, count=3):
    rules = {
        "default": QUICK,
        "black": dataclasses.replace(QUICK, baseline=(0.0, 0.0, 0.0)),
        "label": dataclasses.replace(QUICK, faithfulness_target="label"),
    }
    subset = scenes.limit(count)
    metrics = ["deletion", "pointing_game"]
    return {
        n: make_plan(subset, [model], methods, metrics, p, shard_size=2) for n, p in rules.items()
    }


def scores(records):
    return records.frame.sort_values(KEY)["value"].to_numpy()


def test_maps_are_made_once_for_all_plans(scenes, model, counted):
    """Two tasks of 2 and 1 images; an untrained net predicts another class, so a second map for the
    label.
    """
    run_grid(plans_of(scenes, model, ["counted"]), None)
    predicted = Trace(
        Prober(model), model.normalise(scenes.batch(range(3), scenes.geometry).pixels)
    ).predicted
    missed = int((predicted.numpy() != scenes.labels[:3]).sum())
    assert missed > 0
    assert sum(counted) == 3 + missed


def test_values_are_those_of_a_run_of_its_own(scenes, model):
    plans = plans_of(scenes, model, ["grad_cam", "random"], count=2)
    done = run_grid(plans, None)
    for name, plan in plans.items():
        own = bench.evaluate(
            plan.subset,
            model,
            ["grad_cam", "random"],
            ["deletion", "pointing_game"],
            plan.protocol,
            shard_size=2,
        )
        np.testing.assert_allclose(scores(done[name]), scores(own), atol=1e-6, equal_nan=True)
    assert not np.allclose(scores(done["default"]), scores(done["black"]), equal_nan=True)


def test_a_second_call_computes_nothing(scenes, model, counted, tmp_path):
    plans = plans_of(scenes, model, ["counted"])
    steps = []
    first = run_grid(plans, tmp_path, lambda *state: steps.append(state))
    assert steps == [(1, 2), (2, 2)]
    made = sum(counted)
    again = run_grid(plans, tmp_path, lambda *state: steps.append(state))
    assert sum(counted) == made
    assert len(steps) == 2
    for name in plans:
        np.testing.assert_array_equal(scores(first[name]), scores(again[name]))


def test_a_stopped_grid_goes_on(scenes, model, counted, tmp_path):
    plans = plans_of(scenes, model, ["counted"])

    def stop(done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_grid(plans, tmp_path, stop)
    made = sum(counted)
    run_grid(plans, tmp_path)
    assert sum(counted) - made < made  # the second task's one image, not the first one's two again


def case_of(scenes, model, metric: str, protocol=QUICK) -> Case:
    trace = Trace(Prober(model), model.normalise(scenes.batch(range(2), scenes.geometry).pixels))
    entry = METRICS.get(metric)
    return Case(trace, METHODS.get("grad_cam")(trace), protocol.view(entry.all_reads))


def test_a_colour_as_background_is_the_protocols_baseline(scenes, model):
    case = case_of(scenes, model, "deletion")
    colour = model.colour(QUICK.baseline)[None].expand_as(case.trace.images)
    expected = METRICS.get("deletion").function(case)["deletion"]
    torch.testing.assert_close(deletion_onto(case, colour)["deletion"], expected, rtol=0, atol=1e-6)


def test_insertion_from_the_blur_is_insertion(scenes, model):
    case = case_of(scenes, model, "insertion")
    images, _ = case.background.blur(QUICK.blur_sigma_224, QUICK.blur_radius_sigmas)
    expected = METRICS.get("insertion").function(case)["insertion"]
    torch.testing.assert_close(
        insertion_from(case, images)["insertion"], expected, rtol=0, atol=1e-6
    )


def test_other_backgrounds_are_other_metrics():
    ids = {
        change_background(*pair).id(QUICK)
        for pair in (("deletion", "blur"), ("deletion", "image mean"))
    }
    assert len({*ids, METRICS.get("deletion").id(QUICK)}) == 3


def test_a_blurred_method_blurs(scenes, model):
    trace = Trace(Prober(model), model.normalise(scenes.batch(range(2), scenes.geometry).pixels))
    method = METHODS.get("saliency")
    soft = blur_method(method, 8)
    maps, softer = method(trace), soft(trace)
    assert softer.std() < maps.std()
    torch.testing.assert_close(softer.mean(), maps.mean(), rtol=0.05, atol=0)
    assert soft.id != method.id != blur_method(method, 4).id
    flat = blur_method(METHODS.get("constant"), 8)(trace)
    torch.testing.assert_close(flat, torch.ones_like(flat))


def test_choices_name_what_they_change(scenes, model):
    plan = make_plan(
        scenes.limit(2),
        [model],
        ["grad_cam"],
        ["deletion", "insertion", "pointing_game"],
        Protocol(),
    )
    baselines = baseline_choices(plan, Protocol(steps=7))
    names = [
        "baseline=black",
        "baseline=white",
        "baseline=colour",
        "baseline=image mean",
        "baseline=blur",
    ]
    assert list(baselines) == names
    assert baselines["baseline=black"].protocol.baseline == (0, 0, 0)
    assert {m.name for m in baselines["baseline=black"].metrics} == {"deletion", "insertion"}
    assert {m.name for m in baselines["baseline=blur"].metrics} == {"deletion"}
    targets = target_choices(plan)
    assert targets["target=label"].protocol.faithfulness_target == "label"
    assert targets["target=predicted"].protocol.localization_target == "predicted"
    assert list(blur_choices(plan, Protocol(), [4.0])) == ["blur=4"]
    assert steps_below(Protocol(steps=28)) == [14, 7]
    assert steps_below(Protocol(steps=6)) == [3]
    assert steps_below(Protocol(steps=5)) == []
    assert steps_below(Protocol(step_features=224)) == []


def test_protocols_are_compared_on_the_same_maps(scenes, model, counted, tmp_path):
    rules = [QUICK, dataclasses.replace(QUICK, name="dark", baseline=(0.0, 0.0, 0.0))]
    methods = ["counted", "grad_cam", "layer_cam", "saliency", "input_x_gradient", "random"]
    made = compare_protocols(scenes.limit(3), [model], methods, ["deletion"], rules, tmp_path)
    assert sum(counted) == 3
    rows = made.frame[made.frame["metric"] == "deletion"]
    assert set(rows["protocol"]) == {"cambench-1", "dark"}
    assert (rows.loc[rows["protocol"] == "cambench-1", "moved"] == 0).all()
    dark = rows[rows["protocol"] == "dark"].set_index("method")
    own = bench.evaluate(scenes.limit(3), model, methods, ["deletion"], rules[1]).frame
    means = own[own["metric"] == "deletion"].groupby("method")["value"].mean()
    np.testing.assert_allclose(dark["mean"], means[dark.index], atol=1e-6)
    assert list(dark["rank"].sort_values().index[:2]) == list(means.sort_values().index[:2])
    (tau,) = made.taus["tau"]
    assert -1 <= tau <= 1
    page = (tmp_path / "protocols.md").read_text()
    assert "| tau |" in page
    assert all(f"`{protocol.id}`" in page for protocol in rules)


def test_one_protocol_is_no_comparison(scenes, model):
    with pytest.raises(BenchError, match="at least two protocols"):
        compare_protocols(scenes.limit(2), [model], ["random"], ["deletion"], ["cambench-1"], None)
    with pytest.raises(BenchError, match="there twice"):
        compare_protocols(
            scenes.limit(2), [model], ["random"], ["deletion"], ["cambench-1"] * 2, None
        )
