"""The announcement of a run: its work, by what methods and metrics declare, and its time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add

from bench.engine.counts import Counts
from bench.function_source import is_built_in
from bench.methods import Method
from bench.models.explainee import Explainee
from bench.run.declared import DeclaredCounts
from bench.run.external_maps import ExternalMethod
from bench.run.network_rates import Rates, measure_rates
from bench.run.plan import Plan, Task
from bench.run.waiting_work import ImageCounts, Kind, TaskKinds, WaitingWork
from bench.work_stages import track


@dataclass(frozen=True)
class Announcement:
    """What a run is about to do.

    Attributes:
        run: the most that is run when every label is predicted.
        extra: about what second maps of misclassified images add; None where a model's card does
            not say how many images it misclassifies.
        second: the most that the second maps of one image add.
        task_seconds: about how long the networks take for each task.
        undeclared: methods of plug-ins that declare no work.
    """

    run: Counts = field(default_factory=Counts)
    extra: ImageCounts | None = field(default_factory=ImageCounts)
    second: ImageCounts = field(default_factory=ImageCounts)
    task_seconds: Mapping[Task, float] = field(default_factory=dict)
    undeclared: tuple[str, ...] = ()

    def __add__(self, other: Announcement) -> Announcement:
        return Announcement(
            self.run + other.run,
            None if self.extra is None or other.extra is None else self.extra + other.extra,
            max(self.second, other.second, key=lambda one: one.forwards + one.head_forwards),
            {**self.task_seconds, **other.task_seconds},
            tuple(dict.fromkeys((*self.undeclared, *other.undeclared))),
        )

    @property
    def seconds(self) -> float:
        """Return about how long the networks take for all tasks, one after the other."""
        return sum(self.task_seconds.values())


def announce_work(plan: Plan, tasks: TaskKinds) -> Announcement:
    """Return what a run of these tasks is about to do; times a batch of each network."""
    models = track(plan.models, lambda model: f"Counting the work of {model.name}")
    return reduce(add, (_announce_model(plan, model, tasks) for model in models), Announcement())


def _announce_model(plan: Plan, model: Explainee, tasks: TaskKinds) -> Announcement:
    declared = DeclaredCounts(plan, model)
    work = WaitingWork(declared, tasks)
    if not work.kinds:
        return Announcement()
    wrong = read_wrong_share(model)
    rates = measure_rates(model, plan.geometry.size, plan.batch_size)
    seconds = {kind: _time_image(work, kind, rates, wrong or 0.0) for kind in work.kinds}
    return Announcement(
        work.run,
        None if wrong is None else work.extra(wrong),
        work.second,
        {
            task: sum(count * seconds[kind] for kind, count in kinds.items())
            for task, kinds in work.tasks.items()
        },
        tuple(method.name for method in plan.methods if _declares_nothing(method, declared)),
    )


def _time_image(work: WaitingWork, kind: Kind, rates: Rates, wrong: float) -> float:
    """Return the seconds that the networks take for an image of a kind."""
    usual = work.usual(kind)
    return rates.seconds(usual.run) + wrong * rates.seconds(usual.second)


def _declares_nothing(method: Method, declared: DeclaredCounts) -> bool:
    """Return whether a method of a plug-in declares no work, whatever it runs."""
    if isinstance(method, ExternalMethod) or is_built_in(method.function):
        return False
    work = declared.method(method)
    return not work.reason and not any(work.alone.tuple)


def read_wrong_share(model: Explainee) -> float | None:
    """Return the share of images that a model misclassifies by its card; None without a number."""
    return 1 - float(model.card["top1"]) / 100 if "top1" in model.card else None
