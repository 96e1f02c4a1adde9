"""Attention branch networks: the published table, where they start from, the mechanism redone
slowly, refusals.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from timm.layers import BlurPool2d
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vgg import VGG
from torch import nn

import bench
from bench.errors import BenchError, NotApplicable
from bench.models.abn import AttentionBranch, AttentionBranchNetwork, keep_resolution, to_grid
from bench.models.architectures import resnet_scenes, vgg_scenes
from tests.support.nets import (
    MEAN,
    STD,
    BranchNet,
    GapLinear,
    make_images,
    make_net,
    randomise,
    token_net,
)


def seeded(build, *args, **kwargs) -> nn.Module:
    """Build a net with drawn parameters and batch statistics, the global random state left
    alone.
    """
    with torch.random.fork_rng(devices=[]):
        return randomise(build(*args, **kwargs), 3)


def tiny_resnet(block: type = BasicBlock, **kwargs) -> nn.Module:
    return ResNet(
        block, [1, 1, 1, 1], num_classes=5, channels=(4, 6, 8, 10), stem_width=4, **kwargs
    )


def tiny_vgg() -> nn.Module:
    return VGG(
        [6, "M", 8, 8, "M", 10, "M"], num_classes=5, mlp_ratio=0.01, norm_layer=nn.BatchNorm2d
    )


BACKBONES = {
    "resnet": lambda: tiny_resnet(),
    "bottleneck": lambda: tiny_resnet(Bottleneck, drop_rate=0.3),
    "resnet-d": lambda: tiny_resnet(stem_type="deep", avg_down=True),
    "resnet-blur": lambda: tiny_resnet(aa_layer=BlurPool2d),
    "resnet-dilated": lambda: tiny_resnet(output_stride=8),
    "resnest": lambda: timm.create_model("resnest14d", num_classes=5),
    "resnetv2": lambda: timm.create_model(
        "resnetv2_50d_gn", num_classes=5, width_factor=1, layers=[1, 1, 1, 1]
    ),
    "regnet": lambda: timm.create_model("regnetx_002", num_classes=5),
    "regnet-final-conv": lambda: timm.create_model("regnetz_005", num_classes=5),
    "vgg": tiny_vgg,
    "resnet_scenes": resnet_scenes,
    "vgg_scenes": vgg_scenes,
}
SIDE = 64


# ------------------------------------------------------------------------------ the published table


@pytest.fixture(scope="module")
def resnet50() -> AttentionBranchNetwork:
    with torch.random.fork_rng(devices=[]):
        return AttentionBranchNetwork(timm.create_model("resnet50").eval())


def test_resnet50_has_the_published_shapes(resnet50):
    seen = {}
    hooks = [
        resnet50.attention.register_forward_pre_hook(lambda _, args: seen.update(g=args[0].shape)),
        resnet50.attention.act.register_forward_hook(
            lambda _m, _a, output: seen.update(a=output.shape)
        ),
    ]
    with torch.no_grad():
        out = resnet50.branches(torch.zeros(1, 3, 224, 224))
    for hook in hooks:
        hook.remove()
    assert seen == {"g": (1, 1024, 14, 14), "a": (1, 1000, 14, 14)}
    assert out.attention.shape == (1, 1, 14, 14)
    assert out.attention_logits.shape == out.logits.shape == (1, 1000)


def test_resnet50_has_the_published_number_of_parameters(resnet50):
    """The count is that of the whole attention branch, its copy of layer4 and its class head
    included.
    """
    counts = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in resnet50.attention.named_children()
    }
    assert counts == {
        "stage": 14_964_736,
        "bn_stage": 4_096,
        "to_classes": 2_048_000,
        "bn_classes": 2_000,
        "act": 0,
        "to_map": 9_000,
        "bn_map": 2,
        "gate": 0,
        "class_head": 1_000_000,
    }
    assert sum(counts.values()) == 18_027_834
    one = AttentionBranch(nn.Identity(), 2048, 1000, map_kernel=1)
    assert sum(p.numel() for p in one.to_map.parameters()) == 1_000


# ----------------------------------------------------------------------------- where it starts from


@pytest.mark.parametrize("kind", BACKBONES)
def test_a_network_without_attention_is_its_backbone(kind):
    """(1 + 0) * g: with M = 0 injected, every family gives the backbone's own logits."""
    backbone = seeded(BACKBONES[kind])
    net, x = AttentionBranchNetwork(backbone), make_images(1, 2, SIDE)
    with torch.no_grad():
        grid = net.attention_map(x).shape
        assert torch.equal(net(x, attention=torch.zeros(grid)), backbone(x))
        assert not torch.allclose(net(x), backbone(x), atol=1e-3)
    assert net.num_classes == net(x).shape[1]
    assert not net.training


@pytest.mark.parametrize("kind", BACKBONES)
def test_both_stages_start_from_the_backbones(kind):
    backbone = seeded(BACKBONES[kind])
    net = AttentionBranchNetwork(backbone)
    branch = net.attention.stage.state_dict()
    last = {
        key.partition(".")[2]: value for key, value in net.perception.stage.state_dict().items()
    }
    assert len(branch) > 1
    for key, value in branch.items():
        assert torch.equal(value, last[key])
        assert value.data_ptr() != last[key].data_ptr()
    # The backbone is left alone, and shares nothing with the network.
    own = {t.data_ptr() for t in net.state_dict().values()}
    assert not own & {t.data_ptr() for t in backbone.state_dict().values()}


@pytest.mark.parametrize("kind", BACKBONES)
def test_the_attention_branch_keeps_the_grid(kind):
    net = AttentionBranchNetwork(seeded(BACKBONES[kind]))
    x = make_images(1, 1, 96)
    with torch.no_grad():
        g = net.extractor(x)
        assert net.attention.stage(g).shape[2:] == net.attention_map(x).shape[2:] == g.shape[2:]


@pytest.mark.parametrize(
    "options", [{}, {"avg_down": True}, {"aa_layer": BlurPool2d}, {"aa_layer": nn.AvgPool2d}]
)
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_stage_at_stride_1_is_built_as_timm_builds_one(block, options):
    """timm's layer1 has stride 1: where its widths change as layer4's do, both have the same
    modules and settings.
    """
    net = seeded(tiny_resnet, block, **options)

    def build(layer: nn.Module) -> list[tuple[object, ...]]:
        settings = ("kernel_size", "stride", "padding", "dilation")
        parts = dict(layer.named_modules())
        if block is BasicBlock:  # layer1 has no shortcut that changes the width
            parts = {name: part for name, part in parts.items() if "downsample" not in name}
        return [
            (name, type(m), *(getattr(m, s, None) for s in settings))
            for name, m in parts.items()
            if name != "0"
        ]

    assert build(keep_resolution(net.layer4)) == build(net.layer1)
    assert build(net.layer4) != build(net.layer1)


def test_the_stage_at_stride_1_sees_between_the_places_of_the_strided_one():
    net = seeded(tiny_resnet)
    g = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    dense, strided = keep_resolution(net.layer4)[0].conv1(g), net.layer4[0].conv1(g)
    torch.testing.assert_close(dense[:, :, ::2, ::2], strided)
    assert net.layer4[0].conv1.stride == (2, 2)  # a copy was changed


def test_vgg_is_cut_behind_the_last_pooling_that_convolutions_follow():
    net = AttentionBranchNetwork(seeded(tiny_vgg))
    assert isinstance(net.extractor[-1], nn.MaxPool2d)
    kinds = [type(layer).__name__ for layer in net.perception.stage.features]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]
    assert [type(layer).__name__ for layer in net.attention.stage.children()] == [
        *kinds[:-1],
        "Identity",
    ]
    assert len(AttentionBranchNetwork(vgg_scenes()).extractor) == 15  # 16, M, 32, M, 48, 48, M


@pytest.mark.parametrize("kernel", [1, 3])
def test_new_layers_are_drawn_from_the_seed_alone(kernel):
    backbone = seeded(tiny_resnet)
    state = torch.get_rng_state()
    one, same, other = (
        AttentionBranchNetwork(backbone, kernel, seed=s).attention for s in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    for name in ("to_classes", "to_map", "class_head"):
        weight = one.get_submodule(name).weight
        assert torch.equal(weight, same.get_submodule(name).weight)
        assert not torch.equal(weight, other.get_submodule(name).weight)
    assert one.to_map.weight.shape == (1, 5, kernel, kernel)
    wide = AttentionBranchNetwork(seeded(tiny_resnet, block=Bottleneck)).attention
    assert wide.to_classes.weight.std().item() == pytest.approx(
        (2 / 5) ** 0.5, rel=0.15
    )  # the authors': sqrt(2 / (k k C))
    assert one.bn_map.weight.item() == 1
    assert one.bn_map.bias.item() == 0


# ------------------------------------------------------------------------------------ the mechanism


def slow_norm(x: np.ndarray, bn: nn.BatchNorm2d) -> np.ndarray:
    mean, var, gamma, beta = (
        t.detach().double().numpy()[:, None, None]
        for t in (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    )
    return (x - mean) / np.sqrt(var + bn.eps) * gamma + beta


def slow_conv(x: np.ndarray, conv: nn.Conv2d) -> np.ndarray:
    """x [K,h,w] -> [C,h,w]: cell by cell, zeros outside, stride 1, no bias."""
    weight = conv.weight.detach().double().numpy()
    side = weight.shape[-1]
    padded = np.pad(x, ((0, 0), (side // 2, side // 2), (side // 2, side // 2)))
    out = np.zeros((len(weight), *x.shape[1:]))
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            for c in range(len(weight)):
                out[c, i, j] = (padded[:, i : i + side, j : j + side] * weight[c]).sum()
    assert conv.bias is None
    return out


def slow_branches(
    net: AttentionBranchNetwork, image: torch.Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return attention logits [C], logits [C] and M [h,w] of one image [3,H,W], in float64, as the
    paper writes it.
    """
    wide = copy.deepcopy(net).double().eval()
    with torch.no_grad():
        g = wide.extractor(image.double()[None])
        stage = wide.attention.stage(g)[0].numpy()
    branch = wide.attention
    a = np.maximum(
        slow_norm(
            slow_conv(slow_norm(stage, branch.bn_stage), branch.to_classes), branch.bn_classes
        ),
        0,
    )
    m = 1 / (1 + np.exp(-slow_norm(slow_conv(a, branch.to_map), branch.bn_map)))[0]
    attention_logits = slow_conv(a, branch.class_head).mean((1, 2))
    perceived = g[0].numpy() * (1 + m)
    with torch.no_grad():
        logits = wide.perception.head(wide.perception.stage(torch.from_numpy(perceived)[None]))[
            0
        ].numpy()
    return attention_logits, logits, m


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("kind", ["resnet-d", "regnet", "vgg", "resnet_scenes"])
def test_both_branches_are_what_the_paper_says(kind, kernel):
    net = randomise(AttentionBranchNetwork(seeded(BACKBONES[kind]), kernel), 5)
    x = make_images(2, 2, SIDE)
    net.attention.bn_map.train().momentum = (
        1.0  # its own statistics, so that M is away from 0 and 1
    )
    with torch.no_grad():
        net.attention_map(x)
        out = net.eval().branches(x)
    for row, image in enumerate(x):
        attention_logits, logits, m = slow_branches(net, image)
        assert m.std() > 0.05
        np.testing.assert_allclose(out.attention[row, 0].numpy(), m, atol=1e-5)
        np.testing.assert_allclose(
            out.attention_logits[row].numpy(), attention_logits, atol=1e-4, rtol=1e-4
        )
        np.testing.assert_allclose(out.logits[row].numpy(), logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["resnet", "vgg", "regnet"])
def test_every_way_through_the_network_agrees(kind):
    net, x = randomise(AttentionBranchNetwork(seeded(BACKBONES[kind])), 5), make_images(2, 3, SIDE)
    with torch.no_grad():
        logits, out, m = net(x), net.branches(x), net.attention_map(x)
        assert torch.equal(m, out.attention)
        assert torch.equal(logits, out.logits)
        assert torch.equal(net.forward_head(net.forward_features(x)), logits)
        assert torch.equal(net(x, attention=m), logits)
        assert torch.equal(net(x, attention=m[:, 0]), logits)
        edited = 1 - m
        other = net.branches(x, attention=edited)
    assert ((m >= 0) & (m <= 1)).all()
    assert torch.equal(other.logits, net(x, attention=edited))
    assert not torch.allclose(other.logits, logits, atol=1e-3)
    # The map that is returned is the network's own, and the attention branch does not hear of the
    # edited one.
    assert torch.equal(other.attention, m)
    assert torch.equal(other.attention_logits, out.attention_logits)


def test_the_perception_loss_reaches_the_attention_branch_and_an_injected_map_cuts_it_off():
    net, x = randomise(BranchNet(), 1), make_images(2, 2, 32)
    net(x)[:, 0].sum().backward()
    assert net.attention.to_map.weight.grad.abs().sum() > 0
    assert (
        net.attention.class_head.weight.grad is None
        or not net.attention.class_head.weight.grad.any()
    )
    net.zero_grad()
    net(x, attention=torch.full((2, 4, 4), 0.5))[:, 0].sum().backward()
    assert net.attention.to_map.weight.grad is None
    assert net.extractor.conv1.weight.grad.abs().sum() > 0
    net.zero_grad()
    net.branches(x).attention_logits[:, 0].sum().backward()
    assert net.attention.class_head.weight.grad.abs().sum() > 0
    assert net.perception.head.fc.weight.grad is None


def test_maps_of_another_size_come_to_the_grid_by_area():
    maps = torch.tensor([[[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.5] * 4, [1.0] * 4]])
    assert to_grid(maps, 2, 2).tolist() == [[[[0.5, 0.0], [0.75, 0.75]]]]
    assert torch.equal(to_grid(maps[:, None], 2, 2), to_grid(maps, 2, 2))
    assert to_grid(torch.rand(2, 7, 9), 7, 9).shape == (2, 1, 7, 9)


# -------------------------------------------------------------------------------------- as a method


@pytest.mark.parametrize("kind", ["resnet_scenes", "vgg_scenes"])
def test_attention_branch_is_m_at_image_size(kind):
    net, x = randomise(AttentionBranchNetwork(seeded(BACKBONES[kind])), 5), make_images(2, 2, SIDE)
    model = bench.Explainee(net, MEAN, STD, SIDE)
    maps = bench.explain(model, x, targets=torch.tensor([1, 2]), method="attention_branch")
    with torch.no_grad():
        m = net.attention_map(x)
    expected = nn.functional.interpolate(
        m, size=(SIDE, SIDE), mode="bilinear", align_corners=False
    )[:, 0]
    torch.testing.assert_close(maps, expected)
    other = bench.explain(model, x, targets=torch.tensor([3, 0]), method="attention_branch")
    assert torch.equal(maps, other)  # one map per image, whatever class is asked for


def test_cams_explain_the_perception_branch():
    net, x = randomise(AttentionBranchNetwork(seeded(resnet_scenes)), 5), make_images(2, 2, SIDE)
    model = bench.Explainee(net, MEAN, STD, SIDE)
    maps = bench.explain(model, x, targets=torch.tensor([1, 2]), method=["cam", "grad_cam"])
    with torch.no_grad():
        features = net.forward_features(x)
        weights = net.perception.head.fc.weight[[1, 2]]
    by_hand = torch.einsum("bk,bkij->bij", weights, features)
    by_hand = nn.functional.interpolate(
        by_hand[:, None], (SIDE, SIDE), mode="bilinear", align_corners=False
    )[:, 0]
    torch.testing.assert_close(maps["cam"], by_hand, atol=1e-4, rtol=1e-4)
    assert model.layer == "forward_features"
    assert model.stages == [
        *("extractor.act1", "extractor.layer1", "extractor.layer2", "extractor.layer3"),
        "perception.stage.layer4",
    ]


def test_other_networks_have_no_attention_branch():
    model = bench.Explainee(make_net("gap"), MEAN, STD, 32, "features")
    with pytest.raises(NotApplicable, match="no attention branch"):
        bench.explain(model, make_images(0, 1, 32), method="attention_branch")


# ---------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("attention", "words"),
    [
        (torch.zeros(2, 3, 3), r"shape \(2, 3, 3\); these images need \(2, 1, 4, 4\)"),
        (torch.zeros(1, 1, 4, 4), r"shape \(1, 1, 4, 4\)"),
        (torch.zeros(2, 5, 4, 4), r"shape \(2, 5, 4, 4\)"),
        (torch.zeros(4, 4), r"shape \(4, 4\)"),
        (torch.full((2, 4, 4), 1.5), "outside"),
        (torch.full((2, 4, 4), -0.1), "outside"),
        (torch.full((2, 4, 4), torch.nan), "NaN"),
    ],
)
def test_a_map_that_does_not_fit_is_one_sentence(attention, words):
    net = make_net("abn")
    for call in (net, net.branches, net.forward_features):
        with pytest.raises(BenchError, match=words) as caught:
            call(make_images(0, 2, 32), attention=attention)
        assert "\n" not in str(caught.value)


class Twisted(ResNet):
    """A ResNet by its modules, whose forward does something else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.flip(3)) * 2


class Strided(nn.Module):
    """A stage that drops every second place in code, where no setting says so."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stage(x)[:, :, ::2, ::2]


def strided() -> nn.Module:
    net = tiny_resnet(output_stride=16)
    net.layer4 = Strided(net.layer4)
    return net


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (GapLinear, r"\(GapLinear\) cannot be split"),
        (lambda: token_net(0, 32), r"\(TokenNet\) cannot be split"),
        (
            lambda: Twisted(BasicBlock, [1, 1, 1, 1], num_classes=5, channels=(4, 6, 8, 10)),
            "gives? other logits",
        ),
        (strided, "cannot run at stride 1"),
        (
            lambda: tiny_resnet().__class__(BasicBlock, [1] * 4, num_classes=0, channels=(4,) * 4),
            "no classifier",
        ),
        (lambda: VGG([8, 8], num_classes=5, mlp_ratio=0.01), "cannot be split"),
    ],
)
def test_a_backbone_that_cannot_be_split_is_one_sentence(build, words):
    backbone = seeded(build)
    with pytest.raises(BenchError, match=words) as caught:
        AttentionBranchNetwork(backbone)
    assert "\n" not in str(caught.value)


def test_the_map_kernel_is_1_or_3():
    with pytest.raises(BenchError, match="1 or 3, not 2"):
        AttentionBranchNetwork(seeded(tiny_resnet), map_kernel=2)
