"""Executors: in this process, and on a Ray cluster of two nodes, whatever is lost on the way."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import bench
from bench import plugins
from bench.errors import BenchError
from bench.methods import METHODS
from bench.metrics import METRICS
from bench.protocol import Protocol
from bench.records.store import KEY, SCHEMA, Store
from bench.run.evaluate import FinishedTask
from bench.run.executors import LocalExecutor
from bench.run.plan import make_plan
from bench.run.ray_executor import RayExecutor, core_groups
from bench.run.ray_worker import Worker, identity
from tests.support.interrupts import interruptible
from tests.support.nets import GapLinear, randomise

ROOT = Path(__file__).parents[2]

with_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed (cambench[ray])"
)


def tiny(seed: int) -> bench.Explainee:
    return bench.Explainee(
        randomise(GapLinear(classes=10), seed), size=96, layer="features", name=f"gap{seed}"
    )


@pytest.fixture(autouse=True)
def _no_other_plugins(monkeypatch) -> None:
    """Plug-ins of other tests of this process would be sent to workers, too."""
    monkeypatch.setattr(plugins, "_PLUGINS", {})


@pytest.fixture(scope="module")
def subset() -> bench.Subset:
    return bench.load_subset("scenes-val", limit=6)


def evaluate(
    subset, out=None, methods=("grad_cam", "random"), metrics=("pointing_game", "deletion"), **more
):
    given = {"calibration": 0, "shard_size": 1, **more}
    return bench.evaluate(
        subset, [tiny(0), tiny(1)], list(methods), list(metrics), out=out, **given
    )


def sort(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[SCHEMA.names].sort_values(KEY).reset_index(drop=True)


# --- in this process


class Backwards:
    """What another executor may do: hand tasks back in another order than the plan's."""

    def run(self, plan, waiting, gallery):
        yield from LocalExecutor().run(plan, dict(reversed(waiting.items())), gallery)


def test_the_order_in_which_tasks_are_finished_changes_nothing(subset, tmp_path):
    records = evaluate(subset, tmp_path / "a")
    other = evaluate(subset, tmp_path / "b", executor=Backwards())
    one, two = ({p.name: p.read_bytes() for p in Store(tmp_path / name).parts} for name in "ab")
    assert one == two
    assert len(one) == 12
    pd.testing.assert_frame_equal(other.frame, records.frame, check_exact=True)
    in_memory = [evaluate(subset, executor=executor).frame for executor in (None, Backwards())]
    pd.testing.assert_frame_equal(*in_memory, check_exact=True)


def test_progress_sums_what_tasks_ask_of_the_networks(subset):
    states: list[FinishedTask] = []
    evaluate(subset, finished=states.append)
    assert [s.done for s in states] == list(range(1, 13))
    forwards = [s.counts.forwards for s in states]
    assert forwards == sorted(forwards)
    assert all(np.diff(forwards) > 50)


# --- what a cluster has room for


@pytest.mark.parametrize(
    ("nodes", "threads", "gpu", "expected"),
    [
        ([{"CPU": 2}], None, False, (1, 2)),
        ([{"CPU": 8}, {"CPU": 3}], 4, False, (4, 2)),
        ([{"CPU": 32, "GPU": 2}], None, True, (8, 2)),
        ([{"CPU": 4, "GPU": 8}], None, True, (1, 4)),
        ([{"CPU": 64}, {"CPU": 6, "GPU": 2}], None, True, (3, 2)),
    ],
)
def test_core_groups(nodes, threads, gpu, expected):
    assert core_groups(nodes, threads, gpu) == expected


@pytest.mark.parametrize(("threads", "gpu"), [(4, False), (None, True)])
def test_a_cluster_without_room_is_refused(threads, gpu):
    with pytest.raises(BenchError, match="No node of the Ray cluster has"):
        core_groups([{"CPU": 2}, {"CPU": 3}], threads, gpu)


# --- plug-ins travel as source

PLUGIN = """
import os, signal, time
from pathlib import Path
import bench
from bench.errors import BenchError

@bench.register_method("mine")
def mine(trace):
    return trace.upsample(trace.activations.sum(1))

@bench.register_metric("where")
def where(case):
    return {"where": case.maps.new_full((len(case),), float(os.getpid()))}

@bench.register_metric("meets")
def meets(case):
    # A worker goes on when another one is at work, too.
    if os.getpid() != DRIVER:
        (Path(FOLDER) / str(os.getpid())).touch()
        end = time.monotonic() + 300
        while len([*Path(FOLDER).iterdir()]) < 2 and time.monotonic() < end:
            time.sleep(0.05)
    return {"meets": case.maps.flatten(1).amax(1)}

@bench.register_metric("refuses")
def refuses(case):
    if case.trace.ids[0] == BAD:
        raise BenchError("The image is bad; choose another.")
    return {"refuses": case.maps.flatten(1).amax(1)}

@bench.register_metric("kills")
def kills(case):
    if case.trace.ids[0] == BAD and os.getpid() != DRIVER:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"kills": case.maps.flatten(1).amax(1)}
"""


@pytest.fixture
def plugin(subset, tmp_path) -> Iterator[None]:
    """A plug-in that is loaded here, and whose file is gone before any worker could read it."""
    (tmp_path / "plug").mkdir()
    (tmp_path / "met").mkdir()
    file = tmp_path / "plug" / "mine.py"
    text = PLUGIN.replace("BAD", repr(subset.image_ids[4])).replace("DRIVER", str(os.getpid()))
    file.write_text(text.replace("FOLDER", repr(str(tmp_path / "met"))))
    module = plugins.load_plugin(file)
    yield
    METHODS.remove("mine")
    for name in ("where", "meets", "refuses", "kills"):
        METRICS.remove(name)
    sys.modules.pop(module.__name__)


UNPACK = """
import pickle, sys
from pathlib import Path
from bench.plugins import load_plugin_file
from bench.methods import METHODS
plugins, method = pickle.loads(Path(sys.argv[1]).read_bytes())
modules = [load_plugin_file(plugin) for plugin in plugins]
import dataclasses
print(dataclasses.replace(pickle.loads(method)).id, METHODS.get("mine").id, modules[-1].__name__)
"""


def test_a_plugin_is_the_same_where_its_file_is_not(plugin, tmp_path):
    package = tmp_path / "package"
    (shipped,) = plugins.plugin_files()
    package.write_bytes(pickle.dumps(([shipped], pickle.dumps(METHODS.get("mine")))))
    expected = f"{METHODS.get('mine').id} {METHODS.get('mine').id} {shipped.module}"
    for _ in ("here", "elsewhere"):
        done = subprocess.run(
            [sys.executable, "-c", UNPACK, str(package)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() == expected, done.stderr
        Path(shipped.path).unlink(missing_ok=True)


@with_ray
def test_another_version_of_the_code_is_refused(subset):
    plan = make_plan(
        subset, [tiny(0)], ["grad_cam", "tft(grad_cam)"], ["deletion"], Protocol(), calibration=0
    )
    from ray import cloudpickle

    worker = Worker()
    worker._plan = cloudpickle.loads(cloudpickle.dumps(dataclasses.replace(plan, models=())))
    worker._check(identity(plan))
    for name in ("cambench", "method grad_cam", "method tft(grad_cam)", "metric deletion"):
        with pytest.raises(BenchError, match=rf"has another {re.escape(name)} \(.*, not other\)"):
            worker._check({name: "other"})


# --- what is refused before anything runs


def cambench(*words: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "200",
        "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "bench", *map(str, words)]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, **more
    )


@pytest.mark.slow
def test_options_of_ray_without_ray_are_refused(tmp_path):
    for option in ("--address", "--workers", "--threads-per-worker"):
        done = cambench("run", option, "2", "--out", tmp_path)
        assert done.returncode == 2
        assert f"Error: {option} is for --executor ray" in done.stderr
    assert cambench("run", "--shard", "3/2", "--out", tmp_path).returncode == 2


def test_ray_that_is_not_installed_is_one_sentence(subset, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # what Python itself does to forbid an import
    with pytest.raises(BenchError, match=r"pip install 'cambench\[ray\]'"):
        evaluate(subset, executor=RayExecutor())


@pytest.mark.parametrize("address", ["head", "ray://head:10001", ":6379", "head:port"])
@with_ray
def test_what_is_no_address_is_refused(subset, address):
    with pytest.raises(BenchError, match="--address is HOST:PORT"):
        evaluate(subset, executor=RayExecutor(address))


@with_ray
def test_an_address_where_nobody_listens_is_refused(subset):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(BenchError, match=f"No Ray cluster can be reached at {address}"):
        evaluate(subset, executor=RayExecutor(address))


def test_no_workers_are_refused():
    with pytest.raises(BenchError, match="number of workers is 0"):
        RayExecutor(workers=0)


# --- a cluster of two nodes

ray_warnings = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
on_a_cluster = [with_ray, ray_warnings, pytest.mark.slow]
FEW = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_log_monitor": False}


def marked(function):
    for mark in on_a_cluster:
        function = mark(function)
    return function


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two nodes with a core each; it ends with the module."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True, head_node_args={**FEW, "include_dashboard": False, "no_monitor": True}
    )
    try:
        made.second = made.add_node(**FEW)
        yield made
    finally:
        made.shutdown()


@pytest.fixture(scope="module")
def local(subset, tmp_path_factory):
    """The records of one process."""
    return evaluate(subset, tmp_path_factory.mktemp("local")).frame


def worker_pids(cluster) -> list[int]:
    """Return the processes of the cluster's own workers."""
    nodes = [cluster.head_node, *cluster.worker_nodes]
    raylets = {info.process.pid for node in nodes for info in node.all_processes["raylet"]}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended meanwhile
            continue
        if command.startswith(b"ray::Worker") and parent in raylets:
            found.append(int(folder.name))
    return found


def gone(pids: list[int], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@marked
def test_records_of_a_cluster_are_those_of_this_process(cluster, subset, local, tmp_path):
    notes: list[str] = []
    executor = RayExecutor(
        cluster.address, workers=3, note=notes.append
    )  # the third has no place, and holds up none
    states: list[FinishedTask] = []
    records = evaluate(subset, tmp_path / "ray", executor=executor, finished=states.append)
    pd.testing.assert_frame_equal(sort(records.frame), sort(local), check_exact=True)
    assert [s.done for s in states] == list(range(1, 13))
    here: list[FinishedTask] = []
    evaluate(subset, tmp_path / "here", finished=here.append)
    assert states[-1].counts.forwards - here[-1].counts.forwards in range(
        3 * 2
    )  # shared colours, once per worker
    one, two = (
        {p.name: p.read_bytes() for p in Store(tmp_path / name).parts} for name in ("here", "ray")
    )
    assert one == two
    pictures = [
        sorted(p.name for p in (tmp_path / name / "gallery").iterdir()) for name in ("here", "ray")
    ]
    assert pictures[0] == pictures[1]
    assert notes == []
    assert gone(worker_pids(cluster))
    again: list[FinishedTask] = []
    evaluate(subset, tmp_path / "ray", executor=executor, finished=again.append)
    assert again == []


@marked
def test_plugins_and_threads_are_those_of_the_run(cluster, subset, plugin, tmp_path):
    # Two workers meet in their first tasks: one alone may be done before the other has started.
    given = {"methods": ["mine", "grad_cam"], "metrics": ["where", "meets", "deletion"]}
    here = evaluate(subset, **given).frame
    Path(plugins.plugin_files()[-1].path).unlink()
    records = evaluate(subset, executor=RayExecutor(cluster.address), **given)
    where = records.frame[records.frame["metric"] == "where"]["value"]
    assert where.nunique() >= 2  # more where a busy machine lost one
    assert os.getpid() not in set(where)
    same = [f[f["metric"] != "where"] for f in (records.frame, here)]
    pd.testing.assert_frame_equal(sort(same[0]), sort(same[1]), check_exact=True)


@marked
def test_an_error_of_a_worker_is_the_same_sentence(cluster, subset, plugin, tmp_path):
    given = {"methods": ["mine"], "metrics": ["refuses"], "executor": RayExecutor(cluster.address)}
    with pytest.raises(BenchError) as raised:
        evaluate(subset, tmp_path / "run", **given)
    assert str(raised.value) == "The image is bad; choose another."
    assert 1 <= len(Store(tmp_path / "run").parts) <= 11
    assert gone(worker_pids(cluster))


@marked
def test_a_task_that_kills_its_workers_is_named(cluster, subset, plugin, tmp_path):
    notes: list[str] = []
    executor = RayExecutor(cluster.address, attempts=2, note=notes.append)
    with pytest.raises(
        BenchError, match=r"The task gap[01]-eval-000004-000005 was lost with its worker 2 times"
    ):
        evaluate(subset, tmp_path / "run", methods=["mine"], metrics=["kills"], executor=executor)
    assert notes
    assert all("goes to another" in note for note in notes)
    assert gone(worker_pids(cluster))


@marked
def test_workers_that_cannot_start_are_said_so(cluster, subset, tmp_path):
    file = tmp_path / "deadly.py"
    file.write_text(f"import os\nif os.getpid() != {os.getpid()}:\n    os._exit(1)\n")
    module = plugins.load_plugin(file)
    try:
        with pytest.raises(BenchError, match="3 Ray workers in a row were lost while they started"):
            evaluate(subset, executor=RayExecutor(cluster.address, workers=2, attempts=1))
    finally:
        sys.modules.pop(module.__name__)
    assert gone(worker_pids(cluster))


@marked
def test_kill_9_of_a_worker_loses_nothing(cluster, subset, local, tmp_path):
    killed: list[int] = []

    def kill(state: FinishedTask) -> None:
        if state.done in (2, 6):
            killed.append(worker_pids(cluster)[0])
            os.kill(killed[-1], signal.SIGKILL)

    notes: list[str] = []
    executor = RayExecutor(cluster.address, note=notes.append)
    records = evaluate(subset, tmp_path / "run", executor=executor, finished=kill)
    assert len(set(killed)) == 2
    assert notes
    pd.testing.assert_frame_equal(sort(records.frame), sort(local), check_exact=True)
    assert len(Store(tmp_path / "run").parts) == 12
    assert gone(worker_pids(cluster))


@marked
def test_ctrl_c_keeps_what_is_finished_and_stops_the_workers(cluster, subset, local, tmp_path):
    def stop(state: FinishedTask) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(subset, tmp_path / "run", executor=RayExecutor(cluster.address), finished=stop)
    assert gone(worker_pids(cluster))
    assert len(Store(tmp_path / "run").parts) == 1
    records = evaluate(subset, tmp_path / "run")
    pd.testing.assert_frame_equal(sort(records.frame), sort(local), check_exact=True)


@marked
def test_a_node_that_goes_loses_nothing(cluster, subset, local, plugin, tmp_path):
    """The last test on this cluster: it has one node afterwards.

    No task is done before a worker of each node has one ("meets"), and a worker that is done gets
    its next task before progress is reported. So the node that goes always has a task.
    """

    def remove(state: FinishedTask) -> None:
        if state.done == 2:
            cluster.remove_node(cluster.second, allow_graceful=False)

    notes: list[str] = []
    executor = RayExecutor(cluster.address, note=notes.append)
    metrics = ("meets", "pointing_game", "deletion")
    records = evaluate(
        subset, tmp_path / "run", metrics=metrics, executor=executor, finished=remove
    )
    assert notes  # more than one where a busy machine loses another worker
    assert all("goes to another" in note for note in notes)
    same = records.frame[records.frame["metric"] != "meets"]
    pd.testing.assert_frame_equal(sort(same), sort(local), check_exact=True)
    assert len(Store(tmp_path / "run").parts) == 12


# --- a cluster that a run makes for itself


def tagged(tag: str) -> list[int]:
    """Return the processes that carry a tag in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"CAMBENCH_TAG={tag}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@with_ray
@pytest.mark.slow
def test_ctrl_c_at_the_terminal_leaves_nothing_behind(tmp_path):
    tag = f"{os.getpid()}-{time.monotonic_ns()}"
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
        "200",
        "--calibration",
        "0",
        "--executor",
        "ray",
        "--workers",
        "2",
        "--out",
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "CAMBENCH_TAG": tag}
    command = [sys.executable, "-m", "bench", *words]
    with interruptible(command, environment, start_new_session=True) as process:
        deadline = time.monotonic() + 240
        while not Store(tmp_path).parts and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of the foreground
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Stopped; finished tasks are kept" in errors
    assert "Traceback" not in errors
    assert Store(tmp_path).parts
    assert gone(tagged(tag))
