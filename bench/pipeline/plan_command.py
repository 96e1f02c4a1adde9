"""`cambench plan`: what a run costs, before it starts."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from bench.errors import BenchError
from bench.terminal import console, errors, said_bytes, say

if TYPE_CHECKING:
    from bench.pipeline.plan import Plan
    from bench.planning.estimate import Cost, Each, Measure, ModelCost

Command = Callable[..., None]
Plans = Callable[..., list["Plan"]]

NOT_OF_A_PLAN = ("executor", "address", "workers", "threads_per_worker", "yes_plan_only")
"""Options of `cambench run` that say where it runs, and not what."""

EPILOG = """**Examples**

- `cambench plan` - what `cambench run` would cost here

- `cambench plan --models resnet-scenes --methods fast --limit 200 --no-measure` - counts alone, in a few seconds

- `cambench plan --out runs/scenes-val` - what is left of a run that was stopped

- `cambench plan --imagenet --gpus 8 --forwards-per-second 3000` - the whole ImageNet validation set, of a GPU's rate
"""


def _own(
    gpus: Annotated[int, typer.Option(help="Machines or GPUs that share the tasks.", min=1)] = 1,
    imagenet: Annotated[
        bool,
        typer.Option("--imagenet", help="The whole ImageNet validation set, fast methods, ten models; neither needed."),
    ] = False,
    forwards_per_second: Annotated[
        float | None, typer.Option(help="A rate to assume for every model, instead of measuring here.")
    ] = None,
    no_measure: Annotated[bool, typer.Option("--no-measure", help="Counts and bytes alone, no time.")] = False,
    rates_only: Annotated[
        bool, typer.Option("--rates-only", help="Time single forwards, not a small sample of the run.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Hold the options that `cambench run` does not have."""


OWN = tuple(inspect.signature(_own).parameters)


def register(app: typer.Typer, run: Command, load: Callable[[list[Path] | None], object], plans: Plans) -> None:
    """Add the command `plan`. run: whose options it takes.  load: reads plug-in files.  plans: options of a run -> its
    plans.
    """
    shared = inspect.signature(run, eval_str=True).parameters
    own = inspect.signature(_own, eval_str=True).parameters
    options = [*(p for name, p in shared.items() if name not in NOT_OF_A_PLAN), *own.values()]

    def plan(**given: Any) -> None:
        """Say what a run costs, before it starts: forwards by method and metric, time, bytes, memory.

        The options are those of `cambench run`. With --out only what is missing in that folder counts.
        """
        mine = {name: given.pop(name) for name in OWN}
        load(given.pop("plugin"))
        for name in ("tier", "no_cache"):  # they have done their work
            given.pop(name)
        show(given, {name: p.default for name, p in shared.items()}, plans, **mine)

    plan.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    plan.__annotations__ = {option.name: option.annotation for option in options}
    app.command(epilog=EPILOG)(plan)


def show(
    given: dict[str, Any],
    defaults: dict[str, Any],
    plans: Plans,
    *,
    gpus: int,
    imagenet: bool,
    forwards_per_second: float | None,
    no_measure: bool,
    rates_only: bool,
    as_json: bool,
) -> None:
    """Estimate and print."""
    from bench.pipeline.precision import decided, remembered
    from bench.pipeline.records import Store
    from bench.planning.estimate import estimate

    if no_measure and rates_only:
        raise BenchError("--no-measure and --rates-only say two things about how time is found; give one.")
    if no_measure and forwards_per_second is not None:
        raise BenchError("--forwards-per-second says how fast, and --no-measure that time is not asked for; give one.")
    # Of the imagined run nothing is sampled: one image on a CPU may take minutes.
    measure: Measure = "none" if no_measure else "rates" if rates_only or imagenet else "sample"
    out: Path | None = given["out"]
    costs = []
    with errors.status("Reading images and models") as status:
        described = {name: value for name, value in given.items() if name != "out"}
        for asked in _imagenet(given, defaults) if imagenet else plans(**described):
            # Without a sample nothing is run, so the guard is not asked; what it has said before holds all the same.
            status.update("Comparing float32 and bfloat16")
            plan = (decided if measure == "sample" else remembered)(asked, Store(out))
            cost = estimate(
                plan,
                measure,
                out=out,
                forwards_per_second=forwards_per_second,
                examined=1 if imagenet else 2,
                report=status.update,
            )
            costs.append((plan, cost))
    if as_json:
        console.print_json(json.dumps([_facts(plan, cost, gpus) for plan, cost in costs]))
        return
    for plan, cost in costs:
        _print(plan, cost, gpus)
    if len(costs) > 1:
        _print_sum([cost for _, cost in costs], gpus)


def _imagenet(given: dict[str, Any], defaults: dict[str, Any]) -> list[Plan]:
    """Return the plan of the ImageNet run, with what was asked for instead of its own choices."""
    from bench.pipeline.plan import make_plan, read_shard
    from bench.planning.imagenet_plan import MODELS, imagined_models, imagined_subset
    from bench.protocol import get_protocol

    for name in ("subset", "data_root", "weights", "out", "precision", "seed"):
        if given[name] != defaults[name]:
            option = "--" + name.replace("_", "-")
            raise BenchError(f"--imagenet plans a run whose images and weights are not here; leave {option} out.")

    def chosen(name: str, otherwise: Any) -> Any:
        return otherwise if given[name] == defaults[name] else given[name]

    subset = imagined_subset()
    limit = chosen("limit", 0)
    names = [name.strip() for name in chosen("models", ",".join(MODELS)).split(",")]
    plan = make_plan(
        subset.limit(limit) if limit else subset,
        [model.to(given["device"]) for model in imagined_models(names)],
        chosen("methods", "fast"),
        given["metrics"],
        get_protocol(given["protocol"]),
        given["batch_size"],
        calibration=chosen("calibration", 1000),
        compiled=given["compiled"],
    )
    return [dataclasses.replace(plan, shard=read_shard(given["shard"] or "1/1"))]


# --- what is printed


def told(plan: Plan, cost: Cost) -> list[str]:
    """Return what a run says of its cost in two or three lines."""
    calibration = f" + {len(plan.calibration)} for calibration" if plan.calibration else ""
    run = cost.run
    return [
        f"{plan.subset.name}: {len(plan.subset)} images{calibration}, {len(plan.models)} models, "
        f"{len(plan.methods)} methods, {len(plan.metrics)} metrics, {plan.protocol.id}",
        f"At most {run.forwards:,} forwards, {run.backwards:,} backwards and {run.head_forwards:,} head replays"
        f"{_left(cost)}; equal maps and rankings spare some{_wrong(cost)}.",
    ]


def _left(cost: Cost) -> str:
    return "" if cost.whole else f" in {len(cost.tasks)} tasks that are not finished"


def _wrong(cost: Cost) -> str:
    forwards = sum(model.extra.forwards for model in cost.models)
    heads = sum(model.extra.head_forwards for model in cost.models)
    if not forwards and not heads:
        return ""
    return (
        f", and labels that are not predicted, whose maps are made as well, add about {forwards:,.0f} forwards and "
        f"{heads:,.0f} head replays"
    )


def said_time(seconds: float) -> str:
    """Return a time for a reader.

    >>> said_time(42.2), said_time(600), said_time(86400 * 3)
    ('42 seconds', '10 minutes', '3.0 days')
    """
    for size, name, digits in ((86400, "days", 1), (3600, "hours", 1), (60, "minutes", 0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{digits}f} {name}"
    return f"{max(seconds, 1):.0f} seconds"


def _print(plan: Plan, cost: Cost, gpus: int) -> None:
    for line in told(plan, cost):
        say(line)
    for name, verdict in plan.verdicts.items():
        say(verdict.sentence(name))
    if not cost.tasks:
        say("Nothing is left to do.")
        return
    for model in (model for model in cost.models if model.images):
        say("")
        _print_model(model)
    say("")
    _print_time([cost], gpus)
    say(
        f"About {said_bytes(cost.disk_bytes)} of records and pictures, and {said_bytes(cost.memory_bytes)} of memory "
        "beside what Python and torch take; a batch or task that finds less is run in halves."
    )


def _print_model(model: ModelCost) -> None:
    images = " + ".join(f"{count:,} {part}" for part, count in model.images.items())
    say(
        f"{model.name}: {images} images, at most {model.run.forwards:,} forwards, {model.run.backwards:,} backwards, "
        f"{model.run.head_forwards:,} head replays"
        + ("" if model.seconds is None else f", {_said_source(model)} {said_time(model.seconds)}")
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("per image", no_wrap=True)
    for name in ("forwards", "backwards", "heads"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for method in model.methods:
        if method.reason:
            continue
        shares = f"shares {', '.join(method.shares)}" if method.shares else ""
        varies = f"at most, since {method.varies}" if method.varies else ""
        table.add_row(escape(method.name), *_numbers(method.each), escape("; ".join(filter(None, (varies, shares)))))
    for metric in model.metrics:
        if not metric.repeats and not any(dataclasses.astuple(metric.each)):
            continue
        again = f"and the map made {metric.repeats} times again" if metric.repeats else ""
        table.add_row(escape(f"a map's {metric.name}"), *_numbers(metric.each), again)
    table.add_row("shared by all maps", *_numbers(model.shared), "the pass, starts of curves, attacked images")
    table.add_row("a label not predicted", *_numbers(model.second), _said_wrong(model))
    console.print(table)
    if model.not_applicable:
        say(f"n/a: {', '.join(model.not_applicable)}")


def _said_source(model: ModelCost) -> str:
    if model.timed == "sample":
        return f"from a sample of {model.sample_images} images about"
    known = model.rates is not None and model.rates.measured
    return "networks alone, at the rate measured here, about" if known else "networks alone, at the rate given, about"


def _said_wrong(model: ModelCost) -> str:
    return f"about {100 * model.wrong:.0f} % of the images, by {model.wrong_from}"


def _numbers(each: Each) -> list[str]:
    return [f"{count:,.1f}".removesuffix(".0") if count else "" for count in dataclasses.astuple(each)[:3]]


def _print_time(costs: Sequence[Cost], gpus: int) -> None:
    seconds = [cost.seconds for cost in costs]
    if any(s is None for s in seconds):
        say("Time was not asked for; leave --no-measure out.")
        return
    one = sum(s for s in seconds if s is not None)
    where = "here" if all(m.rates is None or m.rates.measured for c in costs for m in c.models) else "at that rate"
    say(f"Time: about {said_time(one)} {where}, one task after the other.")
    if gpus > 1:
        shared = sum(cost.wall_seconds(gpus) or 0.0 for cost in costs)
        say(f"On {gpus} GPUs or machines like this that share the tasks: about {said_time(shared)}.")


def _print_sum(costs: Sequence[Cost], gpus: int) -> None:
    say("")
    total = sum(cost.run.forwards for cost in costs)
    say(f"Together: at most {total:,} forwards.")
    _print_time(costs, gpus)


def _facts(plan: Plan, cost: Cost, gpus: int) -> dict[str, Any]:
    """Return what --json prints of one plan."""
    return {
        "subset": plan.subset.name,
        "protocol": plan.protocol.id,
        "batch_size": plan.batch_size,
        "shard": list(plan.shard),
        "tasks": len(cost.tasks),
        "run_at_most": dataclasses.asdict(cost.run),
        "asked": cost.asked,
        "seconds": cost.seconds,
        "gpus": gpus,
        "wall_seconds": cost.wall_seconds(gpus),
        "disk_bytes": round(cost.disk_bytes),
        "memory_bytes": round(cost.memory_bytes),
        "planning_seconds": cost.measured_seconds,
        "models": {model.name: _model_facts(model) for model in cost.models},
    }


def _model_facts(model: ModelCost) -> dict[str, Any]:
    facts = dataclasses.asdict(model)
    facts["run_at_most"] = facts.pop("run")
    facts["methods"] = {line.pop("name"): line for line in facts["methods"]}
    facts["metrics"] = {line.pop("name"): line for line in facts["metrics"]}
    del facts["name"]
    return facts
