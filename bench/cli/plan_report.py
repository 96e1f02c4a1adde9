"""How the cost of a plan is printed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from bench.cli.announcing import (
    describe_plan,
    describe_second_maps,
    describe_work,
    print_assumptions,
)
from bench.cli.output import console, format_bytes, say
from bench.progress import format_time
from bench.text_console import make_text

if TYPE_CHECKING:
    from bench.planning.cost import Cost, ModelCost
    from bench.run.plan import Plan
    from bench.run.waiting_work import ImageCounts


def print_plan(plan: Plan, cost: Cost, gpus: int) -> None:
    """Print what one plan costs, model by model."""
    print_assumptions(plan, set())
    say(describe_plan(plan))
    left = None if cost.whole else len(cost.tasks)
    say(describe_work(cost.run, describe_second_maps(cost.extra), left))
    for name, verdict in plan.verdicts.items():
        say(verdict.sentence(name))
    if not cost.tasks:
        say("Nothing is left to do.")
        return
    for model in (model for model in cost.models if model.images):
        say("")
        print_model(model)
    say("")
    say(
        f"About {format_bytes(cost.disk_bytes)} of records and pictures, and "
        f"{format_bytes(cost.memory_bytes)} of memory beside what Python and torch take; a batch "
        "or task that finds less is run in halves."
    )
    print_time([cost], gpus)


def print_model(model: ModelCost) -> None:
    """Print what a model costs, and a table of each method and metric."""
    images = " + ".join(f"{count:,} {part}" for part, count in model.images.items())
    say(
        f"{model.name}: {images} images, at most {model.run.forwards:,} forwards, "
        f"{model.run.backwards:,} backwards, {model.run.head_forwards:,} head replays"
        + (
            ""
            if model.seconds is None
            else f", {describe_source(model)} {format_time(model.seconds)}"
        )
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("per image", no_wrap=True)
    for name in ("forwards", "backwards", "heads"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for row in model_rows(model):
        table.add_row(*map(make_text, row))
    console.print(table)
    if model.not_applicable:
        say(f"n/a: {', '.join(model.not_applicable)}")


def model_rows(model: ModelCost) -> list[tuple[str, ...]]:
    """Return the rows of a model's table: what, forwards, backwards, heads, a note."""
    rows: list[tuple[str, ...]] = []
    for method in model.methods:
        if method.reason:
            continue
        shares = f"shares {', '.join(method.shares)}" if method.shares else ""
        varies = f"at most, since {method.varies}" if method.varies else ""
        rows.append(
            (method.name, *format_counts(method.each), "; ".join(filter(None, (varies, shares))))
        )
    for metric in model.metrics:
        if not metric.repeats and not any(dataclasses.astuple(metric.each)):
            continue
        again = f"and the map made {metric.repeats} times again" if metric.repeats else ""
        rows.append((f"a map's {metric.name}", *format_counts(metric.each), again))
    wrong = f"about {100 * model.wrong:.0f} % of the images, by {model.wrong_from}"
    rows.append(
        (
            "shared by all maps",
            *format_counts(model.shared),
            "the pass, starts of curves, attacked images",
        )
    )
    rows.append(("a label not predicted", *format_counts(model.second), wrong))
    return rows


def describe_source(model: ModelCost) -> str:
    """Return where a model's time comes from."""
    if model.timed == "sample":
        return f"from a sample of {model.sample_images} images about"
    known = model.rates is not None and model.rates.measured
    return (
        "networks alone, at the rate measured here, about"
        if known
        else "networks alone, at the rate given, about"
    )


def format_counts(each: ImageCounts) -> list[str]:
    """Return forwards, backwards and head replays; "" for none."""
    return [
        f"{count:,.1f}".removesuffix(".0") if count else ""
        for count in dataclasses.astuple(each)[:3]
    ]


def print_time(costs: Sequence[Cost], gpus: int) -> None:
    """Print the time of plans, one task after the other and shared by machines."""
    seconds = [cost.seconds for cost in costs]
    if any(s is None for s in seconds):
        say("No time was measured. Leave --no-measure out to see it.")
        return
    one = sum(s for s in seconds if s is not None)
    where = (
        "here"
        if all(m.rates is None or m.rates.measured for c in costs for m in c.models)
        else "at that rate"
    )
    say(f"Time: about {format_time(one)} {where}, one task after the other.")
    if gpus > 1:
        shared = sum(cost.wall_seconds(gpus) or 0.0 for cost in costs)
        say(
            f"On {gpus} GPUs or machines like this that share the tasks: about "
            f"{format_time(shared)}."
        )


def print_sum(costs: Sequence[Cost], gpus: int) -> None:
    """Print what several plans cost together."""
    say("")
    total = sum(cost.run.forwards for cost in costs)
    say(f"Together: at most {total:,} forwards.")
    print_time(costs, gpus)


def plan_facts(plan: Plan, cost: Cost, gpus: int) -> dict[str, Any]:
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
        "models": {model.name: model_facts(model) for model in cost.models},
    }


def model_facts(model: ModelCost) -> dict[str, Any]:
    """Return what --json prints of one model."""
    facts = dataclasses.asdict(model)
    facts["run_at_most"] = facts.pop("run")
    facts["methods"] = {line.pop("name"): line for line in facts["methods"]}
    facts["metrics"] = {line.pop("name"): line for line in facts["metrics"]}
    del facts["name"]
    return facts
