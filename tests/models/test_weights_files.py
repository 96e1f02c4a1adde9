"""Files of weights as trainers write them: loaded exactly, or refused in one sentence."""

from __future__ import annotations

import argparse
import copy
import json
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn
from torch.nn.parallel import DataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bench.errors import AssumptionWarning, BenchError
from bench.models.weights_files import find_kind, is_weights_name
from bench.models.weights_fit import load_weights


class TinyNet(nn.Module):
    """A small classifier with what matters in files: BatchNorm, a nested block, a linear head."""

    def __init__(self, classes: int = 5, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.block = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Linear(6, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.block(self.norm(self.stem(images)).relu())
        return self.head(hidden.mean((2, 3)))


def make_net(seed: int, **kwargs) -> TinyNet:
    """Return a network whose weights and statistics are its seed's."""
    rng = torch.Generator().manual_seed(seed)
    net = TinyNet(**kwargs)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=rng) + 0.1)
    return net.eval()


IMAGES = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(3))


def load(content: object, folder: Path, name: str = "w.pth", **kwargs) -> tuple[nn.Module, list]:
    """Save content with torch.save, load it into another network, and return both results."""
    torch.save(content, folder / name)
    target = make_net(99, **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumptionWarning)
        assumed = load_weights(target, folder / name, "tiny")
    return target, assumed


def assert_same(net: nn.Module, wanted: nn.Module) -> None:
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(IMAGES), wanted.eval()(IMAGES), rtol=0, atol=0)


@pytest.fixture(scope="module")
def source() -> TinyNet:
    return make_net(1)


class Module(nn.Module):
    """What LightningModules and trainers are: a network under a name."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def wrap_middle(net: nn.Module) -> nn.Module:
    """Wrap a part of a network, as the ImageNet example of torch does for AlexNet and VGG."""
    net = copy.deepcopy(net)
    net.add_module("block", DataParallel(net.get_submodule("block")))
    return net


WRAPPED = {
    "plain": lambda net: net,
    "DataParallel": DataParallel,
    "compiled": torch.compile,
    "compiled DataParallel": lambda net: torch.compile(DataParallel(net)),
    "a Lightning module": lambda net: Module(model=net),
    "a wrapper of one's own": lambda net: Module(backbone=Module(net=DataParallel(net))),
    "a part in DataParallel": wrap_middle,
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("keys", [(), ("state_dict",), ("model_state_dict",), ("a", "b")])
def test_wrapped_networks_load_exactly(tmp_path, source, wrap, keys):
    content = wrap(source).state_dict()
    for key in reversed(keys):
        content = {"epoch": 3, key: content, "optimizer": {"state": {0: {"m": torch.ones(3)}}}}
    target, assumed = load(content, tmp_path)
    assert_same(target, source)
    assert assumed == []


@pytest.mark.parametrize(
    ("raw", "average"),
    [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("model", "ema"), ("net", "EMA")],
)
def test_the_ema_is_taken_and_said(tmp_path, source, raw, average):
    content = {average: source.state_dict(), raw: make_net(2).state_dict()}
    torch.save(content, tmp_path / "w.pth")
    target = make_net(99)
    with pytest.warns(AssumptionWarning, match=rf"EMA .*'{average}'.* as timm does.*'{raw}'"):
        assumed = load_weights(target, tmp_path / "w.pth", "tiny")
    assert_same(target, source)
    assert len(assumed) == 1


def test_the_ema_of_one_module_is_taken(tmp_path, source):
    both = Module(model=make_net(2), ema=Module(module=source))
    target, assumed = load({"state_dict": both.state_dict()}, tmp_path)
    assert_same(target, source)
    assert "state_dict.ema.module" in assumed[0]


def test_an_ema_that_does_not_fit_is_said(tmp_path, source):
    average = dict(make_net(2).named_parameters())
    target, assumed = load({"model": source.state_dict(), "model_ema": average}, tmp_path)
    assert_same(target, source)
    assert "'model_ema') do not fit" in assumed[0]


def test_an_averaged_model_is_said(tmp_path, source):
    average = AveragedModel(source, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    target, assumed = load(average.state_dict(), tmp_path)
    assert_same(target, source)
    assert "average over training steps" in assumed[0]


def test_two_sets_that_fit_are_refused(tmp_path, source):
    content = {"student": source.state_dict(), "teacher": make_net(2).state_dict()}
    with pytest.raises(BenchError, match=r"several sets .*'student', 'teacher'.*alone"):
        load(content, tmp_path)
    same = {"student": source.state_dict(), "teacher": copy.deepcopy(source.state_dict())}
    assert_same(load(same, tmp_path)[0], source)


def test_no_tensor_is_dropped_in_silence(tmp_path, source):
    beside = Module(model=source, criterion=nn.Linear(2, 2)).state_dict()
    with pytest.raises(BenchError, match=r"2 unknown \(such as criterion.bias\)"):
        load({"state_dict": beside}, tmp_path)


def test_counters_are_left_out_and_said(tmp_path, source):
    counted = {**source.state_dict(), "block.total_ops": torch.zeros(1)}
    target, assumed = load({**counted, "total_params": torch.zeros(1)}, tmp_path)
    assert_same(target, source)
    assert "2 counters" in assumed[0]
    with pytest.raises(BenchError, match=r"1 unknown \(such as total_ops\)"):
        load({**source.state_dict(), "total_ops": torch.zeros(3)}, tmp_path)


def test_counts_of_batches_may_be_missing(tmp_path, source):
    state = {k: v for k, v in source.state_dict().items() if "num_batches" not in k}
    assert_same(load(state, tmp_path)[0], source)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_cast_and_said(tmp_path, source, kind):
    state = {k: v.to(kind) if v.is_floating_point() else v for k, v in source.state_dict().items()}
    target, assumed = load(state, tmp_path)
    torch.testing.assert_close(target.stem.weight, source.stem.weight.to(kind).float())
    assert target.stem.weight.dtype == torch.float32
    assert str(kind).removeprefix("torch.") in assumed[0]


def test_buffers_that_a_network_computes_itself_may_be_there(tmp_path):
    def build(seed: int) -> TinyNet:
        net = make_net(seed)
        net.block.register_buffer("grid", torch.arange(4.0), persistent=False)
        return net

    net = build(1)
    state = {**net.state_dict(), "block.grid": torch.arange(4.0)}
    torch.save(state, tmp_path / "w.pth")
    target = build(2)
    load_weights(target, tmp_path / "w.pth", "tiny")
    assert_same(target, net)
    torch.save({**state, "block.grid": torch.arange(4.0) + 1}, tmp_path / "w.pth")
    with pytest.raises(BenchError, match=r"unknown \(such as block.grid\)"):
        load_weights(target, tmp_path / "w.pth", "tiny")


def test_a_tensor_of_two_names_may_be_stored_once(tmp_path):
    def build(seed: int) -> nn.Module:
        net = Module(first=nn.Linear(3, 3), second=nn.Linear(3, 3))
        nn.init.constant_(net.first.weight, seed)
        net.second.weight = net.first.weight
        return net

    save_model(build(7), str(tmp_path / "w.safetensors"))
    target = build(1)
    load_weights(target, tmp_path / "w.safetensors", "tied")
    assert (target.second.weight == 7).all()


# --- refused


def spoil(key: str, value: float, net: nn.Module | None = None) -> dict[str, torch.Tensor]:
    """Return a state whose tensor `key` has one value replaced."""
    state = copy.deepcopy((net or make_net(1)).state_dict())
    state[key].view(-1)[1] = value
    return state


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("key", ["block.0.weight", "norm.running_var"])
def test_values_that_are_no_numbers_are_refused(tmp_path, key, value):
    with pytest.raises(BenchError, match=rf"The tensor {key} of .*1 of .* NaN or infinite"):
        load(spoil(key, value), tmp_path)


def test_values_that_float32_cannot_hold_are_refused(tmp_path):
    state = make_net(1).state_dict()
    state["head.weight"] = state["head.weight"].double() * 1e300
    with pytest.raises(BenchError, match=r"head.weight .* NaN or infinite"):
        load(state, tmp_path)


def test_a_sparse_tensor_is_refused(tmp_path, source):
    state = source.state_dict()
    state["head.weight"] = state["head.weight"].to_sparse()
    with pytest.raises(BenchError, match=r"head.weight .* is sparse"):
        load(state, tmp_path)


@pytest.mark.parametrize("key", ["ema", "model_ema"])
def test_an_average_without_names_is_said(tmp_path, source, key):
    average = {"shadow_params": list(source.parameters()), "decay": 0.9}
    target, assumed = load({"model": source.state_dict(), key: average}, tmp_path)
    assert_same(target, source)
    assert f"'{key}.shadow_params') is a list without names" in assumed[0]


def test_an_infinite_value_of_the_network_itself_is_right(tmp_path):
    def build() -> TinyNet:
        net = make_net(1)
        net.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
        return net

    torch.save(build().state_dict(), tmp_path / "w.pth")
    load_weights(build(), tmp_path / "w.pth", "tiny")
    torch.save({**build().state_dict(), "mask": torch.tensor([0.0, float("inf")])},
               tmp_path / "w.pth")  # fmt: skip
    with pytest.raises(BenchError, match="mask"):
        load_weights(build(), tmp_path / "w.pth", "tiny")


def test_integer_weights_are_refused(tmp_path, source):
    state = {**source.state_dict(), "head.weight": torch.ones(5, 6, dtype=torch.int8)}
    with pytest.raises(BenchError, match=r"head.weight .* is int8 .* float32.*quantisation"):
        load(state, tmp_path)


HEADS = {
    "another class count": (
        lambda: make_net(1, classes=20).state_dict(),
        r"built for 5 classes, the file has 20; give --num-classes 20 \(in Python num_classes=20\)",
    ),
    "another class count under a prefix": (
        lambda: {"state_dict": Module(model=make_net(1, classes=20)).state_dict()},
        "built for 5 classes, the file has 20",
    ),
    "other input channels": (
        lambda: make_net(1, channels=1).state_dict(),
        r"takes 3 input channels, the file 1; give --model-args in_chans=1",
    ),
    "no head": (
        lambda: {k: v for k, v in make_net(1).state_dict().items() if not k.startswith("head")},
        r"no classifier \(head.weight, head.bias\)",
    ),
    "parameters only": (
        lambda: dict(make_net(1).named_parameters()),
        r"lacks the running statistics of 2 layers.*save model.state_dict\(\)",
    ),
    "another network": (
        lambda: nn.Sequential(nn.Linear(2, 2)).state_dict(),
        r"tensors \d+ missing .*2 unknown",
    ),
}


@pytest.mark.parametrize(("make", "words"), HEADS.values(), ids=HEADS)
def test_misfits_say_what_to_do(tmp_path, make, words):
    with pytest.raises(BenchError, match=words) as caught:
        load(make(), tmp_path)
    assert "\n" not in str(caught.value)


class OwnConfig:
    """A class that only the trainer's project has."""


CONTENTS = {
    "a list": ([make_net(1).state_dict()], "holds no state dict .*list"),
    "nothing": ({}, "holds no state dict .*empty"),
    "numbers": ({"epoch": 3}, "holds no state dict .*epoch"),
    "a network": (make_net(1), r"pickled network \(.*TinyNet\).*state_dict"),
    "a network in a dict": ({"model": make_net(1), "epoch": 1}, "pickled network"),
    "objects": (
        {"state_dict": make_net(1).state_dict(), "hyper_parameters": OwnConfig()},
        r"Python objects beside its tensors \(.*OwnConfig\).*save its state dict alone",
    ),
}


@pytest.mark.parametrize(("content", "words"), CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_what_holds_no_plain_tensors_is_refused(tmp_path, content, words, new):
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(BenchError, match=words) as caught:
        load_weights(make_net(9), tmp_path / "w.pth", "tiny")
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_plain_data_beside_the_tensors_is_read(tmp_path, source):
    beside = {
        "args": argparse.Namespace(lr=0.1, out=Path("runs")),
        "best": np.float64(0.9),
        "top5": np.float32(0.5),
        "seen": np.int64(7),
    }
    assert_same(load({"state_dict": source.state_dict(), **beside}, tmp_path)[0], source)


# --- what a file is


def test_the_content_and_not_the_suffix_decides(tmp_path, source):
    state = {k: v.contiguous() for k, v in source.state_dict().items()}
    save_file(state, tmp_path / "a.pth")
    save_file(state, tmp_path / "b.SAFETENSORS")
    torch.save(state, tmp_path / "c.safetensors")
    torch.save(state, tmp_path / "d.bin", _use_new_zipfile_serialization=False)
    kinds = ["safetensors", "safetensors", "zip", "pickle"]
    for name, kind in zip(["a.pth", "b.SAFETENSORS", "c.safetensors", "d.bin"], kinds, strict=True):
        target = make_net(9)
        load_weights(target, tmp_path / name, "tiny")
        assert_same(target, source)
        assert find_kind(tmp_path / name) == kind


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n"
BYTES = {
    "a pointer": (POINTER, "git lfs pull"),
    "a page": (b"\n<!DOCTYPE html><html></html>", "web page"),
    "JSON": (json.dumps({"weight_map": {}}).encode(), "is JSON"),
    "Keras": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "nothing": (b"", "is empty"),
    "text": (b"hello there", "neither a .safetensors file nor one of torch.save"),
    "a plain pickle": (pickle.dumps({"a": 1}), "plain pickle"),
}


@pytest.mark.parametrize(("content", "words"), BYTES.values(), ids=BYTES)
def test_other_files_say_what_they_are(tmp_path, content, words):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(BenchError, match=words):
        load_weights(make_net(1), tmp_path / "w.pth", "tiny")


def test_a_pointer_is_named_before_its_digest(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(POINTER)
    with pytest.raises(BenchError, match="git lfs pull"):
        load_weights(make_net(1), tmp_path / "w.safetensors", "tiny", sha256="0" * 64)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_half_a_file_is_said(tmp_path, source, form):
    path = tmp_path / "w.pth"
    if form == "safetensors":
        save_file({k: v.contiguous() for k, v in source.state_dict().items()}, path)
    else:
        torch.save(source.state_dict(), path, _use_new_zipfile_serialization=form == "zip")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(BenchError, match=r"damaged or cut short at .*copy or download it again"):
        load_weights(make_net(9), path, "tiny")


def test_programs_archives_and_folders_are_refused(tmp_path, source):
    torch.jit.save(torch.jit.trace(source, IMAGES), tmp_path / "traced.pt")
    np.savez(tmp_path / "arrays.npz", a=np.ones(3))
    (tmp_path / "folder").mkdir()
    for name, words in (
        ("traced.pt", "TorchScript"),
        ("arrays.npz", "zip archive without"),
        ("folder", "are a folder"),
    ):
        with pytest.raises(BenchError, match=words):
            load_weights(make_net(9), tmp_path / name, "tiny")


def test_names_of_weights_are_known_by_their_suffix():
    assert is_weights_name("runs/best.PTH")
    assert is_weights_name("model.safetensors")
    assert not is_weights_name("resnet50.a1_in1k")


def test_names_of_other_wrappers_come_off_anywhere(tmp_path, source):
    state = {
        key.replace("block.", "block._fsdp_wrapped_module._checkpoint_wrapped_module."): tensor
        for key, tensor in source.state_dict().items()
    }
    assert_same(load({"model": state}, tmp_path)[0], source)
    meeting = {**source.state_dict(), "module.head.bias": source.head.bias.detach() + 1}
    with pytest.raises(BenchError, match=r"1 unknown \(such as module.head.bias\)"):
        load(meeting, tmp_path)
