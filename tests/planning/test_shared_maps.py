"""Maps that several methods want are made once, and plans know it."""

from __future__ import annotations

import dataclasses

import pytest

from bench.methods import METHODS
from bench.planning.estimate import count_cost
from bench.run.shared_maps import find_shared_maps
from tests.planning.test_estimate import net, pictures, planned, run, spared

METRICS = ["deletion", "pointing_game"]


@pytest.mark.parametrize(
    "names",
    [
        ["score_cam", "power(score_cam)", "top(score_cam)", "tft(score_cam)"],
        ["top(a_fmi)", "centred(a_fmi)"],
        ["ranked(power(score_cam))", "power(score_cam)", "grad_cam", "sharpened"],
        ["blurred(saliency)", "power(random)", "random", "fused(score_cam)"],
    ],
    ids=["one inside", "none outside", "nested", "free"],
)
@pytest.mark.parametrize("wrong", [0, 1])
def test_the_plan_of_shared_maps_is_what_is_run(names, wrong):
    model = net("gap")
    plan = planned(model, pictures(model, 2, wrong), names, METRICS)
    cost, seen = count_cost(plan), run(plan)
    second = dataclasses.astuple(cost.models[0].second)
    most = [one + wrong * more for one, more in zip(cost.run.tuple, second, strict=True)]
    ran = spared(cost, seen).tuple
    varies = any(METHODS.get(name).why_varies for name in names)
    assert all(m >= r for m, r in zip(most, ran, strict=True)) if varies else most == list(ran)


def test_only_maps_that_a_transform_wants_with_others_are_shared():
    def shared(*names: str) -> set[str]:
        found = find_shared_maps([METHODS.get(name) for name in names])
        return {name.partition("@")[0] for name in found}

    assert shared("grad_cam", "tft(grad_cam)") == set()
    assert shared("power(score_cam)") == set()
    assert shared("power(score_cam)", "tft(score_cam)") == {"score_cam"}
    assert shared("power(score_cam)", "fused(score_cam)") == set()
    assert shared("ranked(power(score_cam))", "power(score_cam)") == {
        "power(score_cam)",
        "score_cam",
    }


def test_an_equal_ranking_costs_no_forwards():
    model = net("gap")
    chosen = ["deletion", "insertion"]
    alone = run(planned(model, pictures(model), ["grad_cam"], chosen))
    both = run(planned(model, pictures(model), ["grad_cam", "sharpened", "power[p=16]"], chosen))
    assert both.counts == alone.counts
