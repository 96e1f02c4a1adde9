"""A board of half a run says so, what is declared is no half, and kills lose no count."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

import bench
from bench.board.publish import publish_board
from bench.cli.baseline import baseline as baseline_command
from bench.errors import BenchError
from bench.gate.baseline import load_baseline
from bench.gate.comparable import check_comparable
from bench.records.forward_counts import add_forwards
from bench.records.forward_log import FORWARDS, ForwardLog
from bench.records.merge import merge_runs
from bench.records.planned_work import PLANNED, describe_absent
from bench.records.store import Records, Store
from bench.run.evaluate import FinishedTask
from tests.support.nets import GapLinear, randomise

METHODS = ["grad_cam", "random"]


@pytest.fixture(scope="module")
def network() -> bench.Explainee:
    classes = bench.load_subset("scenes-val").num_classes
    net = randomise(GapLinear(classes=classes), 1)
    return bench.Explainee(net, size=96, layer="features", name="toy")


def evaluate(network, out: Path | None, limit: int = 5, methods=METHODS, **more) -> Records:
    return bench.evaluate(
        bench.load_subset("scenes-val", limit=limit),
        network,
        list(methods),
        more.pop("metrics", ["energy", "pointing_game"]),
        out=out,
        gallery=0,
        **{"calibration": 0, "shard_size": 2, **more},
    )


class StopError(Exception):
    """What a test raises to stop a run."""


def stop_after(tasks: int):
    def progress(state: FinishedTask) -> None:
        if state.done == tasks:
            raise StopError

    return progress


def stop_run(network, out: Path, tasks: int = 2, **more) -> None:
    with pytest.raises(StopError):
        evaluate(network, out, finished=stop_after(tasks), **more)


def absent(folder: Path) -> list[str]:
    records = Records.load(folder)
    return describe_absent(records.frame, records.provenance)


def test_a_whole_run_says_nothing_and_a_stopped_one_what_it_lacks(network, tmp_path):
    evaluate(network, tmp_path / "whole")
    assert absent(tmp_path / "whole") == []
    stop_run(network, tmp_path / "half")
    (sentence,) = absent(tmp_path / "half")
    assert "4 of 20 planned results" in sentence  # 1 image x 2 methods x 2 metrics
    assert "grad_cam on toy (2), random on toy (2)" in sentence
    board = bench.leaderboard(Records.load(tmp_path / "half"), resamples=20)
    assert board.flags[0] == sentence
    evaluate(network, tmp_path / "half")
    assert absent(tmp_path / "half") == []


def test_a_lost_part_of_a_finished_run_is_absent(network, tmp_path):
    evaluate(network, tmp_path)
    Store(tmp_path).parts[0].unlink()
    assert "8 of 20" in absent(tmp_path)[0]


def test_half_a_run_is_published_only_where_that_is_wanted(network, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.board.board.RESAMPLES", 20)
    stop_run(network, tmp_path / "half")
    with pytest.raises(BenchError, match=r"is not whole: 4 of 20.*--partial"):
        publish_board(tmp_path / "half", tmp_path / "published")
    assert not (tmp_path / "published").exists()
    publish_board(tmp_path / "half", tmp_path / "published", partial=True)
    told = json.loads((tmp_path / "published" / "run.json").read_text())
    assert told["partial"] == absent(tmp_path / "half")
    assert "PARTIAL: 4 of 20" in (tmp_path / "published" / "board.md").read_text()
    assert absent(tmp_path / "published") == told["partial"]
    tables = [*(tmp_path / "published" / "tables").glob("[!.]*.json")]
    assert tables
    assert all("PARTIAL" in json.loads(file.read_text())["flags"][0] for file in tables)
    with pytest.raises(BenchError, match="--partial"):
        publish_board(tmp_path / "published", tmp_path / "again")


def test_a_baseline_of_half_a_run_is_refused_or_says_so(network, tmp_path, capsys):
    stop_run(network, tmp_path / "half")
    file = tmp_path / "baseline.parquet"
    make = baseline_command.function
    with pytest.raises(BenchError, match=r"not whole.*--partial to keep it"):
        make(tmp_path / "half", file)
    assert not file.exists()
    make(tmp_path / "half", file, partial=True)
    kept = load_baseline(file)
    assert kept.facts["partial"] == absent(tmp_path / "half")
    assert "PARTIAL" in capsys.readouterr().err
    notes = check_comparable(kept, load_baseline(tmp_path / "half"))
    assert notes[0].startswith("The baseline is not whole. PARTIAL")
    evaluate(network, tmp_path / "half")
    make(tmp_path / "half", file)
    assert "partial" not in load_baseline(file).facts


def test_what_is_declared_is_no_half(network, tmp_path):
    for shard in ("1/2", "2/2"):
        evaluate(network, tmp_path / shard[0], shard=shard)
        assert absent(tmp_path / shard[0]) == []  # a shard declares the other
    merge_runs([tmp_path / "1"], tmp_path / "part")
    assert "the shards 2/2 of the run are missing" in absent(tmp_path / "part")[0]
    merge_runs([tmp_path / "1", tmp_path / "2"], tmp_path / "both")
    assert absent(tmp_path / "both") == []
    Store(tmp_path / "2").parts[0].unlink()
    evaluate(network, tmp_path / "unfit", methods=[*METHODS, "attention_rollout"])
    assert "attention_rollout" in json.dumps(Records.load(tmp_path / "unfit").provenance)
    assert absent(tmp_path / "unfit") == []


def test_a_merged_shard_that_was_stopped_is_half(network, tmp_path):
    evaluate(network, tmp_path / "1", shard="1/2")  # images 0, 1 and 4
    stop_run(network, tmp_path / "2", tasks=1, limit=8, shard="2/2")  # 2, 3, and not 6, 7
    merge_runs([tmp_path / "1", tmp_path / "2"], tmp_path / "both")
    assert absent(tmp_path / "both")
    evaluate(network, tmp_path / "2", limit=8, shard="2/2")
    evaluate(network, tmp_path / "1", limit=8, shard="1/2")
    merge_runs([tmp_path / "1", tmp_path / "2"], tmp_path / "both")
    assert absent(tmp_path / "both") == []


def test_a_folder_of_before_says_nothing(network, tmp_path):
    stop_run(network, tmp_path)
    file = tmp_path / "run.json"
    told = json.loads(file.read_text())
    del told[PLANNED]
    file.write_text(json.dumps(told))
    assert absent(tmp_path) == []


def test_a_smaller_or_other_plan_makes_no_half_of_a_whole(network, tmp_path):
    evaluate(network, tmp_path)
    evaluate(network, tmp_path, limit=2, methods=["grad_cam", "layer_cam"])
    records = Records.load(tmp_path)
    assert describe_absent(records.frame, records.provenance) == []
    assert len(records.provenance[PLANNED]) == 2
    other = bench.Explainee(
        randomise(GapLinear(classes=network.num_classes), 2), size=96, layer="features", name="toy"
    )
    evaluate(other, tmp_path, limit=2)  # other weights under the name: what was planned is past
    assert absent(tmp_path) == []


# --- the ledger of forwards


def cost_of_rows(folder: Path) -> int:
    """Return the forwards that the log has of the parts that are there."""
    parts = ForwardLog(folder).parts
    return sum(parts[part.stem]["run"] for part in Store(folder).parts)


def kill_at(network, out: Path, moment: str) -> int:
    """Run in a child that kills itself at a moment of its second part; return its signal."""
    child = os.fork()
    if child == 0:
        calls = [0]

        def kill(*_args, **_more):
            calls[0] += 1
            if calls[0] == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        if moment == "before the line":
            inner = ForwardLog.note
            ForwardLog.note = lambda *args: (kill(), inner(*args))[1]
        else:
            import bench.records.store as store

            write = store.write_parquet
            after = moment == "after the part"

            def wrapped(*args):
                if not after:
                    kill()
                write(*args)
                if after:
                    kill()

            store.write_parquet = wrapped
        evaluate(network, out)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("moment", ["before the line", "before the part", "after the part"])
def test_a_kill_loses_and_doubles_no_forward(network, tmp_path, moment):
    whole = evaluate(network, tmp_path / "whole").provenance["forwards"]
    out = tmp_path / "killed"
    assert kill_at(network, out, moment) == -signal.SIGKILL
    told = Records.load(out).provenance["forwards"]
    assert told["run"] >= cost_of_rows(out) > 0
    assert evaluate(network, out).provenance["forwards"] == whole
    assert json.loads((out / "run.json").read_text())["forwards"] == whole
    assert evaluate(network, out).provenance["forwards"] == whole


def test_the_log_takes_over_what_was_counted_before_it(network, tmp_path):
    stop_run(network, tmp_path)
    before = Records.load(tmp_path).provenance["forwards"]
    (tmp_path / FORWARDS).unlink()
    after = evaluate(network, tmp_path).provenance["forwards"]
    assert ForwardLog(tmp_path).parts["earlier"] == before
    assert after["run"] > before["run"]


def test_a_line_that_was_cut_is_not_read_and_not_joined(tmp_path):
    one = {"asked": 10, "run": 7, "equal_maps": 1, "equal_probes": 0}
    log = ForwardLog(tmp_path)
    log.note("a,b-0", one)
    log.note("c-0", one)
    file = tmp_path / FORWARDS
    file.write_bytes(file.read_bytes()[:-4])
    cut = ForwardLog(tmp_path)
    assert [*cut.parts] == ["a,b-0"]
    cut.note("c-0", one)
    assert ForwardLog(tmp_path).total() == add_forwards(one, one)
