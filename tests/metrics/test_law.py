"""The law: no ranked value is won by sharpening the map.

For one g for all images, strictly increasing with g(0) = 0, a ranked value of g(m) equals that of
m. A transform of ranks, another g for each image, leaves those alone that compare pixels within
one map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bench
from bench.errors import BenchError
from bench.metrics import METRICS
from bench.metrics.base import Derived, Metric, Value, find_derived
from tests.metrics.test_contract_metrics import IDS, TARGETS, explainee, make_truth
from tests.support.nets import make_images

SIDE, COUNT = 32, 4
LARGEST = 9
"""Of the maps' whole numbers: 9^16 is exact in float64, and float32 tells all powers apart."""
POWERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "power 4": lambda m: m**4,
    "power 16": lambda m: m**16,
    "root": torch.sqrt,
}
EXEMPT: dict[str, str] = {
    "box_set_iou": "holds cut values, which g moves; tests/board/test_set_thresholds.py holds the "
    "law for what boards make of it",
}
"""{ranked value: why the law does not hold for it}; thresholds that a method chooses for each
image (`tft`) are information, so they are no g of the law, and no value is exempt for them."""
ACROSS: tuple[str, ...] = ()
"""Ranked values that compare pixels of several maps: the transform of ranks may move them."""


def list_ranked() -> list[tuple[str, str]]:
    """Return (metric, value) of everything that boards rank, or rank what they derive of it."""
    return [
        (metric.name, name)
        for metric in METRICS
        if metric.builtin
        for name, value in metric.values.items()
        if (find_derived(name, value) or value).ranked
    ]


RANKED = list_ranked()


def score(metric: str, maps: torch.Tensor) -> dict[str, np.ndarray]:
    """Return the values of four maps on a real small network, as float64."""
    out = bench.score(
        explainee(),
        make_images(0, COUNT, SIDE),
        TARGETS,
        maps,
        metric,
        truth=make_truth(),
        ids=IDS,
        curves=True,
    )
    return {name: np.asarray(values, dtype=np.float64) for name, values in out.items()}


def rank_transform(maps: torch.Tensor) -> torch.Tensor:
    """Return each map's dense ranks: equal values get equal ranks, 0 stays 0."""
    rows = [np.unique(one.numpy(), return_inverse=True)[1].reshape(one.shape) for one in maps]
    return torch.from_numpy(np.stack(rows)).double()


@st.composite
def whole_maps(draw: st.DrawFn) -> torch.Tensor:
    """Draw maps [4,H,W] of whole numbers 0..9 in float64, with many ties, some mostly zero."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    highest = draw(st.integers(1, LARGEST))
    cell = draw(st.sampled_from([1, 4, 8]))
    small = rng.integers(0, highest + 1, (COUNT, SIDE // cell, SIDE // cell))
    small[rng.random(small.shape) < draw(st.sampled_from([0.0, 0.8]))] = 0
    small[:, 0, 0] = 0  # so that ranks start at 0
    return torch.from_numpy(small.repeat(cell, 1).repeat(cell, 2)).double()


def assert_unmoved(metric: str, value: str, maps: torch.Tensor, moved: torch.Tensor) -> None:
    before, after = score(metric, maps)[value], score(metric, moved)[value]
    np.testing.assert_allclose(after, before, atol=1e-6, rtol=0, err_msg=value)


@pytest.mark.parametrize(("metric", "value"), [pair for pair in RANKED if pair[1] not in EXEMPT])
@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(maps=whole_maps(), name=st.sampled_from([*POWERS, "ranks"]))
def test_no_ranked_value_is_moved(metric: str, value: str, maps: torch.Tensor, name: str) -> None:
    if name == "ranks" and value in ACROSS:
        name = "power 16"
    moved = rank_transform(maps) if name == "ranks" else POWERS[name](maps)
    assert_unmoved(metric, value, maps, moved)


def make_smooth() -> torch.Tensor:
    """Return maps as methods make them: smooth, positive part only, of whole thousandths.

    The root makes new ties of neighbours in float64, so values are whole numbers.
    """
    rng = torch.Generator().manual_seed(3)
    small = torch.randn(COUNT, 1, 6, 6, generator=rng, dtype=torch.float64)
    size = (SIDE, SIDE)
    maps = torch.nn.functional.interpolate(small, size=size, mode="bilinear")[:, 0]
    return (1000 * maps).round().clamp(min=0)


@pytest.mark.parametrize(("metric", "value"), [pair for pair in RANKED if pair[1] not in EXEMPT])
@pytest.mark.parametrize("name", POWERS)
def test_no_ranked_value_of_a_smooth_map_is_moved(metric: str, value: str, name: str) -> None:
    maps = make_smooth()
    moved = POWERS[name](maps)
    for one, other in zip(maps, moved, strict=True):  # no new ties
        assert len(one.unique()) == len(other.unique())
    assert_unmoved(metric, value, maps, moved)


def test_everything_that_can_be_tested_is_ranked_here() -> None:
    assert set(EXEMPT) | set(ACROSS) <= {value for _, value in RANKED}
    assert {"deletion", "insertion", "pixel_ap", "pointing"} <= {value for _, value in RANKED}
    for metric, _ in RANKED:  # a metric that runs the method again needs a wrapper of the power
        assert "method" not in METRICS.get(metric).needs


def list_scored() -> Iterator[Metric]:
    """Yield the metrics that score finished maps."""
    for metric in METRICS:
        if metric.builtin and metric.family != "cost" and "method" not in metric.needs:
            yield metric


@pytest.mark.parametrize("metric", list_scored(), ids=lambda metric: metric.name)
def test_a_value_is_peaked_just_where_a_power_moves_it(metric: Metric) -> None:
    """The mark is neither forgotten nor given without a reason: `energy` breaks the law here."""
    plain = score(metric.name, make_smooth())
    powers = [score(metric.name, POWERS[name](make_smooth())) for name in ("power 4", "root")]
    for name, value in metric.values.items():
        if name in EXEMPT:
            continue
        moved = any(
            not np.allclose(one[name], plain[name], atol=1e-6, rtol=0, equal_nan=True)
            for one in powers
        )
        assert value.peaked or not moved, f"{name} is moved, so it must be declared as peaked"
        assert moved or not value.peaked or name in UNMOVED, f"{name} is not moved"
        assert value.peaked == (find_derived(name, value) or value).peaked, name


UNMOVED = ("average_increase", "ir", "dr", "tft_t", "tft_q", "api")
"""Peaked values that are steps or often 0: four maps of a small network need not show it."""


def test_the_law_finds_energy() -> None:
    """Energy in its old form, ranked, would be found."""
    maps = make_smooth()
    with pytest.raises(AssertionError, match="energy"):
        assert_unmoved("energy_pointing_game", "energy", maps, POWERS["power 4"](maps))


@pytest.mark.parametrize("kind", [Value, Derived])
def test_a_peaked_value_cannot_be_ranked(kind: Any) -> None:
    given_facts = {"name": "x"} if kind is Derived else {"better": "higher"}
    with pytest.raises(BenchError, match=r"sharpening.*declare ranked=False") as caught:
        kind(title="Peak", ranked=True, peaked=True, **given_facts)
    assert "\n" not in str(caught.value)
