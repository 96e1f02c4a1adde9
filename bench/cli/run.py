"""`cambench run`: explain and score images, then make a board."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import (
    BENCHMARK,
    OUTPUT,
    ExecutorOptions,
    RunOptions,
    VerboseOption,
)
from bench.cli.output import loading_modules, say
from bench.cli.registration import command
from bench.files import file_name

EPILOG = """**Examples**

- `cambench run` - the embedded default: generated scenes, bundled models, a few minutes

- `cambench run --models resnet-scenes --methods "cam/*,control/*" --metrics deletion,insertion
  --limit 200`

- `cambench run --methods "focus/*,tft(layer_cam),sa_cam[lambda=0.5,base=grad_cam_pp],control/*"`

- `cambench run --plugin mine.py --methods "mine,grad_cam,control/*" --out runs/mine`

- `cambench run --protocol "quantus[step_features=768]" --metrics deletion --out runs/quantus`

- `cambench run --subset imagenet-val-500 --data-root /data/imagenet --models resnet50.a1_in1k
  --weights pretrained`
"""


@command(panel=BENCHMARK, epilog=EPILOG, long=True)
def run(
    options: RunOptions,
    machines: ExecutorOptions,
    yes_plan_only: Annotated[
        bool,
        typer.Option("--plan", help="Print the plan of the run, and stop.", rich_help_panel=OUTPUT),
    ] = False,
    verbose: VerboseOption = False,
) -> None:
    """Run a benchmark: explain and score images, then make boards, tables and plots.

    A second run with the same --out computes only the results that are missing or out of date.
    """
    with loading_modules():
        from bench.cli.plans import load_plugins, make_plans
        from bench.cli.running import (
            announce_plan,
            execute_plan,
            list_compared,
            say_board,
            say_comparison,
            write_and_print,
        )
        from bench.records.store import own_run

        executor = machines.make_executor()
        plugged = load_plugins(options.plugin)
        plans = make_plans(options)
    number, count = plans[0].shard
    dealt = f"-shard-{number}-of-{count}" if count > 1 else ""
    folder = options.out or Path("runs") / (file_name(plans[0].subset.name, "-") + dealt)
    if yes_plan_only:
        for plan in plans:
            announce_plan(plan, folder)
        return
    with own_run(folder):
        seen: set[str] | None = None if verbose else set()
        for plan in plans:
            records = execute_plan(plan, folder, executor, seen)
        board = write_and_print(records, folder, verbose=verbose) if count == 1 else None
        if board is not None:
            for name in list_compared(board, plugged):
                say_comparison(board, name)
    if board is None:
        say(
            f"Shard {number} of {count} is finished: {folder}. `cambench merge` makes one run "
            "of all shards."
        )
    else:
        say_board(folder)
