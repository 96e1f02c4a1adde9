"""Methods side by side: one trace against grad-cam one by one, head replay, and masked forwards over bare ones.

Run on an idle machine: `pytest tests/perf -m perf`. Everything is compared in one run, pair after pair.
"""

from __future__ import annotations

import statistics

import pytest
import timm
import torch
from ratios import bare_forwards, interleaved, said, seconds

import bench
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.methods import METHODS

pytestmark = pytest.mark.perf


FAMILY = ("cam", "grad_cam", "grad_cam_pp", "xgrad_cam", "hires_cam", "layer_cam")


def test_cam_family_from_one_trace_in_forwards(benchmark):
    """Six gradient CAMs from one trace, in forwards per image, beside pytorch-grad-cam one by one."""
    from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    torch.set_num_threads(2)
    net = timm.create_model("resnet18").eval()
    model = bench.Explainee(net)
    _ = model.split  # found once per model, not per call
    images = torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    targets = [ClassifierOutputTarget(1)] * len(images)

    def ours() -> None:
        bench.explain(model, images, [1] * len(images), list(FAMILY))

    def theirs() -> None:
        for kind in (GradCAM, GradCAM, GradCAMPlusPlus, XGradCAM, HiResCAM, LayerCAM):
            with kind(net, [net.layer4]) as cam:
                cam(images, targets)

    channels_last = images.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def bare() -> None:
        net(channels_last)

    mine, other = interleaved(ours, bare), interleaved(theirs, bare)
    print(f"\nsix CAMs in forwards: {said(mine)} from one trace, {said(other)} one by one in grad-cam")
    benchmark.extra_info.update(ours=statistics.median(mine), grad_cam=statistics.median(other))
    benchmark.pedantic(ours, rounds=1)


def test_head_replay_over_ablation_cam_of_grad_cam(benchmark):
    """ablation_cam and a_fmi by head replay, beside pytorch-grad-cam's AblationCAM, which runs whole forwards."""
    from pytorch_grad_cam import AblationCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    torch.set_num_threads(2)
    net = timm.create_model("resnet18").eval()
    model = bench.Explainee(net)
    _ = model.split
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))

    def theirs() -> None:
        with AblationCAM(net, [net.layer4]) as cam:
            cam(images, [ClassifierOutputTarget(1)] * len(images))

    theirs()
    slow = seconds(theirs)
    for name in ("ablation_cam", "a_fmi"):

        def ours(name: str = name) -> None:
            bench.explain(model, images, [1] * len(images), name)

        ours()
        fast = statistics.median(seconds(ours) for _ in range(5))
        benchmark.extra_info[name] = slow / fast
        print(
            f"\n{name}: {slow / fast:.0f} times faster than grad-cam's AblationCAM ({slow:.1f} s against {fast:.3f} s)"
        )
    benchmark.pedantic(ours, rounds=1)


@pytest.mark.parametrize("name", ["score_cam", "abs_cam", "abs_cam_elementwise"])
def test_masked_channels_over_bare_forwards(benchmark, name):
    """score_cam and its kin over the same number of bare forwards, mobilenetv2 at 224, 160 channels of block 5.2."""
    torch.set_num_threads(2)
    model = bench.load_model("mobilenetv2_100", layer="blocks.5.2")
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    prober, method = Prober(model), METHODS.get(name)

    def ours() -> None:
        method(Trace(prober, images))

    before = prober.counts.forwards
    ours()
    forwards = prober.counts.forwards - before
    ratios = interleaved(ours, bare_forwards(prober, forwards))
    benchmark.extra_info.update(forwards=forwards, ratio=statistics.median(ratios))
    print(f"\n{name}: {said(ratios)} times its {forwards} bare forwards")
    benchmark.pedantic(ours, rounds=1)
