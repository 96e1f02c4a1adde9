"""The executor of many machines: workers of a Ray cluster compute the tasks of a plan."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from bench.data.cache import BOUND_VARIABLE
from bench.errors import BenchError
from bench.run.cells import Groups, task_name
from bench.run.executors import Result
from bench.run.plan import Plan, Task
from bench.run.ray_cluster import REACH_SECONDS, connect_ray, find_checkout, list_nodes
from bench.run.ray_worker import Setup, Worker, first_line

# --- many machines

ATTEMPTS = 3
"""How often a task may be lost with its worker before the run gives up: it may be what kills
them.
"""

READY_SECONDS = 600.0
"""How long a run waits while it has no worker that is ready."""

POLL_SECONDS = 2.0
GPU_CORES = 8
"""Cores that a worker with a GPU takes at most by default, to read images."""


class RayExecutor:
    """Tasks go to workers on the nodes of a Ray cluster, one per GPU where the models are on one,
    else per core group.

    address: HOST:PORT of a cluster's head node, or "auto" (the cluster that this machine belongs
    to); None takes RAY_ADDRESS, else makes a cluster of this machine that ends with the run.
    workers: how many; None: as many as the cluster has room for.  threads: cores per worker; None:
    1, with a GPU its share of the node's cores, at most 8.  attempts: see `ATTEMPTS`.  note: told
    in one sentence of what is unusual.

    What is guaranteed: each task's result is given once, whichever workers and nodes are lost
    meanwhile; the values are those of `LocalExecutor` with as many threads, on processors of the
    same kind to the last bit.
    """

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        threads: int | None = None,
        *,
        attempts: int = ATTEMPTS,
        note: Callable[[str], None] | None = None,
    ) -> None:
        for name, number in (
            ("workers", workers),
            ("threads per worker", threads),
            ("attempts", attempts),
        ):
            if number is not None and number < 1:
                raise BenchError(f"The number of {name} is {number}; it must be at least 1.")
        self.address, self.workers, self.threads = address, workers, threads
        self.attempts = attempts
        self.note = note or (lambda _: None)

    def run(
        self, plan: Plan, waiting: Mapping[Task, Groups], gallery: int
    ) -> Generator[Result, None, None]:
        """Yield the result of each task as it comes."""
        if not waiting:
            return
        with connect_ray(self.address) as ray:
            gpu = plan.models[0].device.type == "cuda"
            threads, room = core_groups(list_nodes(ray), self.threads, gpu)
            count = min(self.workers or room, len(waiting))
            fleet = _Fleet(
                ray, plan, waiting, gallery, count, threads, gpu, self.attempts, self.note
            )
            try:
                yield from fleet.results()
            finally:
                fleet.dismiss()


def core_groups(
    nodes: list[Mapping[str, float]], threads: int | None, gpu: bool
) -> tuple[int, int]:
    """Return (cores per worker, workers that there is room for) of nodes' resources ("CPU", "GPU");
    none is an error.

    >>> core_groups([{"CPU": 8}, {"CPU": 3}], 2, gpu=False)
    (2, 5)
    >>> core_groups([{"CPU": 16, "GPU": 4}, {"CPU": 64}], None, gpu=True)
    (4, 4)
    """
    cores = [int(node.get("CPU", 0)) for node in nodes]
    gpus = [int(node.get("GPU", 0)) for node in nodes]
    if threads is None:
        shares = [c // g for c, g in zip(cores, gpus, strict=True) if g]
        threads = max(1, min(GPU_CORES, *shares)) if gpu and shares else 1
    rooms = [
        min(c // threads, g) if gpu else c // threads for c, g in zip(cores, gpus, strict=True)
    ]
    if not sum(rooms):
        what = f"{threads} core{'s' * (threads > 1)}" + " and a GPU" * gpu
        raise BenchError(
            f"No node of the Ray cluster has {what} for a worker; add a node that has, or change "
            "--threads-per-worker."
        )
    return threads, sum(rooms)


@dataclass
class _Member:
    """A worker: the model whose tasks it was given last, and its task; None while it starts or is
    idle.

    following: the task whose images it reads meanwhile, its next one unless another worker is idle
    before.
    """

    actor: Any
    model: str = ""
    task: Task | None = None
    following: Task | None = None


class _Fleet:
    """The workers of one run, the tasks that wait, and who has which."""

    def __init__(
        self,
        ray: Any,
        plan: Plan,
        waiting: Mapping[Task, Groups],
        gallery: int,
        count: int,
        threads: int,
        gpu: bool,
        attempts: int,
        note: Callable[[str], None],
    ) -> None:
        self.ray, self.waiting, self.gallery, self.count = ray, waiting, gallery, count
        self.attempts, self.note = attempts, note
        self.queue = _Queue(waiting)
        self.left = len(waiting)
        self.members: list[_Member] = []
        self.idle: deque[_Member] = deque()
        self.pending: dict[
            Any, _Member
        ] = {}  # what is awaited of whom: to be ready, or a task's outcome
        self.lost: Counter[Task] = Counter()
        self.failed_starts = 0
        self.problem: Exception | None = None
        self.setup, self.models = _ship(ray, plan, waiting, threads)
        variables = {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        variables |= find_checkout() | {BOUND_VARIABLE: os.environ.get(BOUND_VARIABLE, "")}
        self.new = ray.remote(Worker).options(
            num_cpus=threads,
            num_gpus=int(gpu),
            max_restarts=0,  # a replacement is a new worker, which is given its plan anew
            max_task_retries=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": variables},
        )

    def results(self) -> Iterator[Result]:
        """Yield each task's result once; raise what a worker could not do, after what is
        finished.
        """
        for _ in range(self.count):
            self._hire()
        while self.left:
            settled = [self._settle(reference) for reference in self._next()]
            self._hand_out()  # before the results are written, so that nobody waits for that
            for result in settled:
                if result is not None:
                    self.left -= 1
                    yield result
            if self.problem is not None:
                raise self.problem

    def dismiss(self) -> None:
        """Stop all workers."""
        for member in self.members:
            with suppress(Exception):  # it may be gone already, as may its cluster
                self.ray.kill(member.actor, no_restart=True)
        self.members.clear()

    def _hire(self) -> None:
        member = _Member(self.new.remote())
        self.members.append(member)
        self.pending[member.actor.start.remote(self.setup)] = member

    def _next(self) -> list[Any]:
        """Wait until a worker is ready or a task done; return all that are. A worker without a
        place holds up none.
        """
        start, told = time.monotonic(), False
        while True:
            ready, _ = self.ray.wait([*self.pending], num_returns=1, timeout=POLL_SECONDS)
            if ready:
                return list(
                    self.ray.wait([*self.pending], num_returns=len(self.pending), timeout=0)[0]
                )
            waited = time.monotonic() - start
            if any(member.task is not None for member in self.members):
                continue
            if waited > READY_SECONDS:
                raise BenchError(
                    f"No Ray worker has become ready in {READY_SECONDS / 60:.0f} minutes; see "
                    "`ray status` for what the cluster has free, and start the same command "
                    "again."
                )
            if waited > REACH_SECONDS and not told:
                self.note("Waiting for Ray workers; `ray status` says what the cluster has free.")
                told = True

    def _settle(self, reference: Any) -> Result | None:
        """Take what a worker answers; return the result where it is one of a task."""
        member = self.pending.pop(reference)
        errors = self.ray.exceptions
        try:
            answer = self.ray.get(reference)
        except (
            errors.RayTaskError
        ) as error:  # an error of the code that the worker runs: here as there
            answer = error
        except errors.RayError as error:  # the worker, its node, or what it had to give is lost
            self._replace(member, first_line(error))
            return None
        task, member.task = member.task, None
        self.idle.append(member)
        if isinstance(answer, Exception):
            self.problem = self.problem or answer
            return None
        if task is None:
            self.failed_starts = 0
            return None
        outcome, counts = answer
        return task, outcome, counts

    def _replace(self, member: _Member, reason: str) -> None:
        """Forget a worker that is lost, put its task back, and ask for another worker."""
        self.members.remove(member)
        with suppress(Exception):  # it may live on behind a broken line
            self.ray.kill(member.actor, no_restart=True)
        if member.task is None:
            self.failed_starts += 1
            if (
                self.failed_starts >= self.attempts + self.count
            ):  # a node that goes may take many at once
                self.problem = BenchError(
                    f"{self.failed_starts} Ray workers in a row were lost while they started "
                    f"({reason}); check that every node has this version of cambench installed "
                    "and memory for the models."
                )
                return
        else:
            self.lost[member.task] += 1
            if self.lost[member.task] >= self.attempts:
                self.problem = BenchError(
                    f"The task {task_name(member.task)} was lost with its worker {self.attempts} "
                    f"times ({reason}); see whether a node runs out of memory, and start the same "
                    "command again: finished tasks are kept."
                )
                return
            for task in (member.following, member.task):
                if task is not None:
                    self.queue.put_back(task)
            self.note(
                f"A Ray worker was lost ({reason}); its task {task_name(member.task)} goes to "
                "another."
            )
        self._hire()

    def _hand_out(self) -> None:
        while self.idle and self.problem is None:
            task = self._task_for(self.idle[0])
            if task is None:
                break
            member = self.idle.popleft()
            member.model, member.task, member.following = (
                task.model,
                task,
                self.queue.take_same(task.model),
            )
            near = {one: self.waiting[one] for one in (task, member.following) if one is not None}
            call = member.actor.run.remote(task, near, self.gallery, [self.models[task.model]])
            self.pending[call] = member

    def _task_for(self, member: _Member) -> Task | None:
        """Return the task that an idle worker does next: its own, else one that waits, else another
        worker's next.
        """
        if member.following is not None:
            return member.following
        if self.queue:
            return self.queue.take(member.model, Counter(m.model for m in self.members))
        others = [other for other in self.members if other.following is not None]
        if not others:
            return None
        other = min(others, key=lambda one: one.model != member.model)
        task, other.following = other.following, None
        return task


class _Queue:
    """Tasks that wait, by model: a worker stays with its model, since it holds one at a time."""

    def __init__(self, tasks: Mapping[Task, Groups]) -> None:
        self._tasks: dict[str, deque[Task]] = {}
        for task in tasks:
            self._tasks.setdefault(task.model, deque()).append(task)

    def __bool__(self) -> bool:
        return any(self._tasks.values())

    def take(self, model: str, workers: Mapping[str, int]) -> Task:
        """Return the next task of this model, else of the one that has fewest workers."""
        if not self._tasks.get(model):
            model = min(
                (name for name, tasks in self._tasks.items() if tasks),
                key=lambda name: workers.get(name, 0),
            )
        return self._tasks[model].popleft()

    def take_same(self, model: str) -> Task | None:
        """Return the next task of this model, where one is left."""
        return self._tasks[model].popleft() if self._tasks.get(model) else None

    def put_back(self, task: Task) -> None:
        """Put a lost task first."""
        self._tasks[task.model].appendleft(task)


def _ship(
    ray: Any, plan: Plan, tasks: Mapping[Task, Groups], threads: int
) -> tuple[Setup, dict[str, Any]]:
    """Put the plan, and each model of the tasks, into the object store once; images stay where they
    are read.
    """
    device = plan.models[0].device
    models = {}
    for name in dict.fromkeys(task.model for task in tasks):
        model = plan.model(name)
        try:
            models[name] = ray.put(
                model.to("cpu")
            )  # there is no cuda:1 where a worker sees one GPU
        except (TypeError, AttributeError) as error:  # pickle's own errors are TypeErrors mostly
            raise BenchError(
                f"The model {name} cannot be sent to other processes ({first_line(error)}); use "
                "--executor local."
            ) from error
        finally:
            model.to(device)
    return Setup.of(plan, ray.put(replace(plan, models=())), device.type, threads), models
