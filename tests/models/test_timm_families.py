"""One small member of each timm family: default layer, grid, grid in place, replay, and a Grad-CAM
that says something.

The check is the one of `cambench list models --check` (bench/health/timm_coverage.py), on networks
made smaller.
"""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models.metaformer import MetaFormer
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from timm.models.vgg import VGG
from timm.models.volo import VOLO

import bench
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.errors import BenchError, NotApplicable
from bench.health import timm_check
from bench.models.architectures import build_seeded
from bench.models.layout import Layout, find_layout
from bench.models.network_guard import guard_network

VIT = {"img_size": 112, "embed_dim": 48, "depth": 3, "num_heads": 2}
SMALL = {"img_size": 112}
TNT = {
    **SMALL,
    "embed_dim": 48,
    "depth": 2,
    "inner_dim": 8,
    "num_heads_inner": 2,
    "num_heads_outer": 2,
}
WHOLE = "forward_features"
FAMILIES = [
    # class tokens: what they read for the last time
    ("vit_tiny_patch16_224", VIT, "blocks.2.norm1", "7x7"),
    ("vit_small_patch14_reg4_dinov2", {**VIT, "img_size": 98}, "blocks.2.norm1", "7x7"),
    ("deit_tiny_distilled_patch16_224", VIT, "blocks.2.norm1", "7x7"),
    ("vit_small_patch16_18x2_224", VIT, "blocks.1", "7x7"),
    ("vit_tiny_r_s16_p8_224", {"depth": 2}, "blocks.1.norm1", "7x7"),
    ("vit_small_patch16_rope_224", VIT, "blocks.2.norm1", "7x7"),
    ("cait_xxs24_224", {**VIT, "depth": 2}, "blocks_token_only.1.norm1", "7x7"),
    ("xcit_nano_12_p16_224", {**VIT, "num_heads": 4}, "cls_attn_blocks.1.norm1", "7x7"),
    ("tnt_s_patch16_224", TNT, "blocks.1.norm_out", "7x7"),
    ("tnt_s_legacy_patch16_224", TNT, "blocks.1.norm_out", "7x7"),
    ("convit_tiny", {**VIT, "num_heads": 4, "local_up_to_layer": 2}, "blocks.2.norm1", "7x7"),
    (
        "pit_ti_224",
        {"depth": (1, 1, 2), "base_dims": (16, 16, 16)},
        "transformers.2.blocks.1.norm1",
        "7x7",
    ),
    ("crossvit_tiny_240", {"depth": [[1, 1, 0], [1, 1, 0]]}, "blocks.1.fusion.0.norm1", "14x14"),
    ("coat_lite_tiny", {"embed_dims": (16, 16, 32, 32)}, "serial_blocks4.1.norm1", "7x7"),
    (
        "coat_tiny",
        {"embed_dims": (16, 32, 32, 32), "parallel_depth": 1},
        "parallel_blocks.0.norm13",
        "14x14",
    ),
    # averaged or attended tokens
    ("vit_wee_patch16_reg1_gap_256", VIT, WHOLE, "7x7"),
    ("vit_relpos_small_patch16_224", VIT, WHOLE, "7x7"),
    ("vit_base_patch16_siglip_224", VIT, WHOLE, "7x7"),
    ("beit_base_patch16_224", VIT, WHOLE, "7x7"),
    ("eva02_tiny_patch14_224", {**VIT, "img_size": 98}, WHOLE, "7x7"),
    ("mixer_s32_224", {}, WHOLE, "7x7"),
    ("resmlp_12_224", SMALL, WHOLE, "7x7"),
    ("gmlp_ti16_224", SMALL, WHOLE, "7x7"),
    ("twins_svt_small", {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 64, 64)}, WHOLE, "7x7"),
    ("levit_128s", {}, WHOLE, "4x4"),
    ("efficientformer_l1", {}, WHOLE, "7x7"),
    ("hiera_tiny_224", {"embed_dim": 24, "stages": (1, 1, 1, 1)}, WHOLE, "7x7"),
    # channels last
    ("swin_tiny_patch4_window7_224", {"embed_dim": 24, "depths": (1, 1, 2, 1)}, WHOLE, "7x7"),
    ("swinv2_tiny_window8_256", {"embed_dim": 24, "depths": (1, 1, 2, 1)}, WHOLE, "8x8"),
    ("mambaout_femto", {"depths": (1, 1, 1, 1)}, WHOLE, "7x7"),
    # channels first: mixed and convolutional
    ("efficientvim_m1", {}, "norm.3", "4x4"),
    ("convnext_atto", {}, WHOLE, "7x7"),
    ("test_maxvit", {}, WHOLE, "5x5"),
    ("test_coatnet", {}, WHOLE, "5x5"),
    ("mobilevit_xxs", {}, WHOLE, "8x8"),
    ("edgenext_xx_small", {}, WHOLE, "8x8"),
    ("pvt_v2_b0", {}, WHOLE, "7x7"),
    ("efficientvit_b0", {}, WHOLE, "7x7"),
    ("mobilenetv3_small_050", {}, WHOLE, "7x7"),
    ("mobilenetv4_conv_small", {}, WHOLE, "7x7"),
    ("efficientnet_b0", {}, WHOLE, "7x7"),
    ("regnetx_002", {}, WHOLE, "7x7"),
    ("densenet121", {"block_config": (2, 2, 2, 2)}, WHOLE, "7x7"),
    ("test_nfnet", {}, WHOLE, "5x5"),
]


def _volo():
    return VOLO(
        (1, 1, 1, 1),
        img_size=112,
        embed_dims=(24, 48, 48, 48),
        num_heads=(2, 2, 2, 2),
        num_classes=10,
    )


def _mvitv2(**kwargs):
    return MultiScaleVit(
        MultiScaleVitCfg(depths=(1, 1, 1, 1), embed_dim=24, **kwargs), num_classes=10
    )


def _poolformer():
    return MetaFormer(
        num_classes=10, depths=(1, 1, 2, 1), dims=(16, 32, 32, 48), use_mlp_head=False
    )


def _vgg():
    return VGG([8, "M", 16, "M", 16, "M", 32, "M", 32, "M"], num_classes=10, mlp_ratio=0.01)


# Those whose timm names take no other sizes: (how to build it, side of the input, layer, grid).
BUILT = {
    "volo": (_volo, 112, "post_network.1.norm1", "7x7"),
    "mvitv2_cls": (lambda: _mvitv2(use_cls_token=True), 160, "stages.3.blocks.0.norm1", "10x10"),
    "mvitv2": (_mvitv2, 224, WHOLE, "7x7"),
    "poolformer": (_poolformer, 112, WHOLE, "7x7"),
    "hrnet": (lambda: timm.create_model("hrnet_w18_small", num_classes=10), 160, WHOLE, "5x5"),
    "vgg": (_vgg, 224, WHOLE, "7x7"),
    "inception": (
        lambda: timm.create_model("inception_v3", num_classes=10, aux_logits=False),
        203,
        WHOLE,
        "5x5",
    ),
    "fastvit": (lambda: timm.create_model("fastvit_t8", num_classes=10), 160, WHOLE, "5x5"),
    "repvgg": (lambda: timm.create_model("repvgg_a0", num_classes=10), 160, WHOLE, "5x5"),
}


def check(model, layer, grid):
    facts = timm_check.examine(model)
    assert facts["reason"] == ""
    assert (facts["layer"], facts["grid"], facts["in_place"]) == (layer, grid, "5/5")
    assert facts["non_constant"] == "yes"
    images = torch.randn(2, 3, model.size, model.size, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([1, 0, 1])
    with torch.no_grad(), guard_network(model.net):
        captured = model.capture(images)
        replayed = model.split.head(captured.values[rows], captured, rows)
        torch.testing.assert_close(captured.logits, model.net(images), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(replayed, captured.logits[rows], atol=1e-4, rtol=1e-4)
        grids = model.grid(captured.values)
        torch.testing.assert_close(model.ungrid(grids, captured.values), captured.values)


@pytest.mark.parametrize(
    ("name", "kwargs", "layer", "grid"), FAMILIES, ids=[f[0] for f in FAMILIES]
)
def test_family(name, kwargs, layer, grid):
    check(bench.load_model(name, num_classes=10, **kwargs), layer, grid)


@pytest.mark.parametrize(("build", "side", "layer", "grid"), BUILT.values(), ids=BUILT)
def test_family_built_by_hand(build, side, layer, grid):
    check(bench.Explainee(build_seeded(build, 0), size=side), layer, grid)


# --- the check itself, on what it must not let pass


class Shifted(Layout):
    """Tokens counted wrongly by one: the class token is taken for the first patch."""

    def grid(self, values):
        return super().grid(values.roll(1, dims=1))


class Transposed(Layout):
    """Rows taken for columns."""

    def grid(self, values):
        return super().grid(values).transpose(2, 3)


@pytest.mark.parametrize("wrong", [Shifted, Transposed])
@pytest.mark.parametrize(
    ("name", "kwargs"), [("vit_tiny_patch16_224", VIT), ("levit_128s", {}), ("pit_ti_224", {})]
)
def test_a_wrong_layout_is_not_in_place(name, kwargs, wrong, monkeypatch):
    model = bench.load_model(name, num_classes=10, **kwargs)
    _, _, height, width = model.probe_shape
    (shape,) = model._layouts
    right = model._layouts[shape]
    monkeypatch.setitem(
        model._layouts, shape, wrong(right.order, right.height, right.width, right.prefix)
    )
    cells = timm_check.places(height, width)
    trace = Trace(Prober(model), timm_check.make_changed_images(model.size, (height, width), cells))
    assert timm_check.count_in_place(timm_check.precise(trace), cells, 1) < timm_check.PLACES


# --- what a network says of itself, and what it does not


class Says(torch.nn.Module):
    """A network that states facts about itself and does nothing."""

    def __init__(self, grid=None, **facts):
        super().__init__()
        if grid is not None:
            self.patch_embed = torch.nn.Identity()
            self.patch_embed.grid_size = grid
        for name, value in facts.items():
            setattr(self, name, value)


LAYOUTS = [
    ((1, 64, 7, 7), {}, Layout("NCHW", 7, 7)),
    ((1, 7, 7, 64), {}, Layout("NHWC", 7, 7)),
    ((1, 7, 7, 7), {}, Layout("NCHW", 7, 7)),
    ((1, 8, 6, 64), {"num_features": 64}, Layout("NHWC", 8, 6)),
    ((1, 64, 8, 6), {"num_features": 64}, Layout("NCHW", 8, 6)),
    ((1, 50, 64), {}, Layout("NLC", 7, 7, 1)),  # a class token that nobody states
    ((1, 51, 64), {"num_prefix_tokens": 2}, Layout("NLC", 7, 7, 2)),
    ((1, 49, 64), {"num_prefix_tokens": 1}, Layout("NLC", 7, 7)),  # before the class token comes
    ((1, 65, 32), {"num_prefix_tokens": 16}, Layout("NLC", 7, 7, 16)),  # and not 8x8 and one
    ((1, 65, 32), {"grid": (7, 7)}, Layout("NLC", 7, 7, 16)),
    ((1, 49, 32), {"grid": (8, 6)}, Layout("NLC", 8, 6, 1)),
    ((1, 128, 49), {}, Layout("NCL", 7, 7)),
    ((1, 55, 32), {}, Layout("NLC", 7, 7, 6)),
    ((1, 2, 32), {}, None),
    ((1, 1000), {}, None),
]


@pytest.mark.parametrize(("shape", "facts", "expected"), LAYOUTS)
def test_layout_follows_what_the_network_says(shape, facts, expected):
    assert find_layout(Says(**facts), shape) == expected


@pytest.mark.parametrize(
    "layout",
    [Layout("NCHW", 2, 3), Layout("NHWC", 2, 3), Layout("NLC", 2, 3, 2), Layout("NCL", 2, 3)],
)
def test_a_layout_there_and_back(layout):
    shapes = {"NCHW": (4, 5, 2, 3), "NHWC": (4, 2, 3, 5), "NLC": (4, 8, 5), "NCL": (4, 5, 6)}
    values = torch.randn(shapes[layout.order], generator=torch.Generator().manual_seed(0))
    grid = layout.grid(values)
    assert tuple(grid.shape) == (4, 5, 2, 3)
    assert torch.equal(layout.ungrid(grid, values), values)
    if layout.order == "NLC":  # token 2 + 4 is row 1, column 1
        assert torch.equal(grid[:, :, 1, 1], values[:, 6])


def test_layers_that_return_several_tensors_are_replayed():
    """PiT's stages give (maps, class token), CrossViT's blocks one token list per branch: the
    coarsest is explained.
    """
    for name, layer, shape in (
        ("pit_ti_224", "transformers.1", (128, 14, 14)),
        ("crossvit_tiny_240", "blocks.1", (192, 14, 14)),
    ):
        model = bench.load_model(name, layer=layer, num_classes=10)
        assert model.probe_shape[1:] == shape
        images = torch.randn(
            2, 3, model.size, model.size, generator=torch.Generator().manual_seed(0)
        )
        with torch.no_grad(), guard_network(model.net):
            captured = model.capture(images)
            for rows in (torch.tensor([0, 1]), torch.tensor([1])):
                chosen = captured.select(rows)
                replayed = model.split.head(chosen.values, chosen, torch.arange(len(rows)))
                torch.testing.assert_close(replayed, captured.logits[rows], atol=1e-4, rtol=1e-4)
            moved = model.split.head(captured.values.flip(0), captured, torch.arange(2))
        assert not torch.allclose(moved, captured.logits, atol=1e-3)


def test_a_layer_that_the_logits_do_not_read_is_no_map():
    model = bench.load_model("vit_tiny_patch16_224", layer="blocks.2", num_classes=10, **VIT)
    with pytest.raises(
        NotApplicable, match=r"No position of layer 'blocks\.2' .* choose an earlier layer"
    ):
        bench.explain(model, torch.randn(1, 3, 112, 112), None, "grad_cam")


def test_networks_without_logits_or_layer_are_one_sentence():
    encoder = bench.Explainee(
        timm.create_model("vit_tiny_patch16_224", **VIT, global_pool="", num_classes=0), size=112
    )
    with pytest.raises(
        NotApplicable, match=r"has shape \(1, 50, 48\); cambench explains classifiers"
    ):
        _ = encoder.split
    with pytest.raises(BenchError, match=r"no layer 'blocks\.9\.norm1'.*blocks\.2\.norm1"):
        _ = bench.load_model("vit_tiny_patch16_224", layer="blocks.9.norm1", **VIT).split


def test_the_size_that_was_asked_for_is_the_size_of_the_input():
    assert bench.load_model("vit_tiny_patch16_224", num_classes=10, **VIT).size == 112
