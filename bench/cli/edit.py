"""`cambench edit`: draw attention maps by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import bench
from bench.cli.options import TRAIN, DataRootOption, DeviceOption, PluginOption, SubsetOption
from bench.cli.output import say, stoppable, warn
from bench.cli.registration import command
from bench.files import file_name
from bench.progress import show_images

if TYPE_CHECKING:
    from bench.editor import Session, StartReport

EPILOG = """**Examples**

- `cambench edit --model abn-scenes --subset scenes-val --limit 20 --classes "ringed star"`

- `cambench finetune guided --model abn-scenes --maps runs/attention-maps/abn-scenes--scenes-val` -
  to train from them
"""


@command(panel=TRAIN, epilog=EPILOG)
def edit(
    model: Annotated[
        str, typer.Option(help="Model with an attention branch: bundled name or card file.")
    ],
    subset: SubsetOption,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the maps [default: runs/attention-maps/MODEL--SUBSET]."),
    ] = None,
    port: Annotated[
        int, typer.Option(help="Port on this machine; 0: any that is free.", min=0, max=65535)
    ] = 8765,
    limit: Annotated[
        int,
        typer.Option(
            help="Images to draw at most, those whose map misses the object most; 0 for all.", min=0
        ),
    ] = 30,
    classes: Annotated[
        str | None,
        typer.Option(help="Only images of these classes: names or numbers, comma separated."),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Edit every image, not only those right in class and wrong in place."
        ),
    ] = False,
    browser: Annotated[bool, typer.Option(help="Open the page, where there is a screen.")] = True,
    device: DeviceOption = "cpu",
    plugin: PluginOption = None,
    data_root: DataRootOption = None,
) -> None:
    """Draw attention maps by hand, on a page of this machine. Training reads the saved maps.

    The queue holds images with the right class and a misplaced map. The worst map comes first. A
    second start goes on at the first image without a map. Ctrl-C ends the editor.
    """
    from bench.cli.plans import choose_pasted, load_plugins
    from bench.editor import (
        EditorServer,
        Session,
        StartReport,
        address_of,
        listen,
        make_token,
        read_classes,
    )

    load_plugins(plugin)
    report, token = StartReport(), make_token()
    with (
        stoppable("Stopped before the page was ready."),
        listen(port) as listening,
        EditorServer(report, listening, token, browser) as server,
    ):
        say(
            f"Open {address_of(listening, token)} in a browser of this machine; Ctrl-C ends the "
            "editor."
        )
        begin_step(report, f"Loading the network {model}")
        loaded = bench.load_model(model).to(device)
        begin_step(report, f"Opening the images of {subset}")
        images = choose_pasted(bench.load_subset(subset, data_root=data_root), [loaded])
        labels = () if classes is None else read_classes(classes, images)
        folder = out or choose_folder(loaded.name, images.name)
        begin_step(report, "Computing the maps")
        with show_images(f"{images.name} under {loaded.name}") as show:

            def advance(done: int, total: int) -> None:
                server.open_page(folder)  # the folder is there now
                report.advance(done, total)
                show(done, total)

            session = Session(loaded, images, folder, everything, advance, limit, labels)
        with session:
            say_queue(session)
            report.session = session
            server.open_page(folder)
            server.wait()
    say(f"Closed; the maps are in {folder}.")


def choose_folder(model: str, subset: str) -> Path:
    """Return where the maps of a network on a subset are saved."""
    return Path("runs") / "attention-maps" / file_name(f"{model}--{subset}", "-")


def begin_step(report: StartReport, step: str) -> None:
    """Say what the start does, in the terminal and in the page."""
    report.begin(step)
    say(f"{step} ...")


def say_queue(session: Session) -> None:
    """Print what there is to draw, and which maps cannot be read."""
    drawn = sum(session.is_drawn(k) for k in range(len(session)))
    say(
        f"{len(session)} images to edit, of {len(session.seen)} looked at; {drawn} of "
        f"{len(session)} drawn. Maps are saved in {session.folder}."
    )
    for reason in session.maps.damaged.values():
        warn(f"{reason.rstrip('.')}; saving that image keeps the file in history/.")
