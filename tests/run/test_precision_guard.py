"""Mixed precision: what runs in bfloat16, when the guard agrees, and that nothing else changes."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import bench
from bench.board import leaderboard
from bench.board.board_page import write_page
from bench.engine.case import Case
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.errors import BenchError
from bench.gate.baseline import from_records
from bench.gate.comparable import check_comparable
from bench.metrics import METRICS, Value
from bench.models import MODELS
from bench.planning.estimate import estimate
from bench.protocol import BFLOAT16, FLOAT32, Protocol, get_protocol
from bench.records.merge import merge_runs
from bench.records.precision_verdict import (
    IMAGE_BOUND,
    MEAN_BOUND,
    PrecisionVerdict,
    write_precision,
)
from bench.records.store import KEY, Records, Store
from bench.run import precision_guard, score_agreement
from bench.run.evaluate import run_plan
from bench.run.executors import LocalExecutor
from bench.run.in_memory import apply
from bench.run.plan import make_plan
from bench.run.precision_guard import decide_precisions, judge, recall_verdicts
from bench.run.ray_executor import RayExecutor
from bench.run.score_agreement import Table, measure_agreement, rank_agreement
from tests.support.nets import GapLinear, randomise

ROOT = Path(__file__).parents[2]
# Few steps: without hardware for it bfloat16 is emulated, at a tenth of the speed.
RULES = Protocol(steps=4)
METHODS = ("grad_cam", "random", "center_gaussian")
METRICS_RUN = ("pointing_game", "complexity", "deletion", "insertion")
LOWERED = {"deletion", "insertion"}


class Offset(GapLinear):
    """A classifier with 512 on every logit: softmax does not see it, and bfloat16 has no digits
    left beside it.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 512


class OnlyFloat32(GapLinear):
    """A classifier that writes its logits into a float32 tensor, which refuses others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), 10).index_copy_(1, torch.arange(10), super().forward(x))


def explainee(net: torch.nn.Module, name: str) -> bench.Explainee:
    return bench.Explainee(net.eval(), size=96, layer="features", name=name)


def tiny(seed: int = 0) -> bench.Explainee:
    return explainee(randomise(GapLinear(classes=10), seed), f"gap{seed}")


@pytest.fixture(scope="module")
def subset() -> bench.Subset:
    return bench.load_subset("scenes-val", limit=5)


def evaluate(
    subset, model=None, out=None, methods=METHODS, metrics=METRICS_RUN, protocol=RULES, **more
):
    given = {"calibration": 0, "shard_size": 2, "precision": "bfloat16", **more}
    return bench.evaluate(
        subset, model or tiny(), list(methods), list(metrics), protocol, out, **given
    )


def planned(subset, model, asked="bfloat16", methods=METHODS, metrics=METRICS_RUN, **more):
    return make_plan(
        subset, [model], list(methods), list(metrics), RULES, calibration=0, precision=asked, **more
    )


def parts(folder: Path) -> dict[str, bytes]:
    return {part.name: part.read_bytes() for part in Store(folder).parts}


def rows(records: Records, **those: object) -> pd.DataFrame:
    frame = records.frame.sort_values(KEY, ignore_index=True)
    for column, value in those.items():
        frame = frame[frame[column].isin(value)]
    return frame.reset_index(drop=True)


@pytest.fixture
def guards(monkeypatch) -> list[str]:
    """The models that the guard, which does its work, looks at."""
    seen: list[str] = []

    def counted(plan, model):
        seen.append(model.name)
        return judge(plan, model)

    monkeypatch.setattr(precision_guard, "judge", counted)
    return seen


@pytest.fixture(scope="module")
def exact(subset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("float32")
    return folder, evaluate(subset, out=folder, precision="float32")


@pytest.fixture(scope="module")
def rough(subset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bfloat16")
    return folder, evaluate(subset, out=folder)


# --- ids


def test_ids_of_float32_are_those_of_published_boards(subset):
    published = json.loads((ROOT / "leaderboards" / "scenes" / "run.json").read_text())
    assert Protocol().id == published["protocol"]["id"] == "cambench-1@76032da1c3b1"
    ids = {
        facts["metric"]: facts["id"]
        for facts in published["metrics"].values()
        if facts.get("version", 1) == METRICS.get(facts["metric"]).version
    }
    assert ids["deletion"] == "deletion@eeda0576cdbb"
    assert {name: METRICS.get(name).id(Protocol()) for name in ids} == ids
    plans = [make_plan(subset, [tiny()], "grad_cam", "deletion", Protocol())]
    plans.append(
        make_plan(subset, [tiny()], "grad_cam", "deletion", Protocol(), precision="bfloat16")
    )
    assert len({plan.id for plan in plans}) == 1  # what was asked changes nothing before a verdict


def test_a_float32_run_says_nothing_of_precision(exact):
    folder, records = exact
    assert "precision" not in records.provenance
    assert "precision" not in json.loads((folder / "run.json").read_text())
    assert set(records.frame["protocol_id"]) == {RULES.id}


def test_bfloat16_has_ids_of_its_own_where_it_probes_and_nowhere_else(exact, rough):
    one, two = (rows(records) for _, records in (exact, rough))
    probing = one["metric"].isin(
        [*LOWERED, "deletion_curve", "insertion_curve", "insertion_start"]
    )  # the values of the two metrics
    for column in ("metric_id", "protocol_id", "run"):
        assert (one.loc[~probing, column] == two.loc[~probing, column]).all()
        assert (one.loc[probing, column] != two.loc[probing, column]).all()
    assert set(two.loc[probing, "protocol_id"]) == {RULES.replace_precision(BFLOAT16).id}
    assert "[precision=bfloat16" in RULES.replace_precision(BFLOAT16).id.replace("steps=4,", "")


# --- what runs in it


def test_maps_and_all_that_does_not_probe_stay_as_they_are(exact, rough):
    one, two = (rows(records) for _, records in (exact, rough))
    others = ~one["metric"].isin([*LOWERED, "deletion_curve", "insertion_curve"])
    one, two = one[others], two[others]
    assert {"pointing_all", "insertion_start"} < set(one["metric"])
    pd.testing.assert_series_equal(one["value"], two["value"], check_exact=True)


def test_ends_of_curves_are_float32_and_the_steps_between_are_not(exact, rough):
    for name in ("deletion_curve", "insertion_curve"):
        one, two = (
            np.stack(rows(records, metric=[name])["vector"]) for _, records in (exact, rough)
        )
        np.testing.assert_array_equal(one[:, [0, -1]], two[:, [0, -1]])
        assert (one[:, 1:-1] != two[:, 1:-1]).mean() > 0.9
        np.testing.assert_allclose(one, two, atol=IMAGE_BOUND)


def test_only_probes_are_run_in_bfloat16(subset):
    model, dtypes = tiny(), []
    model.net.register_forward_hook(
        lambda _, images, logits: dtypes.append((logits.dtype, len(images[0])))
    )
    evaluate(
        subset, model, methods=["grad_cam", "tft(grad_cam)"], metrics=["deletion", "pointing_game"]
    )
    low = sum(count for dtype, count in dtypes if dtype == torch.bfloat16)
    # Three steps between the ends, of two methods and five images, in the guard and in the run.
    assert 0 < low <= 2 * 3 * 2 * 5
    assert {dtype for dtype, _ in dtypes} == {torch.float32, torch.bfloat16}


def test_a_probe_of_one_precision_is_not_taken_for_the_other(subset):
    model = tiny()
    prober = Prober(model)
    batch = subset.batch([0, 1], subset.geometry)
    trace = Trace(prober, model.normalise(batch.pixels), ids=batch.image_ids)
    case = Case(
        trace, bench.explain(model, trace.images, None, "grad_cam"), RULES.view(()), reuses=True
    )
    deletion = METRICS.get("deletion")
    full, low = (
        apply(deletion, case, rules)["deletion"]
        for rules in (RULES, RULES.replace_precision(BFLOAT16))
    )
    run = prober.counts.forwards
    again = [
        apply(deletion, case, rules)["deletion"]
        for rules in (RULES, RULES.replace_precision(BFLOAT16))
    ]
    assert prober.counts.forwards == run
    assert (full != low).all()
    assert torch.equal(again[0], full)
    assert torch.equal(again[1], low)


@pytest.mark.parametrize("name", ["resnet-scenes", "vgg-scenes", "abn-scenes"])
def test_bundled_models_agree_within_the_bounds(subset, name):
    assert name in MODELS
    model = bench.load_model(name)
    plan = make_plan(
        subset.limit(2),
        [model],
        ["grad_cam", "random"],
        ["deletion", "insertion"],
        RULES,
        calibration=0,
    )
    verdict = judge(dataclasses.replace(plan, precision="bfloat16"), model)
    assert set(verdict.metrics) == LOWERED
    assert verdict.images == 2
    for value in LOWERED:
        assert 0 < verdict.values[value].mean <= MEAN_BOUND
        assert 0 < verdict.values[value].image <= IMAGE_BOUND
        assert verdict.values[value].tau == 1


@pytest.mark.slow
def test_real_weights_on_real_images(data_root):
    model = bench.load_model(f"{data_root / 'weights' / 'models.json'}#squeezenet1_1.onnxzoo_in1k")
    images = bench.load_subset("ilsvrc-sample-1k", limit=2, data_root=data_root)
    plan = make_plan(
        images,
        [model],
        ["grad_cam", "random"],
        ["deletion"],
        RULES,
        calibration=0,
        precision="bfloat16",
    )
    (found,) = (one for name, one in judge(plan, model).values.items() if name == "deletion")
    assert 0 < found.mean <= found.image <= IMAGE_BOUND


# --- the guard


def test_a_network_that_needs_its_digits_stays_in_float32(subset, tmp_path):
    model = explainee(randomise(Offset(classes=10), 0), "offset")
    records = evaluate(subset, model, tmp_path / "low")
    evaluate(subset, model, tmp_path / "full", precision="float32")
    facts = records.provenance["precision"]["offset"]
    assert (facts["asked"], facts["used"], facts["metrics"]) == ("bfloat16", "float32", {})
    assert set(facts["refused"]) == LOWERED
    assert facts["largest_mean_difference"] > MEAN_BOUND
    (note,) = write_precision(records.provenance)
    assert note.startswith("offset stays in float32")
    assert "differs by" in note or "tau" in note
    assert parts(tmp_path / "low") == parts(tmp_path / "full")


def test_a_network_that_fails_in_bfloat16_stays_in_float32(subset, exact, tmp_path):
    model = explainee(randomise(OnlyFloat32(classes=10), 0), "gap0")
    records = evaluate(subset, model, tmp_path)
    assert "it fails in bfloat16 (RuntimeError" in write_precision(records.provenance)[0]
    values = (rows(one)["value"] for one in (records, exact[1]))
    pd.testing.assert_series_equal(*values, check_exact=True)


def test_one_model_falls_back_and_another_does_not(subset, tmp_path):
    models = [tiny(), explainee(randomise(Offset(classes=10), 0), "offset")]
    records = evaluate(subset, models, tmp_path, methods=["grad_cam", "random"])
    used = {name: facts["used"] for name, facts in records.provenance["precision"].items()}
    assert used == {"gap0": BFLOAT16, "offset": FLOAT32}
    found = rows(Records.load(tmp_path), metric=["deletion"])
    assert dict(zip(found["model"], found["protocol_id"], strict=True)) == {
        "gap0": RULES.replace_precision(BFLOAT16).id,
        "offset": RULES.id,
    }
    board = leaderboard(Records.load(tmp_path), resamples=20)
    page = write_page(board, tmp_path / "board", {}).read_text()
    assert f"protocol {RULES.id} (deletion, insertion in bfloat16 on gap0)" in page
    assert f"protocol {RULES.id} (deletion, insertion in bfloat16). Cells" in page
    assert f"protocol {RULES.id}. Cells" in page
    assert "- Precision: gap0: deletion, insertion in bfloat16" in page
    assert "- Precision: offset stays in float32" in page


def test_records_of_a_precision_that_run_json_does_not_tell_are_no_board(rough):
    records = Records(rough[1].frame, {**rough[1].provenance, "precision": {}})
    with pytest.raises(BenchError, match="mix protocols"):
        leaderboard(records, resamples=20)


def table(values: list[list[float]]) -> Table:
    return Table(
        tuple("abcdef"[: len(values)]), tuple(map(str, range(len(values[0])))), np.array(values)
    )


SHARE = Value("share", lower=0, upper=1)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ([[0.1, 0.3], [0.6, 0.4]], ""),
        ([[0.1, 0.301], [0.6, 0.4]], ""),
        ([[0.105, 0.305], [0.6, 0.4]], "the mean of a differs by 0.0050"),
        ([[0.13, 0.27], [0.6, 0.4]], "a on 0 differs by 0.030"),
        ([[0.6, 0.4], [0.1, 0.3]], "tau -1.00"),
        ([[0.1, np.nan], [0.6, 0.4]], "in one precision only"),
    ],
)
def test_each_bound_is_looked_at(after, said):
    found = measure_agreement("m", SHARE, table([[0.1, 0.3], [0.6, 0.4]]), table(after))
    assert said in found.problem
    assert bool(found.problem) is bool(said)


def test_what_could_not_be_compared_is_no_agreement():
    nothing = table([[np.nan, np.nan]])
    assert (
        measure_agreement("m", SHARE, nothing, nothing).problem
        == "no image of the sample can be scored"
    )
    assert (
        measure_agreement("m", SHARE, table([[0.5, 0.5]]), {}).problem
        == "it cannot be scored in bfloat16"
    )


def test_a_swap_within_the_bound_is_a_tie():
    before, after = np.array([0.1, 0.2, 0.2010]), np.array([0.1, 0.2010, 0.2])
    assert rank_agreement(before, after, tie=MEAN_BOUND) == 1
    assert rank_agreement(before, after, tie=0.0005) == pytest.approx(1 / 3)
    assert rank_agreement(before, np.array([0.1, 0.1, 0.1]), tie=MEAN_BOUND) == 0


def test_a_value_without_a_range_is_measured_by_its_spread():
    values = np.array([[-20.0, 20.0], [-10.0, 30.0]])
    found = measure_agreement(
        "m", Value("log-odds"), table(values.tolist()), table((values + 0.03).tolist())
    )
    assert found.scale == 20
    assert found.mean == pytest.approx(0.0015)
    assert not found.problem
    assert measure_agreement(
        "m", Value("x"), table([[1.0, 1.0]]), table([[1.0, 1.001]])
    ).problem  # no spread: no difference


def test_the_sample_leaves_out_what_is_dear(subset):
    names = ("score_cam", "grad_cam", "random", "rise", "layer_cam", "saliency")
    plan = planned(subset, tiny(), methods=names)
    chosen = [method.name for method in precision_guard.sample_methods(plan, plan.models[0])]
    assert chosen == [
        "score_cam",
        "grad_cam",
        "random",
        "layer_cam",
        "saliency",
    ]  # of 8 channels; rise: 4,000 masks
    assert len(precision_guard.sample_methods(plan, plan.models[0], count=3)) == 3


@pytest.mark.parametrize(
    ("speed", "spares", "said"),
    [(0.5, True, "0.50 times as fast here"), (3.0, False, "so small"), (3.0, True, "")],
)
def test_auto_takes_bfloat16_only_where_it_is_faster(subset, monkeypatch, speed, spares, said):
    monkeypatch.setattr(precision_guard, "speed_ratio", lambda *_: speed)
    monkeypatch.setattr(precision_guard, "pays", lambda *_: spares)
    verdict = judge(planned(subset, tiny(), "auto"), tiny())
    assert verdict.speed == speed
    assert said in verdict.reason
    assert verdict.used == (FLOAT32 if said else BFLOAT16)
    assert (verdict.forwards > 0) is not bool(said)


def test_the_speed_is_measured_here_and_large_runs_pay(subset):
    plan = planned(bench.load_subset("scenes-val", limit=40), tiny(), "auto")
    assert precision_guard.speed_ratio(tiny(), 96, 16) > 0
    assert precision_guard.pays(plan, tiny(), 3.0)
    assert not precision_guard.pays(planned(subset, tiny(), "auto"), tiny(), 3.0)
    assert not precision_guard.pays(dataclasses.replace(plan, shard=(1, 8)), tiny(), 3.0)


# --- the verdict is kept, sent along and merged


def test_a_verdict_on_a_metric_that_has_changed_is_none(subset, guards, tmp_path):
    evaluate(subset, out=tmp_path, methods=["random"])
    old = METRICS.get("deletion")
    METRICS.remove("deletion")
    METRICS.add(dataclasses.replace(old, version=old.version + 1))
    try:
        records = evaluate(subset, out=tmp_path, methods=["random"])
        now = METRICS.get("deletion").id(RULES.replace_precision(BFLOAT16))
    finally:
        METRICS.remove("deletion")
        METRICS.add(old)
    assert guards == ["gap0", "gap0"]
    assert set(rows(records, metric=["deletion"])["metric_id"]) == {now}
    assert records.provenance["precision"]["gap0"]["metrics"]["deletion"] == now


def test_a_changed_metric_that_is_refused_is_judged_once(subset, guards, tmp_path, monkeypatch):
    evaluate(subset, out=tmp_path, methods=["random"])
    old = METRICS.get("deletion")
    METRICS.remove("deletion")
    METRICS.add(dataclasses.replace(old, version=old.version + 1))
    monkeypatch.setattr(score_agreement, "IMAGE_BOUND", -1.0)
    try:
        plan = planned(subset, tiny(), methods=["random"], shard_size=2)
        plan = decide_precisions(plan, Store(tmp_path))  # as the command does, and the run after it
        records = run_plan(plan, tmp_path)
    finally:
        METRICS.remove("deletion")
        METRICS.add(old)
    assert guards == ["gap0", "gap0"]
    facts = records.provenance["precision"]["gap0"]
    assert (set(facts["metrics"]), set(facts["refused"])) == ({"insertion"}, {"deletion"})
    assert set(rows(records, metric=["deletion"])["protocol_id"]) == {RULES.id}


def test_another_models_metrics_in_the_folder_are_no_records_of_this_one(subset, tmp_path):
    evaluate(subset, tiny(0), tmp_path, metrics=["deletion"])
    evaluate(subset, tiny(1), tmp_path, metrics=["pointing_game"])
    records = evaluate(subset, [tiny(0), tiny(1)], tmp_path, metrics=["deletion"])
    assert set(rows(records, metric=["deletion"])["protocol_id"]) == {
        RULES.replace_precision(BFLOAT16).id
    }


def test_sentences_are_of_the_weights_that_the_records_are_of(subset, tmp_path):
    evaluate(subset, tiny(0), tmp_path, metrics=["deletion"])
    again = explainee(randomise(GapLinear(classes=10), 5), "gap0")
    records = evaluate(subset, again, tmp_path, metrics=["deletion"])
    assert len(write_precision(records.provenance)) == 1
    assert not records.provenance["notes"]


def test_a_plan_without_a_sample_knows_what_the_guard_has_said(subset, tmp_path):
    evaluate(subset, out=tmp_path)
    plan = make_plan(
        subset, [tiny()], METHODS, METRICS_RUN, RULES, calibration=0, precision="bfloat16"
    )
    assert estimate(recall_verdicts(plan, Store(tmp_path)), "none", out=tmp_path).tasks == {}
    assert (
        recall_verdicts(dataclasses.replace(plan, precision=FLOAT32), Store(tmp_path)).verdicts
        == {}
    )


def test_a_continued_run_takes_the_verdict_that_is_there(subset, guards, tmp_path):
    first = evaluate(subset, out=tmp_path, methods=["grad_cam", "random"])
    assert guards == ["gap0"]
    before = parts(tmp_path)
    again = evaluate(subset, out=tmp_path, methods=["grad_cam", "random"], precision="auto")
    assert parts(tmp_path) == before  # nothing was missing
    assert write_precision(again.provenance) == write_precision(first.provenance)
    more = evaluate(subset, out=tmp_path, metrics=[*METRICS_RUN, "road"])
    assert guards == ["gap0"]
    ids = {name: set(rows(more, metric=[name])["protocol_id"]) for name in ("deletion", "road")}
    assert ids == {
        "deletion": {RULES.replace_precision(BFLOAT16).id},
        "road": {RULES.id},
    }  # the guard never saw road
    assert set(more.frame["method"]) == set(METHODS)
    assert more.provenance["precision"]["gap0"]["metrics"].keys() == LOWERED


def test_other_weights_are_looked_at_anew(subset, guards, tmp_path):
    evaluate(subset, out=tmp_path, methods=["grad_cam", "random"])
    other = explainee(randomise(GapLinear(classes=10), 7), "gap0")
    records = evaluate(subset, other, tmp_path, methods=["grad_cam", "random"])
    assert guards == ["gap0", "gap0"]
    assert records.provenance["precision"]["gap0"]["weights_id"] == other.weights_id


def test_a_folder_has_one_precision(subset, exact, rough):
    with pytest.raises(BenchError, match=r"deletion of gap0 \(bfloat16, float32\)"):
        evaluate(subset, out=rough[0], precision="float32")
    with pytest.raises(BenchError, match="records of gap0 in float32"):
        evaluate(subset, out=exact[0])


def test_verdicts_survive_json_and_pickle(rough, subset):
    facts = json.loads((rough[0] / "run.json").read_text())["precision"]["gap0"]
    verdict = PrecisionVerdict.of(facts)
    assert verdict.facts() == PrecisionVerdict.of(json.loads(json.dumps(verdict.facts()))).facts()
    assert {
        "asked",
        "used",
        "tau",
        "bounds",
        "largest_mean_difference",
        "largest_image_difference",
    } < facts.keys()
    assert (facts["images"], set(facts["methods"]), facts["speed"]) == (5, set(METHODS), None)
    plan = dataclasses.replace(planned(subset, tiny()), verdicts={"gap0": verdict})
    there = dataclasses.replace(plan, models=(), verdicts=pickle.loads(pickle.dumps(plan.verdicts)))
    assert there.rules("gap0", METRICS.get("deletion")).precision == BFLOAT16
    assert there.rules("gap0", METRICS.get("pointing_game")) == RULES
    assert there.rules("other", METRICS.get("deletion")) == RULES


class Shipped:
    """Runs a plan with verdicts that come out of a pickle, as workers do."""

    def run(self, plan, waiting, gallery):
        assert plan.verdicts
        there = dataclasses.replace(plan, verdicts=pickle.loads(pickle.dumps(plan.verdicts)))
        yield from LocalExecutor().run(there, waiting, gallery)


def test_workers_are_given_the_verdict(subset, rough, guards, tmp_path):
    evaluate(subset, out=tmp_path, executor=Shipped())
    assert guards == ["gap0"]
    assert parts(tmp_path) == parts(rough[0])


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed (cambench[ray])"
)
@pytest.mark.filterwarnings("ignore")
def test_ray_workers_use_the_verdict(subset, rough, tmp_path):
    evaluate(subset, out=tmp_path, executor=RayExecutor(workers=1))
    assert parts(tmp_path) == parts(rough[0])


def test_shards_of_different_precisions_are_not_merged(subset, tmp_path):
    evaluate(subset, out=tmp_path / "1", shard="1/2")
    evaluate(subset, out=tmp_path / "2", shard="2/2", precision="float32")
    with pytest.raises(
        BenchError, match=r"differ in the precision of deletion of gap0 \(bfloat16, float32\)"
    ):
        merge_runs([tmp_path / "1", tmp_path / "2"], tmp_path / "both")


def test_shards_of_one_precision_are_merged(subset, rough, tmp_path):
    for shard in ("1/2", "2/2"):
        evaluate(subset, out=tmp_path / shard[0], shard=shard)
    merged = merge_runs([tmp_path / "1", tmp_path / "2"], tmp_path / "both")
    pd.testing.assert_frame_equal(rows(merged), rows(rough[1]), check_exact=True)
    assert merged.provenance["precision"]["gap0"]["used"] == BFLOAT16


def test_metrics_of_different_precisions_are_merged(subset, rough, tmp_path):
    evaluate(subset, out=tmp_path / "road", metrics=["road"], precision="float32")
    merged = merge_runs([rough[0], tmp_path / "road"], tmp_path / "both")
    assert {"deletion", "road"} <= set(merged.frame["metric"])
    leaderboard(Records.load(tmp_path / "both"), resamples=20)


def test_the_gate_compares_no_two_precisions(exact, rough):
    one, two = (from_records(records) for _, records in (exact, rough))
    with pytest.raises(
        BenchError, match="is probed in bfloat16 in the run and in float32 in the baseline"
    ):
        check_comparable(one, two)
    check_comparable(two, two)


# --- what is refused


def test_a_precision_that_is_none_is_refused(subset):
    with pytest.raises(
        BenchError, match="Unknown precision 'float16'; choose one of float32, auto, bfloat16"
    ):
        evaluate(subset, precision="float16")
    with pytest.raises(BenchError, match="do not go together"):
        evaluate(subset, compiled=True)


def test_a_protocol_does_not_pass_by_the_guard(subset):
    for protocol in ("cambench-1[precision=bfloat16]", Protocol(precision=BFLOAT16)):
        with pytest.raises(BenchError, match="--precision bfloat16"):
            get_protocol(protocol)
    with pytest.raises(BenchError, match="--precision bfloat16"):
        make_plan(subset, [tiny()], "grad_cam", "deletion", Protocol(precision=BFLOAT16))


def test_the_command_line_refuses_in_one_sentence(tmp_path):
    words = [
        sys.executable,
        "-m",
        "bench",
        "run",
        "--precision",
        "half",
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 2
    assert (
        done.stderr.strip()
        == "Error: Unknown precision 'half'; choose one of float32, auto, bfloat16."
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_line_says_what_was_decided(tmp_path):
    words = [
        "run",
        "--models",
        "resnet-scenes",
        "--methods",
        "grad_cam,random",
        "--metrics",
        "deletion",
    ]
    words += [
        "--limit",
        "2",
        "--calibration",
        "0",
        "--protocol",
        "cambench-1[steps=3]",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words, "--precision", "bfloat16"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "resnet-scenes: deletion in bfloat16" in done.stderr
