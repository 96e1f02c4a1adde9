"""A network is a function of one image, and a missing gradient is no zero."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bench
from bench.errors import BenchError, NotApplicable
from bench.models.explainee import Explainee
from bench.models.network_guard import leave_modes

SIZE = 24
GRADIENT_METHODS = (
    "grad_cam",
    "layer_cam",
    "grad_cam_pp",
    "saliency",
    "integrated_gradients",
    "smooth_grad",
    "guided_backprop",
    "deep_lift",
    "lrp",
    "full_grad",
    "extremal_perturbation",
)
FREE_METHODS = ("eigen_cam", "ablation_cam", "occlusion")


class Small(nn.Module):
    """Two convolutions; `between` and `behind` change what flows on."""

    def __init__(
        self,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        between: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
        behind: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
    ) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.norm = nn.Conv2d(3, 8, 3, 2, 1), norm(8)
        self.second, self.relu = nn.Conv2d(8, 12, 3, 1, 1), nn.ReLU()
        self.fc = nn.Linear(12, 5)
        self.between, self.behind = between, behind

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.between(F.relu(self.norm(self.first(images))))
        x = self.behind(self.relu(self.second(x)))
        logits: torch.Tensor = self.fc(x.mean((2, 3))) * 20
        return logits


def explainee(net: nn.Module, layer: str | None = "relu") -> Explainee:
    return Explainee(net.eval(), (0, 0, 0), (1, 1, 1), SIZE, layer=layer)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(6, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


# --- a function of one image


@pytest.mark.parametrize("mode", ["never kept", "taken away"])
def test_batch_norm_without_statistics_is_named(mode: str, images: torch.Tensor) -> None:
    net = Small(lambda c: nn.BatchNorm2d(c, track_running_stats=mode != "never kept"))
    if mode == "taken away":
        net.norm.running_mean = net.norm.running_var = None
    with pytest.raises(BenchError, match="no function of one image: its 'norm'"):
        bench.explain(explainee(net), images, None, "eigen_cam")


@pytest.mark.parametrize("count", [1, 6])
def test_what_mixes_the_images_of_a_batch_is_found(count: int, images: torch.Tensor) -> None:
    net = Small(between=lambda x: x - x.mean(0, keepdim=True))
    with pytest.raises(BenchError, match="alone, an image has other logits"):
        bench.explain(explainee(net), images[:count], None, "eigen_cam")


def test_dropout_that_stays_on_is_found(images: torch.Tensor) -> None:
    net = Small(behind=lambda x: F.dropout(x, 0.1))
    with pytest.raises(BenchError, match="other logits for the same images at another run"):
        bench.explain(explainee(net), images, None, "eigen_cam")


def test_a_sound_network_is_checked_once_and_not_counted(images: torch.Tensor) -> None:
    runs: list[int] = []

    def count(x: torch.Tensor) -> torch.Tensor:
        runs.append(len(x))
        return x

    model = explainee(Small(behind=count))
    _ = model.split
    runs.clear()
    bench.explain(model, images, None, "eigen_cam")
    first = len(runs)
    runs.clear()
    bench.explain(model, images, None, "eigen_cam")
    assert len(runs) < first
    assert sum(runs) == len(images)


def test_a_network_that_was_written_is_checked_again(images: torch.Tensor) -> None:
    net = Small()
    model = explainee(net)
    bench.explain(model, images, None, "eigen_cam")
    net.fc.weight.data.fill_(torch.nan)
    net.fc.bias.detach().fill_(torch.nan)
    with pytest.raises(BenchError, match="NaN or infinite"):
        bench.explain(model, images, None, "eigen_cam")


# --- a gradient


def detach(x: torch.Tensor) -> torch.Tensor:
    return x.detach()


def forget(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return x * 1


def through_numpy(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(x.detach().numpy().copy())


def quantise(x: torch.Tensor) -> torch.Tensor:
    return (x * 1e4).round() / 1e4


@pytest.mark.parametrize("cut", [detach, forget, through_numpy, quantise])
@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_a_cut_behind_the_layer_is_said_by_every_gradient_method(
    method: str, cut: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor
) -> None:
    model = explainee(Small(behind=cut))
    with pytest.raises(NotApplicable, match="no gradient goes back"):
        bench.explain(model, images, None, method)


@pytest.mark.parametrize("cut", [detach, forget])
def test_a_cut_before_the_layer_leaves_its_gradient(
    cut: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor
) -> None:
    whole, model = explainee(Small()), explainee(Small(between=cut))
    for method in ("grad_cam", "layer_cam"):
        found = bench.explain(model, images, None, method)
        torch.testing.assert_close(found, bench.explain(whole, images, None, method))
    with pytest.raises(NotApplicable, match="depend on the image, but no gradient"):
        bench.explain(model, images, None, "saliency")


@pytest.mark.parametrize("method", FREE_METHODS)
def test_methods_without_gradients_need_none(method: str, images: torch.Tensor) -> None:
    found = bench.explain(explainee(Small(behind=detach)), images, None, method)
    torch.testing.assert_close(found, bench.explain(explainee(Small()), images, None, method))


def test_a_dead_logit_has_a_gradient_of_zero(images: torch.Tensor) -> None:
    net = Small()
    net.fc.weight.data[2] = 0
    assert not bench.explain(explainee(net), images, [2] * 6, "grad_cam").any()
    assert not bench.explain(explainee(net), images, [2] * 6, "saliency").any()


def test_a_classifier_of_zeros_is_said(images: torch.Tensor) -> None:
    net = Small()
    net.fc.weight.data.zero_()
    with pytest.raises(NotApplicable, match="are the weights of its classifier zero"):
        bench.explain(explainee(net), images, None, "grad_cam")


# --- what the caller has switched on


@pytest.mark.parametrize(
    "mode",
    [torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["inference_mode", "no_grad", "autocast"],
)
@pytest.mark.parametrize("method", [*GRADIENT_METHODS[:-1], *FREE_METHODS, "a_fmi", "sa_cam"])
def test_the_callers_modes_change_no_map(
    method: str, mode: Callable[[], torch.no_grad], images: torch.Tensor
) -> None:
    model = explainee(Small())
    wanted = bench.explain(model, images, None, method)
    scored = bench.score(model, images, None, wanted, "deletion")["deletion"]
    with mode():
        own = images * 1  # made inside the mode
        model = explainee(Small()) if mode is not torch.inference_mode else model
        found = bench.explain(model, own.float(), None, method)
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
        again = bench.score(model, own.float(), None, found * 1, "deletion")["deletion"]
        torch.testing.assert_close(again, scored, rtol=0, atol=0)


def test_weights_of_inference_mode_are_refused() -> None:
    with torch.inference_mode():
        net = Small()
    with pytest.raises(BenchError, match=r"made inside torch\.inference_mode"):
        explainee(net)


def test_load_model_and_evaluate_work_inside_inference_mode() -> None:
    subset = bench.load_subset("scenes-val", limit=3)
    given = {"methods": ["grad_cam"], "metrics": ["deletion"], "calibration": 0}
    outside = bench.evaluate(subset, "resnet-scenes", **given).frame
    with torch.inference_mode():
        inside = bench.evaluate(subset, bench.load_model("resnet-scenes"), **given).frame
    assert outside["value"].equals(inside["value"])
    assert outside["value"].notna().any()


def test_leave_modes_puts_the_modes_back() -> None:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        with leave_modes():
            assert not torch.is_inference_mode_enabled()
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")


# --- compiled networks


@pytest.mark.parametrize("how", ["whole", "part", "in place", "traced", "scripted part"])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_compiled_networks_are_refused(how: str, images: torch.Tensor) -> None:
    net: nn.Module = Small().eval()
    if how == "whole":
        net = torch.compile(net, backend="eager")
    elif how == "part":
        net.second = torch.compile(net.second, backend="eager")
    elif how == "in place":
        net.compile(backend="eager")
    elif how == "traced":
        net = torch.jit.trace(net, images[:1])
    else:
        net.second = torch.jit.script(net.second)
    with pytest.raises(BenchError, match="give the original module"):
        explainee(net)


@pytest.mark.parametrize("targets", [[0.5] * 6, [True] * 6, [float("nan")] * 6])
def test_targets_are_whole_numbers(targets: list[float], images: torch.Tensor) -> None:
    with pytest.raises(BenchError, match="whole numbers"):
        bench.explain(explainee(Small()), images, targets, "eigen_cam")


def test_whole_images_are_no_normalised_images(images: torch.Tensor) -> None:
    with pytest.raises(BenchError, match="give normalised ones"):
        bench.explain(explainee(Small()), (images * 40).byte(), None, "eigen_cam")
