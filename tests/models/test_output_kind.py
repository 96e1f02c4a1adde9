"""What a network's output is: one logit, probabilities, features, NaN."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import bench
from bench.errors import BenchError
from bench.models.explainee import Explainee
from bench.models.output_kind import is_distribution

SIZE = 24


def body(classes: int, seed: int = 0) -> nn.Sequential:
    """A small CNN that ends in `classes` numbers."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, 1, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, classes),
    ).eval()


def explainee(net: nn.Module, layer: str | None = None) -> Explainee:
    return Explainee(net, (0, 0, 0), (1, 1, 1), SIZE, layer=layer)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


class Pair(nn.Module):
    """The classifier of one logit z, written with the two logits (0, z)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        z = self.net(images)
        return torch.cat([torch.zeros_like(z), z], 1)


def test_one_logit_is_scored_as_the_pair_0_z(images: torch.Tensor) -> None:
    net = body(1)
    one, pair = explainee(net), explainee(Pair(net), layer="net.3")
    assert one.num_classes == 2
    assert "class 1 against class 0" in one.notes[0]
    assert one.facts()["notes"] == one.notes
    maps = bench.explain(pair, images, [1] * 5, "saliency")
    for target in (0, 1):
        targets = [target] * 5
        found = bench.score(one, images, targets, maps, ["deletion", "insertion"])
        wanted = bench.score(pair, images, targets, maps, ["deletion", "insertion"])
        for name, values in wanted.items():
            torch.testing.assert_close(found[name], values, atol=1e-6, rtol=1e-6)


def test_one_logit_has_a_map_for_both_classes(images: torch.Tensor) -> None:
    net = body(1)
    model, pair = explainee(net), explainee(Pair(net), layer="net.3")
    first = bench.explain(model, images, [1] * 5, "saliency")
    torch.testing.assert_close(2 * first, bench.explain(pair, images, [1] * 5, "saliency"))
    torch.testing.assert_close(first, bench.explain(model, images, [0] * 5, "saliency"))
    assert float(first.max()) > 0
    # The sign of z decides the class.
    predicted = bench.explain(model, images, None, "grad_cam")
    classes = (net(images)[:, 0] > 0).long()
    torch.testing.assert_close(predicted, bench.explain(model, images, classes, "grad_cam"))


def test_one_logit_of_a_timm_network_keeps_its_names_and_weights() -> None:
    net = timm.create_model("resnet18", num_classes=1)
    model = Explainee(net, size=64)
    before = model.fingerprint
    assert model.layer == "forward_features"
    assert model.fingerprint == before
    assert sorted(model.net.state_dict()) == sorted(net.state_dict())
    assert model.cut_at("layer2").probe_shape[1] == 128
    assert net.training  # it is left as it was


class Ends(nn.Module):
    """A network with something behind its logits."""

    def __init__(self, net: nn.Module, end: nn.Module | None = None) -> None:
        super().__init__()
        self.net, self.end = net, end

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.net(images)
        if self.end is not None:
            return self.end(logits)
        odds = logits.exp()  # a softmax by hand
        return odds / odds.sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("classes", "end"),
    [
        (4, nn.Softmax(1)),
        (4, nn.Sigmoid()),
        (1, nn.Sigmoid()),
        (4, nn.Sequential(nn.Softmax(1), nn.Flatten())),
        (4, None),
    ],
    ids=["softmax", "sigmoid", "one sigmoid", "softmax and a view", "softmax by hand"],
)
def test_probabilities_are_refused(
    classes: int, end: nn.Module | None, images: torch.Tensor
) -> None:
    with pytest.raises(BenchError, match="returns probabilities"):
        bench.explain(explainee(Ends(body(classes), end)), images, None, "grad_cam")


def test_log_probabilities_are_scored_right_and_said(images: torch.Tensor) -> None:
    net = body(4)
    plain = explainee(net)
    model = explainee(Ends(net, nn.LogSoftmax(1)), layer="net.3")
    maps = bench.explain(plain, images, None, "eigen_cam")
    found = bench.score(model, images, None, maps, "deletion")["deletion"]
    wanted = bench.score(plain, images, None, maps, "deletion")["deletion"]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert "log-probabilities" in model.notes[0]
    assert not plain.notes


def test_small_logits_are_no_probabilities() -> None:
    assert not is_distribution(torch.tensor([[0.2, 0.3], [0.5, 0.5]]))
    assert is_distribution(torch.tensor([[0.2, 0.8], [0.5, 0.5]]))
    assert not is_distribution(torch.ones(3, 1))


@pytest.mark.parametrize("how", ["timm", "identity", "last of several"])
def test_a_network_without_classifier_is_refused(how: str) -> None:
    if how == "timm":
        net: nn.Module = timm.create_model("resnet18", num_classes=0)
    else:
        net = timm.create_model("resnet18")
        net.fc = nn.Identity() if how == "identity" else nn.Sequential(nn.Dropout(), nn.Identity())
    with pytest.raises(BenchError, match=r"has no classifier.*512 features"):
        _ = Explainee(net, size=64).layer


def test_an_identity_elsewhere_is_no_missing_head() -> None:
    net = nn.Sequential(*body(4), nn.Identity())
    assert explainee(net).num_classes == 4


def test_nan_is_found_on_the_first_batch(images: torch.Tensor) -> None:
    class Rooted(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.net(images) * images.mean((1, 2, 3)).sqrt()[:, None]

    images = images.abs()
    assert bench.explain(explainee(Rooted(body(4))), images, None, "saliency").isfinite().all()
    images[3] = -images[3]
    with pytest.raises(BenchError, match="NaN or infinite logits for image 3"):
        bench.explain(explainee(Rooted(body(4))), images, None, "saliency")
