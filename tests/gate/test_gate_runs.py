"""The gate on real runs: planted defects, resampled nulls, the command line, and this project's own
gate.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from bench.gate import planted_defects, rates
from bench.gate.baseline import Baseline, from_records, load_baseline, save_baseline
from bench.gate.judge import CHANGED, REGRESSION, SAME, JudgingRules, Verdicts, judge
from bench.gate.resample import count_false_alarms, exchange, make_null, move_to_margin
from bench.gate.tier import TIERS
from bench.run.evaluate import run_plan
from bench.run.plan import Plan
from tests.gate.toy_baselines import make, scores
from tests.support.command_line import cambench

ROOT = Path(__file__).parents[2]
BASELINE = ROOT / "leaderboards" / "gate" / "baseline.parquet"
DEFECTS = {defect.name: defect for defect in planted_defects.DEFECTS}


# --- planted defects, on few images and where no forwards are needed


@pytest.fixture(scope="module")
def small() -> Plan:
    """Return the tier with 32 images, Grad-CAM and the localisation values that need no
    threshold.
    """
    plan = planted_defects.plan_tier(32)
    methods = tuple(m for m in plan.methods if m.name in ("random", planted_defects.METHOD))
    metrics = tuple(m for m in plan.metrics if m.family == "localization" and not m.calibrates)
    return dataclasses.replace(plan, methods=methods, metrics=metrics, calibration=None)


@pytest.fixture(scope="module")
def healthy(small: Plan) -> Baseline:
    return from_records(run_plan(small, None)).choose()


def judged(small: Plan, healthy: Baseline, name: str) -> Verdicts:
    return judge(healthy, from_records(run_plan(planted_defects.plant(small, DEFECTS[name]), None)))


@pytest.mark.parametrize(
    "name", [d.name for d in planted_defects.DEFECTS if d.expected == REGRESSION]
)
def test_planted_defects_are_regressions(small, healthy, name):
    verdicts = judged(small, healthy, name)
    assert verdicts.exit_code == 1, verdicts.frame.to_string()
    assert set(verdicts.gated["cause"]) - {""} == {"method" if DEFECTS[name].method else "model"}


@pytest.mark.parametrize("name", [d.name for d in planted_defects.DEFECTS if d.expected == CHANGED])
def test_planted_changes_that_do_no_harm_are_none(small, healthy, name):
    verdicts = judged(small, healthy, name)
    assert verdicts.count(REGRESSION) == 0, verdicts.frame.to_string()
    assert verdicts.count(CHANGED) > 0


def test_a_missing_relu_is_reported_as_changed_and_not_worse(small, healthy):
    verdicts = judged(small, healthy, "no-relu")
    assert verdicts.exit_code == 0
    assert set(verdicts.gated["verdict"]) - {SAME} == {CHANGED}


def test_the_same_run_is_the_same(small, healthy):
    assert set(judge(healthy, from_records(run_plan(small, None))).gated["verdict"]) == {SAME}


# --- resampled nulls


def null(shift: float = 0.0, noise: float = 0.2):
    return make_null(make(scores(n=60)), make(scores(shift, n=60, noise=noise)))


def test_an_exchange_takes_both_sides_of_each_image_and_keeps_random():
    made = null(shift=10.0, noise=0.0)
    (cam,) = [i for i, names in enumerate(made.names) if names[2] == "cam"]
    pair = exchange(made, np.random.default_rng(0))[cam]
    assert {round(abs(d)) for d in pair.new - pair.old} == {10}
    swapped = (pair.new < pair.old).mean()
    assert 0.25 < swapped < 0.75
    assert len(set(pair.images)) == 60  # every drawn image is one, also when drawn twice
    assert set(pair.random) <= set(made.pairs[cam].random)


def test_two_runs_that_differ_by_a_lot_raise_no_alarm_once_exchanged():
    """A difference of every image that the exchange makes 0 on average."""
    assert count_false_alarms(null(shift=0.3), JudgingRules(), 60)["false_alarms"] <= 1
    assert judge(make(scores(n=60)), make(scores(-0.3, n=60, noise=0.2))).exit_code == 1


def test_at_the_margin_the_true_loss_is_the_margin():
    pairs = exchange(null(noise=0.0), np.random.default_rng(0))
    moved = move_to_margin(pairs, JudgingRules())
    for before, after in zip(pairs, moved, strict=True):
        loss = before.new - after.new
        assert loss == pytest.approx(0.05 * abs((before.old - before.random).mean()))


def test_a_gate_without_correction_would_be_alarmed_too_often(monkeypatch):
    """The null sees a broken gate: without Holm, at the margin, alarms are far over alpha."""
    old = {**scores(n=60)}
    rng = np.random.default_rng(5)
    for name in ("deletion", "box_accuracy"):
        for method in ("cam", "other", "random"):
            old[(method, name)] = {"cam": 0.8, "other": 0.7, "random": 0.2}[
                method
            ] + 0.05 * rng.standard_normal(60)
    new = {key: value + 0.2 * rng.standard_normal(60) for key, value in old.items()}
    made = make_null(make(old), make(new))
    rules = JudgingRules(alpha=0.05)
    kept = count_false_alarms(made, rules, 150, margin=True)["rate"]
    monkeypatch.setattr("bench.gate.resample.holm", lambda p: p)
    assert count_false_alarms(made, rules, 150, margin=True)["rate"] > kept
    assert kept <= 0.1


def test_a_finished_step_is_not_done_again(tmp_path):
    study = rates.Study(tmp_path, 20, 10)
    made = []
    for _ in range(2):
        study.load_or_make("step", lambda: {"value": made.append(1) or len(made)})
    assert made == [1]
    rates.Study(tmp_path, 20, 11).load_or_make(
        "step", lambda: {"value": made.append(1) or len(made)}
    )
    assert made == [1, 1]


# --- this project's own gate


def test_the_committed_baseline_is_small_and_of_the_tier():
    baseline = load_baseline(BASELINE)
    assert BASELINE.stat().st_size < 2**20
    assert set(baseline.frame["method"]) == set(TIERS["gate"]["methods"].split(","))
    assert baseline.frame["item"].nunique() == TIERS["gate"]["limit"]


@pytest.mark.slow
def test_this_project_passes_its_own_gate(tmp_path):
    """What `.ci/run` checks: the tier, run anew, against the committed baseline. About a minute on
    two idle cores.
    """
    done = cambench("run", "--tier", "gate", "--out", tmp_path / "run", timeout=1800)
    assert done.returncode == 0, done.stderr
    checked = cambench(
        "check", tmp_path / "run", "--against", BASELINE, "--junit", tmp_path / "gate.xml"
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_worse_run_does_not_pass_this_projects_gate(tmp_path):
    """The committed baseline can fail a run: Grad-CAM's values exchanged for those of saliency."""
    baseline = load_baseline(BASELINE)
    frame = baseline.frame
    noisy = frame[frame["method"] == "saliency"].assign(method="grad_cam")
    worse = Baseline(frame[frame["method"] != "grad_cam"].merge(noisy, how="outer"), baseline.facts)
    save_baseline(worse, tmp_path / "worse.parquet")
    verdicts = judge(baseline, load_baseline(tmp_path / "worse.parquet"))
    assert verdicts.exit_code == 1
    assert set(verdicts.frame.loc[verdicts.frame["verdict"] == REGRESSION, "method"]) == {
        "grad_cam"
    }
