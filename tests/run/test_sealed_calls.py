"""A plug-in changes no other method's values, whatever it writes, and pays for what it does."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import bench
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.errors import AssumptionWarning, BenchError
from bench.methods import METHODS, register_method
from bench.metrics import METRICS, register_metric
from bench.models.network_seal import NetworkSeal
from bench.records.failed_parts import list_failed
from bench.records.store import KEY, Records
from bench.run import sealed_calls
from tests.support.nets import NormNet, randomise

OTHERS = ["grad_cam", "input_x_gradient", "score_cam", "random"]
"""Built-in methods that run the network, its head, and its gradients."""


def build_network() -> bench.Explainee:
    net = randomise(NormNet(classes=bench.load_subset("scenes-val").num_classes), 3)
    return bench.Explainee(net, size=96, layer="features", name="toy")


@pytest.fixture
def network() -> bench.Explainee:
    return build_network()


@pytest.fixture
def plug() -> Iterator[Callable[[Callable[..., torch.Tensor]], str]]:
    """Register functions as methods of a plug-in, for one test."""
    names: list[str] = []

    def register(function: Callable[..., torch.Tensor]) -> str:
        register_method(function.__name__)(function)
        names.append(function.__name__)
        return function.__name__

    yield register
    for name in names:
        METHODS.remove(name)


def draw_map(trace: Trace) -> torch.Tensor:
    return trace.upsample(trace.activations.square().sum(1))


# --- what a method can do to the others


def write_data(trace: Trace) -> None:
    for parameter in trace.model.net.parameters():
        parameter.data.mul_(1.3)


def copy_in(trace: Trace) -> None:
    next(trace.model.net.parameters()).copy_(torch.zeros(()))


def give_other_data(trace: Trace) -> None:
    weight = next(trace.model.net.parameters())
    weight.data = torch.rand_like(weight)


def put_other_parameter(trace: Trace) -> None:
    module = next(m for m in trace.model.net.modules() if isinstance(m, nn.Conv2d))
    module.weight = nn.Parameter(module.weight * 2)


def train_statistics(trace: Trace) -> None:
    trace.model.net.train()
    trace.model.net(trace.images * 3)


def write_and_probe(trace: Trace) -> None:
    write_data(trace)
    trace.prober.logits(trace.images)
    _ = trace.gradients, trace.input_gradients


def replace_module(trace: Trace) -> None:
    for module in trace.model.net.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Tanh())


def patch_forward(trace: Trace) -> None:
    for module in trace.model.net.modules():
        if isinstance(module, nn.Conv2d):
            inner = module.forward
            module.forward = lambda x, inner=inner: inner(x) * 2


def patch_class(trace: Trace) -> None:
    nn.Conv2d.forward = lambda self, x: nn.Conv2d._conv_forward(self, x, self.weight, None) + 1


def patch_torch(trace: Trace) -> None:
    nn.functional.conv2d = lambda x, *_, **__: x
    nn.functional.relu = lambda x, *_, **__: x


def set_eps(trace: Trace) -> None:
    for module in trace.model.net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 10.0


def write_images(trace: Trace) -> None:
    trace.images.data.zero_()


def give_other_images(trace: Trace) -> None:
    trace.images = torch.zeros_like(trace.images)


def write_targets(trace: Trace) -> None:
    trace.targets.data.fill_(0)
    trace.targets.data[0] = 1


def write_gradients(trace: Trace) -> None:
    trace.gradients.data.neg_()


def write_input_gradients(trace: Trace) -> None:
    trace.input_gradients.numpy()[:] = 1


def write_captured(trace: Trace) -> None:
    trace.captured.values.data.mul_(0.5)


FALSIFIERS = (
    *(write_data, copy_in, give_other_data, put_other_parameter, train_statistics),
    *(write_and_probe, replace_module, patch_forward, patch_class, patch_torch, set_eps),
    *(write_images, give_other_images, write_targets, write_gradients),
    *(write_input_gradients, write_captured),
)
"""Each changes what later methods of the batch compute with."""


def leave_hooks(trace: Trace) -> None:
    for module in trace.model.net.modules():
        module.register_forward_hook(lambda m, args, out: out * 1.5)


def leave_global_hook(trace: Trace) -> None:
    nn.modules.module.register_module_forward_hook(lambda m, args, out: out * 1.5)


def leave_settings(trace: Trace) -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(4)
    np.random.seed(4)  # noqa: NPY002
    random.seed(4)
    torch.set_autocast_enabled("cpu", True)
    torch.set_grad_enabled(True)
    trace.images.requires_grad_()
    trace.prober.batch_size = 1


def leave_folder(trace: Trace) -> None:
    os.chdir("/")


SLOVENS = (leave_hooks, leave_global_hook, leave_settings, leave_folder)
"""Each leaves something behind that is no part of the network."""


def evaluate(network: bench.Explainee, methods: list[str], **more) -> Records:
    subset = bench.load_subset("scenes-val", limit=3)
    return bench.evaluate(
        subset,
        network,
        methods,
        more.pop("metrics", ["deletion", "energy"]),
        calibration=0,
        **more,
    )


def values(records: Records, methods: list[str] = OTHERS) -> pd.DataFrame:
    rows = records.frame[records.frame["method"].isin(methods)]
    return rows[[*KEY, "value", "vector", "forwards"]].sort_values(KEY, ignore_index=True)


@pytest.fixture(scope="module")
def alone() -> pd.DataFrame:
    """Return the values of the other methods in a run without any plug-in."""
    return values(evaluate(build_network(), OTHERS))


@pytest.fixture(autouse=True)
def restored_torch() -> Iterator[None]:
    """Keep one test's patches from the next, should a seal fail."""
    kept = (nn.Conv2d.forward, nn.functional.conv2d, nn.functional.relu, Path.cwd())
    state = (torch.get_default_dtype(), torch.get_num_threads())
    yield
    nn.Conv2d.forward, nn.functional.conv2d, nn.functional.relu = kept[:3]
    os.chdir(kept[3])
    nn.modules.module._global_forward_hooks.clear()
    torch.set_default_dtype(state[0])
    torch.set_num_threads(state[1])
    torch.use_deterministic_algorithms(False)
    torch.set_autocast_enabled("cpu", False)


def plug_all(plug, functions) -> list[str]:
    """Register a method for each function, which calls it and draws a map."""

    def register(function) -> str:
        def method(trace: Trace) -> torch.Tensor:
            function(trace)
            return draw_map(trace)

        method.__name__ = function.__name__
        return plug(method)

    return [register(function) for function in functions]


def test_falsifiers_are_named_refused_and_undone(network, plug, alone):
    before = network.weights_id
    names = plug_all(plug, FALSIFIERS)
    with pytest.warns(AssumptionWarning) as said:
        records = evaluate(network, [*names, *OTHERS])
    failed = records.provenance["failed"]["toy"]["method"]
    assert {*failed} == {*names}
    assert all(f"Method {name} changed" in reason for name, reason in failed.items())
    sentences = [str(one.message) for one in said]
    assert all(any(s.startswith(f"{name} is n/a on toy") for s in sentences) for name in names)
    assert {*records.frame["method"]} == {*OTHERS}
    pd.testing.assert_frame_equal(values(records), alone, check_exact=True)
    network._fingerprint = None
    assert network.weights_id == before


def test_what_slovens_leave_is_put_back_and_they_keep_their_rows(network, plug, alone):
    names = plug_all(plug, SLOVENS)
    place = Path.cwd()
    with pytest.warns(AssumptionWarning, match="leave_settings changed torch's default dtype"):
        records = evaluate(network, [*names, *OTHERS], metrics=["energy"])
    assert "failed" not in records.provenance
    assert {*records.frame["method"]} == {*names, *OTHERS}
    expected = alone[alone["metric"].isin(set(records.frame["metric"]))].reset_index(drop=True)
    pd.testing.assert_frame_equal(values(records), expected, check_exact=True)
    assert torch.get_default_dtype() == torch.float32
    assert not torch.are_deterministic_algorithms_enabled()
    assert Path.cwd() == place


@pytest.mark.parametrize("function", [write_data, write_images, write_gradients, patch_forward])
def test_without_seals_others_are_falsified(network, plug, alone, monkeypatch, function):
    """The harm is real: the seal is what keeps the values."""
    monkeypatch.setattr(
        sealed_calls, "call_sealed", lambda who, prober, roots, function: function()
    )
    monkeypatch.setattr(NetworkSeal, "find_changes", lambda self: [])
    (name,) = plug_all(plug, [function])
    records = evaluate(network, [name, *OTHERS])
    assert not np.allclose(values(records)["value"], alone["value"], equal_nan=True)


def test_a_map_that_is_written_later_keeps_its_values(network, plug):
    held: list[torch.Tensor] = []

    @plug
    def keeper(trace):
        held.append(draw_map(trace))
        return held[-1]

    @plug
    def spoiler(trace):
        for one in held:
            one.zero_()
        return draw_map(trace)

    both = evaluate(network, ["keeper", "spoiler"])
    held.clear()
    pd.testing.assert_frame_equal(
        values(both, ["keeper"]), values(evaluate(network, ["keeper"]), ["keeper"])
    )


@pytest.mark.parametrize(
    ("give", "word"),
    [
        (lambda maps: maps.to(torch.complex64), "complex64"),
        (lambda maps: maps[:, :-1], "shape"),
        (lambda maps: maps.numpy(), "ndarray"),
        (lambda maps: None, "NoneType"),
        (lambda maps: maps.to("meta"), "meta"),
    ],
)
def test_what_is_no_map_costs_its_own_rows(network, plug, give, word):
    @plug
    def odd(trace):
        return give(draw_map(trace))

    records = evaluate(network, ["odd", "grad_cam"], metrics=["energy"])
    assert word in records.provenance["failed"]["toy"]["method"]["odd"]
    assert {*records.frame["method"]} == {"grad_cam"}


def test_metrics_that_falsify_are_refused(network, alone):
    def zero_maps(case):
        case.maps.data.zero_()

    def zero_view(case):
        case.positive.zero_()
        case.unit.zero_()
        case.order.zero_()

    def write_weights(case):
        write_data(case.trace)

    def write_blurred(case):
        case.background.blur(10.0, 3.0)[0].data.zero_()

    def make(function):
        def metric(case):
            function(case)
            return {function.__name__: torch.zeros(len(case))}

        return metric

    functions = (zero_maps, zero_view, write_weights, write_blurred)
    try:
        for function in functions:
            register_metric(function.__name__)(make(function))
        names = [function.__name__ for function in functions]
        records = evaluate(network, OTHERS, metrics=[*names, "deletion", "energy"])
    finally:
        for function in functions:
            METRICS.remove(function.__name__)
    assert {*records.provenance["failed"]["toy"]["metric"]} == {*names}
    kept = Records(records.frame[~records.frame["metric"].isin(names)], records.provenance)
    pd.testing.assert_frame_equal(values(kept), alone, check_exact=True)


def test_explain_and_score_refuse_and_leave_the_network(network, plug):
    (name,) = plug_all(plug, [write_data])
    images = network.draw_noise()
    before = [p.clone() for p in network.net.parameters()]
    expected = bench.explain(network, images, method="grad_cam")
    with pytest.raises(BenchError, match="Method write_data changed the network's weights"):
        bench.explain(network, images, method=[name, "grad_cam"])
    assert all(torch.equal(a, b) for a, b in zip(before, network.net.parameters(), strict=True))
    assert torch.equal(bench.explain(network, images, method="grad_cam"), expected)


def test_a_seal_sees_bytes_that_no_count_of_writes_shows(network):
    prober = Prober(network)
    for keeps in (True, False):
        seal = NetworkSeal(network.net, keeps=keeps)
        assert seal.find_changes() == []
        weight = next(network.net.parameters())
        version, bits = weight._version, weight.data.view(torch.int32)
        bits[0, 0, 0, 0] ^= 1  # one bit
        assert weight._version == version
        assert seal.find_changes() == ["the network's weights"]
        bits[0, 0, 0, 0] ^= 1
        assert seal.find_changes() == []
    refusal = pytest.raises(BenchError, match="no method or metric can be named")
    with refusal, sealed_calls.sealing(prober, keeps=True):
        weight.data.add_(1)
    assert torch.equal(weight.data.view(torch.int32), bits)


# --- functions that raise

ERRORS = [
    ValueError("no edges\nat all"),
    RuntimeError("shape '[2]' is invalid"),
    MemoryError(),
    RecursionError("maximum depth"),
    SystemExit(0),
    StopIteration("[/red]"),
    OSError(28, "No space left on device"),
    GeneratorExit(),
    BenchError("The plug-in wants another size."),
    torch.cuda.OutOfMemoryError("CUDA out of memory."),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_method_that_raises_costs_its_own_rows(network, plug, alone, error):
    subset = bench.load_subset("scenes-val", limit=3)
    bad = {subset.image_ids[2]}

    @plug
    def picky(trace):
        if trace.ids[-1] in bad:
            raise error
        return draw_map(trace)

    records = evaluate(network, ["picky", *OTHERS])
    assert {*records.frame["method"]} == {*OTHERS}
    pd.testing.assert_frame_equal(values(records), alone, check_exact=True)
    reason = records.provenance["failed"]["toy"]["method"]["picky"]
    named = isinstance(error, BenchError) or subset.image_ids[2] in reason
    assert named, reason
    assert any(
        "picky is n/a on toy" in flag for flag in bench.leaderboard(records, resamples=20).flags
    )


def test_ctrl_c_in_a_method_stops_the_run(network, plug, tmp_path):
    @plug
    def stopped(trace):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(network, ["grad_cam", "stopped"], out=tmp_path / "run")
    assert (tmp_path / "run" / "run.json").is_file()


def test_a_metric_that_raises_costs_its_own_rows(network, alone):
    @register_metric("brittle", better="higher")
    def brittle(case):
        if "grad_cam" in case.rerun.method.name:
            raise ZeroDivisionError("of nothing")
        return {"brittle": torch.ones(len(case))}

    try:
        records = evaluate(network, OTHERS, metrics=["deletion", "energy", "brittle"])
    finally:
        METRICS.remove("brittle")
    frame = records.frame[records.frame["metric"] == "brittle"]
    assert {*frame["method"]} == {*OTHERS} - {"grad_cam"}
    reason = records.provenance["failed"]["toy"]["metric"]["brittle"]
    assert "grad_cam" in reason
    assert "ZeroDivisionError: of nothing" in reason
    rest = Records(records.frame[records.frame["metric"] != "brittle"], records.provenance)
    pd.testing.assert_frame_equal(values(rest), alone, check_exact=True)


def test_a_built_in_method_that_raises_costs_its_own_rows(network, monkeypatch):
    whole = METHODS.get("layer_cam")

    def broken(trace):
        raise IndexError("out of range")

    monkeypatch.setattr(sealed_calls, "is_built_in", lambda function: True)
    METHODS.remove("layer_cam")
    register_method("layer_cam")(broken)
    try:
        records = evaluate(network, ["layer_cam", "grad_cam"], metrics=["energy"])
    finally:
        METHODS.remove("layer_cam")
        METHODS.add(whole)
    assert "IndexError: out of range" in next(list_failed(records.provenance))
    assert {*records.frame["method"]} == {"grad_cam"}


def test_failed_rows_are_tried_again_and_the_reason_goes(network, plug, tmp_path):
    broken = [True]

    @plug
    def mended(trace):
        if broken:
            raise ValueError("not yet")
        return draw_map(trace)

    first = evaluate(network, ["mended", "grad_cam"], out=tmp_path)
    assert "not yet" in next(list_failed(first.provenance))
    broken.clear()
    second = evaluate(network, ["mended", "grad_cam"], out=tmp_path)
    assert "failed" not in second.provenance
    assert {*second.frame["method"]} == {"mended", "grad_cam"}
    assert not any("PARTIAL" in flag for flag in bench.leaderboard(second, resamples=20).flags)


def test_a_run_in_which_everything_fails_says_why(network, plug):
    @plug
    def hopeless(trace):
        raise ValueError("never")

    with pytest.raises(BenchError, match=r"hopeless is n/a on toy.*never"):
        bench.leaderboard(evaluate(network, ["hopeless"]))
