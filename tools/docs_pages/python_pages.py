"""The page of the Python API: mkdocstrings writes each name from its docstring."""

from __future__ import annotations

import bench

PLUG_INS = ("bench.engine.trace.Trace", "bench.engine.case.Case", "bench.engine.prober.Prober")
"""What the functions of a plug-in are given."""


def list_names() -> list[str]:
    """Return every public name of the package, as a path that mkdocstrings finds."""
    homes: dict[str, str] = bench._HOMES
    return [
        f"{homes[name]}.{name}" for name in sorted(bench.__all__, key=str.lower) if name in homes
    ]


def write_python_page() -> str:
    """Return the page of the Python API."""
    about = (
        "Every public name of `import bench`. [Plug-ins](../plug-ins.md) has what methods and "
        "metrics of your own are given."
    )
    entries = [
        f"::: {name}\n    options:\n      heading: bench.{name.rpartition('.')[2]}"
        for name in list_names()
    ]
    return "\n\n".join(["# Python API", about, *entries]) + "\n"
