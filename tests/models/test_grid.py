"""Which reading of a layer is its grid: stated, verified on changed images, or refused."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import bench
from bench.errors import NotApplicable
from bench.models.grid_check import find_true_layout
from bench.models.layout import Layout, list_layouts
from bench.models.network_guard import state_of

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().eval()


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def own_grad_cam(net, layer, images, target, grid, prefix):
    """Grad-CAM written anew: tokens of a named layer, laid out as the patches are."""
    kept = {}
    handle = net.get_submodule(layer).register_forward_hook(lambda *a: kept.update(out=a[2]))
    logits = net(images.clone().requires_grad_())
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[:, target].sum(), kept["out"])
    tokens, weights = kept["out"][:, prefix:], gradient[:, prefix:].mean(1, keepdim=True)
    cam = (tokens * weights).sum(2).relu().detach().reshape(len(images), 1, *grid)
    return F.interpolate(cam, size=images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


DYNAMIC = [
    # (architecture, image, grid, prefix): another size than the network was built for
    ("vit_tiny_patch16_224", (112, 176), (7, 11), 1),
    ("vit_tiny_patch16_224", (272, 272), (17, 17), 1),
    ("deit_tiny_distilled_patch16_224", (176, 112), (11, 7), 2),
    ("vit_small_patch16_dinov3", (144, 208), (9, 13), 5),
]


@pytest.mark.parametrize(("arch", "size", "grid", "prefix"), DYNAMIC)
def test_tokens_of_an_image_of_any_size(arch, size, grid, prefix):
    net = seeded(lambda: timm.create_model(arch, dynamic_img_size=True, **TINY))
    model = bench.Explainee(net, size=224, layer="blocks.1.norm1")
    images = noise(1, 3, *size)
    made = bench.explain(model, images, [2], "grad_cam")
    ((key, layout),) = model._layouts.items()
    assert key[0] == size
    assert (layout.order, layout.height, layout.width, layout.prefix) == ("NLC", *grid, prefix)
    expected = own_grad_cam(net, "blocks.1.norm1", images, 2, grid, prefix)
    torch.testing.assert_close(made, expected, atol=1e-5 * float(expected.amax()), rtol=1e-4)


class Tokens(nn.Module):
    """Patches as tokens of `width` numbers: after them a class token, in an order of their own, or
    turned over.
    """

    def __init__(self, width, side, order="rows"):
        super().__init__()
        self.embed = nn.Conv2d(3, width, 8, 8)
        self.layer = nn.Identity()
        self.inner = nn.Linear(width, width)
        self.head = nn.Linear(width, 4)
        self.order = order
        self.mixed = torch.randperm(side * side, generator=torch.Generator().manual_seed(3))

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        if self.order == "mixed":
            tokens = tokens[:, self.mixed]
        if self.order == "class last":
            tokens = torch.cat([tokens, tokens.mean(1, keepdim=True)], 1)
        return self.head(self.inner(tokens).mean(1))


def test_a_width_that_is_a_square_is_no_grid():
    """64 numbers a token could be an 8x8 grid, with the 36 tokens as its channels."""
    model = bench.Explainee(seeded(lambda: Tokens(64, 6)), size=48, layer="inner")
    assert model.probe_shape == (4, 64, 6, 6)


def test_a_class_token_behind_the_patches_is_none_of_them():
    model = bench.Explainee(seeded(lambda: Tokens(20, 6, "class last")), size=48, layer="inner")
    assert model.probe_shape == (4, 20, 6, 6)
    (layout,) = model._layouts.values()
    assert (layout.prefix, layout.suffix) == (0, 1)


def test_tokens_in_another_order_than_the_image_are_refused():
    model = bench.Explainee(seeded(lambda: Tokens(20, 6, "mixed")), size=48, layer="inner")
    with pytest.raises(NotApplicable, match=r"could be a grid of 6x6; .* change elsewhere, so"):
        _ = model.probe_shape


class SquareMaps(nn.Module):
    """As many channels as rows: [B,6,6,w] is channels first here."""

    def __init__(self, last):
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(3, 6, 8, 8), *([Last()] if last else []))
        self.head = nn.Linear(6, 4)
        self.last = last

    def forward(self, x):
        maps = self.layer(x)
        return self.head(maps.mean((1, 2)) if self.last else maps.mean((2, 3)))


class Last(nn.Module):
    """Channels last."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1)


@pytest.mark.parametrize("size", [(48, 48), (48, 80), (80, 48)])
@pytest.mark.parametrize("last", [False, True])
def test_as_many_channels_as_rows_are_not_turned(last, size):
    net = seeded(lambda: SquareMaps(last))
    model = bench.Explainee(net, size=48, layer="layer")
    images = noise(2, 3, *size)
    made = bench.explain(model, images, [0, 1], "cam")
    maps = net.layer(images).permute(0, 3, 1, 2) if last else net.layer(images)
    cam = torch.einsum("bk,bkhw->bhw", net.head.weight[:2], maps).detach()
    expected = F.interpolate(cam[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-4)


def test_cnns_take_images_that_are_not_square():
    net = seeded(lambda: timm.create_model("resnet10t", num_classes=5))
    model = bench.Explainee(net, size=64)
    images = noise(1, 3, 96, 160)
    made = bench.explain(model, images, [1], "grad_cam")
    grid = model.grid(model.capture(images).values, (96, 160))
    assert grid.shape[2:] == (3, 5)
    assert made.shape == (1, 96, 160)


def test_verification_leaves_the_network_and_the_counts_alone():
    net = seeded(lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, **TINY))
    net.train()
    before, random = state_of(net), torch.get_rng_state()
    model = bench.Explainee(net, size=64)
    _ = model.probe_shape
    assert state_of(net) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in net.modules())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules())


def test_other_weights_keep_the_verified_grid():
    model = bench.Explainee(seeded(lambda: timm.create_model("resnet10t", num_classes=5)), size=64)
    _ = model.probe_shape
    other = model.replace_net(timm.create_model("resnet10t", num_classes=5))
    assert other._layouts == model._layouts != {}


def test_of_several_readings_the_true_one_is_found():
    """A network that states nothing, whose tokens could be 7x7 and one or 6x6 and 14 others."""
    embed = seeded(lambda: nn.Conv2d(3, 8, 9, 9))

    def run(image):
        tokens = embed(image).flatten(2).transpose(1, 2)
        return torch.cat([tokens.new_zeros(1, 14, 8), tokens], 1).detach()

    readings = list_layouts(nn.Identity(), (1, 50, 8), (54, 54))
    assert readings[0] == Layout("NLC", 7, 7, 1)
    assert find_true_layout(run, noise(1, 3, 54, 54), readings).layout == Layout("NLC", 6, 6, 14)


def test_cells_that_all_change_alike_are_no_grid():
    def run(image):
        return image.mean().expand(1, 12, 4)

    readings = list_layouts(nn.Identity(), (1, 12, 4), (30, 40))
    found = find_true_layout(run, noise(1, 3, 30, 40), readings)
    assert found.layout is None
    assert not found.elsewhere


def test_repr_names_the_layer_and_the_grid():
    net = seeded(lambda: timm.create_model("resnet10t", num_classes=5))
    text = repr(bench.Explainee(net, size=64, name="small"))
    assert text == "Explainee(small: layer forward_features, grid 2x2)"
