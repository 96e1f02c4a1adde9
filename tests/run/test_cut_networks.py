"""Runs and plans of a network that cuts its graph: gradient methods are n/a, others scored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import bench
from bench.models.zoo import MODELS
from bench.run.network_rates import measure_rates
from tests.support.command_line import cambench


class Frozen(nn.Module):
    """A backbone under no_grad and a head of one logit."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2))
        self.fc = nn.Linear(8, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            x = self.body(images).relu()
        logits: torch.Tensor = 9 * self.fc(x.mean((2, 3)))
        return logits


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(8):
        pixels = rng.integers(0, 255, (32, 32, 3)).astype("uint8")
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    rows = [f"{number}.png,{number % 2}" for number in range(8)]
    (tmp_path / "annotations.csv").write_text("\n".join(["file,label", *rows]))
    return tmp_path


@pytest.fixture
def frozen():
    bench.register_model("frozen_test")(lambda: bench.Explainee(Frozen(), size=32))
    yield "frozen_test"
    MODELS.remove("frozen_test")


def test_gradient_methods_are_not_applicable_and_others_run(folder, frozen):
    model = bench.load_model(frozen)
    result = bench.evaluate(
        bench.load_subset(str(folder)),
        model,
        ["saliency", "occlusion", "ablation_cam"],
        ["deletion"],
        calibration=0,
    )
    values = result.frame[result.frame.value.notna()]
    assert set(values.method) == {"occlusion", "ablation_cam"}
    assert "no gradient goes back" in str(result.provenance["not_applicable"])
    rates = measure_rates(bench.load_model(frozen), 32, 4)
    assert rates.backward == rates.forward > 0


PLUGIN = """
import bench
from tests.run.test_cut_networks import Frozen

bench.register_model("frozen_plugin")(lambda: bench.Explainee(Frozen(), size=32))
"""


def test_a_run_and_a_plan_of_it_are_made_from_the_command_line(folder, tmp_path):
    (tmp_path / "plugin.py").write_text(PLUGIN)
    words = ["--subset", str(folder), "--plugin", str(tmp_path / "plugin.py")]
    words += ["--models", "frozen_plugin", "--methods", "saliency,occlusion"]
    words += ["--metrics", "deletion"]
    assert cambench("plan", *words).returncode == 0
    done = cambench("run", *words, "--calibration", "0", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done
    board = (tmp_path / "out" / "board.md").read_text()
    assert "layer body, grid 7x7" in board
    assert "n/a" in board
