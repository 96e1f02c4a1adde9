"""The tuner: the same network to the bit before it is trained, the stated formula afterwards, at
any layer.
"""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load, save
from torch import nn

import bench
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.errors import BenchError
from bench.models.architectures import build_seeded
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network
from bench.models.tuner import TunedLayer, TunedNet, Tuner, add_tuner, find_tuner, find_tuner_place

BUILD = {
    "resnet-scenes": lambda: bench.load_model("resnet-scenes").net,
    "vgg-scenes": lambda: bench.load_model("vgg-scenes").net,
    "squeezenet": lambda: build_seeded(torchvision.models.squeezenet1_1, 0, num_classes=5),
    "mobilenetv2_100": lambda: build_seeded(
        lambda: timm.create_model("mobilenetv2_100", num_classes=5), 0
    ),
}
SIDE = 96


def images(count: int = 3) -> torch.Tensor:
    """Return noise images [count,3,SIDE,SIDE]."""
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def trained(net: nn.Module) -> nn.Module:
    """Give the tuner's last convolution weights, as training would."""
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in find_tuner(net).gate[-1].parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=rng))
    return net.eval()


@pytest.mark.parametrize("name", BUILD)
def test_before_training_it_is_the_network_to_the_bit(name):
    before, after = (
        Explainee(BUILD[name](), size=SIDE),
        Explainee(add_tuner(BUILD[name]()), size=SIDE),
    )
    one, two = (Trace(Prober(model), images()) for model in (before, after))
    assert after.layer == before.layer
    assert torch.equal(one.logits, two.logits)
    assert torch.equal(one.activations, two.activations)
    assert torch.equal(one.gradients, two.gradients)
    for method in ("grad_cam", "layer_cam_fused"):
        x = images(1)
        assert torch.equal(
            bench.explain(before, x, method=method), bench.explain(after, x, method=method)
        )


@pytest.mark.parametrize("name", BUILD)
def test_after_training_the_explained_layer_is_the_tuned_one(name):
    """A^ = A * 2 sigmoid(g(A)), written out in float64; and the logits are the head's of A^."""
    before, after = (
        Explainee(BUILD[name](), size=SIDE),
        Explainee(trained(add_tuner(BUILD[name]())), size=SIDE),
    )
    one, two = (Trace(Prober(model), images()) for model in (before, after))
    state = {key: value.double() for key, value in find_tuner(after.net).gate.state_dict().items()}

    def norm(x: torch.Tensor, at: int) -> torch.Tensor:
        mean, var = state[f"{at}.running_mean"], state[f"{at}.running_var"]
        scaled = (x - mean.view(-1, 1, 1)) / (var.view(-1, 1, 1) + 1e-5).sqrt()
        return (
            scaled * state[f"{at}.weight"].view(-1, 1, 1) + state[f"{at}.bias"].view(-1, 1, 1)
        ).clamp(min=0)

    A = one.activations.double()
    inner = norm(torch.einsum("bkij,ck->bcij", A, state["0.weight"][:, :, 0, 0]), 1)
    inner = norm(nn.functional.conv2d(inner, state["3.weight"], padding=1), 4)
    gate = torch.einsum("bcij,kc->bkij", inner, state["6.weight"][:, :, 0, 0]) + state[
        "6.bias"
    ].view(-1, 1, 1)
    wanted = A * 2 / (1 + torch.exp(-gate))
    torch.testing.assert_close(two.activations.double(), wanted, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(one.logits, two.logits, atol=1e-3)
    with torch.no_grad(), guard_network(before.net):
        torch.testing.assert_close(
            one.head(two.activations, torch.arange(3)), two.logits, atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(after.net(images()), two.logits, atol=1e-4, rtol=1e-4)


def test_k_over_r_channels_and_weights_from_the_seed():
    tuner = Tuner(96, 8, seed=3)
    assert [tuple(m.weight.shape) for m in tuner.gate if isinstance(m, nn.Conv2d)] == [
        (12, 96, 1, 1),
        (12, 12, 3, 3),
        (96, 12, 1, 1),
    ]
    again, other = Tuner(96, 8, seed=3), Tuner(96, 8, seed=4)
    assert all(
        torch.equal(a, b) for a, b in zip(tuner.parameters(), again.parameters(), strict=True)
    )
    assert not torch.equal(tuner.gate[0].weight, other.gate[0].weight)
    assert Tuner(5).gate[0].weight.shape[0] == 1  # never no channel


def test_a_named_layer_is_tuned_in_its_place_and_keeps_its_name():
    net = add_tuner(BUILD["squeezenet"](), "features.7")
    assert isinstance(net.get_submodule("features.7"), TunedLayer)
    one = Trace(Prober(Explainee(BUILD["squeezenet"](), size=SIDE, layer="features.7")), images())
    two = Trace(Prober(Explainee(net, size=SIDE, layer="features.7")), images())
    assert torch.equal(one.logits, two.logits)
    assert torch.equal(bench.explain(two.model, images()), bench.explain(one.model, images()))
    trained(net)
    with torch.no_grad():
        tuned = Trace(Prober(Explainee(net, size=SIDE, layer="features.7")), images())
        assert torch.equal(find_tuner(net)(one.activations), tuned.activations)


def test_a_named_layer_of_a_timm_network():
    net = BUILD["resnet-scenes"]()
    place = find_tuner_place(Explainee(net, size=SIDE, layer="layer3"))
    assert place == {"layer": "layer3", "channels": 80}
    x = images()
    with torch.no_grad():
        logits = net.eval()(x)
        assert torch.equal(add_tuner(net, **place)(x), logits)
    assert Explainee(net, size=SIDE).layer == "forward_features"


def test_what_others_read_of_a_timm_network_is_still_there():
    inner = timm.create_model("resnet10t", num_classes=5).eval()
    net = add_tuner(inner)
    assert net.get_classifier() is inner.fc
    assert (net.num_features, net.num_classes, net.global_pool) == (512, 5, inner.global_pool)
    assert [entry["module"] for entry in net.feature_info] == [
        "net.act1",
        "net.layer1",
        "net.layer2",
        "net.layer3",
        "tuner",
    ]
    assert Explainee(net, size=64).stages == [
        "net.act1",
        "net.layer1",
        "net.layer2",
        "net.layer3",
        "tuner",
    ]
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = net.no_such_thing


def test_stages_before_the_tuned_features_are_not_the_tuner():
    net = TunedNet(
        timm.create_model("mobilenetv2_100"), Tuner(1280)
    )  # its last stage has 320 channels, A has 1280
    assert net.feature_info[-1]["module"].startswith("net.blocks.6")


@pytest.mark.parametrize("name", ["resnet-scenes", "squeezenet"])
def test_the_state_goes_through_a_file_and_a_copy(name):
    net = trained(add_tuner(BUILD[name]())).eval()
    place = find_tuner_place(Explainee(BUILD[name](), size=SIDE))
    other = add_tuner(BUILD[name](), **place, seed=9)
    other.load_state_dict(load(save(net.state_dict())))
    with torch.no_grad():
        logits = net(images())
        assert torch.equal(other.eval()(images()), logits)
        assert torch.equal(copy.deepcopy(net)(images()), logits)


def test_layers_without_channels_first_grids_are_one_sentence():
    with torch.random.fork_rng():
        vit = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=5)
        swin = timm.create_model(
            "swin_tiny_patch4_window7_224", img_size=64, window_size=2, num_classes=5
        )
    for net in (vit, swin):
        with pytest.raises(
            BenchError, match=r"tuner needs activations \[B,K,h,w\].*name a convolutional layer"
        ):
            find_tuner_place(Explainee(net, size=64))
    with pytest.raises(BenchError, match="no layer 'nothing'"):
        add_tuner(BUILD["squeezenet"](), "nothing")
    with pytest.raises(BenchError, match="has no tuner"):
        find_tuner(vit)
