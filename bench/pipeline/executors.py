"""Where the tasks of a plan are computed: in this process, or by workers on many machines (Ray).

An executor is handed the tasks that wait and gives back what each leaves, in any order and each
once; it writes nothing. A task that is lost with its worker has left nothing, so it is simply
computed again.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from bench.data.cache import BOUND_VARIABLE
from bench.engine.prober import Counts, Prober
from bench.errors import BenchError
from bench.pipeline.evaluate import Groups, Outcome, run_task, task_name
from bench.pipeline.loading import Reader
from bench.pipeline.plan import Plan, Task
from bench.pipeline.worker import Setup, Worker, first_line

Result = tuple[Task, Outcome, Counts]
"""A finished task, what it leaves, and what it asked of the networks."""


class Executor(Protocol):
    """Computes tasks; closing the iterator (Ctrl-C, an error) stops the work and leaves no process
    behind.
    """

    def run(
        self, plan: Plan, waiting: Mapping[Task, Groups], gallery: int
    ) -> Generator[Result, None, None]: ...


class LocalExecutor:
    """One task after the other, in this process; the next one's images are read meanwhile
    (`ahead`).
    """

    def __init__(self, ahead: bool = True) -> None:
        self.ahead = ahead

    def run(
        self, plan: Plan, waiting: Mapping[Task, Groups], gallery: int
    ) -> Generator[Result, None, None]:
        """Yield the result of each task, in the plan's order."""
        probers = {m.name: Prober(m, plan.batch_size, plan.compiled) for m in plan.models}
        tasks = list(waiting)
        with Reader(plan, pinned=plan.models[0].device.type == "cuda") as reader:
            for number, task in enumerate(tasks):
                if self.ahead:
                    reader.expect(
                        {near: waiting[near].values() for near in tasks[number : number + 2]}
                    )
                prober = probers[task.model]
                before = prober.counts.copy()
                outcome = run_task(plan, task, waiting[task], prober, gallery, reader=reader)
                yield task, outcome, prober.counts - before


# --- many machines

ATTEMPTS = 3
"""How often a task may be lost with its worker before the run gives up: it may be what kills
them.
"""

REACH_SECONDS = 20.0
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
        with connected(self.address) as ray:
            gpu = plan.models[0].device.type == "cuda"
            threads, room = core_groups(_nodes(ray), self.threads, gpu)
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
        self.setup, self.models = _shipped(ray, plan, waiting, threads)
        variables = {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        variables |= _checkout() | {BOUND_VARIABLE: os.environ.get(BOUND_VARIABLE, "")}
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
            settled = [self._settled(reference) for reference in self._next()]
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
                    f"No Ray worker has become ready in {READY_SECONDS / 60:.0f} minutes; see `ray "
                    "status` for what "
                    "the cluster has free, and start the same command again."
                )
            if waited > REACH_SECONDS and not told:
                self.note("Waiting for Ray workers; `ray status` says what the cluster has free.")
                told = True

    def _settled(self, reference: Any) -> Result | None:
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
                    f"({reason}); check that "
                    "every node has this version of cambench installed and memory for the models."
                )
                return
        else:
            self.lost[member.task] += 1
            if self.lost[member.task] >= self.attempts:
                self.problem = BenchError(
                    f"The task {task_name(member.task)} was lost with its worker {self.attempts} "
                    f"times ({reason}); see "
                    "whether a node runs out of memory, and start the same command again: finished "
                    "tasks are kept."
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


def _shipped(
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


# --- a cluster


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Give the module `ray`, connected; a connection that is made here is closed, and a cluster
    made here is ended.
    """
    ray = _import_ray()
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address not in ("auto", "local"):
        _check_reachable(address)
    try:
        _connect(ray, address)
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    """Join a cluster; one of this machine is given three chances, since on a busy machine Ray gives
    up early.
    """
    own = {"num_cpus": _cores(), "include_dashboard": False} if address == "local" else {}
    chances = 3 if own else 1
    for chance in range(1, chances + 1):
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, **own)
        except Exception as error:  # Ray raises bare ones, too
            ray.shutdown()
            if chance == chances:
                what = "be started here" if own else f"be reached at {address}"
                raise BenchError(
                    f"Ray cannot {what} ({first_line(error)}); use --executor local."
                ) from error
        else:
            return


def _import_ray() -> Any:
    for name, value in (
        ("RAY_USAGE_STATS_ENABLED", "0"),
        ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"),
        (
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV",
            "0",
        ),  # under `uv run` the working folder would be uploaded
        ("RAY_agent_register_timeout_ms", "120000"),  # on a busy machine a node takes long to start
    ):
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise BenchError(
            "--executor ray needs Ray, which is not installed here; install it with: pip install "
            "'cambench[ray]'."
        ) from None
    return ray


def _check_reachable(address: str) -> None:
    """Refuse an address where no Ray cluster answers: asked directly, Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise BenchError(
            f"--address is HOST:PORT of a Ray cluster's head node, or auto; got {address!r}."
        )
    try:
        socket.create_connection((host, int(port)), REACH_SECONDS).close()
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "health-check",
            "--address",
            address,
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=2 * REACH_SECONDS)
    except (OSError, OverflowError, subprocess.SubprocessError) as error:
        reason = (
            first_line(error)
            if isinstance(error, OSError)
            else "what listens there does not answer as Ray"
        )
        raise BenchError(
            f"No Ray cluster can be reached at {address} ({reason}); check `ray status` on its "
            "head node."
        ) from error


def _cores() -> int:
    """Return the cores that this process may use, which on a shared machine are fewer than there
    are.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _nodes(ray: Any) -> list[Mapping[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _checkout() -> dict[str, str]:
    """Return a PYTHONPATH under which workers find a checkout that is not installed; {} where
    cambench is.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "pyproject.toml").is_file():
        return {}
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    }
