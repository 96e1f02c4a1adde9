"""The command `cambench`: each command is a thin call of a public function.

Bad input is one sentence on standard error and exit code 2; Ctrl-C keeps what is finished and exits with 130.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

# Before torch starts its threads: waiting threads that spin make two busy processes many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from rich.markup import escape
from rich.table import Table

from bench.errors import BenchError, NotApplicable
from bench.files import file_name
from bench.finetune.commands import finetune_app, zoo_app
from bench.gate.commands import register as register_gate
from bench.gate.tier import preset
from bench.health.commands import register as register_health
from bench.pipeline.cache_command import NoCacheOption, add_cache
from bench.pipeline.commands import (
    AddressOption,
    ExecutorOption,
    ShardOption,
    ThreadsOption,
    Where,
    WorkersOption,
    add_merge,
    chosen_executor,
)
from bench.pipeline.plan_command import register as register_plan
from bench.terminal import EX_USAGE, command_line, console, errors, loading_modules, looking, say, stoppable
from bench.version import __version__

if TYPE_CHECKING:
    from bench.board import Board
    from bench.methods import Method
    from bench.models import Explainee
    from bench.pipeline.executors import Executor
    from bench.pipeline.external import ExternalMethod
    from bench.pipeline.plan import Plan
    from bench.pipeline.records import Records
    from bench.planning.estimate import Cost

app = typer.Typer(
    name="cambench",
    help="The benchmark for image attribution: methods and models in, leaderboards with intervals out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(finetune_app, name="finetune")
app.add_typer(zoo_app, name="zoo")
register_health(app)
register_gate(app)
add_cache(app)

DEFAULT_SUBSET = "scenes-val"
DEFAULT_MODELS = "originals"
DEFAULT_METHODS = (
    "control/*,-random_pixel,-random_cam,-inverted_oracle,grad_cam,grad_cam_pp,layer_cam,eigen_cam,ablation_cam,score_cam,"
    "seed/*,-abs_cam_elementwise,saliency,input_x_gradient,integrated_gradients,attention_branch"
)
"""Controls, what papers compare with most, and the seed methods: the default run stays under 120,000 forwards."""
BESIDE_MODELS = "finetuned"
BESIDE_METHODS = "random,oracle,grad_cam,layer_cam,tft(grad_cam),attention_branch"
"""What the default run also scores: the fine-tuned bundled models, beside their originals, with a few methods."""
DEFAULT_LIMIT = 36
REFERENCE = "grad_cam"
"""What a plug-in's method is compared with, where the run has it."""


SCORED_BESIDE = "control/*,grad_cam"
"""What `cambench score` scores beside the maps that it is given."""


class Target(StrEnum):
    """Which class given maps explain."""

    predicted = "predicted"
    label = "label"


class Listing(StrEnum):
    """What `cambench list` can list."""

    methods = "methods"
    metrics = "metrics"
    models = "models"
    subsets = "subsets"
    protocols = "protocols"


PluginOption = Annotated[
    list[Path] | None, typer.Option("--plugin", help="Python file that registers methods, metrics, ... (repeatable).")
]


@app.callback(invoke_without_command=True)
def common(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    """Entry point for the options that no command needs."""
    if version:
        console.print(f"cambench {__version__}")
        raise typer.Exit


@app.command(
    epilog="""**Examples**

- `cambench run` - the embedded default: generated scenes, bundled models, a few minutes

- `cambench run --models resnet-scenes --methods "cam/*,control/*" --metrics deletion,insertion --limit 200`

- `cambench run --methods "seed/*,tft(layer_cam),sa_cam[lambda=0.5,base=grad_cam_pp],control/*"`

- `cambench run --plugin mine.py --methods "mine,grad_cam,control/*" --out runs/mine`

- `cambench run --protocol "quantus[step_features=768]" --metrics deletion --out runs/quantus`

- `cambench run --subset imagenet-val-500 --data-root /data/imagenet --models resnet50.a1_in1k --weights pretrained`
"""
)
def run(
    subset: Annotated[str, typer.Option(help="Subset name, manifest, folder with annotations.csv, or parquet.")] = (
        DEFAULT_SUBSET
    ),
    models: Annotated[
        str,
        typer.Option(help="Names, groups, timm names or card files, comma separated; NAME@LAYER: at another layer."),
    ] = (DEFAULT_MODELS),
    methods: Annotated[str, typer.Option(help="Names, groups (fast, all), wildcards (cam/*); -NAME leaves out.")] = (
        DEFAULT_METHODS
    ),
    metrics: Annotated[
        str, typer.Option(help="Names, groups (standard, costly, all, a family), wildcards; -NAME leaves out.")
    ] = "standard",
    protocol: Annotated[
        str, typer.Option(help="Named protocol; NAME[field=value,...] changes fields (`cambench list protocols`).")
    ] = "cambench-1",
    limit: Annotated[int, typer.Option(help="Images to score; 0 for all.", min=0)] = DEFAULT_LIMIT,
    out: Annotated[
        Path | None, typer.Option(help="Run folder [default: runs/SUBSET]; goes on where it stopped.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of every draw; part of the protocol id [default: 0, or as the protocol says].", min=0),
    ] = None,
    plugin: PluginOption = None,
    data_root: Annotated[Path | None, typer.Option(help="Where named subsets find their files.")] = None,
    weights: Annotated[str | None, typer.Option(help="Weights of the one model: a file, or 'pretrained'.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per forward [default: by image size].", min=1)] = None,
    calibration: Annotated[
        int | None,
        typer.Option(help="Images that choose box thresholds [default: half of --limit, at least 50].", min=0),
    ] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Fuse the networks' layers with torch.compile.")] = False,
    precision: Annotated[
        str, typer.Option(help="Of what metrics probe: float32, auto or bfloat16, checked for each model.")
    ] = "float32",
    executor: ExecutorOption = Where.local,
    address: AddressOption = None,
    workers: WorkersOption = None,
    threads_per_worker: ThreadsOption = None,
    shard: ShardOption = None,
    no_cache: NoCacheOption = False,
    yes_plan_only: Annotated[bool, typer.Option("--plan", help="Say what would be run, and stop.")] = False,
    tier: Annotated[
        str | None, typer.Option(callback=preset, is_eager=True, help="Preset of what is not given: gate.")
    ] = None,
) -> None:
    """Run a benchmark: explain and score images, then make boards, tables and plots.

    Started again with the same --out, only what is missing or has changed is computed.
    """
    with loading_modules():
        from bench.pipeline.precision import check_precision

        check_precision(precision, compiled)
        where = chosen_executor(executor, address, workers, threads_per_worker)
        plugged = _plugins(plugin)
        plans = _plans(
            subset=subset,
            models=models,
            methods=methods,
            metrics=metrics,
            protocol=protocol,
            limit=limit,
            device=device,
            seed=seed,
            data_root=data_root,
            weights=weights,
            batch_size=batch_size,
            calibration=calibration,
            compiled=compiled,
            precision=precision,
            shard=shard,
        )
    number, count = plans[0].shard
    dealt = f"-shard-{number}-of-{count}" if count > 1 else ""
    folder = out or Path("runs") / (file_name(plans[0].subset.name, "-") + dealt)
    if yes_plan_only:
        for plan in plans:
            _announce(plan, folder, None)
        return
    for plan in plans:
        records = _run(plan, folder, where)
    if count > 1:
        say(f"Shard {number} of {count} is finished: {folder}. `cambench merge` makes one run of all shards.")
        return
    board = _board(records)
    from bench.board import write_board

    write_board(board, folder, folder)
    board.print(console)
    scored = set(board.frame["method"])
    for name in [m for m in plugged if {m, REFERENCE} <= scored]:
        for line in board.compare(name, REFERENCE):
            console.print(line, highlight=False)
    console.print(f"Board, tables and plots: {folder / 'board.md'}", highlight=False, soft_wrap=True)


@app.command(
    epilog="""**Examples**

- `cambench score theirs.npz --model resnet-scenes --subset scenes-val` - {item id: [h,w]}, or ids [N] and maps [N,h,w]

- `cambench score maps/ --model resnet-scenes --subset scenes-val --limit 200 --target label` - a folder of ID.npy

- `cambench score a.npz --model M --subset S --out runs/both` and the same with `b.npz`: both on one board
"""
)
def score(
    maps: Annotated[Path, typer.Argument(help="An .npz, a folder of ID.npy files, or one .npy [N,h,w].")],
    model: Annotated[str, typer.Option(help="Name, timm name or card file: the model that the maps explain.")],
    subset: Annotated[str, typer.Option(help="Subset name, manifest, folder with annotations.csv, or parquet.")],
    methods: Annotated[str, typer.Option(help="Scored beside the maps: names, groups, wildcards; '' for none.")] = (
        SCORED_BESIDE
    ),
    metrics: Annotated[str, typer.Option(help="Names, groups, wildcards; -NAME leaves out.")] = "standard",
    protocol: Annotated[str, typer.Option(help="Named protocol.")] = "cambench-1",
    target: Annotated[Target, typer.Option(help="The class that the maps explain.")] = Target.predicted,
    name: Annotated[str | None, typer.Option(help="What boards call the maps [default: the file's name].")] = None,
    limit: Annotated[int, typer.Option(help="Images to score; 0 for all.", min=0)] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Run folder [default: runs/NAME--SUBSET]; goes on where it stopped.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of every draw; part of the protocol id [default: 0, or as the protocol says].", min=0),
    ] = None,
    plugin: PluginOption = None,
    data_root: Annotated[Path | None, typer.Option(help="Where named subsets find their files.")] = None,
    weights: Annotated[str | None, typer.Option(help="Weights of the model: a file, or 'pretrained'.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per forward [default: by image size].", min=1)] = None,
    calibration: Annotated[
        int | None,
        typer.Option(help="Images that choose box thresholds [default: half of --limit, at least 50].", min=0),
    ] = None,
) -> None:
    """Score maps that were made elsewhere, beside the controls and under one protocol.

    Maps of another size than the frame are resized bilinearly. Items without a map are counted and leave the maps
    unranked; what cannot be read off a finished map (cost, robustness) is n/a.
    """
    import bench
    from bench.board import write_board
    from bench.pipeline.external import said_targets

    _plugins(plugin)
    chosen = bench.load_subset(subset, limit=limit or None, data_root=data_root)
    with looking(f"maps in {maps}") as report:
        given = bench.load_maps(maps, chosen, target.value, name, report)
    plan = _plan(
        subset,
        model,
        methods,
        metrics,
        protocol,
        limit,
        device,
        seed,
        data_root,
        weights,
        batch_size,
        calibration,
        compiled=False,
        more=[given],
    )
    if len(plan.models) != 1:
        raise BenchError(f"--model {model} stands for {len(plan.models)} models; maps explain one.")
    _announce_maps(given, plan)
    folder = out or Path("runs") / file_name(f"{given.name}--{plan.subset.name}", "-")
    records = _run(plan, folder)
    board = _board(records)
    write_board(board, folder, folder)
    board.print(console)
    say(said_targets(records.frame, given))
    if REFERENCE in set(board.frame["method"]):
        for line in board.compare(given.name, REFERENCE):
            say(line)
    say(f"Board, tables and plots: {folder / 'board.md'}")


def _announce_maps(given: ExternalMethod, plan: Plan) -> None:
    """Say what was read, and what about it was not as expected."""
    side = plan.geometry.size
    resized = "" if set(given.sizes) == {(side, side)} else f", resized bilinearly to the {side}x{side} frame"
    say(f"{given.name}: {sum(given.sizes.values())} maps of {given.said_sizes}{resized}.")
    for note in (*given.notes, *given.gaps(plan.subset, plan.calibration)):
        errors.print(f"! {note}", style="yellow", highlight=False, soft_wrap=True, markup=False)


@app.command()
def board(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or of a committed board.")],
    publish: Annotated[
        Path | None, typer.Option(help="Write a board to commit: one records file, tables, plots.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="The protocol that the run must be of; any other is an error.")
    ] = None,
) -> None:
    """Rebuild every table and plot from the records of a run; no images or models are needed."""
    if protocol is not None:
        from bench.pipeline.records import check_protocol

        check_protocol(folder, protocol)
    _show_board(folder, publish)


@app.command(
    "list",
    epilog="""**Examples**

- `cambench list methods`

- `cambench list models --check "vit_tiny*,resnet18"` - build them with random weights and see what works

- `cambench list models --check --out leaderboards/timm-coverage.csv` - all of timm; hours, goes on where it stopped
""",
)
def list_(
    what: Annotated[Listing, typer.Argument(help="What to list.")],
    pattern: Annotated[
        str | None, typer.Argument(help="With --check: timm names and wildcards [default: all].")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Build timm architectures, explain noise, check layer and grid.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="With --check: CSV to write; its rows are not done again.")] = None,
    limit: Annotated[float, typer.Option(help="With --check: most parameters, in millions.", min=0)] = 500,
    plugin: PluginOption = None,
) -> None:
    """List what a run can be made of."""
    _plugins(plugin)
    if check:
        if what is not Listing.models:
            raise BenchError(f"--check is for models, not for {what.value}.")
        _check_models(pattern or "*", out, limit)
        return
    if pattern is not None or out is not None:
        raise BenchError("A pattern and --out go with --check only; see `cambench list --help`.")
    table = Table(box=None, header_style="bold", pad_edge=False)
    rows = {
        Listing.methods: _method_rows,
        Listing.metrics: _metric_rows,
        Listing.models: _model_rows,
        Listing.subsets: _subset_rows,
        Listing.protocols: _protocol_rows,
    }[what]()
    for name in next(rows):
        table.add_column(escape(name), overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)


@app.command(
    epilog="**Example**  \n`cambench explain dog.jpg --model resnet50.a1_in1k --weights pretrained --methods 'cam/*'`"
)
def explain(
    image: Annotated[Path, typer.Argument(help="Image file.")],
    model: Annotated[str, typer.Option(help="Model name, timm name or card file.")] = "resnet-scenes",
    methods: Annotated[str, typer.Option(help="Names, groups, wildcards.")] = "grad_cam,layer_cam,score_cam",
    target: Annotated[int | None, typer.Option(help="Class to explain [default: the predicted one].")] = None,
    out: Annotated[Path | None, typer.Option(help="Picture to write [default: IMAGE.explained.png].")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer to explain [default: the last with a grid].")] = None,
    weights: Annotated[str | None, typer.Option(help="Weights file, or 'pretrained'.")] = None,
    plugin: PluginOption = None,
) -> None:
    """Explain one image: a picture of overlays, one per method."""
    import bench
    from bench.board.overlays import draw_overlays
    from bench.methods import METHODS

    _plugins(plugin)
    chosen = bench.load_model(model, weights=weights, layer=layer)
    images = chosen.read(image)
    names, maps = METHODS.select(methods), {}
    for name in names:
        with _noted(name):
            maps[name] = bench.explain(chosen, images, None if target is None else [target], name)[0]
    if not maps:
        raise BenchError("None of the methods fits this model and image; see `cambench list methods`.")
    path = out or image.with_name(f"{image.stem}.explained.png")
    shown = target if target is not None else _predicted(chosen, images)
    draw_overlays(chosen.denormalise(images)[0], maps, f"{chosen.name}, class {shown}", path)
    console.print(f"{len(maps)} maps of class {shown}: {path}", highlight=False, soft_wrap=True)


@app.command(
    epilog="""**Examples**

- `cambench edit --model abn-scenes --subset scenes-val --limit 100`

- `cambench finetune guided --model abn-scenes --maps runs/attention-maps/abn-scenes--scenes-val` - to train from them
"""
)
def edit(
    model: Annotated[str, typer.Option(help="Model with an attention branch: bundled name or card file.")],
    subset: Annotated[str, typer.Option(help="Subset name, manifest, folder with annotations.csv, or parquet.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the maps [default: runs/attention-maps/MODEL--SUBSET].")
    ] = None,
    port: Annotated[int, typer.Option(help="Port on this machine; 0: any that is free.", min=0, max=65535)] = 8765,
    limit: Annotated[int, typer.Option(help="Images of the subset to look at; 0 for all.", min=0)] = 0,
    everything: Annotated[
        bool, typer.Option("--all", help="Edit every image, not only those right in class and wrong in place.")
    ] = False,
    browser: Annotated[bool, typer.Option(help="Open the page, where there is a screen.")] = True,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    plugin: PluginOption = None,
    data_root: Annotated[Path | None, typer.Option(help="Where named subsets find their files.")] = None,
) -> None:
    """Draw attention maps by hand: a page on this machine, where each saved map is a file that training reads.

    The queue holds the images that are right in class and wrong in place. Started again, it goes on at the first image
    without a map. Ctrl-C ends it.
    """
    import bench
    from bench.editor import Session, address_of, listen, serve

    _plugins(plugin)
    _check_device(device)
    loaded = bench.load_model(model).to(device)
    images = bench.load_subset(subset, limit=limit or None, data_root=data_root)
    folder = out or Path("runs") / "attention-maps" / file_name(f"{loaded.name}--{images.name}", "-")
    with stoppable("Stopped before the page was open."), listen(port) as listening:
        with looking(f"{images.name} under {loaded.name}") as report:
            session = Session(loaded, images, folder, everything, report)
        with session:
            say(f"{len(session)} images to edit, of {len(session.seen)} looked at; maps are saved in {folder}.")
            say(f"Open {address_of(listening)} in a browser of this machine; Ctrl-C ends the editor.")
            serve(session, listening, browser)
    say(f"Closed; the maps are in {folder}.")


# --- the parts of `run`


def _plugins(files: list[Path] | None) -> list[str]:
    """Load entry points and files; return the names of the methods that the files brought."""
    from bench.methods import METHODS
    from bench.plugins import load_entry_points, load_plugin

    for failure in load_entry_points():
        errors.print(f"! {failure}", style="yellow", highlight=False, soft_wrap=True)
    before = set(METHODS.names)
    for file in files or []:
        load_plugin(file)
    return [name for name in METHODS.names if name not in before]


def _plan(
    subset: str,
    models: str,
    methods: str,
    metrics: str,
    protocol: str,
    limit: int,
    device: str,
    seed: int | None,
    data_root: Path | None,
    weights: str | None,
    batch_size: int | None,
    calibration: int | None,
    compiled: bool,
    more: Sequence[Method] = (),
    precision: str = "float32",
) -> Plan:
    import dataclasses

    import bench
    from bench.models.zoo import expand_models
    from bench.pipeline.plan import make_plan
    from bench.protocol import get_protocol
    from bench.registry import split_list

    chosen = bench.load_subset(subset, limit=limit or None, data_root=data_root)
    names = expand_models([name.strip() for name in models.split(",") if name.strip()])
    if weights is not None and len(names) != 1:
        raise BenchError(f"--weights is for one model, and the run has {len(names)}; name one with --models.")
    _check_device(device)
    loaded = [bench.load_model(name, weights=weights).to(device) for name in names]
    for model in loaded:
        if model.card.get("weights") == "random":
            errors.print(
                f"! {model.name} has random weights; give --weights FILE or --weights pretrained.", style="yellow"
            )
    rules = get_protocol(protocol)
    if seed is not None:
        rules = dataclasses.replace(rules, seed=seed)
    listed: list[str | Method] = [*split_list(methods), *more]
    return make_plan(
        chosen,
        loaded,
        listed,
        metrics,
        rules,
        batch_size,
        calibration=calibration,
        compiled=compiled,
        precision=precision,
    )


def _plans(*, models: str, methods: str, shard: str | None, **given: Any) -> list[Plan]:
    """Return the plans of a run's options: one, or the two of the default run."""
    import dataclasses

    from bench.pipeline.plan import read_shard

    number, count = read_shard(shard or "1/1")
    plans = [_plan(models=some, methods=of_them, **given) for some, of_them in _asked(models, methods)]
    return [dataclasses.replace(plan, shard=(number, count)) for plan in plans]


register_plan(app, run, _plugins, _plans)


def _asked(models: str, methods: str) -> list[tuple[str, str]]:
    """Return the models and methods to run: those asked for; by default also the fine-tuned models, with fewer."""
    asked = [(models, methods)]
    return [*asked, (BESIDE_MODELS, BESIDE_METHODS)] if asked == [(DEFAULT_MODELS, DEFAULT_METHODS)] else asked


def _check_device(device: str) -> None:
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BenchError(f"The device {device!r} cannot be used here ({reason}); choose cpu.") from None


def _announce(plan: Plan, folder: Path, out: Path | None) -> Cost:
    """Say what a run will do, of what is missing in `out`: images, methods, forwards, minutes."""
    from bench.pipeline.plan_command import told
    from bench.planning.estimate import estimate

    with errors.status("Counting what is asked"):
        cost = estimate(plan, "rates", out=out)
    for line in told(plan, cost):
        say(line)
    minutes = max(cost.seconds or 0.0, 1) / 60
    say(
        f"The networks alone take about {minutes:.1f} minutes here (`cambench plan` says more). Records go to {folder}."
    )
    return cost


def _run(plan: Plan, folder: Path, executor: Executor | None = None) -> Records:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from bench.pipeline.evaluate import Progress as State
    from bench.pipeline.evaluate import run_plan
    from bench.pipeline.ledger import sentence, told
    from bench.pipeline.precision import sentences

    plan = _checked_precision(plan, folder)
    cost = _announce(plan, folder, folder)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    words = f"Stopped; finished tasks are kept in {folder}. Start the same command again to go on."
    with stoppable(words), Progress(*columns, console=errors, refresh_per_second=2) as bar:
        shown = bar.add_task("starting", total=cost.seconds or 1)

        last: list[State] = []

        def progress(state: State) -> None:
            last[:] = [state]
            task = state.task
            bar.update(
                shown,
                description=f"{task.model} {task.part} {task.stop}/{len(plan.part(task.part))}",
                advance=cost.task_seconds(task),
            )

        records = run_plan(plan, folder, command=command_line(), progress=progress, executor=executor)
    if last:
        say(sentence(told(last[0].asked, last[0].counts)))
    for note in (*sentences(records.provenance), *records.provenance["notes"]):
        errors.print(f"! {note}", style="yellow", highlight=False, soft_wrap=True, markup=False)
    return records


def _checked_precision(plan: Plan, folder: Path) -> Plan:
    """Return the plan with what is run in which precision on each model; only where that was asked for."""
    from bench.pipeline.precision import decided
    from bench.pipeline.records import Store

    with stoppable("Stopped before the first task."), errors.status("Comparing float32 and bfloat16 ..."):
        return decided(plan, Store(folder))


def _show_board(folder: Path, publish: Path | None = None) -> None:
    """Make, write and print the board of a run's records."""
    from bench.board import publish_board, write_board
    from bench.pipeline.records import Records

    if publish is not None:
        made = publish_board(folder, publish)
    else:
        made = _board(Records.load(folder))
        write_board(made, folder, folder)
    made.print(console)
    console.print(f"Board, tables and plots: {(publish or folder) / 'board.md'}", highlight=False, soft_wrap=True)


add_merge(app, _show_board)


def _board(records: Records) -> Board:
    from bench.board import leaderboard

    with errors.status("Intervals from 10,000 resamples ..."):
        return leaderboard(records)


@contextlib.contextmanager
def _noted(name: str) -> Iterator[None]:
    try:
        yield
    except NotApplicable as reason:
        console.print(f"n/a: {reason}", style="dim", highlight=False)


def _predicted(model: Explainee, images: Any) -> int:
    from bench.engine.prober import Prober
    from bench.engine.trace import Trace

    return int(Trace(Prober(model), images).predicted[0])


# --- `list`


def _check_models(pattern: str, out: Path | None, limit: float) -> None:
    """Check timm architectures; what works and what does not, with its reason, is printed as it comes."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from bench.pipeline.coverage import Row, run, select, summary

    names = select(pattern)
    rows: list[Row] = []
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    kept = f"; {out} keeps what is done, and the same command goes on" if out else ""
    with stoppable(f"Stopped{kept}."), Progress(*columns, console=errors, refresh_per_second=2) as bar:
        shown = bar.add_task("starting", total=len(names))

        def progress(done: int, total: int, what: str) -> None:
            bar.update(shown, completed=done, total=total, description=what)

        for row in run(names, out, limit, progress):
            rows.append(row)
            facts = (row.parameters + "M", row.size + "px", row.layer, row.grid, row.in_place, row.seconds + "s")
            said = row.reason or " ".join(facts)
            console.print(f"{row.name}: {said}", highlight=False, soft_wrap=True, markup=False)
    console.print(summary(rows), highlight=False, soft_wrap=True)


def _method_rows() -> Iterator[tuple[str, ...]]:
    from bench.methods import METHODS
    from bench.methods.variants import write_address

    yield "group/name[parameters]", "fidelity", "groups", "source"
    for m in METHODS:
        name = write_address(m.base, m.inner.name if m.inner else "", m.all_parameters)
        yield f"{m.group}/{name}", m.fidelity, " ".join(m.groups[1:]), m.citation or _first_line(m.function)


def _metric_rows() -> Iterator[tuple[str, ...]]:
    from bench.metrics import METRICS

    yield "family/name", "group", "values (↓ ↑ better, * ranked)", "needs", "what it is"
    arrows = {"lower": "↓", "higher": "↑", "none": ""}
    for m in METRICS:
        values = [f"{n}{arrows[v.better]}{'*' if v.ranked else ''}" for n, v in m.values.items()]
        yield f"{m.family}/{m.name}", m.groups[1], " ".join(values), " ".join(m.needs), _first_line(m.function)


def _model_rows() -> Iterator[tuple[str, ...]]:
    from bench.models import MODELS
    from bench.models.zoo import read_card

    yield "name", "parameters", "top-1", "made from", "trained with"
    for entry in MODELS:
        card = read_card(Path(entry.card))[entry.name] if entry.card else {}
        top1 = f"{card['top1']:.1f} % ({card.get('top1_subset', '')})" if "top1" in card else ""
        parent = card.get("parent", "") + (" (simulated maps)" if card.get("simulated") else "")
        size = f"{card.get('parameters', 0):,}" if card else ""
        yield entry.name, size, top1, parent, card.get("command", "registered")
    yield "any timm name", "", "", "", "for example resnet50.a1_in1k, with --weights pretrained or --weights FILE"
    yield "FILE.json#NAME", "", "", "", "a card file: library, arch, weights file, mean, std"


def _subset_rows() -> Iterator[tuple[str, ...]]:
    from bench.data import SUBSETS, Manifest, manifest_folder

    yield "name", "what it is", "licence"
    for entry in SUBSETS:
        file = manifest_folder() / f"{entry.name}.toml"
        manifest = Manifest.read(file) if file.is_file() else None
        yield entry.name, manifest.title if manifest else "registered", manifest.licence if manifest else ""


def _protocol_rows() -> Iterator[tuple[str, ...]]:
    from dataclasses import asdict

    from bench.protocol import PROTOCOLS, Protocol, write_fields

    yield "id", "fields; of the others what differs from cambench-1, and NAME[field=value,...] changes any of them"
    for protocol in PROTOCOLS.values():
        everything = {k: v for k, v in asdict(protocol).items() if k != "name"}
        yield protocol.id, write_fields(everything if protocol == Protocol() else protocol.changes())


def _first_line(function: Any) -> str:
    return next(iter((function.__doc__ or "").strip().splitlines()), "")


def main() -> NoReturn:
    """Run the command line; a `BenchError` is one line on standard error and exit code 2."""
    try:
        app()
    except BenchError as error:
        errors.print(f"Error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(EX_USAGE)
    sys.exit(0)
