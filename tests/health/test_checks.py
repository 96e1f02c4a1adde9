"""The checks as statistics: by hand, and against slow replicas and SciPy."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kendalltau

from bench.health.checks import (
    agreement,
    alpha,
    change,
    coarsen_curves,
    distinct,
    order_tau,
    pick_spaced,
    rank_methods,
    scalars,
    select_directed,
    separation,
    spread,
    tie_share,
)
from bench.metrics.faithfulness import area_under, cuts
from bench.protocol import Protocol
from tests.support.toy_records import build, row
from tests.support.toy_records import scalars as made

FOUR = Protocol(steps=4)
VALUES = st.integers(0, 4).map(float)


def measure(records, name):
    return {m.name: m for m in select_directed(records, "toy")}[name]


def test_a_separation_by_hand():
    """Oracle .9 and random .4 on every image: the gap is .5 in every resample."""
    records = build(
        made("energy", {"oracle": [0.9, 0.8, 0.7, 0.6], "random": [0.4, 0.3, 0.2, 0.1]})
    )
    found = separation(measure(records, "energy"), "net", "oracle", "random")
    assert (found.gap, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert found.n == 4
    assert found.holds
    other = separation(measure(records, "energy"), "net", "random", "oracle")
    assert other.gap == pytest.approx(-0.5)
    assert not other.holds


def test_lower_is_better_turns_the_gap():
    records = build(
        made("deletion", {"oracle": [0.1, 0.2, 0.3, 0.2], "random": [0.5, 0.4, 0.6, 0.5]})
    )
    found = separation(measure(records, "deletion"), "net", "oracle", "random")
    assert found.gap == pytest.approx(0.3)
    assert found.low > 0


def test_what_maps_cost_is_no_measure_of_them():
    records = build([*made("energy", {"a": [0.5]}), *made("forwards", {"a": [3.0]})])
    records.provenance["metrics"]["forwards"]["family"] = "cost"
    assert [m.name for m in select_directed(records, "toy")] == ["energy"]


def test_a_separation_is_paired():
    """A gap far smaller than the spread of the images holds, since both are scored on the same
    ones.
    """
    base = np.linspace(0, 1, 12)
    records = build(made("energy", {"oracle": list(base + 0.01), "random": list(base)}))
    assert separation(measure(records, "energy"), "net", "oracle", "random").holds


def test_a_missing_method_or_image_is_not_judged():
    records = build(made("energy", {"oracle": [0.9, math.nan], "random": [math.nan, 0.3]}))
    assert separation(measure(records, "energy"), "net", "oracle", "random") is None
    assert separation(measure(records, "energy"), "net", "oracle", "center_gaussian") is None


def test_ties_and_gaps_by_hand():
    """Three methods, two images: one tie of six pairs; a fourth method misses one of two cells."""
    table = {"a": [1.0, 1.0], "b": [1.0, 2.0], "c": [3.0, 3.0], "d": [math.nan, 1.0]}
    records = build(made("energy", table))
    found = spread(measure(records, "energy"), "net", {"a", "b", "c", "d"})
    assert found.nan == pytest.approx(1 / 8)
    assert found.ties == pytest.approx(1 / 6)
    assert found.methods == 3


@settings(max_examples=50, deadline=None)
@given(arrays(float, st.tuples(st.integers(1, 5), st.integers(2, 6)), elements=VALUES))
def test_ties_as_a_slow_replica(values):
    pairs = [float(a == b) for image in values for a, b in combinations(image, 2)]
    assert tie_share(values) == pytest.approx(np.mean(pairs))


def test_alpha_is_one_where_the_images_agree():
    values = np.array([[0.1, 0.5, 0.9], [0.2, 0.3, 0.4], [0.0, 0.5, 0.6]])
    assert alpha(values) == pytest.approx(1)
    assert alpha(np.array([[0.1, 0.5], [0.5, 0.1]])) < 0.01
    assert math.isnan(alpha(values[:1]))


@settings(max_examples=50, deadline=None)
@given(st.integers(4, 9).flatmap(lambda k: st.tuples(*[arrays(float, k, elements=VALUES)] * 2)))
def test_tau_is_scipys(orders):
    first, second = (
        pd.Series(order, index=[f"m{i}" for i in range(len(order))]) for order in orders
    )
    tau, count = order_tau(first, second.sample(frac=1, random_state=0))
    if np.ptp(orders[0]) == 0 or np.ptp(orders[1]) == 0:
        assert math.isnan(tau)
    else:
        assert tau == pytest.approx(kendalltau(*orders).statistic)
    assert count == len(orders[0])


def test_tau_needs_four_methods():
    few = pd.Series([1.0, 2.0, 3.0], index=list("abc"))
    assert math.isnan(order_tau(few, few)[0])


def test_agreement_leaves_controls_out():
    """Without the control that both put last, deletion and insertion order the four methods in
    opposite ways.
    """
    table = {"a": [0.1] * 3, "b": [0.2] * 3, "c": [0.3] * 3, "d": [0.4] * 3, "random": [0.9] * 3}
    other = {"a": [0.5] * 3, "b": [0.6] * 3, "c": [0.7] * 3, "d": [0.8] * 3, "random": [0.1] * 3}
    records = build([*made("deletion", table), *made("insertion", other)])
    found = agreement(rank_methods(scalars(records, "toy", "net")), {"random"})
    pair = found[(found["a"] == "deletion") & (found["b"] == "insertion")].iloc[0]
    assert (pair["tau"], pair["methods"]) == (-1, 4)


def test_ranks_need_every_image():
    records = build(made("energy", {"a": [0.5, 0.5], "b": [0.9, math.nan], "c": [0.1, 0.1]}))
    table = rank_methods(scalars(records, "toy", "net")).set_index("method")
    assert table["rank"].to_dict() == pytest.approx({"a": 1, "b": math.nan, "c": 2}, nan_ok=True)
    assert table["n"].to_dict() == {"a": 2, "b": 1, "c": 2}


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.sampled_from(["lower", "higher"]), st.integers(0, 100))
def test_a_change_is_the_mean_paired_difference(n, better, seed):
    rng = np.random.default_rng(seed)
    items = [f"i{i}" for i in range(n)]
    after, before = rng.random(n), rng.random(n)
    tables = [pd.DataFrame({"item": items, "image": items, "value": v}) for v in (after, before)]
    found = change(tables[0], tables[1][["item", "value"]].sample(frac=1, random_state=0), better)
    assert found.gap == pytest.approx((after - before).mean() * (-1 if better == "lower" else 1))
    assert found.low <= found.gap + 1e-9
    assert found.gap <= found.high + 1e-9


@given(st.integers(1, 100_000), st.sampled_from([(28, 14), (28, 7), (16, 8), (20, 5), (224, 56)]))
def test_the_cuts_of_fewer_steps_are_among_those_of_more(pixels, steps):
    many, few = steps
    assert cuts(pixels, Protocol(steps=many))[:: many // few] == cuts(pixels, Protocol(steps=few))


def curve_records(curves, area, side=10):
    rows = [row(f"i{i}", "m", "deletion_curve", c) for i, c in enumerate(curves)]
    rows += [row(f"i{i}", "m", "deletion", a) for i, a in enumerate(area)]
    return build(
        rows, models={"net": {"weights_id": "w-net", "size": side, "top1": 0.9, "parent": ""}}
    )


def test_fewer_steps_from_a_stored_curve():
    """Four steps 1, .6, .2, .1, 0 give .35; two of them, 1, .2, 0, give .35; one, 1, 0, gives
    .5.
    """
    import torch

    curves = np.array([[1, 0.6, 0.2, 0.1, 0]])
    records = curve_records(
        curves, area_under(torch.from_numpy(curves), [0, 25, 50, 75, 100]).numpy()
    )
    assert coarsen_curves(records, "toy", "net", FOUR, 2)["value"].tolist() == pytest.approx([0.35])
    assert coarsen_curves(records, "toy", "net", FOUR, 1)["value"].tolist() == pytest.approx([0.5])


def test_a_curve_that_is_not_the_values_own_is_left_alone():
    assert coarsen_curves(
        curve_records(np.array([[1, 0.6, 0.2, 0.1, 0]]), [0.7]), "toy", "net", FOUR, 2
    ).empty


def test_equal_maps_count_once():
    records = build(made("deletion", {"a": [0.1, 0.2], "b": [0.1, 0.2]}), equal={"net": {"b": "a"}})
    assert distinct(records, "net") == {"a"}


def test_spaced_keeps_the_ends():
    assert pick_spaced(list("abcdefg"), 3) == ["a", "d", "g"]
    assert pick_spaced(["a"], 3) == ["a"]


def test_a_separation_counts_images_and_not_items():
    """Four items of two images are two images."""
    table = {"oracle": [0.9, 0.8, 0.7, 0.6], "random": [0.4, 0.3, 0.2, 0.1]}
    items = ["a:0", "a:1", "b:0", "b:1"]
    records = build(
        row(i, m, "energy", v)
        for m, values in table.items()
        for i, v in zip(items, values, strict=True)
    )
    assert separation(measure(records, "energy"), "net", "oracle", "random").n == 2
