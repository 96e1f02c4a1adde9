"""Metrics that a sister network runs: by hand, against slow replicas, and the laws they keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import bench
from bench import randomness
from bench.errors import NotApplicable
from bench.metrics import METRICS
from tests.support import reference as ref
from tests.support.nets import BASELINE, MEAN, STD, PlantedEvidence, make_images, make_net
from tests.support.reference_robustness import rank_correlation, ranks
from tests.support.sister_nets import add_sister

SIDE, PATCH = 16, 4
COUNTS = [0, 1, 2, 2, 3, 4, 5, 6, 6, 7, 8]  # round(i * 8 / 10), halves up: half of 16 patches
RECIPE = {"patch": PATCH, "baseline": list(BASELINE)}
NAMES = METRICS.select("masked")


def planted(weight: torch.Tensor) -> bench.Explainee:
    """Return a model with p_0 = .1 + .8 sum(weight * x), whose sister is the same network.

    A removed pixel is 0.
    """
    model = bench.Explainee(
        PlantedEvidence(weight.expand(3, -1, -1) / (3 * weight.sum())).eval(),
        mean=BASELINE,
        std=(1.0, 1.0, 1.0),
        size=SIDE,
        layer="features",
    )
    model = add_sister(model, recipe=RECIPE)
    model.sister.net.load_state_dict(model.net.state_dict())
    return model


def score(model: bench.Explainee, maps: torch.Tensor, metric: str | list[str]) -> dict[str, float]:
    """Return the values of one map of an image of ones, for class 0."""
    image, targets = torch.ones(1, 3, SIDE, SIDE), torch.tensor([0])
    out = bench.score(model, image, targets, maps[None], metric, ids=["one"])
    return {name: float(value[0]) for name, value in out.items()}


def corner() -> torch.Tensor:
    """Return [16,16] with ones in the first patch."""
    values = torch.zeros(SIDE, SIDE)
    values[:PATCH, :PATCH] = 1
    return values


def test_curves_over_even_evidence_by_hand():
    # p falls from .9 to .5 in a straight line, whatever the order: the mean of it is .7.
    even = planted(torch.ones(SIDE, SIDE))
    for maps in (corner(), -corner(), torch.zeros(SIDE, SIDE)):
        found = score(even, maps, ["masked_deletion", "masked_insertion"])
        assert found["masked_deletion"] == pytest.approx(0.7, abs=1e-6)
        assert found["masked_insertion"] == pytest.approx(0.7, abs=1e-6)


def test_curves_over_one_patch_of_evidence_by_hand():
    model = planted(corner())
    # Deletion: .9 until the patch is masked as the first of eight, .1 from there on:
    # (.9 + .1) / 2 * 1/8 + .1 * 7/8 = .15. Insertion: the patch is never among the least relevant.
    right = score(model, corner(), ["masked_deletion", "masked_insertion"])
    assert right["masked_deletion"] == pytest.approx(0.15, abs=1e-6)
    assert right["masked_insertion"] == pytest.approx(0.9, abs=1e-6)
    wrong = score(model, -corner(), ["masked_deletion", "masked_insertion"])
    assert wrong["masked_deletion"] == pytest.approx(0.9, abs=1e-6)
    assert wrong["masked_insertion"] == pytest.approx(0.15, abs=1e-6)


def test_f_fidelity_of_one_patch_of_evidence_by_hand():
    model = planted(corner())
    right = score(model, corner(), ["ffid_plus", "ffid_minus"])
    wrong = score(model, -corner(), ["ffid_plus", "ffid_minus"])
    # A masked patch takes .8 of the probability. It is masked in every second draw of the sizes 2
    # and 3, and in 1.6 of 5, 6 and 8 draws of the others.
    expected = 0.8 * (0.5 + 0.5 + 1.6 / 5 + 1.6 / 6 + 1.6 / 8) / 5
    assert right["ffid_plus"] == pytest.approx(expected, abs=0.15)  # 50 draws
    assert right["ffid_minus"] == pytest.approx(0, abs=1e-6)
    assert wrong["ffid_plus"] == pytest.approx(0, abs=1e-6)
    assert wrong["ffid_minus"] == pytest.approx(expected, abs=0.15)


def test_idsds_by_hand():
    cells = torch.arange(1.0, 17.0).view(4, 4)
    weight = cells.repeat_interleave(4, 0).repeat_interleave(4, 1)
    model = planted(weight)
    # Each cell takes another drop: the map of the weights has their order, and its negative none.
    assert score(model, weight, "idsds") == pytest.approx({"idsds": 1, "idsds_ranked": 1})
    assert score(model, -weight, "idsds") == pytest.approx({"idsds": -1, "idsds_ranked": -1})
    assert score(model, torch.ones_like(weight), "idsds") == {"idsds": 0, "idsds_ranked": 0}
    # One strong pixel moves the sum of a cell and hardly the mean rank of its pixels.
    spiky = weight.clone()
    spiky[0, 0] = 1000
    found = score(model, spiky, "idsds")
    assert found["idsds"] < 0.9
    assert found["idsds_ranked"] > 0.99


# -------------------------------------------------------------------------------------- replicas


def patch_means(values: np.ndarray) -> np.ndarray:
    """Return the mean of each 4x4 patch of values [16,16], row by row."""
    return np.array(
        [
            np.mean([values[4 * r + i, 4 * c + j] for i in range(4) for j in range(4)])
            for r in range(4)
            for c in range(4)
        ]
    )


def order_patches(L: np.ndarray, image_id: str) -> list[int]:
    """Return patches, most relevant first: by the mean rank of their pixels, then by the mean place
    of their pixels in the order of a constant map, then by index.
    """
    scores = patch_means(ranks(L).reshape(L.shape))
    places = np.empty(L.size)
    places[ref.order(np.zeros_like(L), image_id)] = np.arange(L.size)
    ties = patch_means(places.reshape(L.shape))
    return sorted(range(16), key=lambda k: (-scores[k], ties[k], k))


def without(net: ref.Network, x: np.ndarray, masked: list[int]) -> np.ndarray:
    """Return the image with these patches masked."""
    now = x.copy()
    for k in masked:
        rows, columns = slice(4 * (k // 4), 4 * (k // 4) + 4), slice(4 * (k % 4), 4 * (k % 4) + 4)
        now[:, rows, columns] = net.baseline
    return now


def replica(net: ref.Network, x: np.ndarray, c: int, L: np.ndarray, image_id: str) -> dict:
    """Return all values of one map; net is the sister."""
    order = order_patches(L, image_id)
    most = [net.p(without(net, x, order[:n]), c) for n in COUNTS]
    least = [net.p(without(net, x, order[16 - n :]), c) for n in COUNTS]
    clean = float(net.logits(x)[c])
    drops = np.array([clean - float(net.logits(without(net, x, [k]))[c]) for k in range(16)])
    draws = torch.rand(5, 10, 16, generator=randomness.generator(0, "ffid", image_id)).numpy()
    parts: dict[str, list[float]] = {"plus": [], "minus": []}
    for s, share in enumerate((0.1, 0.2, 0.3, 0.4, 0.5)):
        n = round(16 * share)
        for end, taken in (("plus", order[:n]), ("minus", order[16 - n :])):
            for d in range(10):
                masked = [k for k in taken if draws[s, d, k] < min(0.5, 0.1 * 16 / n)]
                parts[end].append(net.p(x, c) - net.p(without(net, x, masked), c))
    cells, mean_ranks = patch_means(L), patch_means(ranks(L).reshape(L.shape))
    return {
        "masked_deletion": ref.area_under(np.array(most), COUNTS),
        "masked_insertion": ref.area_under(np.array(least), COUNTS),
        "idsds": 0.0 if np.ptp(cells) == 0 else rank_correlation(cells, drops),
        "idsds_ranked": 0.0 if np.ptp(cells) == 0 else rank_correlation(mean_ranks, drops),
        "ffid_plus": math.fsum(parts["plus"]) / 50,
        "ffid_minus": math.fsum(parts["minus"]) / 50,
    }


def make_maps(kind: str) -> torch.Tensor:
    rng = torch.Generator().manual_seed(7)
    dense = torch.randn(2, SIDE, SIDE, generator=rng)
    sparse = torch.zeros(2, SIDE, SIDE)
    sparse[:, 2:7, 5:9] = dense[:, 2:7, 5:9].abs()
    return {"signed": dense, "sparse": sparse, "constant": torch.full_like(dense, 0.7)}[kind]


@pytest.mark.parametrize("kind", ["signed", "sparse", "constant"])
def test_values_equal_their_replicas(kind):
    net = make_net("norm", 2, SIDE)
    model = add_sister(
        bench.Explainee(net, mean=MEAN, std=STD, size=SIDE, layer="features"), recipe=RECIPE
    )
    images, maps, targets = make_images(3, 2, SIDE), make_maps(kind), torch.tensor([1, 3])
    out = bench.score(model, images, targets, maps, NAMES, ids=["a", "b"])
    sister = ref.Network(model.sister.net, mean=MEAN, std=STD)
    for i, image_id in enumerate("ab"):
        x, L = images[i].double().numpy(), maps[i].double().numpy()
        expected = replica(sister, x, int(targets[i]), L, image_id)
        for name, value in expected.items():
            assert float(out[name][i]) == pytest.approx(value, abs=2e-5), name


def test_no_power_of_the_map_moves_a_ranked_value():
    net = make_net("norm", 2, SIDE)
    model = add_sister(bench.Explainee(net, mean=MEAN, std=STD, size=SIDE, layer="features"))
    images, targets = make_images(3, 2, SIDE), torch.tensor([1, 3])
    maps = make_maps("signed").double().clamp(min=0)
    maps = maps / maps.amax()
    plain = bench.score(model, images, targets, maps, NAMES, ids=["a", "b"])
    ranked = {k for name in NAMES for k, v in METRICS.get(name).values.items() if v.ranked}
    moved = set()
    for power in (0.5, 4, 16):
        other = bench.score(model, images, targets, maps**power, NAMES, ids=["a", "b"])
        moved |= {k for k in plain if not torch.allclose(plain[k], other[k], atol=1e-6)}
    assert ranked == set(plain) - {"idsds"}
    assert moved == {"idsds"}


def test_a_network_without_a_sister_is_said_with_the_command():
    net = make_net("norm", 2, SIDE)
    model = bench.Explainee(net, MEAN, STD, SIDE, layer="features", name="alone")
    with pytest.raises(NotApplicable, match="finetune masked --model alone"):
        bench.score(model, make_images(3, 1, SIDE), None, torch.ones(1, SIDE, SIDE), NAMES[0])


def test_a_sister_of_another_colour_is_refused():
    net = make_net("norm", 2, SIDE)
    model = add_sister(
        bench.Explainee(net, MEAN, STD, SIDE, layer="features"),
        recipe={"patch": 4, "baseline": [0.0, 0.0, 0.0]},
    )
    with pytest.raises(NotApplicable, match="another colour in place of removed pixels"):
        bench.score(model, make_images(3, 1, SIDE), None, torch.ones(1, SIDE, SIDE), NAMES[0])
