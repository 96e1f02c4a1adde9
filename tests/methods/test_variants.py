"""Methods by address: parameters in square brackets, wrappers around other methods, and what a
wrong address says.
"""

from __future__ import annotations

from typing import Literal

import pytest
import torch

import bench
from bench.errors import BenchError
from bench.methods import METHODS, variants
from tests.support.nets import MEAN, STD, make_images, make_net


@pytest.fixture(autouse=True)
def methods():
    """Register a method with parameters and a wrapper, for the length of a test."""

    @bench.register_method("doc_power")
    def doc_power(
        trace,
        *,
        power: float = 1.0,
        count: int = 2,
        flip: bool = False,
        lambda_: float = 1.0,
        form: Literal["a", "b"] = "a",
    ):
        return trace.upsample(trace.activations.sum(1) ** power) * (-1 if flip else 1) * lambda_

    @bench.register_method("doc_twice", wraps="grad_cam")
    def doc_twice(trace, inner, *, times: float = 2.0):
        return times * inner.maps(trace)

    yield
    METHODS.remove("doc_power")
    METHODS.remove("doc_twice(grad_cam)")
    METHODS._wrappers.pop("doc_twice")


def test_one_variant_has_one_name():
    for address in (
        "doc_power[power=2,flip=true]",
        "doc_power[flip=1, power=2.0]",
        "doc_power[count=2,flip=True,power=2]",
    ):
        assert METHODS.get(address).name == "doc_power[flip=true,power=2]"
    assert METHODS.get("doc_power[power=1]").name == "doc_power"
    assert METHODS.get("doc_power[power=1]").id == METHODS.get("doc_power").id
    assert METHODS.get("doc_power[power=2]").id != METHODS.get("doc_power").id
    assert METHODS.get("doc_twice").name == "doc_twice(grad_cam)"
    assert (
        METHODS.get("doc_twice(doc_power[flip=true])[times=3]").name
        == "doc_twice(doc_power[flip=true])[times=3]"
    )


def test_variants_stand_in_lists_among_groups_and_wildcards():
    chosen = METHODS.select(
        "cam/grad_c*,doc_power[flip=true,power=2],doc_twice(layer_cam),doc_twice,-grad_cam_pp"
    )
    assert chosen == [
        "grad_cam",
        "doc_power[flip=true,power=2]",
        "doc_twice(layer_cam)",
        "doc_twice(grad_cam)",
    ]


def test_parameters_reach_the_function_and_the_record():
    model = bench.Explainee(make_net("gap"), mean=MEAN, std=STD, size=32, layer="features")
    images = make_images(0, 1, 32)
    names = [
        "doc_power",
        "doc_power[lambda=3]",
        "doc_twice(doc_power)[times=3]",
        "doc_twice(layer_cam)",
        "layer_cam",
    ]
    maps = bench.explain(model, images, torch.tensor([1]), names)
    assert list(maps) == names
    torch.testing.assert_close(maps["doc_power[lambda=3]"], 3 * maps["doc_power"])
    torch.testing.assert_close(maps["doc_twice(doc_power)[times=3]"], 3 * maps["doc_power"])
    torch.testing.assert_close(maps["doc_twice(layer_cam)"], 2 * maps["layer_cam"])
    facts = METHODS.get("doc_power[lambda=3]").facts()["parameters"]
    assert facts == {"power": 1.0, "count": 2, "flip": False, "lambda": 3.0, "form": "a"}


def test_a_wrapper_has_another_id_when_what_it_wraps_has():
    ids = {
        METHODS.get(f"doc_twice({inner})").id.partition("@")[2]
        for inner in ("grad_cam", "layer_cam", "doc_power[power=2]")
    }
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("doc_power[powr=2]", "no parameter 'powr'. Did you mean power"),
        ("doc_power[power=x]", r"doc_power\[power=x\]: give a number"),
        ("doc_power[count=1.5]", "give a whole number"),
        ("doc_power[flip=maybe]", "true or false"),
        ("doc_power[form=c]", "it can be a, b"),
        ("doc_power[power=1,power=2]", "sets power twice"),
        ("layer_cam[x=1]", "has no parameter 'x'. It has none at all"),
        ("grad_cam(layer_cam)", "not a method that wraps another; those are .*doc_twice"),
        ("doc_twice(grid_cam)", "Unknown method 'grid_cam'"),
        ("doc_powr[power=2]", "Unknown method 'doc_powr'"),
    ],
)
def test_a_wrong_address_is_one_sentence(address, words):
    with pytest.raises(BenchError, match=words):
        METHODS.get(address)
    with pytest.raises(BenchError, match=words):
        METHODS.select([address])


def test_wildcards_are_no_addresses():
    assert variants.read_address("cam/*") is None
    assert variants.read_address("[gx]rad_cam") is None
    assert METHODS.select("[gx]rad_cam") == ["grad_cam"]


def test_shared_parts_are_made_once_and_paid_by_every_reader():
    model = bench.Explainee(make_net("gap"), mean=MEAN, std=STD, size=32, layer="features")

    def probes(trace):
        return trace.share(
            "probes", lambda: trace.prober.logits(trace.images) * trace.gradients.mean()
        )

    readers = [
        bench.methods.Method(n, lambda t: t.images[:, 0] * probes(t).mean(), "x", "paper")
        for n in "ab"
    ]
    trace = bench.engine.trace.Trace(bench.engine.prober.Prober(model), make_images(0, 2, 32))
    spent = [reader.explain_counted(trace)[1].counts for reader in readers]
    assert trace.prober.counts.forwards == 4  # the pass and the probes, once each
    assert spent[0] == spent[1]
    assert spent[1].tuple == (4, 0, 2, 2)  # pass, probes, and the gradients that the probes read
