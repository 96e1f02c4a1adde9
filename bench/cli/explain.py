"""`cambench explain`: explain one image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import bench
from bench.cli.options import LOOK, PluginOption
from bench.cli.output import console, say
from bench.cli.registration import command
from bench.errors import BenchError, NotApplicable

if TYPE_CHECKING:
    from bench.models import Explainee

EPILOG = (
    "**Example**  \n`cambench explain dog.jpg --model resnet50.a1_in1k --weights pretrained "
    "--methods 'cam/*'`"
)


@command(panel=LOOK, epilog=EPILOG)
def explain(
    image: Annotated[Path, typer.Argument(help="Image file.")],
    model: Annotated[
        str, typer.Option(help="Model name, timm name or card file.")
    ] = "resnet-scenes",
    methods: Annotated[
        str, typer.Option(help="Names, groups, wildcards.")
    ] = "grad_cam,layer_cam,score_cam",
    target: Annotated[
        int | None, typer.Option(help="Class to explain [default: the predicted one].")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Picture to write [default: IMAGE.explained.png].")
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Layer to explain [default: the last with a grid].")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Weights file, or 'pretrained'.")] = None,
    plugin: PluginOption = None,
) -> None:
    """Explain one image: a picture of overlays, one per method."""
    from bench.board.overlays import draw_overlays
    from bench.cli.plans import load_plugins
    from bench.methods import METHODS
    from bench.models.explainee import describe_layer

    load_plugins(plugin)
    chosen = bench.load_model(model, weights=weights, layer=layer)
    images = chosen.read(image)
    names, maps = METHODS.select(methods), {}
    for name in names:
        with say_not_applicable():
            maps[name] = bench.explain(chosen, images, None if target is None else [target], name)[
                0
            ]
    if not maps:
        raise BenchError(
            "None of the methods fits this model and image; see `cambench list methods`."
        )
    path = out or image.with_name(f"{image.stem}.explained.png")
    shown = target if target is not None else predict_class(chosen, images)
    place = describe_layer(chosen.describe_place())
    title = f"{chosen.name}, class {shown}\n{place}"
    draw_overlays(chosen.denormalise(images)[0], maps, title, path)
    say(f"{len(maps)} maps of class {shown} at {place}: {path}")


@contextmanager
def say_not_applicable() -> Iterator[None]:
    """Print why a method does not fit, and go on."""
    try:
        yield
    except NotApplicable as reason:
        console.print(f"n/a: {reason}", style="dim", highlight=False)


def predict_class(model: Explainee, images: Any) -> int:
    """Return the class that the model predicts for the first image."""
    from bench.engine.prober import Prober
    from bench.engine.trace import Trace

    return int(Trace(Prober(model), images).predicted[0])
