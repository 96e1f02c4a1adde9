"""Reading ahead: the next task's images while one is computed, the same results, errors where they
belong.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import bench
from bench.data import Geometry
from bench.errors import BenchError
from bench.records.store import KEY, SCHEMA, Store
from bench.run import read_ahead
from bench.run.evaluate import FinishedTask
from bench.run.executors import LocalExecutor
from bench.run.plan import Plan, Task, make_plan
from bench.run.ray_executor import _Fleet, _Member, _Queue
from bench.run.read_ahead import Reader, read_batch
from bench.types import Batch
from tests.support.interrupts import interruptible
from tests.support.nets import GapLinear, randomise

ROOT = Path(__file__).parents[2]
WAIT = 30.0


class Watched:
    """A source that tells who reads what, and may wait or fail before it does."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.reads: list[tuple[int, bool]] = []  # (position, by the thread that runs the tests)
        self.before: Callable[[int], None] = lambda position: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def read(self, position: int) -> bench.Sample:
        self.reads.append((position, threading.current_thread() is threading.main_thread()))
        self.before(position)
        return self._source.read(position)


@pytest.fixture
def subset() -> bench.Subset:
    scenes = bench.load_subset("scenes-val", limit=6)
    return dataclasses.replace(scenes, source=Watched(scenes.source))


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert not [t for t in threading.enumerate() if t.name == "cambench-reader"]


def tiny() -> bench.Explainee:
    return bench.Explainee(
        randomise(GapLinear(classes=10), 0), size=96, layer="features", name="gap"
    )


def plan_of(subset: bench.Subset) -> Plan:
    return make_plan(
        subset,
        [tiny()],
        ["grad_cam"],
        ["complexity"],
        bench.Protocol(),
        shard_size=2,
        calibration=0,
    )


def evaluate(subset, out=None, **more):
    return bench.evaluate(
        subset,
        tiny(),
        ["grad_cam", "random"],
        ["complexity", "deletion"],
        out=out,
        calibration=0,
        shard_size=2,
        **more,
    )


def same(one: Batch, two: Batch) -> bool:
    return (
        torch.equal(one.pixels, two.pixels)
        and torch.equal(one.labels, two.labels)
        and one.ids == two.ids
    )


def test_records_are_the_same_bytes_with_and_without(subset, tmp_path):
    evaluate(subset, tmp_path / "ahead")
    source = subset.source
    assert sorted(source.reads) == [(i, False) for i in range(6)]
    source.reads.clear()
    evaluate(subset, tmp_path / "alone", executor=LocalExecutor(ahead=False))
    assert sorted(source.reads) == [(i, True) for i in range(6)]
    one, two = (
        {p.name: p.read_bytes() for p in Store(tmp_path / n).parts} for n in ("ahead", "alone")
    )
    assert one == two
    assert len(one) == 3


def test_the_next_task_is_read_before_the_present_one_is_computed(subset):
    """The method of the first task waits until an image of the second is read: without reading
    ahead, for ever.
    """
    second, seen = threading.Event(), []
    subset.source.before = lambda position: second.set() if position >= 2 else None

    @bench.register_method("waits")
    def waits(trace):
        seen.append(second.wait(WAIT))
        return trace.upsample(trace.activations.sum(1))

    from bench.methods import METHODS

    try:
        bench.evaluate(subset, tiny(), ["waits"], ["complexity"], calibration=0, shard_size=2)
        assert seen == [True] * 3
        second.clear()
        seen.clear()
        subset.source.before = lambda position: second.set() if position >= 2 else None
        alone = LocalExecutor(ahead=False)
        globals()["WAIT"] = 0.2
        bench.evaluate(
            subset, tiny(), ["waits"], ["complexity"], calibration=0, shard_size=2, executor=alone
        )
        assert seen[0] is False
    finally:
        globals()["WAIT"] = 30.0
        METHODS.remove("waits")


def test_no_more_than_one_task_is_read_ahead(subset):
    states: list[set[int]] = []

    def note(state: FinishedTask) -> None:
        expected = min(6, 2 * state.done + 2)
        deadline = time.monotonic() + WAIT
        while len(subset.source.reads) < expected and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)  # for what should not be read
        states.append({position for position, _ in subset.source.reads})

    evaluate(subset, finished=note)
    assert states == [{0, 1, 2, 3}, {0, 1, 2, 3, 4, 5}, {0, 1, 2, 3, 4, 5}]


def test_an_error_is_the_next_tasks_and_not_the_present_ones(subset, tmp_path):
    raised = threading.Event()

    def fail(position: int) -> None:
        if position == 3:
            raised.set()
            raise BenchError("The image 3 cannot be read; fetch it again.")

    subset.source.before = fail
    states: list[FinishedTask] = []

    def note(state: FinishedTask) -> None:
        assert raised.wait(WAIT)  # in the thread, while the first task was on
        states.append(state)

    with pytest.raises(BenchError) as error:
        evaluate(subset, tmp_path / "run", finished=note)
    assert str(error.value) == "The image 3 cannot be read; fetch it again."
    assert [state.task.start for state in states] == [0]
    assert len(Store(tmp_path / "run").parts) == 1
    subset.source.before = lambda position: None
    records = evaluate(subset, tmp_path / "run")
    whole = evaluate(subset, tmp_path / "whole")
    frames = [
        r.frame[SCHEMA.names].sort_values(KEY).reset_index(drop=True) for r in (records, whole)
    ]
    pd.testing.assert_frame_equal(*frames, check_exact=True)


def test_a_source_that_one_thread_alone_may_read_is_read_by_it(subset):
    def refuse(position: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("objects created in a thread can only be used in that same thread")

    subset.source.before = refuse
    assert evaluate(subset).frame["item"].nunique() == 6


def test_a_source_is_read_by_one_thread_at_a_time(subset):
    plan, busy, twice = plan_of(subset), threading.Lock(), []

    def note(position: int) -> None:
        if not busy.acquire(blocking=False):
            twice.append(position)
            return
        time.sleep(0.02)
        busy.release()

    subset.source.before = note
    tasks = list(plan.tasks())
    with Reader(plan) as reader:
        reader.expect({tasks[1]: [[2, 3]], tasks[2]: [[4, 5]]})
        for _ in range(3):
            reader.read(tasks[0], [0, 1])
        reader.read(tasks[2], [4, 5])
    assert twice == []


def test_what_is_expected_no_more_is_dropped(subset):
    plan = plan_of(subset)
    first, second, third = plan.tasks()
    hold, begun = threading.Event(), threading.Event()

    def wait(position: int) -> None:
        begun.set()
        hold.wait(WAIT)

    subset.source.before = wait
    with Reader(plan) as reader:
        reader.expect({first: [[0, 1]], second: [[2, 3]]})
        assert begun.wait(WAIT)
        reader.expect({third: [[4], [5]]})
        hold.set()
        assert same(reader.read(third, [5]), read_batch(plan, third, [5]))
    in_thread = [position for position, main in subset.source.reads if not main]
    assert in_thread == [0, 4, 5]


def test_positions_that_nobody_expected_are_read_here(subset):
    plan = plan_of(subset)
    first = next(plan.tasks())
    with Reader(plan) as reader:
        reader.expect({first: [[0, 1]]})
        assert same(reader.read(first, [0, 1]), read_batch(plan, first, [0, 1]))
        assert same(
            reader.read(first, [0]), read_batch(plan, first, [0])
        )  # a half, after memory was short
        assert same(
            reader.read(first, [0, 1]), read_batch(plan, first, [0, 1])
        )  # handed over once, read again


# --- the end


def test_closing_waits_for_one_image_and_no_longer(subset, monkeypatch):
    plan, hang, begun = plan_of(subset), threading.Event(), threading.Event()
    tasks = list(plan.tasks())

    def wait(position: int) -> None:
        begun.set()
        hang.wait(WAIT)

    subset.source.before = wait
    reader = Reader(plan)
    reader.expect({task: [range(task.start, task.stop)] for task in tasks})
    assert begun.wait(WAIT)
    monkeypatch.setattr(read_ahead, "JOIN_SECONDS", 0.05)
    reader.close()  # comes back although the image does not
    assert reader._thread.is_alive()
    hang.set()
    reader._thread.join(WAIT)
    assert len(subset.source.reads) == 1


def test_ctrl_c_stops_reading_and_keeps_what_is_finished(subset, tmp_path):
    def stop(_: FinishedTask) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(subset, tmp_path, finished=stop)
    assert not [t for t in threading.enumerate() if t.name == "cambench-reader"]
    assert len(Store(tmp_path).parts) == 1


HANGS = """
import dataclasses, sys, time
import bench
from bench.models.architectures import build_seeded, resnet_scenes

class Hangs:
    def __init__(self, source):
        self._source = source
    def __getattr__(self, name):
        return getattr(self._source, name)
    def read(self, position):
        if position == 3:
            print("hangs", flush=True)
            time.sleep(600)
        return self._source.read(position)

scenes = bench.load_subset("scenes-val", limit=6)
subset = dataclasses.replace(scenes, source=Hangs(scenes.source))
model = bench.Explainee(build_seeded(resnet_scenes, 0), size=96, name="small")
bench.evaluate(
    subset, model, ["random"], ["complexity"], out=sys.argv[1], calibration=0, shard_size=2
)
"""


def test_ctrl_c_while_a_file_system_hangs_ends_the_process(tmp_path):
    command = [sys.executable, "-c", HANGS, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with interruptible(command, environment) as process:
        assert process.stdout.readline() == "hangs\n"
        while not Store(tmp_path).parts and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)  # it would sleep for ten minutes
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in errors
    assert "Fatal" not in errors
    assert len(Store(tmp_path).parts) == 1


# --- many machines: what follows is reserved, and given away rather than waited for


def fleet(tasks: list[Task], workers: int) -> _Fleet:
    """Return a fleet whose workers are idle, and whose answers never come."""

    class Actor:
        def __init__(self) -> None:
            self.run = self
            self.calls: list[tuple[Task, list[Task]]] = []

        def remote(
            self, task: Task, near: dict[Task, Any], gallery: int, model: list[Any]
        ) -> object:
            self.calls.append((task, list(near)))
            return object()

    made = object.__new__(_Fleet)
    made.waiting, made.gallery, made.models = (
        {task: {} for task in tasks},
        0,
        {task.model: None for task in tasks},
    )
    made.queue, made.members, made.problem, made.pending = _Queue(made.waiting), [], None, {}
    made.members = [_Member(Actor()) for _ in range(workers)]
    from collections import deque

    made.idle = deque(made.members)
    return made


def test_a_worker_reads_ahead_the_task_that_it_is_given_next():
    tasks = [Task("a", "eval", i, i + 1) for i in range(5)]
    some = fleet(tasks, 2)
    some._hand_out()
    one, two = some.members
    assert [m.actor.calls[-1] for m in (one, two)] == [
        (tasks[0], tasks[:2]),
        (tasks[2], tasks[2:4]),
    ]
    some.idle.append(two)
    some._hand_out()
    assert two.actor.calls[-1] == (tasks[3], tasks[3:5])
    for expected in (tasks[4], tasks[1]):  # its own, then the one that the other has not begun
        two.task = None
        some.idle.append(two)
        some._hand_out()
        assert two.actor.calls[-1] == (expected, [expected])
    assert one.following is None
    some.idle.append(two)
    some._hand_out()
    assert list(some.idle) == [two]


def test_a_lost_worker_gives_back_both_its_tasks(monkeypatch):
    tasks = [Task("a", "eval", i, i + 1) for i in range(4)]
    some = fleet(tasks, 1)
    some._hand_out()
    (one,) = some.members
    from collections import Counter

    some.ray, some.lost, some.attempts, some.note = None, Counter(), 3, lambda _: None
    monkeypatch.setattr(some, "_hire", lambda: None)
    some._replace(one, "gone")
    assert [some.queue.take("a", {}) for _ in tasks] == tasks


# --- memory that a GPU copies from by itself


def test_batches_for_a_gpu_are_pinned_by_who_reads_them(subset, monkeypatch):
    """No GPU is needed: what is asked of torch is written down."""
    asked: list[str] = []
    monkeypatch.setattr(
        torch.Tensor,
        "pin_memory",
        lambda self: asked.append(threading.current_thread().name) or self.clone(),
    )
    plan = plan_of(subset)
    first, second, _ = plan.tasks()
    with Reader(plan, pinned=True) as reader:
        reader.expect({first: [[0, 1]]})
        assert same(reader.read(first, [0, 1]), read_batch(plan, first, [0, 1]))
        reader.read(second, [2])
    assert asked == ["cambench-reader", threading.main_thread().name]


def test_only_pinned_pixels_are_copied_without_waiting(subset, monkeypatch):
    batch = subset.batch([0], Geometry(96, "none", 96))
    asked: list[bool] = []
    copy = torch.Tensor.to

    def noted(self, *args, **kwargs):
        asked.append(kwargs["non_blocking"])
        return copy(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", noted)
    batch.to("cpu")
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: True)
    batch.to("cpu")
    assert asked == [False, True]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_pinned_batch_arrives_as_it_is(subset):
    batch = subset.batch(range(4), Geometry(96, "none", 96))
    pinned = batch.pin()
    assert pinned.pixels.is_pinned()
    np.testing.assert_array_equal(pinned.to("cuda").pixels.cpu().numpy(), batch.pixels.numpy())
