"""`cambench plan`: what it prints, what it refuses, and that its options are those of a run."""

from __future__ import annotations

import dataclasses
import inspect
import json

import pytest
import typer

from bench.cli import app
from bench.cli.options import ExecutorOptions, RunOptions
from bench.cli.plan import EstimateOptions
from bench.cli.plans import make_plans, split_run
from bench.errors import BenchError
from bench.methods import METHODS
from bench.planning.estimate import count_cost
from tests.support.command_line import cambench, refused

SCENES = [
    "--models",
    "resnet-scenes",
    "--methods",
    "grad_cam,random",
    "--metrics",
    "deletion",
    "--limit",
    "4",
]


def test_the_command_says_what_a_run_will_do_and_then_what_is_left(tmp_path):
    words = [*SCENES, "--calibration", "0", "--out", tmp_path / "run"]
    done = cambench("plan", *words, "--json")
    assert done.returncode == 0, done.stderr
    (facts,) = json.loads(done.stdout)
    assert facts["run_at_most"]["forwards"] == 4 * (1 + 2 * 27) + 1
    assert facts["models"]["resnet-scenes"]["methods"]["grad_cam"]["each"]["head_forwards"] == 1
    assert facts["models"]["resnet-scenes"]["metrics"]["deletion"]["each"]["forwards"] == 27
    assert facts["seconds"] > 0
    assert not (tmp_path / "run").exists()
    ran = cambench("run", *words, "--verbose")
    assert "At most 221 forwards, 0 backwards and 4 head replays in 1 tasks" in ran.stdout, (
        ran.stderr
    )
    assert "221 were run" in ran.stdout
    left = cambench("plan", *words)
    assert "Nothing is left to do." in left.stdout, left.stderr


def test_the_command_prints_a_table():
    done = cambench("plan", *SCENES, "--no-measure", "--gpus", "2")
    assert done.returncode == 0, done.stderr
    for words in (
        "a map's deletion",
        "shared by all maps",
        "shares gradients",
        "equal maps and rankings spare some",
    ):
        assert words in done.stdout
    assert "No time was measured" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "grad_kam"], "grad_cam"),
        (["--no-measure", "--rates-only"], "--no-measure and --rates-only"),
        (["--no-measure", "--forwards-per-second", "10"], "--forwards-per-second"),
        (["--forwards-per-second", "-1"], "greater than"),
        (["--imagenet", "--subset", "scenes-pairs"], "leave --subset out"),
        (["--shard", "3/2"], "A shard is I/N"),
    ],
)
def test_bad_input_is_one_sentence(words, said):
    refused(cambench("plan", *SCENES, *words), said)


def names(group: type) -> set[str]:
    return {field.name for field in dataclasses.fields(group)}


def test_the_options_of_a_run_are_those_of_its_plan():
    commands = {command.name: command.callback for command in app.registered_commands}
    plan, run = (
        inspect.signature(commands[name], eval_str=True).parameters for name in ("plan", "run")
    )
    own = {"yes_plan_only", "debug", "verbose", "quiet"}
    assert set(run) == names(RunOptions) | names(ExecutorOptions) | own
    assert set(plan) == names(RunOptions) | names(EstimateOptions) | {"debug", "quiet"}
    for name in names(RunOptions):
        assert plan[name].default == run[name].default
        assert (
            plan[name].annotation.__metadata__[0].help == run[name].annotation.__metadata__[0].help
        )


def test_every_option_has_help_and_a_heading():
    for command in app.registered_commands:
        for name, option in inspect.signature(command.callback, eval_str=True).parameters.items():
            (facts,) = option.annotation.__metadata__
            if getattr(facts, "hidden", False):
                continue
            assert facts.help, (command.name, name)
            if command.name in ("run", "plan", "score") and isinstance(
                facts, typer.models.OptionInfo
            ):
                assert facts.rich_help_panel, (command.name, name)


def test_the_default_run_is_three_lists_with_a_name():
    (originals, tuned, transformed) = split_run(RunOptions())
    assert (originals.models, originals.methods) == ("default", "default,-transformed")
    assert (tuned.models, tuned.methods) == ("finetuned", "finetuned")
    assert (transformed.models, transformed.methods) == ("default", "transformed")
    assert originals.metrics == tuned.metrics == "standard"
    assert split_run(RunOptions(models="originals")) == [RunOptions(models="originals")]
    assert len(split_run(RunOptions(metrics="deletion"))) == 2


def test_where_networks_have_items_of_their_own_each_keeps_its_own_sister():
    asked = RunOptions(
        subset="pasted(scenes-val)",
        models="resnet-scenes,vgg-scenes",
        sister=["resnet-scenes-masked"],
    )
    parts = split_run(asked)
    assert [(part.models, part.sister) for part in parts] == [
        ("resnet-scenes", ["resnet-scenes-masked"]),
        ("vgg-scenes", []),
    ]
    with pytest.raises(BenchError, match="which no model of the run has"):
        split_run(dataclasses.replace(asked, models="vgg-scenes"))


def test_transformed_maps_cost_the_default_run_no_forwards_beside_the_pass():
    plan = make_plans(RunOptions(limit=2, calibration=0))[2]
    controls = ["sharpened", "centred(grad_cam)", "blurred(saliency)"]
    assert [method.name for method in plan.methods] == controls
    assert "energy_pointing_game" in [metric.name for metric in plan.metrics]
    assert {"deletion", "threshold_quality"}.isdisjoint(metric.name for metric in plan.metrics)
    (cost,) = count_cost(dataclasses.replace(plan, models=plan.models[:1])).models
    # The pass, and the forward of the input's gradient that saliency reads.
    assert cost.run.forwards == 2 * (1 + 1)
    assert set(METHODS.select("default")) == {
        *controls,
        *METHODS.select("default,-transformed"),
    }


def test_the_finetuned_list_is_a_plan():
    (plan,) = make_plans(
        RunOptions(models="finetuned", methods="finetuned", limit=2, calibration=0)
    )
    wanted = ["random", "oracle", "grad_cam", "layer_cam", "tft(grad_cam)", "attention_branch"]
    assert [method.name for method in plan.methods] == wanted
