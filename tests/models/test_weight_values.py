"""Weights that are no numbers: refused when a network is loaded or given, by the tensor's name."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench.errors import BenchError
from bench.models.explainee import Explainee
from bench.models.zoo import WEIGHTS_FOLDER, load_model


class Masked(nn.Module):
    """A network with an infinite mask, whole numbers and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(4, 2)
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))
        self.register_buffer("index", torch.arange(4))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images).flatten(1))


def test_whole_buffers_and_infinite_masks_are_fine() -> None:
    assert Explainee(Masked(), size=16, name="own").name == "own"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["body.0.weight", "head.bias", "body.1.running_mean"])
def test_a_network_of_python_with_broken_values(name: str, value: float) -> None:
    net = Masked()
    with torch.no_grad():
        net.state_dict()[name].view(-1)[-1] = value
    if "running" in name and not math.isnan(value):
        return  # an infinite buffer may be meant; its logits are refused when it runs
    with pytest.raises(BenchError, match=name.replace(".", r"\.")):
        Explainee(net, size=16, name="own")


def test_whole_weights_are_refused() -> None:
    net = Masked()
    net.head.weight = nn.Parameter(torch.ones(2, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(BenchError, match=r"head\.weight of own are int8; .*before quantisation"):
        Explainee(net, size=16, name="own")


def test_quantised_layers_are_refused() -> None:
    quantised = pytest.importorskip("torch.ao.nn.quantized.dynamic")
    net = Masked()
    net.head = quantised.Linear(4, 2)
    with pytest.raises(BenchError, match="quantised layer 'head'"):
        Explainee(net, size=16, name="own")


CARD = json.loads((WEIGHTS_FOLDER / "resnet-scenes.json").read_text())["resnet-scenes"]
BROKEN: dict[str, Any] = {
    "mean": [0.5, math.nan, 0.5],
    "std": [math.inf, 0.2, 0.2],
    "size": -math.inf,
    "kwargs": {"deep": [{"er": math.nan}]},
    "top1": math.nan,
}


@pytest.mark.parametrize("key", BROKEN)
def test_a_card_with_a_number_that_is_none(tmp_path: Path, key: str) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"m": copy.deepcopy(CARD) | {key: BROKEN[key]}}))
    with pytest.raises(BenchError, match=f"has {key} = .*NaN or infinite"):
        load_model(tmp_path / "c.json")


def test_a_counter_that_is_no_number(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    state = load_file(WEIGHTS_FOLDER / CARD["file"])
    key = next(key for key in state if key.endswith("num_batches_tracked"))
    entry = {k: v for k, v in CARD.items() if k != "sha256"} | {"file": "w.pth"}
    (tmp_path / "c.json").write_text(json.dumps({"m": entry}))
    torch.save(state, tmp_path / "w.pth")
    load_model(tmp_path / "c.json")
    torch.save(state | {key: torch.tensor(math.nan)}, tmp_path / "w.pth")
    with pytest.raises(BenchError, match=f"{key} of .* is no whole number"):
        load_model(tmp_path / "c.json")
