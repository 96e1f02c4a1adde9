"""`cambench explain`: explain images, one picture each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import bench
from bench.cli.model_arguments import ModelArgsOption, NumClassesOption, read_arguments
from bench.cli.options import LOOK, PluginOption
from bench.cli.output import console, say, warn
from bench.cli.registration import command
from bench.errors import BenchError, NotApplicable
from bench.folder_owner import own_file, own_folder

if TYPE_CHECKING:
    from bench.engine.trace import Trace
    from bench.models import Explainee

EPILOG = (
    "**Example**  \n`cambench explain dog.jpg --model resnet50.a1_in1k --weights pretrained "
    "--methods 'cam/*'`"
)


@command(panel=LOOK, epilog=EPILOG, long=True)
def explain(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    model: Annotated[
        str, typer.Option(help="Model name, timm name or card file.")
    ] = "resnet-scenes",
    methods: Annotated[
        str, typer.Option(help="Names, groups, wildcards.")
    ] = "grad_cam,layer_cam,score_cam",
    target: Annotated[
        int | None, typer.Option(help="Class to explain [default: the predicted one].", min=0)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Picture to write, or folder for several [default: IMAGE.explained.png, here]."
        ),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Layer to explain [default: the last with a grid].")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Weights file, or 'pretrained'.")] = None,
    num_classes: NumClassesOption = None,
    model_args: ModelArgsOption = None,
    plugin: PluginOption = None,
) -> None:
    """Explain images: for each a picture of overlays, one per method."""
    from bench.board.picture_files import place_pictures
    from bench.cli.plans import load_plugins
    from bench.models.network_classes import find_class_names

    missing = [image for image in images if not image.is_file()]
    if missing:
        raise BenchError(f"There is no image file {missing[0]}; check the path.")
    load_plugins(plugin)
    arguments = read_arguments(num_classes, model_args)
    chosen = bench.load_model(model, weights=weights, layer=layer, **arguments)
    names = find_class_names(chosen)
    with nullcontext() if out is None or out.suffix else own_folder(out, "explanation"):
        for image, picture in place_pictures(images, out):
            with own_file(picture, "explanation"):
                explain_image(chosen, image, picture, methods, target, names)


def explain_image(
    model: Explainee,
    image: Path,
    picture: Path,
    methods: str,
    target: int | None,
    names: Sequence[str],
) -> None:
    """Draw one image's maps into a picture, and print its classes."""
    import torch

    from bench.board.overlays import draw_overlays
    from bench.board.picture_files import OWNER, name_owner
    from bench.data.image_survey import describe_file
    from bench.engine.prober import Prober
    from bench.engine.trace import Trace
    from bench.methods import METHODS
    from bench.run.map_steps import track_maps

    pixels, maps = model.read(image), {}
    for note in describe_file(image):
        warn(note)
    # One pass for the classes and all methods.
    trace = Trace(Prober(model), pixels, None if target is None else torch.tensor([target]))
    classes = describe_classes(trace, names)
    chosen = {name: METHODS.get(name) for name in METHODS.select(methods)}
    made = track_maps([*chosen.values()], trace, f"{image.name}: ")
    for name, method in zip(chosen, made, strict=True):
        with say_not_applicable():
            maps[name] = method(trace)[0]
    if not maps:
        raise BenchError(
            "None of the methods fits this model and image; see `cambench list methods`."
        )
    title = f"{describe_model(model)}\n{classes}"
    draw_overlays(model.denormalise(pixels)[0], maps, title, picture, {OWNER: name_owner(image)})
    say(f"{image}: {classes}")
    say(f"{len(maps)} maps of {describe_model(model)}: {picture}")


def describe_model(model: Explainee) -> str:
    """Return what the picture and the terminal call the model: its name, layer and grid."""
    from bench.models.layer_grid import describe_layer

    return f"{model.name}, {describe_layer(model.describe_place())}"


def describe_classes(trace: Trace, names: Sequence[str]) -> str:
    """Return the explained and the predicted class, with names where known and probabilities."""
    from bench.engine.prober import probability

    def describe(seen: Trace) -> str:
        number, chance = int(seen.targets[0]), float(probability(seen.log_odds)[0])
        name = f" {names[number]}" if number < len(names) else ""
        return f"class {number}{name} (p = {chance:.3f})"

    if trace.targets.equal(trace.predicted):
        return f"explained and predicted: {describe(trace)}"
    return f"explained: {describe(trace)}, predicted: {describe(trace.retarget(trace.predicted))}"


@contextmanager
def say_not_applicable() -> Iterator[None]:
    """Print why a method does not fit, and go on."""
    try:
        yield
    except NotApplicable as reason:
        console.print(f"n/a: {reason}", style="dim", highlight=False)
