"""What runs in a worker process of `RayExecutor`: it reads its own images, keeps its model, and
writes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.engine.counts import Counts
from bench.engine.memory import GarbageSweep
from bench.engine.prober import Prober
from bench.errors import BenchError
from bench.methods import Method
from bench.plugins import PluginFile, load_plugin_file, plugin_files
from bench.records.provenance import code_version
from bench.run.cells import Groups, Outcome
from bench.run.plan import Plan, Task
from bench.run.read_ahead import Reader
from bench.run.task import run_task


@dataclass(frozen=True)
class Setup:
    """What a worker is given once.

    path: where the run's own process finds modules; what exists here is searched, too. plugins:
    loaded before the plan, whose functions are found in them.  plan: a list of one reference to the
    plan, without its models; inside a list it is not fetched before it is asked for.  ids: of code,
    methods and metrics, as the run's own process has them.  device: "cpu", "cuda", "mps".  threads:
    of torch.
    """

    path: tuple[str, ...]
    plugins: tuple[PluginFile, ...]
    plan: list[Any]
    ids: Mapping[str, str]
    device: str
    threads: int

    @classmethod
    def of(cls, plan: Plan, reference: Any, device: str, threads: int) -> Setup:
        """Return the setup of a plan that a reference stands for."""
        return cls(
            tuple(filter(None, sys.path)),
            tuple(plugin_files()),
            [reference],
            identity(plan),
            device,
            threads,
        )


def identity(plan: Plan) -> dict[str, str]:
    """Return {what: id} of the code, and of the plan's methods and metrics as this process has
    them.
    """
    return {
        "cambench": code_version(),
        **{f"method {method.name}": _make_anew(method).id for method in plan.methods},
        **{f"metric {metric.name}": metric.id(plan.protocol) for metric in plan.metrics},
    }


def _make_anew(method: Method) -> Method:
    """Return a copy without the id that it may have brought along."""
    return replace(method, inner=None if method.inner is None else _make_anew(method.inner))


class Worker:
    """One process with one model at a time. What it cannot do, and the user can mend, it returns
    instead of raising.
    """

    def __init__(self) -> None:
        self._plan: Plan | None = None
        self._prober: Prober | None = None
        self._reader: Reader | None = None
        self._device = "cpu"
        self._garbage = GarbageSweep()

    def start(self, setup: Setup) -> BenchError | None:
        """Load plug-ins and plan, and check that this machine has the same code."""
        import torch

        torch.set_num_threads(setup.threads)
        self._device = setup.device
        sys.path += [
            place for place in setup.path if place not in sys.path and Path(place).exists()
        ]
        try:
            for plugin in setup.plugins:
                load_plugin_file(plugin)
            self._plan = _fetch(setup.plan, "the plan")
            self._check(setup.ids)
            self._reader = Reader(self._plan, pinned=self._device == "cuda")
        except BenchError as error:
            return error
        return None

    def _check(self, ids: Mapping[str, str]) -> None:
        assert self._plan is not None
        here = identity(self._plan)
        for what, there in ids.items():
            if here[what] != there:
                raise BenchError(
                    f"The Ray node {_node()} has another {what} ({here[what]}, not {there}); "
                    "install the same cambench there, and put what is typed into a session into a "
                    "--plugin file."
                )

    def run(
        self, task: Task, near: Mapping[Task, Groups], gallery: int, model: list[Any]
    ) -> tuple[Outcome, Counts] | BenchError:
        """Compute a task.

        near: what is to be computed of the task, and of one that follows, whose images are read
        meanwhile. model: a list of one reference to the task's model, fetched where it is another.
        """
        assert self._plan is not None
        assert self._reader is not None
        self._garbage.sweep()
        try:
            self._reader.expect({one: groups.values() for one, groups in near.items()})
            prober = self._prober_of(task, model)
            before = prober.counts.copy()
            return run_task(
                self._plan, task, near[task], prober, gallery, reader=self._reader
            ), prober.counts - before
        except BenchError as error:
            return error

    def _prober_of(self, task: Task, model: list[Any]) -> Prober:
        assert self._plan is not None
        if self._prober is None or self._prober.model.name != task.model:
            self._prober = None  # one model at a time
            loaded = _fetch(model, f"the model {task.model}")
            self._prober = Prober(
                loaded.to(self._device), self._plan.batch_size, self._plan.compiled
            )
        return self._prober


def _fetch(reference: list[Any], what: str) -> Any:
    """Return what a reference stands for; where it cannot be put together here, that is one
    sentence.
    """
    import ray
    import ray.exceptions

    try:
        (value,) = ray.get(reference)
    except ray.exceptions.RaySystemError as error:
        reason = error.client_exc if hasattr(error, "client_exc") else error
        raise BenchError(
            f"The Ray node {_node()} cannot load {what} ({first_line(reason)}); install there what "
            "it is made of."
        ) from error
    return value


def _node() -> str:
    import ray

    return str(ray.util.get_node_ip_address())


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, to be said in brackets."""
    return next(iter(str(error).splitlines()), type(error).__name__).strip().rstrip(".:")[:200]
