"""What methods and metrics share, and what they must not: equal maps, masks, tensors, part numbers,
folders.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import bench
from bench.engine.case import Case
from bench.engine.memory import keep_memory
from bench.engine.prober import Prober, compile_net
from bench.engine.trace import Trace
from bench.errors import BenchError, NotApplicable
from bench.methods import METHODS
from bench.metrics import METRICS
from bench.models.network_guard import guard_network
from bench.records.equal_maps import equal_methods
from bench.records.store import Store, check_own, free_name


@pytest.fixture
def images(model) -> torch.Tensor:
    subset = bench.load_subset("scenes-val", limit=2)
    return model.normalise(subset.batch(range(2), subset.geometry).pixels)


def frame(**values: list[float]) -> pd.DataFrame:
    rows = [
        {
            "part": "eval",
            "model": "m",
            "method": method,
            "item": str(i),
            "metric": "x",
            "value": v,
            "vector": None,
        }
        for method, scores in values.items()
        for i, v in enumerate(scores)
    ]
    return pd.DataFrame(rows)


def test_equal_methods_need_evidence_on_every_image():
    assert equal_methods(frame(a=[0.3, 0.5], b=[0.3, 0.5 + 1e-9])) == {"m": {"b": "a"}}
    assert equal_methods(frame(a=[0.3, 0.5], b=[0.3, 0.6])) == {}
    assert (
        equal_methods(frame(a=[1.0, 0.0], b=[1.0, 0.0])) == {}
    )  # two hits and misses alike say nothing
    assert equal_methods(frame(a=[0.3, np.nan], b=[0.3, 0.5])) == {}


def test_a_scale_dependent_metric_shares_nothing(model):
    @bench.register_method("once")
    def once(trace):
        return trace.upsample(trace.activations.sum(1))

    @bench.register_method("twice")
    def twice(trace):
        return 2 * trace.upsample(trace.activations.sum(1))

    @bench.register_metric("top", better="higher")
    def top(case):
        return {"top": case.maps.flatten(1).amax(1)}

    subset = bench.load_subset("scenes-val", limit=2)
    try:
        records = bench.evaluate(
            subset, model, ["once", "twice"], ["top", "complexity"], calibration=0
        )
    finally:
        METHODS.remove("once")
        METHODS.remove("twice")
        METRICS.remove("top")
    tops = records.frame[records.frame["metric"] == "top"].pivot_table(
        index="item", columns="method", values="value"
    )
    np.testing.assert_allclose(tops["twice"], 2 * tops["once"], rtol=1e-6)


def test_masks_of_another_colour_are_other_images(model, images):
    trace = Trace(Prober(model), images)
    case = Case(trace, bench.explain(model, images), bench.Protocol().view(()))
    with guard_network(model.net):
        grey = case.probe_masks((0.485, 0.456, 0.406), [0], 10)
        black = case.probe_masks((0.0, 0.0, 0.0), [0], 10)
        again = case.probe_masks((0.485, 0.456, 0.406), [0], 10)
    assert not torch.allclose(grey, black)
    torch.testing.assert_close(grey, again, rtol=0, atol=0)


def test_thresholds_that_cut_only_zeros_share_one_forward(model, images):
    prober = Prober(model)
    trace = Trace(prober, images)
    maps = torch.zeros(2, 96, 96)
    maps[:, :10] = torch.rand(2, 10, 96) + 0.1  # 10 of 96 rows: cuts up to t = 8 reach only zeros
    case = Case(trace, maps, bench.Protocol().view(()))
    before = prober.counts.forwards
    with guard_network(model.net):
        odds = case.probe_masks((0.485, 0.456, 0.406), range(10), 10)
    assert prober.counts.forwards - before == 2 * 2
    assert (odds[:, :9] == odds[:, :1]).all()
    assert not torch.equal(odds[:, 9], odds[:, 0])


def test_a_method_that_writes_into_the_trace_is_refused(model, images):
    @bench.register_method("vandal")
    def vandal(trace):
        return trace.upsample(trace.activations.clamp_(max=0.1).sum(1))

    try:
        with pytest.raises(BenchError, match="vandal wrote into the trace's activations"):
            bench.explain(model, images, method="vandal")
    finally:
        METHODS.remove("vandal")


class DeadEnd(torch.nn.Module):
    """Class 0 is dead on every image (ReLU of a negative number); class 1 is not."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Conv2d(3, 4, 3, stride=4)
        self.head = torch.nn.Conv2d(4, 2, 1)
        torch.nn.init.constant_(self.body.weight, 0.1)
        torch.nn.init.constant_(self.head.weight, 1.0)
        with torch.no_grad():
            self.head.weight[0] = -1.0
            self.head.bias.zero_()

    def forward(self, x):
        return self.head(self.body(x).relu()).relu().mean((2, 3))


def test_one_dead_logit_is_a_zero_map_and_a_layer_without_a_way_is_not_applicable():
    images = torch.rand(2, 3, 32, 32) + 0.1
    model = bench.Explainee(DeadEnd(), size=32, layer="body")
    assert not bench.explain(model, images, [0, 0]).any()
    assert bench.explain(model, images, [1, 1]).any()

    class Cut(DeadEnd):
        def forward(self, x):
            self.body(x)
            return x.mean((2, 3))[:, :2]

    with pytest.raises(NotApplicable, match="reaches the logits"):
        bench.explain(bench.Explainee(Cut(), size=32, layer="body"), images, [0, 0])


def test_a_deleted_part_frees_no_number(tmp_path):
    for number in (0, 1):
        assert free_name(tmp_path, "a", ".parquet") == tmp_path / f"a-{number}.parquet"
        free_name(tmp_path, "a", ".parquet").touch()
    (tmp_path / "a-0.parquet").unlink()
    assert free_name(tmp_path, "a", ".parquet").name == "a-2.parquet"


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.md").write_text("mine")
    (tmp_path / ".mine.tmp").write_text("mine")
    with (
        pytest.raises(BenchError, match=r"holds other files \(thesis\.md\)"),
        Store(tmp_path).lock(),
    ):
        pass
    assert (tmp_path / ".mine.tmp").exists()
    check_own(tmp_path / "not there yet")


def test_a_network_that_was_trained_on_is_another_network(model):
    before = model.weights_id
    assert model.weights_id == before
    with torch.no_grad():
        model.net.fc.weight.mul_(2)
    assert model.weights_id != before


def test_memory_is_kept_where_glibc_is():
    import platform

    assert keep_memory() == (platform.libc_ver()[0] == "glibc")


@pytest.mark.slow
def test_compiled_probes_give_the_same_values():
    """Needs a C++ compiler, as torch.compile does on a CPU."""
    subset = bench.load_subset("scenes-val", limit=3)
    model = bench.load_model("vgg-scenes")
    frames = [
        bench.evaluate(
            subset, model, ["grad_cam"], ["deletion", "insertion"], calibration=0, compiled=c
        ).frame
        for c in (False, True)
    ]
    np.testing.assert_allclose(frames[0]["value"], frames[1]["value"], atol=1e-4)


def test_a_network_that_cannot_be_compiled_is_one_sentence(model, monkeypatch):
    def broken(*_args, **_kwargs):
        raise RuntimeError("no compiler found\nlong trace")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(
        BenchError, match=r"cannot be compiled here \(no compiler found\); run without --compile"
    ):
        compile_net(model, torch.zeros(1, 3, 96, 96))
