"""`cambench edit`: draw attention maps by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import bench
from bench.cli.options import TRAIN, DataRootOption, DeviceOption, PluginOption, SubsetOption
from bench.cli.output import say, stoppable, warn
from bench.cli.registration import command
from bench.files import file_name
from bench.progress import show_images

EPILOG = """**Examples**

- `cambench edit --model abn-scenes --subset scenes-val --limit 100`

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
        int, typer.Option(help="Images of the subset to look at; 0 for all.", min=0)
    ] = 0,
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

    The queue holds the images with the right class and a misplaced map. A second start goes on at
    the first image without a map. Ctrl-C ends the editor.
    """
    from bench.cli.plans import choose_pasted, load_plugins
    from bench.editor import Session, address_of, listen, make_token, serve

    load_plugins(plugin)
    loaded = bench.load_model(model).to(device)
    images = bench.load_subset(subset, limit=limit or None, data_root=data_root)
    images = choose_pasted(images, [loaded])
    folder = out or Path("runs") / "attention-maps" / file_name(
        f"{loaded.name}--{images.name}", "-"
    )
    with stoppable("Stopped before the page was open."), listen(port) as listening:
        with show_images(f"{images.name} under {loaded.name}") as report:
            session = Session(loaded, images, folder, everything, report)
        with session:
            say(
                f"{len(session)} images to edit, of {len(session.seen)} looked at; maps are saved "
                f"in {folder}."
            )
            for reason in session.maps.damaged.values():
                warn(f"{reason.rstrip('.')}; saving that image keeps the file in history/.")
            token = make_token()
            say(
                f"Open {address_of(listening, token)} in a browser of this machine; Ctrl-C ends "
                "the editor."
            )
            serve(session, listening, token, browser)
    say(f"Closed; the maps are in {folder}.")
