"""Shards of a plan, and runs merged into one: the same records as one run, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

import bench
from bench.errors import BenchError
from bench.protocol import Protocol
from bench.records.left_out import list_missing_shards
from bench.records.merge import merge_runs
from bench.records.store import KEY, Records, Store, read_part, write_parquet
from bench.run.evaluate import FinishedTask
from bench.run.plan import make_plan
from tests.support.command_line import cambench
from tests.support.nets import GapLinear, randomise

ROOT = Path(__file__).parents[2]
SHARDS = ("1/3", "2/3", "3/3")


@pytest.fixture(scope="module")
def models() -> list[bench.Explainee]:
    return [tiny(0), tiny(1)]


@pytest.fixture(scope="module")
def subset() -> bench.Subset:
    return bench.load_subset("scenes-val", limit=5)


def tiny(seed: int) -> bench.Explainee:
    return bench.Explainee(
        randomise(GapLinear(classes=10), seed), size=96, layer="features", name=f"gap{seed}"
    )


def evaluate(
    subset,
    model,
    out=None,
    methods=("grad_cam", "random"),
    metrics=("pointing_game", "deletion"),
    **more,
):
    given = {"calibration": 0, "shard_size": 2, **more}
    return bench.evaluate(subset, model, list(methods), list(metrics), out=out, **given)


@pytest.fixture(scope="module")
def whole(subset, models, tmp_path_factory):
    """One run of everything."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, evaluate(subset, models, folder)


@pytest.fixture(scope="module")
def shards(subset, models, tmp_path_factory):
    """The same in three runs, in another order."""
    root = tmp_path_factory.mktemp("shards")
    folders = [root / name.replace("/", "-") for name in SHARDS]
    for name, folder in reversed(list(zip(SHARDS, folders, strict=True))):
        evaluate(subset, models, folder, shard=name)
    return folders


def sort(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values(KEY).reset_index(drop=True)


def change(folder, target, edit) -> None:
    """Copy a run with its run.json edited."""
    shutil.copytree(folder, target)
    facts = json.loads((target / "run.json").read_text())
    edit(facts)
    (target / "run.json").write_text(json.dumps(facts))


def test_shards_are_disjoint_and_complete(subset, models):
    plan = make_plan(
        subset, models, ["grad_cam"], ["deletion"], Protocol(), shard_size=2, calibration=0
    )
    for count in (1, 2, 3, 5, 20):
        dealt = [
            list(dataclasses.replace(plan, shard=(i + 1, count)).tasks()) for i in range(count)
        ]
        assert sorted((task for one in dealt for task in one), key=str) == sorted(
            plan.tasks(), key=str
        )
        assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
        assert {dataclasses.replace(plan, shard=(i + 1, count)).id for i in range(count)} == {
            plan.id
        }


@pytest.mark.parametrize(
    "text", ["0/4", "5/4", "1", "1/0", "a/b", "-1/4", "1/4/2", "1.0/4", "²/4", ""]
)
def test_a_shard_that_is_none_is_refused(subset, models, text):
    with pytest.raises(BenchError, match="I/N"):
        evaluate(subset, models, shard=text)


def test_merged_shards_are_the_whole_run_byte_for_byte(shards, whole, tmp_path):
    folder, records = whole
    merged = merge_runs(shards, tmp_path / "all")
    pd.testing.assert_frame_equal(merged.frame, records.frame, check_exact=True)
    one, two = (
        {p.name: p.read_bytes() for p in Store(f).parts} for f in (folder, tmp_path / "all")
    )
    assert one == two
    assert merged.provenance["equal"] == records.provenance["equal"]
    pictures = {p.name for p in (folder / "gallery").iterdir()}
    assert {p.name for p in (tmp_path / "all" / "gallery").iterdir()} == pictures
    assert list_missing_shards(merged.provenance) == []
    pd.testing.assert_frame_equal(
        Records.load(tmp_path / "all").frame, records.frame, check_exact=True
    )


def test_a_merged_run_can_be_gone_on_with(shards, subset, models, tmp_path):
    merge_runs(shards, tmp_path / "all")
    seen: list[FinishedTask] = []
    evaluate(subset, models, tmp_path / "all", finished=seen.append)
    assert seen == []


def test_a_merge_grows_and_says_which_shards_it_lacks(shards, whole, tmp_path):
    some = merge_runs([shards[0], shards[2]], tmp_path / "all")
    assert list_missing_shards(some.provenance) == ["2/3"]
    assert len(some) < len(whole[1])
    grown = merge_runs([shards[1]], tmp_path / "all")
    assert list_missing_shards(grown.provenance) == []
    pd.testing.assert_frame_equal(sort(grown.frame), sort(whole[1].frame), check_exact=True)
    before = sorted((p.name, p.stat().st_mtime_ns) for p in Store(tmp_path / "all").parts)
    merge_runs(shards, tmp_path / "all")
    assert sorted((p.name, p.stat().st_mtime_ns) for p in Store(tmp_path / "all").parts) == before


def test_rows_of_two_runs_are_kept_once(shards, whole, subset, models, tmp_path):
    merged = merge_runs([whole[0], *shards], tmp_path / "all")
    assert not merged.frame.duplicated(KEY).any()
    pd.testing.assert_frame_equal(sort(merged.frame), sort(whole[1].frame), check_exact=True)
    evaluate(subset, models[:1], tmp_path / "more", methods=("grad_cam", "layer_cam"))
    merged = merge_runs([whole[0], tmp_path / "more"], tmp_path / "all")
    assert set(merged.frame["method"]) == {"grad_cam", "random", "layer_cam"}
    assert not merged.frame.duplicated(KEY).any()
    assert set(merged.provenance["methods"]) == {"grad_cam", "random", "layer_cam"}


def test_rows_that_are_not_current_are_left_behind(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    part = Store(tmp_path / "run").parts[0]
    old = read_part(part).assign(method_id="grad_cam@old")
    write_parquet(part.with_name(part.name.replace("-0.parquet", "-1.parquet")), old)
    merged = merge_runs([tmp_path / "run"], tmp_path / "all")
    pd.testing.assert_frame_equal(sort(merged.frame), sort(whole[1].frame), check_exact=True)
    assert len(Store(tmp_path / "all").parts) == len(Store(whole[0]).parts)


def test_a_method_that_did_not_fit_is_still_known(whole, tmp_path):
    change(
        whole[0],
        tmp_path / "run",
        lambda f: f["not_applicable"].update(gap0={"random": "it does not fit."}),
    )
    for name, order in (("a", [whole[0], tmp_path / "run"]), ("b", [tmp_path / "run", whole[0]])):
        merged = merge_runs(order, tmp_path / name)
        assert merged.provenance["not_applicable"] == {"gap0": {"random": "it does not fit."}}


@pytest.mark.parametrize(
    ("place", "name", "key", "words"),
    [
        ("subsets", "scenes-val", "manifest_id", "images scenes-val"),
        ("models", "gap0", "weights_id", "weights of the model gap0"),
        ("methods", "grad_cam", "id", "method grad_cam"),
        ("metrics", "deletion", "id", "metric deletion"),
    ],
)
def test_mixes_are_refused(shards, tmp_path, place, name, key, words):
    change(shards[0], tmp_path / "other", lambda facts: facts[place][name].update({key: "another"}))
    with pytest.raises(
        BenchError, match=rf"cannot be merged: they differ in the {words} \(.*another\)"
    ):
        merge_runs([shards[1], tmp_path / "other"], tmp_path / "all")
    assert not Store(tmp_path / "all").parts


def test_another_protocol_is_refused(shards, tmp_path):
    change(shards[0], tmp_path / "other", lambda facts: facts["protocol"].update(id="mine@1"))
    with pytest.raises(BenchError, match="they differ in the protocol"):
        merge_runs([shards[1], tmp_path / "other"], tmp_path / "all")


def test_rows_that_contradict_each_other_are_refused(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "other")
    part = Store(tmp_path / "other").parts[0]
    frame = read_part(part)
    write_parquet(part, frame.assign(value=frame["value"] + 1e-9 * (frame["metric"] == "deletion")))
    with pytest.raises(BenchError, match="contradict each other on deletion of grad_cam on gap0"):
        merge_runs([whole[0], tmp_path / "other"], tmp_path / "all")
    assert not (tmp_path / "all" / "run.json").exists()
    write_parquet(part, frame.assign(code="another version", run="another plan"))
    assert len(merge_runs([whole[0], tmp_path / "other"], tmp_path / "all")) == len(whole[1])


@pytest.mark.slow
def test_shards_are_merged_on_the_command_line(tmp_path):
    words = [
        "--models",
        "resnet-scenes",
        "--methods",
        "grad_cam,random",
        "--metrics",
        "deletion",
        "--limit",
        "15",
    ]
    for shard in ("1/2", "2/2"):
        done = cambench(
            "run", *words, "--calibration", "0", "--shard", shard, "--out", tmp_path / shard[0]
        )
        assert done.returncode == 0, done.stderr
        assert f"Shard {shard[0]} of 2 is finished" in done.stdout
        assert not (tmp_path / shard[0] / "board.md").exists()
    done = cambench("merge", tmp_path / "1", "--out", tmp_path / "all")
    assert "Shards are missing: 2/2" in done.stdout
    done = cambench("merge", tmp_path / "1", tmp_path / "2", "--out", tmp_path / "all")
    assert done.returncode == 0, done.stderr
    assert "missing" not in done.stdout
    assert (tmp_path / "all" / "board.md").is_file()
    assert Records.load(tmp_path / "all").frame["item"].nunique() == 15
    done = cambench("merge", tmp_path / "1", tmp_path / "none", "--out", tmp_path / "all")
    assert done.returncode == 2
    assert done.stderr.count("Error: ") == 1


def test_bad_folders_are_refused(shards, tmp_path):
    with pytest.raises(BenchError, match="no run at"):
        merge_runs([shards[0], tmp_path / "nowhere"], tmp_path / "all")
    with pytest.raises(BenchError, match="is one of the merged runs"):
        merge_runs([shards[0], shards[1]], shards[0])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.md").write_text("mine")
    with pytest.raises(BenchError, match="holds other files"):
        merge_runs([shards[0]], tmp_path / "mine")
    empty = tmp_path / "empty"
    change(shards[0], empty, lambda facts: None)
    shutil.rmtree(empty / "records")
    with pytest.raises(BenchError, match="holds no records yet"):
        merge_runs([empty], tmp_path / "all")
    with pytest.raises(BenchError, match="no runs"):
        merge_runs([], tmp_path / "all")
