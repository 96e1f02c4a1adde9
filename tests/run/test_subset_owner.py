"""A subset that belongs to one network: others are refused, and the run says whose it is."""

from __future__ import annotations

import pytest

import bench
from bench.errors import BenchError
from bench.planning.estimate import count_cost
from bench.protocol import get_protocol
from bench.run.evaluate import FinishedTask, evaluate, run_plan
from bench.run.plan import make_plan
from tests.support.command_line import cambench

LOCAL = (
    *("pointing_game", "energy_pointing_game", "box_localization"),
    *("pixel_precision", "discriminability"),
)


def plan(*models: str, subset: str = "scenes-trigger[:4]"):
    loaded = [bench.load_model(name) for name in models]
    return make_plan(
        bench.load_subset(subset), loaded, "grad_cam,oracle", LOCAL, get_protocol("cambench-1")
    )


def test_its_own_network_is_served_at_any_layer_and_the_run_says_whose_it_is():
    made = plan("resnet-scenes-trigger")
    assert len(made.notes) == 1
    weights = made.models[0].fingerprint[:12]
    assert f"chosen by the network resnet-scenes-trigger (weights {weights})" in made.notes[0]
    assert made.unserved == ()
    assert plan("resnet-scenes-trigger@layer3").notes == made.notes


@pytest.mark.parametrize("other", ["resnet-scenes", "resnet-scenes-aft"])
def test_a_network_of_other_weights_is_refused(other):
    with pytest.raises(BenchError, match=f"and {other} has other weights.*--models resnet-scenes"):
        plan("resnet-scenes-trigger", other)


def test_other_subsets_belong_to_no_network():
    assert plan("resnet-scenes-trigger", "resnet-scenes", subset="scenes-pairs[:4]").notes == ()


def test_localisation_finds_the_pattern():
    records = evaluate(
        bench.load_subset("scenes-trigger", limit=4),
        bench.load_model("resnet-scenes-trigger"),
        methods=("grad_cam", "oracle", "inverted_oracle"),
        metrics=LOCAL,
        calibration=0,
    )
    frame = records.frame[records.frame["part"] == "eval"]
    means = frame.groupby(["metric", "method"])["value"].mean().unstack()
    for value in ("energy", "pixel_ap", "discriminability"):
        assert means.loc[value, "oracle"] == pytest.approx(1)
        assert means.loc[value, "inverted_oracle"] < 0.1
        assert means.loc[value, "grad_cam"] > means.loc[value, "inverted_oracle"]
    assert set(frame["target"]) == {7}
    assert any("scenes-trigger" in note for note in records.provenance["notes"])


def test_the_plan_is_what_is_run(tmp_path):
    made = make_plan(
        bench.load_subset("scenes-trigger", limit=3),
        [bench.load_model("resnet-scenes-trigger")],
        "grad_cam,saliency,oracle",
        ("deletion", *LOCAL),
        bench.Protocol(),
        calibration=2,
    )
    seen: list[FinishedTask] = []
    records = run_plan(made, tmp_path, finished=seen.append)
    cost = count_cost(made)
    assert cost.asked == seen[-1].asked.everything
    parts = records.frame.groupby("part")["item"].nunique()
    assert parts.to_dict() == {"calibration": 2, "eval": 3}


def test_the_command_refuses_another_network_before_it_makes_a_folder(tmp_path):
    words = ("--subset", "scenes-trigger", "--limit", "3", "--methods", "grad_cam,oracle")
    refused = cambench("run", *words, "--models", "resnet-scenes", "--out", tmp_path / "no")
    assert refused.returncode == 2
    assert refused.stderr.startswith("Error: The subset scenes-trigger belongs to the network")
    assert not (tmp_path / "no").exists()
