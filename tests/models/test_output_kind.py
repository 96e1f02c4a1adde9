"""What a network's output is: one logit, probabilities, features, NaN."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import bench
from bench.errors import AssumptionWarning, BenchError
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
    with pytest.warns(AssumptionWarning, match="class 1 against class 0"):
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


class Behind(nn.Module):
    """A CNN behind which a function stands."""

    def __init__(self, classes: int, end: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.net, self.end = body(classes), end

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.end(5 * self.net(images))


BY_HAND = {
    "one sigmoid": (1, lambda z: 1 / (1 + torch.exp(-z))),
    "a tanh moved to 0..1": (1, lambda z: (torch.tanh(z / 2) + 1) / 2),
    "hard sigmoid": (1, F.hardsigmoid),
    "log of a sigmoid": (1, F.logsigmoid),
    "sigmoids of labels": (3, lambda z: torch.exp(-F.softplus(-z))),
    "a mean of sigmoids": (3, lambda z: (z.sigmoid() + (3 * z).sigmoid()) / 2),
    "percent": (3, lambda z: 100 * z.softmax(1)),
    "a softmax and a rest": (4, lambda z: z.softmax(1) + 0.01),
}


@pytest.mark.parametrize(("classes", "end"), BY_HAND.values(), ids=BY_HAND)
def test_probabilities_by_hand_are_refused(
    classes: int, end: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    with pytest.raises(BenchError, match="returns probabilities"):
        _ = explainee(Behind(classes, end).eval()).layer


class Attentive(nn.Module):
    """A sum of cell logits, weighted by a softmax over the cells."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.weigh, self.classify = (
            nn.Conv2d(3, 8, 3, 2),
            nn.Conv2d(8, 1, 1),
            nn.Conv2d(8, 1, 1),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.conv(images).relu()
        return (self.classify(x).flatten(2) * self.weigh(x).flatten(2).softmax(2)).sum(2)


BOUNDED = {
    "capped": Behind(3, lambda z: 30 * torch.tanh(z / 30)),
    "small": Behind(1, lambda z: z / 100),
    "positive": Behind(3, lambda z: z.relu() + 0.1),
    "swish": Behind(2, F.silu),
    "attention": Attentive(),
}


@pytest.mark.parametrize("net", BOUNDED.values(), ids=BOUNDED)
def test_logits_that_look_bounded_are_logits(net: nn.Module) -> None:
    assert explainee(net.eval()).num_classes >= 2


def test_logits_that_keep_the_axes_of_a_convolution_are_read(images: torch.Tensor) -> None:
    flat = Behind(4, lambda z: z).eval()
    deep = Behind(4, lambda z: z[:, :, None, None]).eval()
    one = Behind(1, lambda z: z[:, :, None, None]).eval()
    found, wanted = (
        bench.explain(explainee(net), images, [1] * 5, "ablation_cam") for net in (deep, flat)
    )
    torch.testing.assert_close(found, wanted)
    assert explainee(one).num_classes == 2


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (lambda z: (z, z), "returns tuple; .* module that returns its logits alone"),
        (lambda z: {"logits": z}, "returns dict; .* module that returns its logits alone"),
        (lambda z: z[:, 0], r"shape \(1,\); .* keep the axis of the one logit"),
        (lambda z: z[:, None], r"shape \(1, 1, 4\); .* one row per image"),
    ],
)
@pytest.mark.parametrize("layer", [None, "net.2"])
def test_other_outputs_say_what_to_do(
    end: Callable[[torch.Tensor], torch.Tensor], words: str, layer: str | None
) -> None:
    with pytest.raises(BenchError, match=words):
        _ = bench.explain(explainee(Behind(4, end).eval(), layer), torch.zeros(1, 3, SIZE, SIZE))
