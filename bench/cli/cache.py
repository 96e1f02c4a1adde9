"""`cambench cache`: the decoded images that are kept between runs."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.cli.options import HOUSE
from bench.cli.output import format_bytes, say
from bench.cli.registration import command

EPILOG = """**Examples**

- `cambench cache` - where it lies, and how much it holds

- `cambench cache --clear` - empty it

- `CAMBENCH_CACHE_GIB=20 cambench run ...` - another bound than 4 GiB; 0: no cache

- `CAMBENCH_CACHE=/data/cache cambench run ...` - another place than ~/.cache/cambench
"""


@command(panel=HOUSE, epilog=EPILOG)
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Drop every entry.")] = False,
) -> None:
    """Show the decoded images that are kept between runs, or drop them.

    The cache holds images as the models see them. Its key is the image's content and its
    preprocessing, so no entry is ever out of date. A full cache drops the images that were not
    used for longest.
    """
    from bench.data.cache import BOUND_VARIABLE, FrameCache, find_frame_folder, read_cache_bound

    bound = read_cache_bound()
    kept = FrameCache(find_frame_folder(), bound)
    if clear:
        dropped = kept.clear()
        say(
            f"Dropped {dropped.entries:,} images, {format_bytes(dropped.size)}, from {kept.folder}."
        )
        return
    usage = kept.usage()
    allowed = (
        f"of at most {format_bytes(bound)}" if bound else f"and turned off ({BOUND_VARIABLE} is 0)"
    )
    say(f"{kept.folder}: {usage.entries:,} decoded images, {format_bytes(usage.size)} {allowed}.")
