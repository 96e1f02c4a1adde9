"""`cambench plan`: what a run costs, before it starts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.options import BENCHMARK, DEFAULT, RunOptions
from bench.cli.output import say
from bench.cli.plan_report import plan_facts, print_plan, print_sum
from bench.cli.registration import command
from bench.errors import BenchError
from bench.work_stages import track

if TYPE_CHECKING:
    from bench.planning.cost import Cost
    from bench.planning.estimate import Measure
    from bench.run.plan import Plan

ESTIMATE = "How the cost is found"

EPILOG = """**Examples**

- `cambench plan` - what `cambench run` would cost here

- `cambench plan --models resnet-scenes --methods fast --limit 200 --no-measure` - counts alone, in
  a few seconds

- `cambench plan --out runs/scenes-val` - what is left of a run that was stopped

- `cambench plan --imagenet --gpus 8 --forwards-per-second 3000` - the whole ImageNet validation
  set, of a GPU's rate
"""


@dataclass(frozen=True, kw_only=True)
class EstimateOptions:
    """How the cost of a run is found: the options that `cambench run` does not have."""

    gpus: Annotated[
        int,
        typer.Option(
            help="Machines or GPUs that share the tasks.",
            min=1,
            max=1_000_000,
            rich_help_panel=ESTIMATE,
        ),
    ] = 1
    imagenet: Annotated[
        bool,
        typer.Option(
            "--imagenet",
            help="The whole ImageNet validation set, fast methods, ten models; neither needed.",
            rich_help_panel=ESTIMATE,
        ),
    ] = False
    forwards_per_second: Annotated[
        float | None,
        typer.Option(
            help="A rate to assume for every model, instead of measuring here.",
            min=1e-6,
            max=1e12,
            rich_help_panel=ESTIMATE,
        ),
    ] = None
    no_measure: Annotated[
        bool,
        typer.Option(
            "--no-measure", help="Counts and bytes alone, no time.", rich_help_panel=ESTIMATE
        ),
    ] = False
    rates_only: Annotated[
        bool,
        typer.Option(
            "--rates-only",
            help="Time single forwards, not a small sample of the run.",
            rich_help_panel=ESTIMATE,
        ),
    ] = False
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON.", rich_help_panel="Output")
    ] = False

    @property
    def measure(self) -> Measure:
        """Return how time is found; options that contradict each other are an error."""
        if self.no_measure and self.rates_only:
            raise BenchError("--no-measure and --rates-only cannot be combined; leave one out.")
        if self.no_measure and self.forwards_per_second is not None:
            raise BenchError(
                "--no-measure and --forwards-per-second cannot be combined; leave one out."
            )
        if self.no_measure:
            return "none"
        # Of the imagined run nothing is sampled: one image on a CPU may take minutes.
        return "rates" if self.rates_only or self.imagenet else "sample"


@command(panel=BENCHMARK, epilog=EPILOG, long=True)
def plan(options: RunOptions, estimation: EstimateOptions) -> None:
    """Estimate the cost of a run before it starts: forwards by method and metric, time, memory.

    The options are those of `cambench run`. With --out only what is missing in that folder counts.
    """
    from bench.cli.plans import load_plugins

    load_plugins(options.plugin)
    costs = list(estimate_costs(options, estimation))
    if estimation.as_json:
        facts = [plan_facts(one, cost, estimation.gpus) for one, cost in costs]
        say(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    for one, cost in costs:
        print_plan(one, cost, estimation.gpus)
    if len(costs) > 1:
        print_sum([cost for _, cost in costs], estimation.gpus)


def estimate_costs(options: RunOptions, estimation: EstimateOptions) -> Iterator[tuple[Plan, Cost]]:
    """Yield each plan of the options with its cost."""
    from bench.cli.plans import make_plans
    from bench.planning.estimate import estimate
    from bench.records.store import Store
    from bench.run.precision_guard import decide_precisions, recall_verdicts

    measure = estimation.measure
    plans = imagine_plans(options) if estimation.imagenet else make_plans(options)
    for asked in track(plans, lambda plan: f"Counting and measuring {plan.subset.name}"):
        # Without a sample nothing is run, so the guard does not run either; its stored result
        # holds.
        one = (decide_precisions if measure == "sample" else recall_verdicts)(
            asked, Store(options.out)
        )
        cost = estimate(
            one,
            measure,
            out=options.out,
            forwards_per_second=estimation.forwards_per_second,
            examined=1 if estimation.imagenet else 2,
        )
        yield one, cost


def imagine_plans(options: RunOptions) -> list[Plan]:
    """Return the plan of the ImageNet run, with what was asked for in place of its own choices."""
    from bench.cli.plans import choose_protocol, split_names
    from bench.planning.imagenet_plan import MODELS, imagine_models, imagine_subset
    from bench.run.plan import make_plan, read_shard

    usual = RunOptions()
    given_to_models = ("weights", "num_classes", "model_args")
    for name in ("subset", "data_root", *given_to_models, "out", "precision", "seed"):
        if getattr(options, name) != getattr(usual, name):
            option = "--" + name.replace("_", "-")
            raise BenchError(
                f"--imagenet plans a run whose images and weights are not here; leave {option} out."
            )

    def choose(name: str, otherwise: Any) -> Any:
        given = getattr(options, name)
        return otherwise if given == getattr(usual, name) else given

    subset = imagine_subset()
    limit = choose("limit", 0)
    models = ",".join(MODELS) if options.models == DEFAULT else options.models
    made = make_plan(
        subset.limit(limit) if limit else subset,
        [model.to(options.device) for model in imagine_models(split_names(models))],
        "fast" if options.methods == DEFAULT else options.methods,
        options.metrics,
        choose_protocol(options),
        options.batch_size,
        calibration=choose("calibration", 1000),
        compiled=options.compiled,
    )
    return [dataclasses.replace(made, shard=read_shard(options.shard or "1/1"))]
