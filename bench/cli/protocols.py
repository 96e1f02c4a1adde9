"""`cambench protocols`: score the same maps under several protocols."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import bench
from bench.cli.options import (
    JUDGE,
    DataRootOption,
    DeviceOption,
    LimitOption,
    MethodsOption,
    MetricsOption,
    ModelsOption,
    PluginOption,
    SubsetOption,
)
from bench.cli.output import command_line, say, stoppable
from bench.cli.registration import command
from bench.progress import show_steps

EPILOG = (
    "**Example**  \n`cambench protocols --subset scenes-val --models resnet-scenes --protocols "
    "cambench-1,"
    "rise,wsol --limit 50 --out leaderboards/protocols`"
)


@command(panel=JUDGE, epilog=EPILOG, long=True)
def protocols(
    subset: SubsetOption = "scenes-val",
    models: ModelsOption = "resnet-scenes",
    methods: MethodsOption = (
        "grad_cam,grad_cam_pp,layer_cam,eigen_cam,ablation_cam,saliency,input_x_gradient,"
        "integrated_gradients,"
        "random,center_gaussian,oracle"
    ),
    protocols: Annotated[
        str, typer.Option(help="Named protocols, comma separated; the first is compared with.")
    ] = ("cambench-1"),
    metrics: MetricsOption = "deletion,insertion,pointing_game,box_localization,pixel_precision",
    limit: LimitOption = 36,
    out: Annotated[
        Path, typer.Option(help="Folder for the tables; goes on where it stopped.")
    ] = Path("runs/protocols"),
    device: DeviceOption = "cpu",
    data_root: DataRootOption = None,
    plugin: PluginOption = None,
) -> None:
    """Score the same maps under several protocols, and show how each method's rank moves."""
    from bench.cli.plans import load_models, load_plugins, split_names
    from bench.health.protocol_comparison import compare_protocols

    load_plugins(plugin)
    chosen = bench.load_subset(subset, limit=limit or None, data_root=data_root)
    loaded = load_models(models, None, device)
    rules = split_names(protocols)
    say(
        f"{chosen.name}: {len(chosen)} images, {len(loaded)} models, {len(rules)} protocols. "
        f"Tables go to {out}."
    )
    words = f"Stopped; finished parts are kept in {out}. Start the same command again to go on."
    with stoppable(words), show_steps() as report:
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
