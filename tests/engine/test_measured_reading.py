"""Attention of networks that state nothing: against what `transformers` itself puts out, and what
is refused.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn

import bench
from bench.engine.attention import attention, find_reading
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.errors import NotApplicable
from bench.methods import METHODS
from bench.methods.transformer import roll_out
from tests.support.nets import MEAN, STD, make_images
from tests.support.transformers_nets import (
    LAYERS,
    SIDE,
    find_layer,
    make_transformers,
    transformers,
)

MEAN_OF_PATCHES = [1 / 16] * 16
QUERIES = {
    "ViT": [1.0] + [0.0] * 16,
    "DeiT": [1.0] + [0.0] * 17,
    "DeiTWithTeacher": [0.5, 0.5] + [0.0] * 16,
    "Beit": [0.0, *MEAN_OF_PATCHES],
    "Dinov2": [0.5] + [1 / 32] * 16,
    "Dinov2WithRegisters": [0.5, 0.0, 0.0, 0.0, 0.0] + [1 / 32] * 16,
    "Siglip": MEAN_OF_PATCHES,
    "CLIP": [0.0, *MEAN_OF_PATCHES],
    "IJepa": MEAN_OF_PATCHES,
}
"""{kind: what its head reads of each token}, from the classes' forward."""


def make_trace(net: nn.Module, layer: str, side: int = SIDE) -> Trace:
    model = bench.Explainee(net, MEAN, STD, side, layer)
    return Trace(Prober(model), make_images(5, 2, side), torch.tensor([1, 2]))


@pytest.mark.parametrize("kind", LAYERS)
def test_attention_is_what_transformers_puts_out(kind):
    options = {"use_relative_position_bias": True} if kind == "Beit" else {}
    net = make_transformers(kind, **options)
    trace = make_trace(net, find_layer(net))
    found = attention(trace)
    eager = copy.deepcopy(net)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        wanted = eager(trace.images, output_attentions=True)
    assert len(found.layers) == len(wanted.attentions) == 3
    for ours, theirs in zip(found.layers, wanted.attentions, strict=True):
        assert ours.std() > 0.01
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.logits.detach(), wanted.logits, rtol=1e-4, atol=1e-4)
    assert (found.grid, found.prefix) == ((4, 4), len(QUERIES[kind]) - 16)
    torch.testing.assert_close(found.queries, torch.tensor(QUERIES[kind]))
    rows = roll_out(
        torch.tensor(QUERIES[kind]).expand(2, -1), [a.mean(1) for a in wanted.attentions]
    )
    own = trace.upsample(rows[:, -16:].reshape(2, 4, 4))
    torch.testing.assert_close(METHODS.get("attention_rollout")(trace), own, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["ViT", "Beit", "Dinov2WithRegisters", "Siglip"])
def test_gradients_are_those_of_the_eager_network(kind):
    net = make_transformers(kind)
    trace = make_trace(net, find_layer(net))
    counted = trace.prober.counts.forwards, trace.prober.counts.backwards
    ours = METHODS.get("gradient_rollout")(trace)
    assert (trace.prober.counts.forwards, trace.prober.counts.backwards) == (
        counted[0] + 2,
        counted[1] + 2,
    )
    eager = copy.deepcopy(net)
    eager.set_attn_implementation("eager")
    output = eager(trace.images.clone().requires_grad_(), output_attentions=True)
    score = output.logits[[0, 1], [1, 2]].sum()
    gradients = torch.autograd.grad(score, output.attentions)
    row, total = torch.tensor(QUERIES[kind]).expand(2, -1), torch.zeros(2, len(QUERIES[kind]))
    for a, g in reversed(list(zip(output.attentions, gradients, strict=True))):
        total = total + torch.einsum("bs,bst->bt", row + total, (a * g).relu().mean(1).detach())
    wanted = trace.upsample(total[:, -16:].reshape(2, 4, 4))
    assert ours.std() > 0
    torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_legrad_scores_each_block_by_the_networks_own_ending():
    net = make_transformers("ViT")
    trace = make_trace(net, find_layer(net))
    ours = METHODS.get("legrad[token=model]")(trace)
    eager = copy.deepcopy(net)
    eager.set_attn_implementation("eager")
    output = eager(
        trace.images.clone().requires_grad_(), output_attentions=True, output_hidden_states=True
    )
    rows = []
    for number in range(3):
        outputs: list[torch.Tensor] = []
        handle = eager.vit.layers[number].register_forward_hook(
            lambda _m, _a, out, kept=outputs: kept.append(out)
        )
        output = eager(trace.images.clone().requires_grad_(), output_attentions=True)
        handle.remove()
        logits = eager.classifier(eager.vit.layernorm(outputs[0])[:, 0])
        score = logits[[0, 1], [1, 2]].sum()
        (gradient,) = torch.autograd.grad(score, [output.attentions[number]])
        rows.append(gradient.relu().mean((1, 2)))
    wanted = trace.upsample(torch.stack(rows).mean(0)[:, 1:].reshape(2, 4, 4))
    torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_a_larger_image_has_a_larger_grid():
    net = make_transformers("Beit", use_relative_position_bias=True)
    assert attention(make_trace(net, find_layer(net), 72)).grid == (6, 6)


def test_torchvision_vit():
    net = torchvision.models.VisionTransformer(SIDE, 12, 3, 2, 24, 32, num_classes=4).eval()
    nn.init.normal_(net.heads.head.weight, std=0.3)
    trace = make_trace(net, "encoder.layers.encoder_layer_2.ln_1")
    found = attention(trace)
    inputs: list[torch.Tensor] = []
    last = net.encoder.layers[2].self_attention
    handle = last.register_forward_hook(lambda _m, args, _o: inputs.append(args[0]))
    net(trace.images)
    handle.remove()
    _, weights = last(inputs[0], inputs[0], inputs[0], average_attn_weights=False)
    torch.testing.assert_close(found.layers[-1], weights.detach(), rtol=1e-4, atol=1e-6)
    assert (found.prefix, found.queries[0]) == (1, 1)


# ----------------------------------------------------------------------------- what is refused


class Headed(nn.Module):
    """The tokens of a small ViT behind another head."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body = make_transformers("ViT").vit
        self.kind = kind
        self.query = nn.Linear(24, 1)
        self.head = nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.body(x).last_hidden_state[:, 1:]
        if self.kind == "attention":
            weights = self.query(patches).transpose(1, 2)[:, None].softmax(-1)
            return self.head((weights @ patches[:, None])[:, 0, 0])
        if self.kind == "maximum":
            return self.head(patches.amax(1))
        if self.kind == "first patches":
            return self.head(patches[:, :5].mean(1))
        if self.kind == "places":
            return self.head((patches * torch.linspace(0, 1, 16)[:, None]).mean(1))
        return self.head(patches.mean(1)) * 0


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("attention", "attends outside its blocks"),
        ("maximum", "neither a class token nor the mean"),
        ("first patches", "neither a class token nor the mean"),
        ("places", "neither a class token nor the mean"),
        ("nothing", "No logit of .* depends on the tokens"),
    ],
)
def test_heads_that_read_otherwise_are_refused(kind, reason):
    net = Headed(kind).eval()
    trace = make_trace(net, "body.layers.2.layernorm_before")
    with pytest.raises(NotApplicable, match=reason):
        METHODS.get("raw_attention")(trace)


class Behind(nn.Module):
    """A small ViT whose last token is one of its own, behind the patches."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, 24, 12, 12)
        layer = nn.TransformerEncoderLayer(24, 2, 32, 0.0, batch_first=True, norm_first=True)
        self.blocks_ = nn.ModuleList([layer])
        self.own = nn.Parameter(torch.ones(1, 1, 24))
        self.head = nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.cut(x).flatten(2).transpose(1, 2)
        for block in self.blocks_:
            tokens = block(torch.cat([tokens, self.own.expand(len(x), -1, -1)], 1))
        return self.head(tokens[:, -1])


def test_tokens_behind_the_patches_are_refused():
    with pytest.raises(NotApplicable, match="no grid of patches"):
        METHODS.get("raw_attention")(make_trace(Behind().eval(), "cut"))


def test_hidden_attention_names_the_remedy(monkeypatch):
    net = make_transformers("ViT")
    hidden = lambda module, q, k, v, mask, **options: (v.transpose(1, 2), None)  # noqa: E731
    monkeypatch.setitem(transformers.AttentionInterface._global_mapping, "hidden", hidden)
    net.config._attn_implementation = "hidden"
    trace = make_trace(net, find_layer(net))
    with pytest.raises(
        NotApplicable, match=r"by hidden, which leaves no attention maps; .*attn_implementation"
    ):
        METHODS.get("raw_attention")(trace)


def test_windows_are_no_attention_over_all_tokens():
    config = transformers.SwinConfig(
        image_size=SIDE,
        patch_size=3,
        embed_dim=12,
        depths=[1, 1],
        num_heads=[2, 2],
        window_size=4,
        num_labels=4,
    )
    net = transformers.SwinForImageClassification(config).eval()
    with pytest.raises(NotApplicable, match="no attention over all tokens"):
        METHODS.get("raw_attention")(
            make_trace(net, "swin.encoder.layers.1.blocks.0.layernorm_before")
        )


def test_what_was_found_is_found_again_after_training():
    net = make_transformers("ViT")
    trace = make_trace(net, find_layer(net))
    first = find_reading(trace)
    assert find_reading(trace) is first
    with torch.no_grad():
        net.classifier.weight.mul_(2)
    assert find_reading(trace) is not first
