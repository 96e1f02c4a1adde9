"""A process that has imported what commands need, and forks one child for each command.

A command in a new process pays seconds of imports before it does anything. A fork of this server
has its own registries, output and exit code, as a new process has, and no imports to wait for. The
server itself runs nothing: a fork of a process that has computed may not use autograd.

Requests come as lines of JSON on standard input: [words, folder, environment, file for standard
output, file for standard error]. Each is answered by a line: [exit code]. A module that
`CAMBENCH_TEST_HOOK` of the environment names is asked to `install` what it brings before the
command begins; `CAMBENCH_TEST_MAIN` names one whose `main` runs in place of the command line.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys

import torch

LIBRARIES = (
    *("captum.attr", "datasets", "matplotlib.pyplot", "pandas", "pyarrow.parquet", "rich.console"),
    *("scipy.stats", "seaborn", "timm", "torch", "torchvision"),
)
ROOMS = ("board", "cli", "data", "gate", "health", "methods", "metrics", "models", "run")


def import_all() -> None:
    """Import what commands import, and compute nothing."""
    for name in (*LIBRARIES, *(f"bench.{room}" for room in ROOMS)):
        importlib.import_module(name)
    torch.set_num_threads(1)
    gc.freeze()  # children need not look through all that was imported, when they end


def serve() -> None:
    """Answer requests until there are no more; return in each child, ready to run its command."""
    for line in sys.stdin:
        words, folder, environment, *files = json.loads(line)
        child = os.fork()
        if not child:
            become(words, folder, environment, files)
            return
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(1, f"[{code}]\n".encode())
    os._exit(0)


def become(words: list[str], folder: str, environment: dict[str, str], files: list[str]) -> None:
    """Take over a command's words, folder, environment and output."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, file in enumerate((os.devnull, *files)):
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC if number else os.O_RDONLY
        opened = os.open(file, flags)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = ["cambench", *words]
    written = environment.get("PYTHONIOENCODING", "utf-8")
    sys.stdout.reconfigure(encoding=written, line_buffering=False)
    sys.stderr.reconfigure(encoding=written)


if __name__ == "__main__":
    import_all()
    serve()
    if hook := os.environ.get("CAMBENCH_TEST_HOOK"):
        importlib.import_module(hook).install()
    importlib.import_module(os.environ.get("CAMBENCH_TEST_MAIN", "bench.cli")).main()
