"""Folded normalisations: the same network, folded only where that is so, and as it was
afterwards.
"""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

import bench
from bench.engine import folding
from bench.engine.fills import take_rows
from bench.engine.folding import folds_of
from bench.engine.prober import Job, Mode, Prober, target_log_odds
from bench.models.network_guard import guard_network
from tests.support.nets import randomise


def explainee(*modules: nn.Module, size: int = 8) -> bench.Explainee:
    net = nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return bench.Explainee(randomise(net, seed=0), size=size)


def images(model: bench.Explainee, count: int = 5) -> torch.Tensor:
    drawn = torch.randn(
        count, 3, model.size, model.size, generator=torch.Generator().manual_seed(1)
    )
    return drawn.contiguous(memory_format=torch.channels_last)


def run(model: bench.Explainee, folded: bool = False) -> torch.Tensor:
    with guard_network(model.net), torch.inference_mode():
        if not folded:
            return model.net(images(model))
        with folds_of(model).apply():
            return model.net(images(model))


def relative(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one - two).abs().amax() / two.abs().amax())


def test_by_hand():
    """(2 x - 1) / sqrt(4) * 3 + 5 = 3 x + 3.5."""
    conv, norm = nn.Conv2d(3, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0)
    model = bench.Explainee(
        nn.Sequential(conv, norm, nn.Flatten(), nn.AdaptiveAvgPool1d(2)).eval(), size=4
    )
    nn.init.constant_(conv.weight, 2)
    norm.running_mean[:], norm.running_var[:] = 1, 4
    norm.weight.data[:], norm.bias.data[:] = 3, 5
    with folds_of(model).apply():
        assert conv.weight.flatten().tolist() == [3, 3, 3]
        assert conv.bias.tolist() == [3.5]
        assert norm(torch.tensor([[[[7.0]]]])).item() == 7
    assert conv.weight.flatten().tolist() == [2, 2, 2]
    assert conv.bias is None
    assert norm(torch.tensor([[[[7.0]]]])).item() == 14


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("resnet18", 1),
        ("mobilenetv2_100", 1),
        ("tf_efficientnet_b0", 1),
        ("regnety_002", 1),
        ("densenet121", 0.4),
    ],
)
def test_the_same_network_and_as_it_was_afterwards(name, share):
    """Norms with activations inside, TensorFlow's padding, groups, squeezing, norms before
    convolutions.
    """
    model = bench.Explainee(randomise(timm.create_model(name), seed=0), size=96)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.net.modules())
    assert share * norms <= len(folds_of(model)) <= norms
    before, state = run(model), copy.deepcopy(model.net.state_dict())
    assert 0 < relative(run(model, folded=True), before) < 1e-5
    assert torch.equal(run(model), before)
    assert all(torch.equal(state[key], value) for key, value in model.net.state_dict().items())


def test_probes_are_those_of_the_network():
    model = bench.Explainee(randomise(timm.create_model("mobilenetv2_100"), seed=0), size=64)
    shown, targets = images(model), torch.arange(5)
    with guard_network(model.net):
        prober = Prober(model, batch_size=2)
        (found,) = prober.log_odds([Job(targets, take_rows(shown, torch.arange(5)))], (64, 64))
    torch.testing.assert_close(found, target_log_odds(run(model), targets), rtol=1e-5, atol=1e-5)
    assert prober.counts.forwards == 5  # the check of the folds is no probe


def test_probes_can_be_of_the_network_as_it_is():
    model = bench.Explainee(randomise(timm.create_model("mobilenetv2_100"), seed=0), size=64)
    shown, targets = images(model), torch.arange(5)
    with guard_network(model.net):
        job = Job(targets, take_rows(shown, torch.arange(5)))
        (found,) = Prober(model).start([job], (64, 64), Mode(folded=False)).values()
    assert torch.equal(found, target_log_odds(run(model), targets))


@pytest.mark.parametrize(
    ("metric", "folded"),
    [("deletion", True), ("average_drop", False), ("threshold_quality", False)],
)
def test_what_is_compared_with_the_clean_image_is_not_folded(metric, folded, monkeypatch):
    """A mask that changes next to nothing must not be above or below by rounding."""
    asked = []
    monkeypatch.setattr(
        "bench.engine.prober.folds_of", lambda model: asked.append(model) or folds_of(model)
    )
    model = bench.Explainee(randomise(timm.create_model("resnet18"), seed=0), size=64)
    bench.score(model, images(model), [1] * 5, torch.rand(5, 64, 64), metric)
    assert bool(asked) == folded


def test_nothing_is_left_behind_by_what_raises():
    model = explainee(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    before = run(model)
    folds = folds_of(model)
    assert len(folds) == 1
    with pytest.raises(KeyboardInterrupt), folds.apply():
        raise KeyboardInterrupt
    assert torch.equal(run(model), before)


@pytest.mark.parametrize("watched", [0, 1])
def test_what_a_hook_sees_is_not_folded(watched):
    model, seen = explainee(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), []
    before = run(model, folded=True)
    with model.net[watched].register_forward_hook(
        lambda _module, _args, output: seen.append(output.clone())
    ):
        plain = run(model)
        assert torch.equal(run(model, folded=True), plain)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(run(model, folded=True), before)


def test_inside_itself_nothing_changes():
    model = explainee(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before, folds = run(model), folds_of(model)
    with folds.apply():
        with folds.apply():
            pass
        assert "forward" in vars(model.net[1])
    assert torch.equal(run(model), before)


class ReadTwice(nn.Module):
    """A convolution whose output goes into a normalisation and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv(x)
        return self.norm(out) + out


def test_what_would_be_another_network_is_left_alone():
    model = explainee(ReadTwice())
    assert len(folds_of(model)) == 0
    assert torch.equal(run(model, folded=True), run(model))


def test_one_that_does_not_agree_is_left_alone(monkeypatch):
    monkeypatch.setattr(folding, "AGREEMENT", 0.0)
    assert (
        len(folds_of(bench.Explainee(randomise(timm.create_model("resnet18"), seed=0), size=64)))
        == 0
    )


def test_layers_that_cannot_take_a_normalisation_over():
    twice = nn.Conv2d(3, 3, 3, padding=1)
    assert len(folds_of(explainee(twice, nn.BatchNorm2d(3), twice, nn.BatchNorm2d(3)))) == 0
    assert len(folds_of(explainee(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)))) == 0
    without = explainee(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    without.net[1].running_mean = without.net[1].running_var = None  # of the batch at hand
    assert len(folds_of(without)) == 0
    made = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    assert len(folds_of(explainee(made, nn.BatchNorm2d(4)))) == 0
    watched = nn.Conv2d(3, 4, 3)
    watched.register_forward_hook(lambda *_: None)
    assert len(folds_of(explainee(watched, nn.BatchNorm2d(4)))) == 0


def test_changed_weights_are_folded_anew():
    model = explainee(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    before = run(model, folded=True)
    assert folds_of(model) is folds_of(model)
    model.net[1].running_mean += 1
    assert relative(run(model, folded=True), before) > 0.1
    assert relative(run(model, folded=True), run(model)) < 1e-5


def test_a_network_without_normalisation_is_not_run():
    model = explainee(nn.Conv2d(3, 4, 3), nn.ReLU())
    model.net.register_forward_pre_hook(lambda *_: pytest.fail("it was run"))
    assert len(folds_of(model)) == 0
