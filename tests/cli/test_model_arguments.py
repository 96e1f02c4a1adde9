"""`--num-classes` and `--model-args` on the commands that name a model, and what is assumed."""

from __future__ import annotations

import json
import re

import pytest
import timm
import torch
from PIL import Image
from typer.testing import CliRunner

import bench
from bench.cli import app
from bench.cli.model_arguments import read_arguments
from bench.errors import BenchError
from bench.health.reload import _model


def call(*words: str) -> tuple[int, str]:
    """Run a command and return its exit code and all that it printed, in one line."""
    result = CliRunner().invoke(app, list(words))
    text = result.output + (str(result.exception) if result.exception else "")
    return result.exit_code, re.sub(r"\s+", " ", text)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return a file of raw weights and their EMA, of a network of 10 classes for grey images."""
    file = tmp_path_factory.mktemp("weights") / "ten.pth"
    states = [timm.create_model("test_resnet", num_classes=10).state_dict() for _ in range(2)]
    torch.save({"model": states[0], "model_ema": states[1]}, file)
    return file


def test_arguments_are_read_and_refused():
    assert read_arguments(None, None) == {}
    assert read_arguments(3, ["a=(1,2),b=x", "c=1e-3", "d=none"]) == {
        "num_classes": 3, "a": (1, 2), "b": "x", "c": 1e-3, "d": None,
    }  # fmt: skip
    for classes, texts, words in (
        (None, ["img_size"], "sets nothing"),
        (None, ["=3"], "sets nothing"),
        (3, ["num_classes=4"], "--num-classes and --model-args set num_classes twice"),
        (None, ["a=1", "a=2"], "--model-args set a twice"),
    ):
        with pytest.raises(BenchError, match=words):
            read_arguments(classes, texts)


@pytest.mark.parametrize("command", ["run", "plan", "score", "explain", "finetune aft"])
def test_the_options_are_there(command):
    _, text = call(*command.split(), "--help")
    assert "--num-classes" in text
    assert "--model-args" in text


def test_a_class_count_is_at_least_one():
    code, text = call("plan", "--num-classes", "0")
    assert code == 2
    assert "greater than or equal to" in text


def test_explain_takes_them_and_says_what_is_assumed(tmp_path, weights):
    Image.new("RGB", (96, 96), (200, 20, 20)).save(tmp_path / "a.png")
    words = ["explain", str(tmp_path / "a.png"), "--model", "test_resnet", "--methods", "grad_cam"]
    code, text = call(*words, "--weights", str(weights))
    assert code != 0
    assert "built for 1000 classes, the file has 10; give --num-classes 10" in text
    code, text = call(
        *words, "--weights", str(weights), "--num-classes", "10", "--model-args", "drop_rate=0.5"
    )
    assert code == 0
    assert text.count("The EMA weights") == 1


def test_a_run_records_what_is_assumed_and_health_loads_it_again(tmp_path, weights):
    out = tmp_path / "run"
    manifest = tmp_path / "scenes.toml"
    manifest.write_text('name = "few"\nkind = "scenes"\nsize = 2\n')
    code, text = call(
        *("run", "--subset", str(manifest), "--models", "test_resnet", "--weights", str(weights)),
        *("--num-classes", "10", "--model-args", "output_stride=16", "--methods", "random"),
        *("--metrics", "deletion", "--out", str(out)),
    )
    assert code == 0, text
    assert text.count("! The EMA weights") == 1
    (facts,) = json.loads((out / "run.json").read_text())["models"].values()
    assert "EMA" in facts["card"]["assumed"][0]
    assert facts["card"]["kwargs"] == {"num_classes": 10, "output_stride": 16}
    again = _model("test_resnet", facts, notes := [], "cpu", None)
    assert notes == []
    assert again.weights_id == facts["weights_id"]


def test_cards_are_built_as_they_say():
    code, text = call("plan", "--models", "resnet-scenes", "--num-classes", "3", "--no-measure")
    assert code != 0
    assert "num_classes can be given to timm names only" in text
    with pytest.raises(BenchError, match="timm names only"):
        bench.load_model("resnet-scenes", num_classes=3)


def test_the_imagined_run_has_no_weights():
    _, text = call("plan", "--imagenet", "--num-classes", "3")
    assert "leave --num-classes out" in text
