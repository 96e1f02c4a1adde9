"""A run: what it writes, that it resumes, and what it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import bench
from bench.errors import BenchError
from bench.methods import METHODS
from bench.models.architectures import build_seeded, resnet_scenes
from bench.records.equal_maps import equal_methods
from bench.records.store import KEY, SCHEMA, Records, Store, write_parquet
from bench.run.evaluate import FinishedTask

SETTINGS = {"calibration": 0, "shard_size": 2}


@pytest.fixture
def subset() -> bench.Subset:
    return bench.load_subset("scenes-val", limit=4)


def evaluate(
    subset,
    model,
    out=None,
    methods=("grad_cam", "random"),
    metrics=("pointing_game", "complexity"),
    **more,
):
    return bench.evaluate(
        subset, model, list(methods), list(metrics), out=out, **{**SETTINGS, **more}
    )


def test_records_have_the_schema_and_one_row_per_key(subset, model, tmp_path):
    records = evaluate(subset, model, tmp_path)
    assert list(records.frame.columns) == SCHEMA.names
    assert not records.frame.duplicated(KEY).any()
    assert set(records.frame["item"]) == set(subset.ids)
    assert set(records.frame["method"]) == {"grad_cam", "random"}
    assert (records.frame["weights_id"] == model.weights_id).all()
    pd.testing.assert_frame_equal(sort(Records.load(tmp_path).frame), sort(records.frame))


def sort(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values(KEY).reset_index(drop=True)


def values(records: Records, metric: str, method: str) -> np.ndarray:
    frame = records.frame[(records.frame["metric"] == metric) & (records.frame["method"] == method)]
    return frame.sort_values("item")["value"].to_numpy()


def test_records_hold_what_score_gives(subset, model):
    records = evaluate(subset, model, metrics=("deletion",), methods=("grad_cam",))
    batch = subset.batch(range(4), subset.geometry)
    images = model.normalise(batch.pixels)
    maps = bench.explain(model, images, method="grad_cam", ids=batch.image_ids)
    expected = bench.score(model, images, None, maps, "deletion", ids=batch.image_ids)["deletion"]
    order = np.argsort(batch.ids)
    np.testing.assert_allclose(
        values(records, "deletion", "grad_cam"), expected.numpy()[order], atol=1e-6
    )


def test_a_second_run_computes_nothing_and_changes_nothing(subset, model, tmp_path):
    first = evaluate(subset, model, tmp_path)
    parts = {p: p.read_bytes() for p in Store(tmp_path).parts}
    seen: list[FinishedTask] = []
    second = evaluate(subset, model, tmp_path, finished=seen.append)
    assert seen == []
    assert {p: p.read_bytes() for p in Store(tmp_path).parts} == parts
    pd.testing.assert_frame_equal(sort(first.frame), sort(second.frame))


def test_the_same_plan_gives_the_same_bytes(subset, model, tmp_path):
    for name in ("a", "b"):
        evaluate(subset, model, tmp_path / name, metrics=("deletion", "threshold_quality"))
    one, two = ([p.read_bytes() for p in Store(tmp_path / n).parts] for n in ("a", "b"))
    assert one == two


def test_only_what_is_missing_is_computed(subset, model, tmp_path):
    evaluate(subset, model, tmp_path)
    seen: list[FinishedTask] = []
    more = evaluate(
        subset, model, tmp_path, methods=("grad_cam", "random", "layer_cam"), finished=seen.append
    )
    assert {s.task.start for s in seen} == {0, 2}
    assert set(more.frame["method"]) == {"grad_cam", "random", "layer_cam"}
    assert not more.frame.duplicated(KEY).any()
    seen.clear()
    evaluate(bench.load_subset("scenes-val", limit=6), model, tmp_path, finished=seen.append)
    assert [s.task.start for s in seen] == [4]


def test_an_edited_plugin_counts_as_changed(subset, model, tmp_path):
    plugin = tmp_path / "mine.py"
    source = """
        import bench

        @bench.register_method("mine")
        def mine(trace):
            return trace.upsample(trace.activations.{how}(1))
        """
    ids, means = [], []
    for how in ("sum", "mean", "sum"):
        plugin.write_text(textwrap.dedent(source.format(how=how)))
        import linecache

        from bench import plugins

        linecache.checkcache()
        plugins._PLUGINS.clear()
        METHODS.remove("mine")
        plugins.load_plugin(plugin)
        ids.append(METHODS.get("mine").id)
        records = evaluate(
            subset, model, tmp_path / "run", methods=("mine",), metrics=("complexity",)
        )
        assert set(records.frame["method_id"]) == {ids[-1]}
        means.append(values(records, "entropy", "mine").mean())
    METHODS.remove("mine")
    assert ids[0] == ids[2] != ids[1]
    assert means[0] == means[2]


def test_batch_size_and_batch_mates_change_no_value(subset, model):
    methods, metrics = (
        ("grad_cam", "random", "score_cam", "oracle"),
        ("deletion", "insertion", "pointing_game"),
    )
    one = evaluate(subset, model, methods=methods, metrics=metrics, batch_size=5, shard_size=1)
    two = evaluate(subset, model, methods=methods, metrics=metrics, batch_size=32, shard_size=4)
    merged = one.frame.merge(two.frame, on=KEY)
    assert len(merged) == len(one.frame)
    np.testing.assert_allclose(merged["value_x"], merged["value_y"], atol=1e-4)


def test_equal_maps_are_scored_once_and_named(subset, model):
    methods = ("grad_cam", "hires_cam", "xgrad_cam", "layer_cam")
    records = evaluate(subset, model, methods=methods, metrics=("deletion", "complexity"))
    assert records.provenance["equal"] == {
        "small": {"hires_cam": "grad_cam", "xgrad_cam": "grad_cam"}
    }
    np.testing.assert_array_equal(
        values(records, "deletion", "hires_cam"), values(records, "deletion", "grad_cam")
    )
    assert equal_methods(records.frame[records.frame["method"] != "hires_cam"]) == {
        "small": {"xgrad_cam": "grad_cam"}
    }


def test_a_map_that_is_nan_is_nan_counted_and_not_fatal(subset, model):
    @bench.register_method("broken")
    def broken(trace):
        maps = torch.ones(len(trace), *trace.size)
        maps[0, 0, 0] = torch.nan
        return maps

    try:
        records = evaluate(
            subset, model, methods=("broken", "random"), metrics=("deletion", "complexity")
        )
    finally:
        METHODS.remove("broken")
    assert (
        np.isnan(values(records, "deletion", "broken")).sum() == 2
    )  # the first image of each of two shards
    row = (
        bench.leaderboard(records)
        .table("deletion", "scenes-val", "small")
        .set_index("method")
        .loc["broken"]
    )
    assert row["n"] == 2
    assert row["expected"] == 4
    assert np.isnan(row["rank"])


def test_pairs_explain_both_labels(model):
    pairs = bench.load_subset("scenes-pairs", limit=4)
    records = evaluate(pairs, model, methods=("grad_cam",), metrics=("deletion", "pointing_game"))
    frame = records.frame[records.frame["metric"] == "deletion"]
    assert (frame["target"] == frame["label"]).all()
    assert frame["image"].nunique() == 2
    assert frame["item"].nunique() == 4


def test_a_method_that_does_not_fit_is_na_and_the_rest_goes_on(subset, tmp_path):
    class Tanh(torch.nn.Sequential):
        pass

    body = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 7, stride=8), torch.nn.Tanh())
    net = Tanh(body, torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(16, 10))
    other = bench.Explainee(net, size=96, name="nonlinear", layer="0")
    records = evaluate(subset, other, tmp_path, methods=("cam", "grad_cam"))
    assert set(records.frame["method"]) == {"grad_cam"}
    assert "global average pooling" in records.provenance["not_applicable"]["nonlinear"]["cam"]
    seen: list[FinishedTask] = []
    again = evaluate(subset, other, tmp_path, methods=("cam", "grad_cam"), finished=seen.append)
    assert seen == []
    assert again.provenance["not_applicable"] == records.provenance["not_applicable"]


# --- what is refused, in one sentence


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"methods": ["grad_kam"]}, "Did you mean grad_cam"),
        ({"metrics": ["deltion"]}, "Did you mean deletion"),
        ({"subset": "scenes-vall"}, "scenes-val"),
        ({"model": "resnet-scene"}, "resnet"),
        ({"protocol": "cambench-2"}, "Did you mean cambench-1"),
    ],
)
def test_unknown_names_are_refused_with_suggestions(subset, model, change, words):
    given = {
        "subset": subset,
        "model": model,
        "methods": ["grad_cam"],
        "metrics": ["complexity"],
        **change,
    }
    with pytest.raises(BenchError, match=words):
        bench.evaluate(**given)


def test_the_wrong_number_of_classes_is_refused(subset):
    other = bench.Explainee(build_seeded(resnet_scenes, 0, num_classes=7), size=96, name="seven")
    with pytest.raises(BenchError, match="7 classes and the subset scenes-val 10"):
        evaluate(subset, other)


def test_another_protocol_in_the_same_folder_is_refused(subset, model, tmp_path):
    evaluate(subset, model, tmp_path)
    with pytest.raises(BenchError, match="choose another --out"):
        evaluate(subset, model, tmp_path, protocol=bench.Protocol(steps=7))


def test_unwritable_output_is_refused(subset, model, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(BenchError, match="choose another --out"):
        evaluate(subset, model, blocked / "run")


def test_two_runs_into_one_folder_are_refused(subset, model, tmp_path):
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with Store(tmp_path).lock():  # one thread may own a folder twice: a run writes its board
            held.set()
            done.wait(60)

    owner = threading.Thread(target=hold)
    owner.start()
    held.wait(60)
    try:
        with pytest.raises(BenchError, match="is writing"):
            evaluate(subset, model, tmp_path)
    finally:
        done.set()
        owner.join()


def test_a_full_disk_keeps_what_is_finished(subset, model, tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    write, calls = pq.ParquetWriter, []

    def full(where, *given, **kwargs):
        calls.append(where)
        if len(calls) > 1:
            Path(where).write_bytes(b"half a fi")
            raise OSError(28, "No space left on device")
        return write(where, *given, **kwargs)

    monkeypatch.setattr(pq, "ParquetWriter", full)
    with pytest.raises(BenchError, match="No space left on device"):
        evaluate(subset, model, tmp_path)
    monkeypatch.undo()
    assert len(Store(tmp_path).parts) == 1
    assert not list(tmp_path.rglob("*.tmp"))
    seen: list[FinishedTask] = []
    records = evaluate(subset, model, tmp_path, finished=seen.append)
    assert [s.task.start for s in seen] == [2]
    assert not records.frame.duplicated(KEY).any()


def test_ctrl_c_keeps_what_is_finished(subset, model, tmp_path):
    def stop(_: FinishedTask) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(subset, model, tmp_path, finished=stop)
    assert len(Store(tmp_path).parts) == 1
    records = evaluate(subset, model, tmp_path)
    assert records.frame["item"].nunique() == 4
    assert not records.frame.duplicated(KEY).any()


KILLED = """
import sys, bench
from bench.models.architectures import build_seeded, resnet_scenes
model = bench.Explainee(build_seeded(resnet_scenes, 0), size=96, name="small")
subset = bench.load_subset("scenes-val", limit=12)
bench.evaluate(subset, model, ["grad_cam", "random"], ["pointing_game", "complexity", "deletion"],
               out=sys.argv[1], calibration=0, shard_size=1,
               finished=lambda state: print(state.done, flush=True))
"""


def test_kill_9_keeps_what_is_finished(tmp_path):
    model = bench.Explainee(build_seeded(resnet_scenes, 0), size=96, name="small")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    ) as process:
        for line in process.stdout:
            if int(line) >= 3:
                time.sleep(0.05)
                process.send_signal(signal.SIGKILL)
                break
        process.wait()
    finished = len(Store(tmp_path).parts)
    assert 3 <= finished <= 12
    subset = bench.load_subset("scenes-val", limit=12)
    metrics = ("pointing_game", "complexity", "deletion")
    seen: list[FinishedTask] = []
    records = evaluate(subset, model, tmp_path, metrics=metrics, shard_size=1, finished=seen.append)
    assert len(seen) == 12 - finished
    assert not records.frame.duplicated(KEY).any()
    whole = evaluate(subset, model, metrics=metrics, shard_size=1)
    merged = records.frame.merge(whole.frame, on=KEY)
    assert len(merged) == len(whole.frame) == len(records.frame)
    np.testing.assert_allclose(merged["value_x"], merged["value_y"], atol=1e-6)


def test_half_a_file_is_never_read(subset, model, tmp_path):
    records = evaluate(subset, model, tmp_path)
    part = Store(tmp_path).parts[0]
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(BenchError, match=r"run again|run the same"):
        Records.load(tmp_path)
    part.unlink()
    again = evaluate(subset, model, tmp_path)
    pd.testing.assert_frame_equal(sort(again.frame), sort(records.frame))


def test_parquet_round_trip_keeps_vectors(subset, model, tmp_path):
    records = evaluate(subset, model, metrics=("box_localization",), methods=("oracle",))
    write_parquet(tmp_path / "x.parquet", records.frame)
    back = pd.read_parquet(tmp_path / "x.parquet")
    for one, two in zip(records.frame["vector"], back["vector"], strict=True):
        np.testing.assert_array_equal(one, two)
    assert all(len(v) == 101 for v in back["vector"])
