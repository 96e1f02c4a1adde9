"""How a command ends: whatever it raises becomes one sentence on standard error and an exit code.

0: done.  1: a regression that `cambench check` judged.  2: anything that went wrong.  130: Ctrl-C.
An exception that is no `BenchError` is a fault of the program or of a plug-in. Its traceback goes
into `error.log` in the folder of the run, and to standard error with `--debug` or CAMBENCH_DEBUG=1.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from bench.errors import BenchError, take_first_line
from bench.files import replaced_file
from bench.version import __version__

DONE, REGRESSION, FAILED, STOPPED = 0, 1, 2, 130
"""All exit codes of the command line."""

DEBUG_VARIABLE, DEBUG_OPTION = "CAMBENCH_DEBUG", "--debug"

LOG_FILE = "error.log"
"""What a fault leaves in the folder of the run."""

LONGEST_WORD, LONGEST_SENTENCE = 200, 2000
"""Most characters of a word and of a sentence; a name may have 5,000."""

BENCH = Path(__file__).parents[1]

_folders: list[Path] = []


def note_folder(folder: Path | None) -> None:
    """Remember the folder that a command writes to: its fault is written there as well."""
    if folder is not None:
        _folders.append(folder)


def run_safely(start: Callable[[], object]) -> int:
    """Run a command line, and return its exit code; it raises nothing.

    Args:
        start: runs the command. It returns its exit code, or anything else for 0.

    Returns:
        0, 1, 2 or 130.
    """
    _folders.clear()
    try:
        try:
            code = check_code(start())
        except BaseException as error:
            code = end_with(error)
        return finish_output(code)
    except KeyboardInterrupt:  # a second one, while the first is answered
        return STOPPED


def check_code(code: object) -> int:
    """Return what a command ended with; a code that no command has is an error."""
    if not isinstance(code, int) or code == DONE:
        return DONE
    if code not in (REGRESSION, FAILED, STOPPED):
        raise BenchError(
            f"The command was ended with the exit code {code}, which it does not have."
        )
    return int(code)


def end_with(error: BaseException) -> int:
    """Print the sentence of an exception, and return the exit code that it stands for."""
    error = find_cause(error)
    if wants_debug():
        write_text(sys.stderr, "".join(traceback.format_exception(error)))
    if isinstance(error, KeyboardInterrupt):
        print_failure("Stopped.", style="")
        return STOPPED
    if is_call_for_help(error):
        return FAILED
    print_failure(f"Error: {shorten(describe_failure(error))}")
    return FAILED


def wants_debug() -> bool:
    """Return whether the user asked for tracebacks."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0") or DEBUG_OPTION in sys.argv[1:]


def find_cause(error: BaseException) -> BaseException:
    """Return what typer's "Aborted." or its exit at a closed pipe stands for, else the error."""
    hidden = type(error).__name__ == "Abort" or isinstance(error, SystemExit)
    inner = error.__cause__ or error.__context__
    if hidden and isinstance(inner, EOFError | KeyboardInterrupt | OSError):
        return inner
    return error


def is_call_for_help(error: BaseException) -> bool:
    """Print the help of a command that got no words at all; return whether it is one."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ != "NoArgsIsHelpError" or context is None:
        return False
    write_text(sys.stdout, f"{context.get_help()}\n")
    return True


# --- sentences


def describe_failure(error: BaseException) -> str:
    """Return the sentence of an exception; one that is no `BenchError` leaves a log, too."""
    if isinstance(error, BenchError):
        return str(error)
    if hasattr(error, "format_message"):  # a usage error of typer, or of click before it
        return describe_usage(error)
    return f"{describe_fault(error)}; {point_to_details(error)}."


def describe_usage(error: BaseException) -> str:
    """Return the sentence of a word or option that the command line cannot take."""
    text = " ".join(str(error.format_message()).split()).rstrip(".")  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    return f"{text}; {context.command_path} --help lists all options." if context else f"{text}."


def describe_fault(error: BaseException) -> str:
    """Return what happened and what to do about it, without the full stop."""
    what = take_first_line(error)
    name = type(error).__name__
    if isinstance(error, SystemExit):
        return f"sys.exit({error.code!r}) was called at {find_place(error)}; leave this call out"
    if isinstance(error, MemoryError) or name == "OutOfMemoryError":
        return f"Memory ran out ({what or name}); use a smaller --batch-size or --limit"
    if isinstance(error, RecursionError):
        return f"An input is nested too deeply ({what} at {find_place(error)}); make it flat"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename} cannot be used" if error.filename else "A file cannot be used"
        return f"{where} ({error.strerror}); check its path, its rights and the free space"
    if isinstance(error, ImportError):
        return f"A module cannot be imported ({what} at {find_place(error)}); install it"
    shown = f"{name}: {what}" if what else name
    return f"The command met an error that it does not know ({shown} at {find_place(error)})"


def find_place(error: BaseException) -> str:
    """Return file and line of the user's code that an exception passed, else of the last step of
    cambench.
    """
    steps = traceback.extract_tb(error.__traceback__)
    libraries = ("site-packages", "dist-packages", str(Path(os.__file__).parent), "<")
    own = [step for step in steps if not any(part in step.filename for part in libraries)]
    if not own:
        return "an unknown place"
    outside = [step for step in own if BENCH not in Path(step.filename).parents]
    last = (outside if outside and own[-1] in outside else own)[-1]
    file = Path(last.filename)
    inside = BENCH in file.parents
    return f"{file.relative_to(BENCH.parent).as_posix() if inside else file}:{last.lineno}"


def point_to_details(error: BaseException) -> str:
    """Return where the traceback of a fault is."""
    log = write_log(error)
    if log is not None:
        return f"{log} has the details"
    return (
        "its traceback stands above" if wants_debug() else f"{DEBUG_VARIABLE}=1 shows the details"
    )


def write_log(error: BaseException) -> Path | None:
    """Write the traceback of a fault into the folder of the run; None where that cannot be."""
    folder = next((one for one in reversed(_folders) if one.is_dir()), None)
    if folder is None:
        return None
    words = " ".join(["cambench", *sys.argv[1:]])
    head = (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, cambench {__version__}, Python {sys.version}"
    )
    text = f"{head}\n{words}\n\n{''.join(traceback.format_exception(error))}"
    try:
        with replaced_file(folder / LOG_FILE) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    except (BenchError, OSError):
        return None
    return folder / LOG_FILE


def shorten(sentence: str) -> str:
    """Return a sentence as one line of signs that a terminal shows, with long words cut.

    >>> shorten("no\\nname \\x1b[31m")
    'no name \\\\x1b[31m'
    >>> len(shorten("9" * 5000))
    200
    """
    text = " ".join(sentence.split())
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    text = re.sub(rf"\S{{{LONGEST_WORD + 1},}}", cut_word, text)
    return text if len(text) <= LONGEST_SENTENCE else f"{text[: LONGEST_SENTENCE - 3]}..."


def cut_word(found: re.Match[str]) -> str:
    """Return a long word without its middle."""
    word = found.group()
    return f"{word[:120]}...{word[-(LONGEST_WORD - 123) :]}"


# --- output


def print_failure(text: str, style: str = "red") -> None:
    """Print a line to standard error, in colour where that can be."""
    with ignore_warnings():
        try:
            from rich.console import Console

            Console(stderr=True).print(
                text, style=style, highlight=False, markup=False, soft_wrap=True
            )
        except Exception:  # the fault may be that rich cannot be imported
            write_text(sys.stderr, f"{text}\n")


@contextlib.contextmanager
def ignore_warnings() -> Iterator[None]:
    """Let no warning become an exception while a failure is printed (`python -W error`)."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def write_text(stream: object, text: str) -> None:
    """Write a text to a stream that may be closed or full."""
    with contextlib.suppress(Exception):
        stream.write(text)  # type: ignore[attr-defined]
        stream.flush()  # type: ignore[attr-defined]


def finish_output(code: int) -> int:
    """Write what is still buffered; output that is lost is a failure, except to a reader that left.

    Args:
        code: the exit code of the command.

    Returns:
        The code, or 2 where the command was done and its output is lost.
    """
    try:
        sys.stdout.flush()
        failure = getattr(sys.stdout, "failure", None)
    except (OSError, ValueError) as error:
        failure = error
    if failure is not None:
        why = getattr(failure, "strerror", None) or take_first_line(failure)
        advice = "free some space or send it elsewhere"
        print_failure(f"Error: Standard output cannot be written ({why}); {advice}.")
    with contextlib.suppress(Exception):
        sys.stderr.flush()
    return FAILED if failure is not None and code == DONE else code
