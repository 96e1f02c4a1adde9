"""`cambench health` and `cambench protocols`: thin calls, with progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.errors import BenchError
from bench.terminal import command_line, errors, say, stoppable

if TYPE_CHECKING:
    from bench.health.report import Health

PluginOption = Annotated[
    list[Path] | None, typer.Option("--plugin", help="Python file that registers methods, metrics, ... (repeatable).")
]
DataRootOption = Annotated[Path | None, typer.Option(help="Where named subsets find their files.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(
        "health",
        epilog="""**Examples**

- `cambench health runs/scenes-val` - about two minutes on the default run

- `cambench health leaderboards/scenes --stored` - from stored records alone, in seconds

- `cambench health runs/mine --limit 50 --methods grad_cam,layer_cam,random --plugin mine.py`
""",
    )(health)
    app.command(
        "protocols",
        epilog="**Example**  \n`cambench protocols --subset scenes-val --models resnet-scenes --protocols cambench-1,"
        "rise,wsol --limit 50 --out leaderboards/protocols`",
    )(protocols)


def health(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or of a committed board.")],
    limit: Annotated[
        int, typer.Option(help="Images of the sample for new forwards; 0 for all of the run.", min=0)
    ] = 12,
    methods: Annotated[
        str | None, typer.Option(help="Methods of the sample [default: eight quick ones of the run, and random].")
    ] = None,
    stored: Annotated[bool, typer.Option("--stored", help="Check stored records only: no image, no model.")] = False,
    data_root: DataRootOption = None,
    device: DeviceOption = "cpu",
    plugin: PluginOption = None,
) -> None:
    """Check the metrics themselves: does each one tell apart what is known to differ, on each model?

    Writes RUN/health.json, from which boards mark the metrics that fail, and RUN/health/. Started again, it goes on.
    """
    _plugins(plugin)
    from bench.health import examine
    from bench.methods import METHODS

    chosen = None if methods is None else METHODS.select(methods)
    what = "stored records only" if stored else f"{limit or 'all'} images per model, planted nets and other choices"
    say(f"{folder}: metric health from {what}. The report goes to {folder / 'health' / 'health.md'}.")
    words = f"Stopped; finished parts are kept in {folder / 'health'}. Start the same command again to go on."
    with stoppable(words), _progress() as report:
        found = examine(
            folder,
            limit,
            chosen,
            data_root,
            forwards=not stored,
            command=command_line(),
            device=device,
            say=report,
        )
    _print(found)
    say(f"Report: {folder / 'health' / 'health.md'}; `cambench board {folder}` marks what fails.")


def protocols(
    subset: Annotated[str, typer.Option(help="Subset name, manifest, folder with annotations.csv, or parquet.")] = (
        "scenes-val"
    ),
    models: Annotated[str, typer.Option(help="Names, groups, timm names or card files, comma separated.")] = (
        "resnet-scenes"
    ),
    methods: Annotated[str, typer.Option(help="Names, groups, wildcards; -NAME leaves out.")] = (
        "grad_cam,grad_cam_pp,layer_cam,eigen_cam,ablation_cam,saliency,input_x_gradient,integrated_gradients,"
        "random,center_gaussian,oracle"
    ),
    protocols: Annotated[str, typer.Option(help="Named protocols, comma separated; the first is compared with.")] = (
        "cambench-1"
    ),
    metrics: Annotated[str, typer.Option(help="Names, groups, wildcards.")] = (
        "deletion,insertion,pointing_game,box_localization,pixel_precision"
    ),
    limit: Annotated[int, typer.Option(help="Images to score; 0 for all.", min=0)] = 36,
    out: Annotated[Path, typer.Option(help="Folder for the tables; goes on where it stopped.")] = Path(
        "runs/protocols"
    ),
    device: DeviceOption = "cpu",
    data_root: DataRootOption = None,
    plugin: PluginOption = None,
) -> None:
    """Score the same maps under several protocols, and say how each method's rank moves."""
    _plugins(plugin)
    import bench
    from bench.health.protocols import compare_protocols
    from bench.models.zoo import expand_models
    from bench.registry import split_list

    chosen = bench.load_subset(subset, limit=limit or None, data_root=data_root)
    names = expand_models([name.strip() for name in models.split(",") if name.strip()])
    loaded = [bench.load_model(name).to(device) for name in names]
    rules = [name.strip() for name in split_list(protocols) if name.strip()]
    say(f"{chosen.name}: {len(chosen)} images, {len(loaded)} models, {len(rules)} protocols. Tables go to {out}.")
    words = f"Stopped; finished parts are kept in {out}. Start the same command again to go on."
    with stoppable(words), _progress() as report:
        made = compare_protocols(
            chosen,
            loaded,
            methods,
            metrics,
            rules,
            out,
            command=command_line(),
            report=lambda done, total: report("maps and scores", done, total),
        )
    for line in made.taus_in_words():
        say(line)
    say(f"Tables: {out / 'protocols.md'}")


def _plugins(files: list[Path] | None) -> None:
    from bench.plugins import load_entry_points, load_plugin

    for failure in load_entry_points():
        errors.print(f"! {failure}", style="yellow", highlight=False, soft_wrap=True)
    for file in files or []:
        load_plugin(file)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show what is being done and how far it is; gives report(what, done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, refresh_per_second=4) as bar:
        shown = bar.add_task("starting", total=None)
        yield lambda what, done, total: bar.update(shown, description=what, completed=done, total=total)


def _print(found: Health) -> None:
    """Print what fails, in sentences, and how many metrics pass."""
    for note in dict.fromkeys(found.notes):
        say(f"! {note}", style="yellow")
    judged = [v for v in found.verdicts if v.passes is not None]
    if not judged:
        raise BenchError("No metric of this run could be judged; add oracle, random and center_gaussian to the run.")
    for verdict in found.failing():
        kind = "" if verdict.ranked else " (reported, not ranked)"
        say(f"fail: {verdict.subset}, {verdict.model}: {verdict.metric}{kind} {'; '.join(verdict.reasons[:2])}")
    say(f"{sum(v.passes is True for v in judged)} of {len(judged)} metrics pass, over all models.")
