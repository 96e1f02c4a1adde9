"""Attention methods: numbers done by hand, float64 replicas without autograd, laws, and what they
refuse.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from scipy.special import erf
from torch import nn

import bench
from bench.engine.attention import attention, attention_gradients
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.errors import NotApplicable
from bench.methods import METHODS
from bench.methods.transformer import gather_relevance, relevance, roll_out
from tests.support import reference as ref
from tests.support.nets import MEAN, STD, make_images, make_net

NAMES = ["raw_attention", "attention_rollout", "gradient_rollout", "legrad"]
SIDE = 64
TARGETS = [1, 3]
TINY = {
    "img_size": SIDE,
    "depth": 3,
    "embed_dim": 12,
    "num_heads": 2,
    "num_classes": 5,
    "mlp_ratio": 2,
}


def make_vit(name: str = "vit_tiny_patch16_224", **options: object) -> nn.Module:
    """Return a tiny timm transformer with 4x4 patches, every parameter drawn, so that attention is
    far from uniform.
    """
    with torch.random.fork_rng(devices=[]):
        net = timm.create_model(name, **(TINY | options)).eval()
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for key, p in net.named_parameters():
            noise = torch.randn(p.shape, generator=rng)
            p.copy_(1 + 0.2 * noise if "norm" in key and key.endswith("weight") else 0.35 * noise)
    return net


def make_trace(net: nn.Module, targets: list[int] = TARGETS, side: int = SIDE) -> Trace:
    model = bench.Explainee(net, mean=MEAN, std=STD, size=side)
    return Trace(Prober(model), make_images(3, len(targets), side), torch.tensor(targets))


def assert_maps_equal(
    maps: torch.Tensor, expected: list[np.ndarray], tolerance: float = 2e-4
) -> None:
    """Compare maps at image size with rows over patches, after our replica's Up."""
    for ours, theirs in zip(maps.double().numpy(), expected, strict=True):
        grid = round(len(theirs) ** 0.5)
        up = ref.up(theirs.reshape(grid, grid), *ours.shape)
        assert up.std() > 0
        np.testing.assert_allclose(ours / np.abs(up).max(), up / np.abs(up).max(), atol=tolerance)


# ----------------------------------------------------------------------------- numbers done by hand


def test_two_tokens_by_hand():
    first = torch.tensor([[[0.5, 0.5], [0.2, 0.8]]])
    last = torch.tensor([[[0.9, 0.1], [0.4, 0.6]]])
    top = torch.tensor([[1.0, 0.0]])
    # (I + A_2)/2 = [[.95, .05], [.2, .8]], (I + A_1)/2 = [[.75, .25], [.1, .9]]; the first row of
    # their product:
    torch.testing.assert_close(roll_out(top, [first, last]), torch.tensor([[0.7175, 0.2825]]))
    # R = (I + E_2)(I + E_1) with E_1 = [[0, .5], [0, 0]], E_2 = [[.1, 0], [0, 0]]: first row (1.1,
    # .55), less I.
    e1, e2 = torch.tensor([[[0.0, 0.5], [0.0, 0.0]]]), torch.tensor([[[0.1, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(gather_relevance(top, [e1, e2]), torch.tensor([[0.1, 0.55]]))
    # Two heads: (A*G)+ is (.5, 0) and (0, .6), their mean (.25, .3).
    maps = torch.tensor([[[[0.5, 0.5]], [[0.4, 0.6]]]])
    gradients = torch.tensor([[[[1.0, -1.0]], [[-2.0, 1.0]]]])
    torch.testing.assert_close(relevance(maps, gradients), torch.tensor([[[0.25, 0.3]]]))


class PlantedBlock(nn.Module):
    """z_i + sum_j A_ij z_j with A_ij = weight_j whatever z is, through a softmax or the fused
    attention.
    """

    def __init__(self, weights: list[float], fused: bool) -> None:
        super().__init__()
        self.register_buffer("log", torch.tensor(weights).log())
        self.fused_attn = fused

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        scores = self.log.expand(len(z), 1, z.shape[1], z.shape[1])
        value = z[:, None]
        if self.fused_attn:
            query = torch.zeros_like(value)
            return (
                z
                + nn.functional.scaled_dot_product_attention(query, query, value, attn_mask=scores)[
                    :, 0
                ]
            )
        return z + (scores.softmax(dim=-1) @ value)[:, 0]


class PlantedViT(nn.Module):
    """A class token of 0, four patches (their means), one planted block; logits (c, -c), c the
    class token's number.
    """

    def __init__(self, weights: list[float], fused: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(PlantedBlock(weights, fused))
        self.norm = nn.Identity()
        self.global_pool, self.num_prefix_tokens = "token", 1
        self.one = nn.Parameter(torch.ones(()))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        patches = nn.functional.avg_pool2d(x, 4).mean(1).flatten(1) * self.one
        return self.norm(self.blocks(nn.functional.pad(patches, (1, 0))[..., None]))

    def forward_head(self, z: torch.Tensor) -> torch.Tensor:
        return torch.cat([z[:, 0], -z[:, 0]], dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


@pytest.mark.parametrize("fused", [True, False])
def test_planted_attention_by_hand(fused):
    net = PlantedViT([0.2, 0.4, 0.2, 0.1, 0.1], fused)
    model = bench.Explainee(net, size=8, layer="blocks")
    values = torch.tensor([[1.0, -2.0], [3.0, 0.0]])  # the four patches; dS_0/dA_0j = z_j
    images = values.repeat_interleave(4, 0).repeat_interleave(4, 1).expand(1, 3, 8, 8).contiguous()
    expected = {
        "raw_attention": [0.4, 0.2, 0.1, 0.1],
        "attention_rollout": [0.2, 0.1, 0.05, 0.05],
        "gradient_rollout": [0.4, 0.0, 0.3, 0.0],  # A_0j max(z_j, 0)
        "legrad": [
            0.2,
            0.0,
            0.6,
            0.0,
        ],  # the mean token's score: ds/dA_ij = z_j / 5 in each of the five rows
        "legrad[token=model]": [
            0.2,
            0.0,
            0.6,
            0.0,
        ],  # the class token's: z_j in its row, 0 in the four others
    }
    maps = bench.explain(model, images, targets=torch.tensor([0]), method=list(expected))
    for name, row in expected.items():
        up = ref.up(np.array(row).reshape(2, 2), 8, 8)
        np.testing.assert_allclose(maps[name][0].numpy(), up, atol=1e-6, err_msg=name)
    # Seen from the other class the signs turn: only the patch of -2 speaks for it.
    (other,) = bench.explain(
        model, images, targets=torch.tensor([1]), method="gradient_rollout"
    ).numpy()
    np.testing.assert_allclose(other, ref.up(np.array([[0, 0.4], [0, 0]]), 8, 8), atol=1e-6)


# -------------------------------------------------------------- replicas: numpy, finite differences


class NumpyViT:
    """timm's ViT in float64 numpy, from its state dict; `shift` is added to one attention's
    probabilities.
    """

    def __init__(self, net: nn.Module) -> None:
        self.w = {name: t.double().numpy() for name, t in net.state_dict().items()}
        self.pool, self.heads, self.depth = (
            net.global_pool,
            net.blocks[0].attn.num_heads,
            len(net.blocks),
        )
        self.prefix, self.distilled = net.num_prefix_tokens, hasattr(net, "head_dist")

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        if f"{name}.weight" not in self.w:
            return x
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return y * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.w[f"{name}.weight"].T + self.w.get(f"{name}.bias", 0)

    def mlp(self, x: np.ndarray, name: str) -> np.ndarray:
        y = self.linear(x, f"{name}.fc1")
        return self.linear(0.5 * y * (1 + erf(y / np.sqrt(2))), f"{name}.fc2")

    def tokens(self, image: np.ndarray) -> np.ndarray:
        cut = image.reshape(3, 2, 16, 2, 16).transpose(1, 3, 0, 2, 4).reshape(4, -1)
        patches = (
            cut @ self.w["patch_embed.proj.weight"].reshape(-1, cut.shape[1]).T
            + self.w["patch_embed.proj.bias"]
        )
        first = [self.w[n][0] for n in ("cls_token", "dist_token", "reg_token") if n in self.w]
        position = self.w["pos_embed"][0]
        if len(position) == len(patches):
            return np.concatenate([*first, patches + position])
        return np.concatenate([*first, patches]) + position

    def attend(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, shift: np.ndarray | None
    ) -> tuple:
        def split(x: np.ndarray) -> np.ndarray:
            return x.reshape(len(x), self.heads, -1).transpose(1, 0, 2)

        q, k, v = split(q), split(k), split(v)
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[2])
        a = np.exp(scores - scores.max(-1, keepdims=True))
        a /= a.sum(-1, keepdims=True)
        out = (a if shift is None else a + shift) @ v
        return a, out.transpose(1, 0, 2).reshape(out.shape[1], -1)

    def run(self, image: np.ndarray, at: int = -1, shift: np.ndarray | None = None) -> tuple:
        """Return attention maps, tokens after each block, and logits; `at` = depth shifts the
        pooling's attention.
        """
        z, maps, outputs = self.tokens(image), [], []
        for i in range(self.depth):
            q, k, v = np.split(
                self.linear(self.norm(z, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv"), 3, axis=1
            )
            a, mixed = self.attend(q, k, v, shift if at == i else None)
            z = z + self.linear(mixed, f"blocks.{i}.attn.proj")
            z = z + self.mlp(self.norm(z, f"blocks.{i}.norm2"), f"blocks.{i}.mlp")
            maps.append(a)
            outputs.append(z)
        a, logits = self.head(z, shift if at == self.depth else None)
        return [*maps, a] if self.pool == "map" else maps, outputs, logits

    def head(self, z: np.ndarray, shift: np.ndarray | None = None) -> tuple:
        z, a = self.norm(z, "norm"), None
        if self.pool == "map":
            q = self.linear(self.w["attn_pool.latent"][0], "attn_pool.q")
            k, v = np.split(self.linear(z[self.prefix :], "attn_pool.kv"), 2, axis=1)
            a, x = self.attend(q, k, v, shift)
            x = self.linear(x, "attn_pool.proj")
            pooled = (x + self.mlp(self.norm(x, "attn_pool.norm"), "attn_pool.mlp"))[0]
        else:
            pooled = z[self.prefix :].mean(0) if self.pool == "avg" else z[0]
        logits = self.linear(self.norm(pooled, "fc_norm"), "head")
        return a, (logits + self.linear(z[1], "head_dist")) / 2 if self.distilled else logits


def slopes(score: Callable[[np.ndarray], float], shape: tuple[int, ...]) -> np.ndarray:
    """Return central differences of score(shift) in each entry."""
    out, step = np.zeros(shape), 1e-5
    for index in np.ndindex(shape):
        shift = np.zeros(shape)
        shift[index] = step
        out[index] = (score(shift) - score(-shift)) / (2 * step)
    return out


def replica(net: NumpyViT, image: np.ndarray, target: int, name: str) -> np.ndarray:
    """Return the row of the 4 patches that a method's paper asks for."""
    maps, outputs, _ = net.run(image)
    blocks, size = maps[: net.depth], len(outputs[0])
    query = np.zeros(size)
    if net.pool == "avg":
        query[net.prefix :] = 1 / 4
    else:
        query[: 2 if net.distilled else 1] = 0.5 if net.distilled else 1

    def read(matrix: np.ndarray, pooling: np.ndarray | None) -> np.ndarray:
        row = query if pooling is None else np.concatenate([np.zeros(net.prefix), pooling])
        return (row @ matrix)[-4:]

    pooling = maps[-1].mean(0)[0] if net.pool == "map" else None
    if name == "raw_attention":
        return pooling if pooling is not None else read(blocks[-1].mean(0), None)
    if name == "attention_rollout":
        matrix = np.eye(size)
        for a in blocks:
            matrix = (0.5 * np.eye(size) + 0.5 * a.mean(0)) @ matrix
        return read(matrix, pooling)
    if name == "gradient_rollout":
        found = [
            np.maximum(a * slopes(lambda s, i=i: net.run(image, i, s)[2][target], a.shape), 0).mean(
                0
            )
            for i, a in enumerate(maps)
        ]
        matrix = np.eye(size)
        for e in found[: net.depth]:
            matrix = matrix + e @ matrix
        return (
            read(matrix, found[-1][0]) if net.pool == "map" else read(matrix - np.eye(size), None)
        )
    rows = []
    for i, z in enumerate(outputs):
        if net.pool == "map":
            gradient = slopes(lambda s, z=z: net.head(z, s)[1][target], maps[-1].shape)
        else:

            def score(shift: np.ndarray, i: int = i) -> float:
                mean = net.run(image, i, shift)[1][i].mean(0, keepdims=True)
                return net.head(mean.repeat(net.prefix + 1, 0))[1][target]

            gradient = slopes(score, maps[i].shape)
        rows.append(np.maximum(gradient, 0).mean((0, 1))[-4:])
    return np.mean(rows, axis=0)


VARIANTS = {
    "token": {},
    "registers": {"reg_tokens": 2},
    "registers without position": {"reg_tokens": 1, "no_embed_class": True},
    "avg": {"global_pool": "avg"},
    "avg without prefix": {"global_pool": "avg", "class_token": False},
    "map": {"global_pool": "map", "class_token": False},
    "map with prefix": {"global_pool": "map"},
    "distilled": {"model": "deit_tiny_distilled_patch16_224"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_methods_equal_their_replicas(variant):
    options = {"depth": 2, "img_size": 32} | VARIANTS[variant]
    net = make_vit(options.pop("model", "vit_tiny_patch16_224"), **options)
    trace, twin = make_trace(net, [3], side=32), NumpyViT(net)
    (image,) = trace.images.double().numpy()
    np.testing.assert_allclose(twin.run(image)[2], trace.logits[0].numpy(), atol=1e-3)
    for name in NAMES:
        assert_maps_equal(METHODS.get(name)(trace), [replica(twin, image, 3, name)])


def test_legrad_of_the_last_layers_is_theirs_alone():
    trace = make_trace(make_vit())
    whole, last = METHODS.get("legrad")(trace), METHODS.get("legrad[layers=1]")(trace)
    rest = METHODS.get("legrad[layers=2]")(trace) * 2 - last
    assert not torch.allclose(last, whole, rtol=0.01)
    first = METHODS.get("legrad[layers=3]")(trace) * 3 - last - rest
    torch.testing.assert_close((first + rest + last) / 3, whole)
    # The last block's own score of its class token is the logit itself.
    gradient = attention_gradients(trace).layers[-1]
    own = trace.upsample(attention(trace).patches(gradient.relu().mean((1, 2))))
    torch.testing.assert_close(METHODS.get("legrad[layers=1,token=model]")(trace), own)


# ----------------------------------------------- other families, against timm's own unfused forward


def written_out(
    net: nn.Module, images: torch.Tensor, targets: list[int]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (A, dS/dA) of all attention dropouts of a float64 copy with `fused_attn` off, in the
    order they ran.
    """
    twin, kept = copy.deepcopy(net).double(), []
    for name, module in twin.named_modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
        if name.endswith("attn_drop"):

            def keep(_module: nn.Module, _args: object, output: torch.Tensor) -> None:
                output.retain_grad()
                kept.append(output)

            module.register_forward_hook(keep)
    twin(images.double())[range(len(targets)), targets].sum().backward()
    return [(a.detach().numpy(), a.grad.numpy()) for a in kept]


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "beit": ("beit_base_patch16_224", {}),
    "beit with class token": ("beitv2_base_patch16_224", {"global_pool": "token"}),
    "eva": ("eva02_tiny_patch14_224", {"img_size": 56, "embed_dim": 16}),
    "rotary, registers": ("vit_small_patch16_dinov3", {"embed_dim": 16}),
    "query-key norm": ("vit_tiny_patch16_224", {"qk_norm": True, "reg_tokens": 3}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_equal_timms_unfused_attention(family):
    name, options = FAMILIES[family]
    net = make_vit(name, **options)
    side = options.get("img_size", SIDE)
    trace = make_trace(net, side=side)
    assert any(
        getattr(m, "fused_attn", False) for m in net.modules()
    )  # what is under test is the fused one
    pairs = written_out(net, trace.images, TARGETS)
    found, gradients = attention(trace), attention_gradients(trace)
    assert len(pairs) == len(found.layers) == 3
    for (a, g), ours, slope in zip(pairs, found.layers, gradients.layers, strict=True):
        np.testing.assert_allclose(ours.numpy(), a, atol=1e-4)
        np.testing.assert_allclose(slope.numpy() / np.abs(g).max(), g / np.abs(g).max(), atol=2e-3)
    prefix = net.num_prefix_tokens
    rows = slice(prefix, None) if net.global_pool == "avg" else slice(0, 1)
    rollout = np.eye(prefix + 16)
    for a, _ in pairs:
        rollout = (0.5 * np.eye(prefix + 16) + 0.5 * a.mean(1)) @ rollout
    for ours, row in zip(
        METHODS.get("attention_rollout")(trace).numpy(), rollout[:, rows].mean(1), strict=True
    ):
        np.testing.assert_allclose(ours, ref.up(row[-16:].reshape(4, 4), side, side), atol=1e-4)


def test_cait_reads_its_class_attention_over_its_patch_blocks():
    net = make_vit("cait_xxs24_224", depth=2)
    trace = make_trace(net)
    kept, handles = [], []
    for block in net.blocks:  # the softmax before heads are mixed, from the block's own weights

        def keep(module: nn.Module, args: tuple, _output: object) -> None:
            q, k, _ = (
                module.qkv(args[0])
                .reshape(*args[0].shape[:2], 3, 2, -1)
                .permute(2, 0, 3, 1, 4)
                .unbind(0)
            )
            scores = (q @ k.transpose(-2, -1)) * module.scale
            mixed = torch.einsum("oh,bhij->boij", module.proj_l.weight, scores)
            kept.append((mixed + module.proj_l.bias.view(1, -1, 1, 1)).softmax(-1))

        handles.append(block.attn.register_forward_hook(keep))
    with torch.no_grad():
        net(trace.images)
    for handle in handles:
        handle.remove()
    classes = [a for a, _ in written_out(net, trace.images, TARGETS) if a.shape[2] == 1]
    expected = np.tile(np.eye(17), (2, 1, 1))
    for a in kept:  # no class token yet: it is left alone
        whole = np.tile(np.eye(17), (2, 1, 1))
        whole[:, 1:, 1:] = 0.5 * np.eye(16) + 0.5 * a.mean(1).numpy()
        expected = whole @ expected
    for a in classes:  # the class token alone is updated
        whole = np.tile(np.eye(17), (2, 1, 1))
        whole[:, 0] = 0.5 * np.eye(17)[0] + 0.5 * a.mean(1)[:, 0]
        expected = whole @ expected
    assert_maps_equal(METHODS.get("attention_rollout")(trace), list(expected[:, 0, 1:]))
    assert_maps_equal(METHODS.get("raw_attention")(trace), list(classes[-1].mean(1)[:, 0, 1:]))
    maps = METHODS.get("gradient_rollout")(trace)
    assert (maps.flatten(1).std(1) > 0).all()
    with pytest.raises(NotApplicable, match="class-attention"):
        METHODS.get("legrad")(trace)


# --------------------------------------------------------------------------------------------- laws


def test_rollout_rows_sum_to_one():
    found = attention(make_trace(make_vit(reg_tokens=2)))
    rows = roll_out(torch.eye(19)[:2], [a.mean(1) for a in found.layers])
    torch.testing.assert_close(rows.sum(1), torch.ones(2))
    assert all(torch.allclose(a.sum(-1), torch.ones(())) for a in found.layers)


def test_gradient_rollout_without_gradients_is_the_identity():
    net = make_vit()
    with torch.no_grad():
        net.head.weight[1] = 0  # a logit that depends on nothing
    maps = METHODS.get("gradient_rollout")(make_trace(net))
    assert not maps[0].any()  # R = I: no patch reaches the class token
    assert maps[1].any()


def permuted(net: nn.Module) -> nn.Module:
    """Return a copy whose two heads have changed places in every block."""
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for block in twin.blocks:
            attn, order = block.attn, [1, 0]
            for p in (attn.qkv.weight, attn.qkv.bias):
                p.copy_(p.reshape(3, 2, 6, -1)[:, order].reshape(p.shape))
            attn.proj.weight.copy_(attn.proj.weight.reshape(12, 2, 6)[:, order].reshape(12, 12))
    return twin


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_heads_changes_nothing(name):
    net = make_vit()
    one, other = (METHODS.get(name)(make_trace(n)) for n in (net, permuted(net)))
    torch.testing.assert_close(one, other, atol=1e-4 * one.abs().max().item(), rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_batch_mates_change_nothing(name):
    model = bench.Explainee(make_vit(), mean=MEAN, std=STD, size=SIDE)
    images = make_images(5, 3, SIDE)
    together = bench.explain(model, images, targets=torch.tensor([0, 1, 2]), method=name)
    for i in range(3):
        (alone,) = bench.explain(model, images[i : i + 1], targets=torch.tensor([i]), method=name)
        torch.testing.assert_close(
            alone, together[i], atol=1e-4 * together[i].abs().max().item(), rtol=0
        )


@pytest.mark.parametrize("name", NAMES)
def test_fused_or_not_is_the_same_map(name):
    net = make_vit()
    fused = METHODS.get(name)(make_trace(net))
    for block in net.blocks:
        block.attn.fused_attn = False
    torch.testing.assert_close(
        METHODS.get(name)(make_trace(net)), fused, atol=1e-5 * fused.max().item(), rtol=0
    )


def state(net: nn.Module) -> list[tuple]:
    tables = ("_forward_hooks", "_forward_pre_hooks")
    return [
        (
            name,
            m.training,
            vars(m).get("fused_attn"),
            "forward" in vars(m),
            *(len(getattr(m, t)) for t in tables),
        )
        for name, m in net.named_modules()
    ] + [(name, p.requires_grad, p.grad is None) for name, p in net.named_parameters()]


def test_the_model_is_left_as_it_was_also_when_a_block_raises():
    net = make_vit(global_pool="map")
    net.blocks[1].attn.fused_attn = False
    net.train()
    before = state(net)
    trace = make_trace(net)
    for name in NAMES:
        METHODS.get(name)(trace)
        assert state(net) == before

    def fail(*_: object) -> None:
        raise RuntimeError("planted failure")

    trace = make_trace(net)
    handle = net.blocks[2].mlp.register_forward_hook(fail)
    before = state(net)
    for name in NAMES:
        with pytest.raises(RuntimeError, match="planted failure"):
            METHODS.get(name)(trace)
        assert state(net) == before
        assert not torch.overrides._get_current_function_mode_stack()
    handle.remove()
    assert METHODS.get("legrad")(trace).any()


def test_counts_are_exact_and_the_family_shares_one_forward():
    trace = make_trace(make_vit())
    for name in NAMES:
        method = METHODS.get(name)
        _, spent = method.explain_counted(trace)
        planned = method.plan_work(trace.model)
        # The shared pass is one more forward for everybody; two images.
        assert spent.counts.tuple == tuple(
            2 * n for n in (planned.forwards + 1, planned.backwards, 0, 0)
        ), name
    # One forward for the family, and two gradients: of the logit, and of the blocks' own scores.
    assert trace.prober.counts.tuple == (4, 4, 0, 0)


# ----------------------------------------------------------------------------------- not applicable


@pytest.mark.parametrize("name", NAMES)
def test_a_cnn_has_no_attention(name):
    model = bench.Explainee(make_net("gap"), mean=MEAN, std=STD, size=32, layer="features")
    with pytest.raises(
        NotApplicable, match="no attention over all tokens in every block"
    ) as caught:
        bench.explain(model, make_images(0, 1, 32), targets=torch.tensor([0]), method=name)
    assert str(caught.value).count(".") == 1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("xcit_nano_12_p16_224", {"img_size": SIDE, "depth": 2}),  # attention between channels
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": SIDE, "depths": (1, 1), "num_heads": (3, 6), "window_size": 4},
        ),
        ("mixer_s32_224", {"img_size": SIDE}),
        ("test_efficientnet", {}),
    ],
)
def test_networks_without_global_attention_are_refused(name, options):
    with torch.random.fork_rng(devices=[]):
        net = timm.create_model(name, num_classes=5, **options).eval()
    with pytest.raises(NotApplicable, match="no attention over all tokens"):
        METHODS.get("attention_rollout")(make_trace(net))


class Disturbed(nn.Module):
    """What makes a network answer differently while it is watched."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return z + 0.1 * bool(torch.overrides._get_current_function_mode_stack()) * z.sign()


def test_a_pass_with_other_logits_is_refused():
    net = make_vit()
    net.norm = nn.Sequential(net.norm, Disturbed())
    for name in NAMES:
        with pytest.raises(NotApplicable, match="other logits"):
            METHODS.get(name)(make_trace(net))


def test_legrad_refuses_a_network_with_more_behind_its_blocks():
    net = make_vit()
    head = net.head
    net.forward = lambda x: (
        head(net.pool(net.norm(net.blocks(net._pos_embed(net.patch_embed(x)))))) * 2
    )
    trace = make_trace(net)
    assert METHODS.get("gradient_rollout")(trace).any()
    with pytest.raises(NotApplicable, match="cannot be scored one by one"):
        METHODS.get("legrad")(trace)
