"""The command `cambench`: each command is a thin call of a public function.

Whatever goes wrong is one sentence on standard error and exit code 2; Ctrl-C keeps what is
finished and exits with 130. `failures` says how.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, NoReturn

from bench.cli.failures import run_safely
from bench.cli.option_checks import check_words
from bench.plain_streams import prepare_streams

# Before torch starts its threads: waiting threads that spin make busy processes much slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main() -> NoReturn:
    """Run the command line; the exit code is 0, 1 (a regression), 2 (a failure) or 130 (Ctrl-C)."""
    prepare_streams()
    sys.exit(run_safely(start))


def start() -> object:
    """Run the command that the words of this process name, and return its exit code.

    The commands are imported here, so that a failure of an import is one sentence, too.
    """
    check_words(sys.argv[1:])
    from typer.main import get_command

    app = importlib.import_module("bench.cli.application").app
    return get_command(app)(prog_name="cambench", standalone_mode=False)


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("bench.cli.application").app
