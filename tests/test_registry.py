"""The registry: names, wildcards, groups, suggestions, and installed plug-ins."""

from __future__ import annotations

import importlib.metadata

import pytest

import bench
from bench import plugins, registry
from bench.errors import BenchError
from bench.methods import METHODS
from bench.metrics import METRICS, Value


def test_select_takes_names_groups_wildcards_and_leaves_out():
    assert METHODS.select("grad_cam,cam/grad*,grad_cam") == ["grad_cam", "grad_cam_pp"]
    assert "score_cam" in METHODS.select("slow")
    families = ["cam", "control", "gradient", "attention", "perturbation"]
    assert METHODS.select(["all", *(f"-{family}/*" for family in families)]) == []
    assert METHODS.select("all") == METHODS.names
    with pytest.raises(BenchError, match="Did you mean grad_cam"):
        METHODS.select("grad_kam")


def test_a_duplicate_is_refused():
    with pytest.raises(BenchError, match="already a method named 'grad_cam'"):
        bench.register_method("grad_cam")(lambda trace: trace.images[:, 0])


def test_decorators_work_without_brackets():
    @bench.register_method
    def bare(trace):
        return trace.images[:, 0]

    @bench.register_metric
    def bare_metric(case):
        return {"bare_metric": case.maps.flatten(1).amax(1)}

    try:
        assert METHODS.get("bare").fidelity == "unstated"
        assert METRICS.get("bare_metric").values["bare_metric"].better == "none"
        assert callable(bare)
    finally:
        METHODS.remove("bare")
        METRICS.remove("bare_metric")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"needs": ("mask",)}, "needs has 'mask'. Did you mean masks"),
        ({"reads": ("stepz",)}, "reads has 'stepz'. Did you mean steps"),
        ({"values": {"deletion": Value("mine")}}, "'deletion' belongs to the metric deletion"),
    ],
)
def test_a_metric_that_declares_nonsense_is_refused(arguments, words):
    with pytest.raises(BenchError, match=words):
        bench.register_metric("nonsense", **arguments)(lambda case: {})


def test_fidelity_is_one_of_the_words():
    with pytest.raises(BenchError, match="fidelity 'exact'"):
        bench.register_method("x", fidelity="exact")


def test_lists_are_split_outside_brackets():
    assert registry.split_list("a, b[x=1,y=2](z),c(d[e=1,f=2])") == [
        "a",
        " b[x=1,y=2](z)",
        "c(d[e=1,f=2])",
    ]


def test_a_broken_installed_plugin_stops_nothing(monkeypatch):
    class Point:
        value = "broken.module"

        def load(self):
            raise ImportError("no such thing")

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Point()])
    plugins.load_entry_points.cache_clear()
    try:
        assert "broken.module failed at import" in plugins.load_entry_points()[0]
    finally:
        plugins.load_entry_points.cache_clear()
