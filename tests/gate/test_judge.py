"""Verdicts: golden ones by hand, laws against SciPy and slow replicas, and everything that cannot
be judged.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.errors import BenchError
from bench.gate.intervals import Mean, mean_difference, mean_over_images
from bench.gate.judge import (
    BETTER,
    CHANGED,
    MOVED,
    NEW,
    REGRESSION,
    SAME,
    UNJUDGED,
    JudgingRules,
    Paired,
    compare,
    items_needed,
    judge,
)
from tests.gate.toy_baselines import make, scores

floats = st.floats(-1, 1, allow_nan=False).map(lambda v: round(v, 3))


def verdict(old, new, method="cam", metric="insertion", **more):
    """Return the row of one cell."""
    frame = judge(make(old), make(new) if isinstance(new, dict) else new, **more).frame
    (row,) = frame[(frame["method"] == method) & (frame["metric"] == metric)].to_dict("records")
    return row


# --- by hand


def test_golden_margin_and_statistics():
    """100 images: old 1.0, random 0.2, so the margin is .05 * .8 = .04. Half of the images lose
    .02, half nothing: Delta = -.01, sd = .01 * sqrt(100/99), error = .01/sqrt(99), t against -.04 =
    .03 / error = 29.85."""
    old, random = np.full(100, 1.0), np.full(100, 0.2)
    old[::2] += 0.001 * np.arange(50)  # many levels, so that no pair is added
    new = old - np.where(np.arange(100) % 2, 0.02, 0.0)
    found = compare(
        Paired(old, new, random, np.arange(100).astype(str).astype(object), 1), JudgingRules()
    )
    assert found.change == pytest.approx(-0.01)
    assert found.margin == pytest.approx(0.05 * (old.mean() - 0.2))
    error = 0.01 / math.sqrt(99)
    assert found.p_fine == pytest.approx(stats.t.sf((-0.01 + found.margin) / error, 99))
    assert found.p_worse == pytest.approx(1 - found.p_fine)
    assert found.low == pytest.approx(-0.01 - stats.t.ppf(0.95, 99) * error)
    assert found.distance == pytest.approx(old.mean() - 0.2)


def test_golden_lower_is_better():
    """Deletion .1 -> .13 against random .5: 3/40 of the distance is lost, over a margin of 2/40."""
    wobble = 0.001 * np.random.default_rng(0).standard_normal(30)
    old = {
        ("cam", "deletion"): np.full(30, 0.1) + wobble,
        ("random", "deletion"): np.full(30, 0.5) - wobble,
    }
    new = {**old, ("cam", "deletion"): np.full(30, 0.13) + wobble[::-1]}
    row = verdict(old, new, metric="deletion")
    assert row["verdict"] == REGRESSION
    assert row["change"] == pytest.approx(0.03)
    assert row["margin"] == pytest.approx(0.02, rel=1e-2)
    assert verdict(new, old, metric="deletion")["verdict"] == BETTER


def test_golden_hits_with_an_added_pair_each_way():
    """20 of 200 hits are lost, none won. Bonett & Price: mean (1 - 21)/202, sum of squares 22."""
    old, new = np.ones(200), np.ones(200)
    new[:20] = 0
    gap = mean_difference(old, new, np.arange(200).astype(str).astype(object))
    mean = -20 / 202
    assert gap.point == pytest.approx(mean)
    assert gap.error == pytest.approx(math.sqrt((22 - 202 * mean**2) / 201 / 202))


def test_golden_clusters():
    """Two items of one image that move together say no more than one: errors by hand for sums 0.4,
    -0.2, -0.2.
    """
    values, images = (
        np.array([0.2, 0.2, -0.1, -0.1, -0.1, -0.1]),
        np.array([*"aabbcc"], dtype=object),
    )
    gap = mean_over_images(values, images)
    assert gap.point == pytest.approx(0.0)
    assert gap.error == pytest.approx(math.sqrt(3 / 2 * (0.16 + 0.04 + 0.04)) / 6)
    assert gap.freedom == 2


def test_a_shift_of_every_value_needs_no_luck():
    """Without any spread of the differences the answer is exact: -.03 loses more than .025, -.02
    does not.
    """
    assert verdict(scores(), scores(-0.04))["verdict"] == REGRESSION
    assert verdict(scores(), scores(-0.02))["verdict"] == CHANGED
    assert verdict(scores(), scores(+0.02))["verdict"] == CHANGED
    assert verdict(scores(), scores(+0.04))["verdict"] == BETTER
    assert verdict(scores(), scores())["verdict"] == SAME
    assert verdict(scores(), scores(5e-5))["verdict"] == SAME


def test_noise_alone_is_neither_a_regression_nor_fine():
    row = verdict(scores(), scores(noise=0.3))
    assert row["verdict"] == UNJUDGED
    assert "items would show it as good" in row["reason"] or "not surely" in row["reason"]
    verdicts = judge(make(scores()), make(scores(noise=0.3)))
    assert verdicts.exit_code == 2
    assert judge(make(scores()), make(scores(-0.1))).exit_code == 1
    assert judge(make(scores()), make(scores(-0.01))).exit_code == 0


def test_a_regression_outweighs_an_open_cell():
    old = scores()
    new = {
        **scores(-0.1),
        ("other", "insertion"): scores()[("other", "insertion")] + np.tile([0.3, -0.3], 20),
    }
    verdicts = judge(make(old), make(new))
    assert (verdicts.count(REGRESSION), verdicts.count(UNJUDGED), verdicts.exit_code) == (1, 1, 1)


# --- laws


@given(st.lists(st.tuples(floats, floats), min_size=3, max_size=40), st.floats(-0.5, 0.5))
@settings(max_examples=150, deadline=None)
def test_one_item_per_image_is_the_paired_t_test_of_scipy(pairs, null):
    old, new = np.array(pairs).T
    gap = mean_over_images(new - old, np.arange(len(old)).astype(str).astype(object))
    if gap.error == 0:
        assert np.ptp(new - old) < 1e-9
        return
    assert gap.p_above(null) == pytest.approx(
        stats.ttest_rel(new, old + null, alternative="greater").pvalue, abs=1e-9
    )
    assert gap.p_below(null) == pytest.approx(
        stats.ttest_rel(new, old + null, alternative="less").pvalue, abs=1e-9
    )
    interval = stats.ttest_1samp(new - old, 0).confidence_interval(0.9)
    assert gap.bounds(0.05) == pytest.approx((interval.low, interval.high), abs=1e-9)


@given(st.lists(st.tuples(floats, st.sampled_from("abcde")), min_size=4, max_size=30))
@settings(max_examples=100, deadline=None)
def test_clustered_error_is_that_of_a_slow_replica(rows):
    values, images = np.array([v for v, _ in rows]), np.array([i for _, i in rows], dtype=object)
    groups = sorted(set(images))
    gap = mean_over_images(values, images)
    if len(groups) < 2:
        assert math.isnan(gap.error)
        return
    mean = sum(values) / len(values)
    total = sum(
        sum(v - mean for v, i in zip(values, images, strict=True) if i == g) ** 2 for g in groups
    )
    slow = math.sqrt(len(groups) / (len(groups) - 1) * total) / len(values)
    assert gap.error == pytest.approx(slow, abs=1e-11)


def test_clustered_error_is_that_of_a_bootstrap_over_images():
    rng = np.random.default_rng(0)
    images = np.repeat(np.arange(80), 2).astype(str).astype(object)
    values = np.repeat(rng.standard_normal(80), 2) + 0.3 * rng.standard_normal(160)
    sums = values.reshape(80, 2).mean(1)
    drawn = stats.bootstrap((sums,), np.mean, n_resamples=4000, rng=np.random.default_rng(1))
    assert mean_over_images(values, images).error == pytest.approx(drawn.standard_error, rel=0.05)


@given(st.lists(st.tuples(floats, floats, floats), min_size=20, max_size=40), st.randoms())
@settings(max_examples=60, deadline=None)
def test_the_verdict_does_not_depend_on_order_and_turns_with_the_direction(rows, random):
    old, new, control = np.array(rows).T
    images = np.arange(len(old)).astype(str).astype(object)
    first = compare(Paired(old, new, control, images, 1), JudgingRules())
    order = np.array(random.sample(range(len(old)), len(old)))
    again = compare(
        Paired(old[order], new[order], control[order], images[order], 1), JudgingRules()
    )
    turned = compare(Paired(-old, -new, -control, images, -1), JudgingRules())
    for other in (again, turned):
        for name in ("p_worse", "p_fine", "p_better", "margin", "low", "high"):
            assert getattr(other, name) == pytest.approx(
                getattr(first, name), abs=1e-9, nan_ok=True
            )
        assert (other.same, bool(other.why)) == (first.same, bool(first.why))


@given(st.floats(0.01, 1), st.floats(-0.3, 0.3))
@settings(max_examples=60, deadline=None)
def test_no_cell_is_a_regression_and_fine_at_once(noise, shift):
    rng = np.random.default_rng(0)
    old, control = 0.8 + 0.05 * rng.standard_normal(60), 0.2 + 0.05 * rng.standard_normal(60)
    new = old + shift + noise * rng.standard_normal(60)
    found = compare(
        Paired(old, new, control, np.arange(60).astype(str).astype(object), 1), JudgingRules()
    )
    assert found.p_worse + found.p_fine == pytest.approx(1)
    assert not (found.p_worse < 0.01 and found.p_fine < 0.05)


def test_correction_over_cells_is_holms():
    """One cell at p = .004 is a regression alone, and not beside two that are the same: .004 * 3 >
    .01.
    """
    rng = np.random.default_rng(3)
    noise = rng.standard_normal(40)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    old = {(method, "insertion"): scores()[(method, "insertion")] for method in ("cam", "random")}
    margin = 0.05 * float((old[("cam", "insertion")] - old[("random", "insertion")]).mean())
    reach = stats.t.isf(0.004, 39) / math.sqrt(40)
    new = {**old, ("cam", "insertion"): old[("cam", "insertion")] - margin + 0.1 * (noise - reach)}
    assert verdict(old, new)["p_worse"] == pytest.approx(0.004)
    assert verdict(old, new)["verdict"] == REGRESSION
    more = {("other", m): np.linspace(0.6, 0.9, 40) for m in ("insertion", "deletion")}
    control = {("random", "deletion"): np.linspace(0.1, 0.2, 40)}
    row = verdict({**old, **more, **control}, {**new, **more, **control})
    assert row["p_regression"] == pytest.approx(0.012)
    assert row["verdict"] == UNJUDGED


# --- what cannot be judged, or needs no test


def test_a_newly_unscored_method_is_a_regression():
    old, new = scores(), scores()
    new[("cam", "insertion")] = new[("cam", "insertion")].copy()
    new[("cam", "insertion")][:3] = np.nan
    row = verdict(old, new)
    assert (row["verdict"], row["lost"], row["n"]) == (REGRESSION, 3, 37)
    assert "no longer scored on 3 of 40 items" in row["reason"]
    # A wide margin is about values: it does not make room for missing ones.
    assert verdict(old, new, rules=JudgingRules(margin=1.0))["verdict"] == REGRESSION
    new[("cam", "insertion")][:] = np.nan
    assert verdict(old, new)["verdict"] == REGRESSION


def test_one_unscored_item_within_the_margin_is_a_change_that_is_shown():
    old, new = scores(), scores()
    new[("cam", "insertion")] = new[("cam", "insertion")].copy()
    new[("cam", "insertion")][0] = np.nan
    row = verdict(old, new)
    assert (row["verdict"], row["lost"]) == (CHANGED, 1)


def test_more_items_are_needed_than_there_are_where_a_cell_is_open():
    """20 images, slack 1.69 standard errors: t of 19 asks for 1.73, the normal only for 1.64 (19
    images).
    """
    gap = Mean(0.0169 - 0.05, 0.01, 19)
    assert items_needed(gap, 0.05, 20, 0.05) == 21
    assert items_needed(Mean(-0.06, 0.01, 19), 0.05, 20, 0.05) == math.inf


def test_a_newly_scored_item_is_no_loss():
    new, old = scores(), scores()
    old[("cam", "insertion")] = old[("cam", "insertion")].copy()
    old[("cam", "insertion")][0] = np.nan
    assert verdict(old, new)["verdict"] == SAME
    old[("cam", "insertion")][:] = np.nan
    assert verdict(old, new)["verdict"] == NEW


def test_a_missing_method_cannot_be_judged_and_one_that_no_longer_fits_is_a_regression():
    new = {key: value for key, value in scores().items() if key[0] != "cam"}
    row = verdict(scores(), new)
    assert (row["verdict"], row["reason"]) == (UNJUDGED, "missing in the run")
    row = verdict(scores(), make(new, not_applicable={"net": {"cam": "cam needs a grid."}}))
    assert (row["verdict"], row["reason"]) == (
        REGRESSION,
        "no longer fits the model: cam needs a grid.",
    )


def test_missing_pairs_of_one_cell_cannot_be_judged():
    new = scores(0.01)
    new[("cam", "insertion")] = new[("cam", "insertion")][:30]
    row = verdict(scores(), new)
    assert (row["verdict"], row["reason"]) == (UNJUDGED, "10 of 40 items are missing in the run")


def test_without_a_random_control_only_the_same_can_be_judged():
    old, new = scores(), scores(-0.3)
    for side in (old, new):
        del side[("random", "insertion")]
    frame = judge(make(old), make(new)).frame.set_index("method")
    assert frame.loc["other", "verdict"] == SAME
    assert frame.loc["cam", "verdict"] == UNJUDGED
    assert "no random control" in frame.loc["cam", "reason"]


def test_a_baseline_no_better_than_random_has_no_margin():
    old, new = scores(), scores(-0.3)
    old[("random", "insertion")] = old[("cam", "insertion")] + np.tile([0.1, -0.1], 20)
    row = verdict(old, new)
    assert row["verdict"] == UNJUDGED
    assert "cannot be told from random" in row["reason"]


def test_box_thresholds_of_other_calibration_images_are_not_compared():
    old = {
        ("cam", "box_accuracy"): np.tile([1.0, 0.0], 20),
        ("random", "box_accuracy"): np.zeros(40),
    }
    new = {**old, ("cam", "box_accuracy"): np.tile([1.0, 1.0, 0.0, 0.0], 10)}
    assert verdict(old, new, metric="box_accuracy")["reason"].startswith("neither")
    other = make(new, calibration={"net": {"toy": "c2"}})
    assert "other calibration images" in verdict(old, other, metric="box_accuracy")["reason"]
    same = make(old, calibration={"net": {"toy": "c2"}})
    assert verdict(old, same, metric="box_accuracy")["verdict"] == SAME


def test_controls_are_reported_and_not_judged():
    new = {**scores(), ("random", "insertion"): scores()[("random", "insertion")] - 0.2}
    verdicts = judge(make(scores()), make(new))
    assert verdicts.frame.set_index("method").loc["random", "verdict"] == MOVED
    assert verdicts.exit_code == 0
    assert set(verdicts.gated["method"]) == {"cam", "other"}


def test_causes():
    old, moved = make(scores()), scores(0.01)
    assert verdict(scores(), moved)["cause"] == "below"
    new = make(moved)
    new.facts["methods"]["cam"]["id"] = "cam@2"
    assert verdict(scores(), new)["cause"] == "method"
    new.facts["models"]["net"]["weights_id"] = "w2"
    assert verdict(scores(), new)["cause"] == "model, method"
    assert verdict(scores(), old)["cause"] == ""


def test_pairs_are_made_by_item_and_not_by_position():
    new = make(scores())
    shuffled = new.frame.sample(frac=1, random_state=0).reset_index(drop=True)
    assert set(judge(make(scores()), type(new)(shuffled, new.facts)).gated["verdict"]) == {SAME}


def test_too_few_images_are_refused():
    moved = {key: value + 0.1 for key, value in scores(n=5).items()}
    with pytest.raises(
        BenchError, match="Nothing can be judged on 5 images; the gate needs 20 at least"
    ):
        judge(make(scores(n=5)), make(moved))


def test_a_baseline_of_controls_is_refused():
    only = {key: value for key, value in scores().items() if key[0] == "random"}
    with pytest.raises(BenchError, match="controls only"):
        judge(make(only), make(scores()))


@pytest.mark.parametrize(
    "given_rules", [{"margin": 0}, {"margin": -1}, {"alpha": 0.6}, {"miss": 0}]
)
def test_senseless_rules_are_refused(given_rules):
    with pytest.raises(BenchError, match=f"--{next(iter(given_rules))} is"):
        JudgingRules(**given_rules)
