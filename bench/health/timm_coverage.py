"""Coverage: which timm architectures can be explained, each built, explained and checked on random
images.

A row says what layer and grid an architecture gets by default, whether Grad-CAM on it gives finite
maps that are not constant, and whether the grid is in place: whether the cell that changes most,
when one patch of the image changes, is the cell at that patch. Weights are random, so nothing is
downloaded and no accuracy is meant.
"""

from __future__ import annotations

import csv
import fnmatch
import gc
import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from pathlib import Path

import torch

from bench.data.input_size import write_size
from bench.errors import BenchError, suggestions
from bench.file_contents import read_text
from bench.files import append_text, replaced_file
from bench.health.timm_check import examine
from bench.models.zoo import load_model

LIMIT = 500
"""Millions of parameters up to which an architecture is built by default."""

NOT_BUILT = "Not built"

MODELS_PER_PROCESS = 20
"""A fresh process from time to time gives back whatever libraries have kept."""


@dataclass(frozen=True)
class Row:
    """What is known of one architecture; `reason` says in one sentence what does not work, and is
    "" where all does.

    family: timm's module.  parameters: millions.  size: side of the input.  grid: "h x w" of the
    layer. finite: all maps are.  non_constant: one at least is.  in_place: places of five, "5/5"
    where the grid is in place. weights: "drawn", or "calibrated" where a random network needed help
    to let a signal through (`calibrate`).
    """

    name: str
    family: str = ""
    parameters: str = ""
    size: str = ""
    layer: str = ""
    grid: str = ""
    finite: str = ""
    non_constant: str = ""
    in_place: str = ""
    weights: str = ""
    works: str = "no"
    seconds: str = ""
    reason: str = ""


COLUMNS = tuple(f.name for f in fields(Row))

# --- one model


def check(name: str) -> Row:
    """Build an architecture with random weights, explain random images with Grad-CAM, and say what
    came out.

    Never raises (but for Ctrl-C): whatever goes wrong is the row's reason.
    """
    started = time.perf_counter()
    facts: dict[str, str] = {"name": name, "family": family(name)}
    try:
        model = load_model(name)
        facts |= {
            "parameters": millions(sum(p.numel() for p in model.net.parameters())),
            "size": write_size(model.size),
        }
        facts |= examine(model)
    except (
        Exception
    ) as error:  # each architecture may fail in its own way, and none may stop the others
        facts["reason"] = one_sentence(error)
    facts["works"] = "no" if facts.get("reason") else "yes"
    return Row(**{**facts, "seconds": f"{time.perf_counter() - started:.1f}"})


# --- many models


def select(pattern: str) -> list[str]:
    """Return timm's architecture names for comma separated names and wildcards."""
    import timm

    known = timm.list_models()
    chosen: list[str] = []
    for part in (p.strip() for p in pattern.split(",") if p.strip()):
        found = [n for n in known if fnmatch.fnmatchcase(n, part)]
        if not found:
            raise BenchError(f"No timm architecture fits {part!r}.{suggestions(part, known)}")
        chosen += [n for n in found if n not in chosen]
    return chosen


def family(name: str) -> str:
    """Return the timm module that an architecture is defined in."""
    import timm

    return str(timm.models.model_entrypoint(name).__module__).rpartition(".")[2]


def parameters(name: str) -> int:
    """Return the number of parameters of an architecture, without making any (torch's meta device);
    0: unknown.
    """
    import timm

    try:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name).parameters())
    except Exception:  # it will be built, and then its row says what is wrong
        return 0


def input_side(name: str) -> int:
    """Return the side of an architecture's input, as its default configuration states it."""
    import timm

    config = timm.get_pretrained_cfg(name)
    return 224 if config is None else int(config.input_size[-1])


def millions(count: int) -> str:
    """Return a number of parameters in millions, one decimal."""
    return f"{count / 1e6:.1f}"


def one_sentence(error: BaseException) -> str:
    """Return an error as one sentence, and where it is none of ours with its type."""
    text = " ".join(str(error).split())
    if not isinstance(error, BenchError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def run(
    names: list[str],
    out: Path | None = None,
    limit: float = LIMIT,
    progress: Callable[[int, int, str], None] | None = None,
) -> Iterator[Row]:
    """Yield a row for every name: those that `out` has already, then the others, small ones first.

    Each new row is written to `out` at once.  progress: (done, all, what is being done).
    """
    report = progress or (lambda *_: None)
    known = read_rows(out)
    yield from (known[name] for name in names if name in known)
    waiting = [name for name in names if name not in known]
    done = len(names) - len(waiting)
    sizes = {}
    for number, name in enumerate(waiting):
        report(number, len(waiting), f"counting parameters: {name}")
        sizes[name] = parameters(name)
    if waiting and out is not None:
        write_rows(out, known.values())
    workers = Workers()
    try:
        for name in sorted(waiting, key=lambda n: sizes[n] * input_side(n) ** 2):
            report(done, len(names), name)
            row = check_size(name, sizes[name], limit) or workers.check(name)
            if out is not None:
                append_row(out, row)
            done += 1
            yield row
        report(done, len(names), "done")
    finally:
        workers.stop()


def summary(rows: Sequence[Row]) -> str:
    """Return one sentence: how many of the architectures that were built work."""
    built = [row for row in rows if not row.reason.startswith(NOT_BUILT)]
    works = sum(row.works == "yes" for row in built)
    share = f" ({works / len(built):.1%})" if built else ""
    left = (
        f"; {len(rows) - len(built)} were above the limit and not built"
        if len(rows) > len(built)
        else ""
    )
    return f"{works:,} of {len(built):,} architectures work{share}{left}."


def check_size(name: str, count: int, limit: float) -> Row | None:
    """Return the row of an architecture above the limit, which is not built."""
    if count <= limit * 1e6:
        return None
    reason = (
        f"{NOT_BUILT}: {count / 1e6:,.0f} M parameters, above the limit of {limit:g} M (--limit)."
    )
    return Row(name, family(name), millions(count), reason=reason)


class Workers:
    """Another process that checks one model at a time; if the system kills it, that is a row, and a
    new one starts.
    """

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def check(self, name: str) -> Row:
        """Return the row of a name."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                1,
                mp_context=get_context("spawn"),
                initializer=_quiet,
                max_tasks_per_child=MODELS_PER_PROCESS,
            )
        try:
            return self._pool.submit(_check_and_clear, name).result()
        except BrokenProcessPool:
            self.stop()
            return Row(
                name,
                family(name),
                reason="The process was killed while it was checked; memory may be short.",
            )

    def stop(self) -> None:
        """End the process, also in the middle of a model."""
        if self._pool is not None:
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def _check_and_clear(name: str) -> Row:
    row = check(name)
    gc.collect()  # modules and their hooks refer to each other
    return row


def _quiet() -> None:
    """Set up the checking process: no warnings of libraries, and Ctrl-C is its parent's
    business.
    """
    import signal
    import warnings

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")


# --- the file


def read_rows(path: Path | None) -> dict[str, Row]:
    """Return the rows of a coverage file by name; none where there is no file."""
    if path is None or not path.is_file():
        return {}
    text = read_text(path, "coverage file", "choose another --out")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise BenchError(f"{path} is no coverage file of this version; choose another --out.")
    return {row["name"]: Row(**row) for row in reader}


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a coverage file anew."""
    with (
        replaced_file(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def append_row(path: Path, row: Row) -> None:
    """Add one row, so that nothing is lost when the run is stopped."""
    line = io.StringIO()
    csv.DictWriter(line, COLUMNS, lineterminator="\n").writerow(asdict(row))
    append_text(path, line.getvalue())
