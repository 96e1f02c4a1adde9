"""One cut value for all images: golden cases, and the law that no rising function moves them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import bench
from bench.board import leaderboard
from bench.board.box_thresholds import BOX_RULES
from bench.board.measures import list_measures
from bench.board.set_thresholds import apply_cuts, choose_cuts
from bench.gate.baseline import from_records, load_baseline, save_baseline
from bench.gate.baseline_taus import apply_baseline_taus, choose_better, find_box_values
from bench.gate.judge import judge
from bench.methods import METHODS
from bench.metrics import METRICS, Value
from bench.metrics.box_sets import SETS, split_cuts
from tests.metrics.test_golden_metrics import flat, score
from tests.support import toy_records

IOUS = (0.3, 0.5, 0.7)
PARTS = ("eval", "calibration")


def vector(*sets: tuple[float, float]) -> np.ndarray:
    """Return the vector of these (cut value, IoU), the largest set first, repeated to 100 sets."""
    cuts, iou = np.repeat(np.array(sets), -(-SETS // len(sets)), axis=0)[:SETS].T
    return np.concatenate([iou, *split_cuts(cuts)]).astype(np.float32)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setitem(
        toy_records.FACTS,
        "box_set_iou",
        {"better": "higher", "ranked": True, "reduce": "box_sets", "family": "localization"},
    )
    return SimpleNamespace(row=toy_records.row, build=toy_records.build)


CHOOSING = [
    vector((1.0, 0.6), (2.0, 0.2)),
    vector((1.5, 0.2), (3.0, 0.6)),
    vector((2.5, 0.6), (4.0, 0.0)),
    vector((0.5, 0.2), (2.8, 0.9)),
]


def test_tau_by_hand():
    # Hits at IoU .5 for tau = .5, 1, 1.5, 2, 2.5, 2.8, 3, 4: 2, 2, 2, 1, 1, 2, 3, 2.
    assert choose_cuts(np.stack(CHOOSING).astype(float), (0.5,)) == [3.0]
    # Without the second image: 2, 2, 2, 1, 1, 2, 2, 1; the lowest of the best counts.
    assert choose_cuts(np.stack([CHOOSING[i] for i in (0, 2, 3)]).astype(float), (0.5,)) == [0.5]


def test_between_two_sets_the_smaller_cut_value_counts():
    scored = np.stack(
        [
            vector((2.0, 0.7), (2.9, 0.4), (3.5, 0.9)),  # 3 lies between: the set of 2.9
            vector((3.0, 0.6), (3.1, 0.0)),  # at its own cut value
            vector((3.5, 0.6), (9.0, 0.0)),  # all above: the first set
            vector((0.1, 0.0), (0.2, 0.6)),  # all below: the last set
            vector((0.0, 0.0)),  # no positive part
            np.full(4 * SETS, np.nan, np.float32),
        ]
    )
    hits = apply_cuts(scored.astype(float), [3.0], (0.5,))
    np.testing.assert_array_equal(hits[:, 0], [0, 1, 1, 1, 0, np.nan])


def test_maps_without_positive_part_choose_zero():
    empty = np.stack([vector((0.0, 0.0))] * 3).astype(float)
    assert choose_cuts(empty, IOUS) == [0.0] * 3
    mixed = np.stack([*empty, vector((2.0, 0.6))]).astype(float)
    assert choose_cuts(mixed, (0.5,)) == [2.0]


def rows(toy: SimpleNamespace, calibration: int, method: str = "a") -> list[dict]:
    found = [
        toy.row(
            f"c{k:03d}",
            method,
            "box_set_iou",
            vector((1.0, 0.0), (2.0, 0.8), (3.0, 0.0)),
            part="calibration",
        )
        for k in range(calibration)
    ]
    scored = [((1.0, 0.0), (2.0, 0.7)), ((0.5, 0.5), (9.0, 0.0)), ((1.0, 0.0), (2.5, 0.9))]
    found += [
        toy.row(f"i{k}", method, "box_set_iou", vector(*sets)) for k, sets in enumerate(scored)
    ]
    return found


def test_a_board_shows_and_ranks_it(toy: SimpleNamespace):
    # Calibration chooses tau 2 for each IoU. There: IoU .7 (three hits), .5 (two), 0.
    board = leaderboard(toy.build(rows(toy, 50)), resamples=50)
    means = board.frame.set_index("metric")["mean"]
    assert means["box_accuracy_ranked"] == pytest.approx(5 / 9)
    assert means["box_accuracy_ranked_30"] == pytest.approx(2 / 3)
    assert means["box_accuracy_ranked_50"] == pytest.approx(2 / 3)
    assert means["box_accuracy_ranked_70"] == pytest.approx(1 / 3)
    assert means["box_accuracy_ranked@correct"] == pytest.approx(5 / 9)
    assert "box_accuracy_ranked_oracle" in means
    ranked = board.frame.loc[board.frame["ranked"], "metric"]
    assert set(ranked) == {"box_accuracy_ranked", "box_accuracy_ranked@correct"}
    shown = board.frame.set_index("metric").loc["box_accuracy_ranked"]
    assert shown["low"] <= shown["mean"] <= shown["high"]
    assert shown["rank"] == 1


def test_few_calibration_images_leave_only_the_oracle(toy: SimpleNamespace):
    board = leaderboard(toy.build(rows(toy, 49)), resamples=50)
    means = board.frame.set_index("metric")["mean"]
    assert np.isnan(means["box_accuracy_ranked"])
    assert means["box_accuracy_ranked_oracle"] > 0
    assert any("49 calibration images" in flag for flag in board.flags)


def test_the_scored_images_choose_where_the_protocol_says_so(toy: SimpleNamespace):
    protocol = {"name": "wsol", "id": "cambench-1@x", "box_ious": [0.5], "box_tau_from": "scored"}
    board = leaderboard(toy.build(rows(toy, 0), protocol=protocol), resamples=50)
    shown = board.frame.set_index("metric")
    assert shown.loc["box_accuracy_ranked", "mean"] == pytest.approx(1.0)  # at tau 2.5
    assert "box_accuracy_ranked_oracle" not in shown.index


def test_maps_of_another_scale_share_no_rank(toy: SimpleNamespace):
    """Maps that differ by a factor of each map are one map for other values, not for this one."""
    same = [*rows(toy, 50), *rows(toy, 50, "b")]
    for number, one in enumerate(same):
        if one["method"] == "b" and one["part"] == "eval":
            same[number] = {**one, "vector": vector((1.0, 0.0), (2.0, 0.9))}
    other = leaderboard(toy.build(same, equal={"net": {"b": "a"}}), resamples=50)
    assert other.table("box_accuracy_ranked").set_index("method")["rank"].to_dict() == {
        "a": 2,
        "b": 1,
    }
    twins = [*rows(toy, 50), *rows(toy, 50, "b")]
    alike = leaderboard(toy.build(twins, equal={"net": {"b": "a"}}), resamples=50)
    assert set(alike.table("box_accuracy_ranked")["rank"]) == {1}


def test_the_gate_keeps_a_cut_value_that_is_as_good(toy: SimpleNamespace, tmp_path):
    records = toy.build([*rows(toy, 50), *rows(toy, 50, "random")])
    made = from_records(records)
    assert {tuple(one["taus"]) for one in made.facts["thresholds"]} == {(2.0, 2.0, 2.0)}
    save_baseline(made, tmp_path / "b.parquet")
    again = load_baseline(tmp_path / "b.parquet")
    assert again.facts["thresholds"] == made.facts["thresholds"]
    assert judge(again, made).exit_code == 0
    choosing = records.frame[
        (records.frame["part"] == "calibration") & (records.frame["method"] == "a")
    ]
    rule = BOX_RULES["box_sets"]
    assert choose_better(choosing, [2.0], [2.5], (0.5,), rule) == [2.5]  # selects the same set
    assert choose_better(choosing, [2.0], [1.5], (0.5,), rule) == [2.0]
    measures = {m.name: m for m in list_measures(records.frame, records.provenance)}
    taus = {("toy", "net", "box_set_iou", "a"): [2.5] * 3}
    moved = apply_baseline_taus(
        measures["box_accuracy_ranked"], taus, "toy", find_box_values(records), IOUS
    )
    values = moved.rows[moved.rows["method"] == "a"]["value"].tolist()
    assert values == pytest.approx([1.0, 2 / 3, 1.0])


# --------------------------------------------------------------------------------------------- law

POWERS = {
    "^4": lambda m: m.square().square(),
    "^16": lambda m: m.square().square().square().square(),
    "sqrt": torch.sqrt,
}
"""Products and roots are rounded alike everywhere; torch.pow may part two equal values."""


def make_integer_maps(count: int, seed: int) -> torch.Tensor:
    """Return smooth maps [n,16,16] of whole numbers from -20 to 60, float64: no power ties them."""
    rng = torch.Generator().manual_seed(seed)
    small = torch.randn(count, 1, 5, 5, generator=rng, dtype=torch.float64)
    smooth = torch.nn.functional.interpolate(small, size=(16, 16), mode="bilinear")[:, 0]
    scale = torch.rand(count, 1, 1, generator=rng, dtype=torch.float64) + 0.3
    return (smooth * scale * 20).round().clamp(-20, 60)


def make_real_maps(count: int, seed: int) -> torch.Tensor:
    """Return dense float64 maps with values of many sizes: ^16 leaves the range of float32."""
    rng = torch.Generator().manual_seed(seed)
    return make_integer_maps(count, seed) * torch.rand(
        count, 16, 16, generator=rng, dtype=torch.float64
    ).pow(3)


def make_boxes(count: int) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 8, (count, 2))
    ends = corners + rng.integers(4, 9, (count, 2))
    return tuple(torch.from_numpy(np.hstack([corners, ends]))[:, None].float())


def board_of(toy: SimpleNamespace, maps: torch.Tensor, calibration: int) -> dict[str, float]:
    """Return the box accuracies of maps [n,16,16], through scores, records and a board."""
    count = len(maps)
    truth = bench.Truth(boxes=make_boxes(count))
    out = score(flat(16), torch.zeros(count, 3, 16, 16), maps, ["box_sets"], truth=truth)
    made = [
        toy.row(
            f"i{k:03d}", "a", "box_set_iou", v, part="calibration" if k < calibration else "eval"
        )
        for k, v in enumerate(out["box_set_iou"])
    ]
    frame = leaderboard(toy.build(made), resamples=20).frame
    return dict(zip(frame["metric"], frame["mean"], strict=True))


@pytest.mark.parametrize("make", [make_integer_maps, make_real_maps])
def test_no_rising_function_of_all_maps_moves_it(toy: SimpleNamespace, make):
    maps = make(60, 1)
    plain = board_of(toy, maps, 50)
    assert 0 < plain["box_accuracy_ranked"] < 1
    for name, power in POWERS.items():
        moved = board_of(toy, power(maps.clamp(min=0)), 50)
        assert moved == pytest.approx(plain, abs=1e-6), name


def test_a_factor_of_each_map_moves_it(toy: SimpleNamespace):
    """The law is about one function for all images: maps are compared as they are."""
    maps = make_integer_maps(60, 1)
    factors = torch.rand(60, 1, 1, generator=torch.Generator().manual_seed(2)).double() + 0.01
    assert board_of(toy, maps * factors, 50) != pytest.approx(board_of(toy, maps, 50), abs=1e-6)


def whole_numbers(trace: bench.Trace) -> torch.Tensor:
    """Return a map of few whole numbers, whose 4th powers float32 holds."""
    small = trace.activations.mean(1, keepdim=True) * 4
    large = torch.nn.functional.interpolate(small, size=trace.size, mode="bilinear")
    return large[:, 0].round().clamp(-20, 40)


def test_sharpening_moves_nothing_on_networks_and_scenes():
    """The whole path on networks and scenes: methods, metrics, records and the board."""

    @bench.register_method("test_levels")
    def levels(trace: bench.Trace) -> torch.Tensor:
        return whole_numbers(trace)

    @bench.register_method("test_sharp_levels")
    def sharp_levels(trace: bench.Trace) -> torch.Tensor:
        return whole_numbers(trace).square().square()

    try:
        records = bench.evaluate(
            bench.load_subset("scenes-val", limit=12),
            bench.load_model("resnet-scenes"),
            ["test_levels", "test_sharp_levels"],
            ["box_sets"],
        )
    finally:
        for name in ("test_levels", "test_sharp_levels"):
            METHODS.remove(name)
    means = leaderboard(records, resamples=20).frame
    means = means[means["metric"].str.startswith("box_accuracy_ranked")]
    found = means.pivot(index="metric", columns="method", values="mean")
    assert len(found) >= 5
    np.testing.assert_allclose(found["test_levels"], found["test_sharp_levels"], atol=1e-6)


def test_a_plug_in_may_name_what_boards_make_of_its_sets():
    derived = bench.metrics.base.find_derived("mine", Value("Mine", reduce="box_sets"))
    assert derived is not None
    assert derived.name == "mine_accuracy_ranked"
    assert METRICS.get("box_sets").values["box_set_iou"].derived.name == "box_accuracy_ranked"
