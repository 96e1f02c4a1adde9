"""`cambench cache`, and the option of `cambench run` that does without."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.terminal import said_bytes, say


def _turned_off(given: bool) -> bool:
    if given:
        from bench.data.cache import turn_off

        turn_off()
    return given


NoCacheOption = Annotated[
    bool,
    typer.Option("--no-cache", callback=_turned_off, help="Decode every image anew; keep none (see `cambench cache`)."),
]


def add_cache(app: typer.Typer) -> None:
    """Add the command `cache`."""

    @app.command(
        epilog="""**Examples**

- `cambench cache` - where it lies, and how much it holds

- `cambench cache --clear` - empty it

- `CAMBENCH_CACHE_GIB=20 cambench run ...` - another bound than 4 GiB; 0: no cache

- `CAMBENCH_CACHE=/data/cache cambench run ...` - another place than ~/.cache/cambench
"""
    )
    def cache(clear: Annotated[bool, typer.Option("--clear", help="Drop every entry.")] = False) -> None:
        """Show the decoded images that are kept between runs, or drop them.

        They are kept as the models see them, found by the image's content and its preprocessing, so none is ever out
        of date; what was not used for longest is dropped where the bound is reached.
        """
        from bench.data.cache import BOUND_VARIABLE, FrameCache, cache_bound, decoded_folder

        bound = cache_bound()
        kept = FrameCache(decoded_folder(), bound)
        if clear:
            dropped = kept.clear()
            say(f"Dropped {dropped.entries:,} images, {said_bytes(dropped.size)}, from {kept.folder}.")
            return
        usage = kept.usage()
        allowed = f"of at most {said_bytes(bound)}" if bound else f"and turned off ({BOUND_VARIABLE} is 0)"
        say(f"{kept.folder}: {usage.entries:,} decoded images, {said_bytes(usage.size)} {allowed}.")
