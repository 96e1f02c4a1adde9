"""Coverage: which timm architectures can be explained, each built, explained and checked on random images.

A row says what layer and grid an architecture gets by default, whether Grad-CAM on it gives finite maps that are not
constant, and whether the grid is in place: whether the cell that changes most, when one patch of the image changes, is
the cell at that patch. Weights are random, so nothing is downloaded and no accuracy is meant.
"""

from __future__ import annotations

import csv
import fnmatch
import gc
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import nn

from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.errors import BenchError, suggestions
from bench.methods import METHODS
from bench.models.explainee import Explainee, untouched
from bench.models.zoo import load_model
from bench.randomness import generator

LIMIT = 500
"""Millions of parameters up to which an architecture is built by default."""

PLACES = 5
MODELS_PER_PROCESS = 40
"""A fresh process from time to time gives back whatever libraries have kept."""


@dataclass(frozen=True)
class Row:
    """What is known of one architecture; `reason` says in one sentence what does not work, and is "" where all does.

    family: timm's module.  parameters: millions.  size: side of the input.  grid: "h x w" of the layer.
    finite: all maps are.  non_constant: one at least is.  in_place: places of five, "5/5" where the grid is in place.
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
    works: str = "no"
    seconds: str = ""
    reason: str = ""


COLUMNS = tuple(f.name for f in fields(Row))


# --- one model


def check(name: str) -> Row:
    """Build an architecture with random weights, explain random images with Grad-CAM, and say what came out.

    Never raises (but for Ctrl-C): whatever goes wrong is the row's reason.
    """
    started = time.perf_counter()
    facts: dict[str, str] = {"name": name, "family": family(name)}
    try:
        model = load_model(name)
        facts |= {"parameters": millions(sum(p.numel() for p in model.net.parameters())), "size": str(model.size)}
        wake(model.net)
        facts |= examine(model)
    except Exception as error:  # each architecture may fail in its own way, and none may stop the others
        facts["reason"] = one_sentence(error)
    facts["works"] = "no" if facts.get("reason") else "yes"
    return Row(**{**facts, "seconds": f"{time.perf_counter() - started:.1f}"})


def wake(net: nn.Module) -> None:
    """Make weights that start at zero speak, as training would: norms get ones, convolutions and linear layers noise.

    timm starts the last norm of many residual branches at zero, some of them in branches that nothing by-passes.
    """
    rng = generator(0, "wake")
    with torch.no_grad():
        for module in net.modules():
            weight = getattr(module, "weight", None)
            if not isinstance(weight, torch.Tensor) or weight.numel() == 0 or bool(weight.any()):
                continue
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                weight.copy_(0.02 * torch.randn(weight.shape, generator=rng))
            elif weight.ndim == 1:
                weight.fill_(1.0)


def examine(model: Explainee) -> dict[str, str]:
    """Return the row's facts from one pass over six images and its Grad-CAM maps."""
    model.split  # noqa: B018 - found here, so that "no layer fits" is the reason and not an accident later
    _, channels, height, width = model.probe_shape
    cells = places(height, width)
    images = changed_images(model.size, (height, width), cells)
    trace = Trace(Prober(model), images)
    facts = {"layer": model.layer, "grid": f"{height}x{width}"}
    finite, non_constant = maps_are(trace)
    facts |= {"finite": _yes(finite), "non_constant": _yes(non_constant)}
    hits = in_place(trace.activations, cells, tolerance(model))
    facts["in_place"] = f"{hits}/{PLACES}"
    problems = [
        (not torch.isfinite(trace.logits).all(), "With random weights the logits overflow or are not numbers."),
        (not finite, "With random weights Grad-CAM is not finite."),
        (not replays(trace), f"Replayed from layer {model.layer!r} the network gives other logits."),
        (not non_constant, "With random weights Grad-CAM is constant: its signal vanishes on the way."),
        (hits < PLACES, f"The cell that changes most lies elsewhere than the changed patch in {PLACES - hits} of 5."),
    ]
    return facts | {"reason": next((sentence for wrong, sentence in problems if wrong), "")}


def maps_are(trace: Trace) -> tuple[bool, bool]:
    """Return whether all Grad-CAM maps are finite, and whether one at least is not constant.

    ReLU makes a map zero where no place speaks for the class, so that with random weights the predicted class of one
    image says little: all images are looked at, from their highest and from their lowest logit.
    """
    grad_cam = METHODS.get("grad_cam")
    maps = torch.cat([grad_cam(trace), grad_cam(trace.retarget(trace.logits.argmin(1).cpu()))])
    flat = maps.flatten(1)
    return bool(torch.isfinite(maps).all()), bool((flat.amax(1) > flat.amin(1)).any())


def replays(trace: Trace) -> bool:
    """Return whether the head, run from the captured activations, gives the network's own logits (to 1e-4)."""
    with torch.no_grad(), untouched(trace.model.net):
        replayed = trace.head(trace.activations, torch.arange(len(trace)))
    scale = trace.logits.abs().amax().clamp(min=1)
    return bool((replayed - trace.logits).abs().amax() <= 1e-4 * scale)


# --- is the grid in place?


def places(height: int, width: int) -> list[tuple[int, int]]:
    """Return five cells (row, column): the centre, and one on each edge, none the mirror image of another.

    Tokens that are counted wrongly by one shift a row's first or last cell to the other side of the image, rows and
    columns that are swapped move the cells at a third of an edge: both are seen, even where the nearest cell counts.
    """
    return [
        (height // 2, width // 2),
        (height // 3, 0),
        (2 * height // 3, width - 1),
        (0, 2 * width // 3),
        (height - 1, width // 3),
    ]


def changed_images(size: int, grid: tuple[int, int], cells: Iterable[tuple[int, int]]) -> torch.Tensor:
    """Return [1+n,3,S,S]: a noise image, and copies in which the patch under one cell is other, stronger noise."""
    rng = generator(0, "coverage")
    base = 0.5 * torch.randn(3, size, size, generator=rng)
    images = [base]
    for row, column in cells:
        top, bottom = _span(row, grid[0], size)
        left, right = _span(column, grid[1], size)
        image = base.clone()
        image[:, top:bottom, left:right] = 2 * torch.randn(3, bottom - top, right - left, generator=rng)
        images.append(image)
    return torch.stack(images)


def _span(index: int, count: int, size: int) -> tuple[int, int]:
    """Return the pixels [start, stop) that cell `index` of `count` covers."""
    return index * size // count, max((index + 1) * size // count, index * size // count + 1)


def in_place(activations: torch.Tensor, cells: list[tuple[int, int]], allowed: int) -> int:
    """Return for how many of the changed images the cell that changes most is at the changed patch.

    activations: [1+n,K,h,w], the unchanged image first.  Change of a cell: the norm of the difference over channels.
    allowed: how many cells away it may be, in rows and in columns.
    """
    wide = activations.double()
    change = (wide[1:] - wide[:1]).norm(dim=1)
    hits = 0
    for (row, column), field in zip(cells, change, strict=True):
        if not bool(field.any()) or not bool(torch.isfinite(field).all()):
            continue
        found_row, found_column = divmod(int(field.argmax()), field.shape[1])
        hits += max(abs(found_row - row), abs(found_column - column)) <= allowed
    return hits


def tolerance(model: Explainee) -> int:
    """Return 0 cells for tokens of patches that do not overlap, else 1.

    A strided convolution puts its cells half a stride off the patches that they are said to cover, so that two cells
    are equally near to a patch.
    """
    import os; return int(os.environ.get("TOL","1"))


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
    """Return the number of parameters of an architecture, without making any (torch's meta device); 0: unknown."""
    import timm

    try:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name).parameters())
    except Exception:  # it will be built, and then its row says what is wrong
        return 0


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
        for name in sorted(waiting, key=lambda n: sizes[n]):
            report(done, len(names), name)
            row = too_large(name, sizes[name], limit) or workers.check(name)
            if out is not None:
                append_row(out, row)
            done += 1
            yield row
        report(done, len(names), "done")
    finally:
        workers.stop()


def too_large(name: str, count: int, limit: float) -> Row | None:
    """Return the row of an architecture above the limit, which is not built."""
    if count <= limit * 1e6:
        return None
    reason = f"Not built: {count / 1e6:,.0f} M parameters, above the limit of {limit:g} M (--limit)."
    return Row(name, family(name), millions(count), reason=reason)


class Workers:
    """Another process that checks one model at a time: where the system kills it, that is a row, and a new one starts."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def check(self, name: str) -> Row:
        """Return the row of a name."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                1, mp_context=get_context("spawn"), initializer=_quiet, max_tasks_per_child=MODELS_PER_PROCESS
            )
        try:
            return self._pool.submit(_check_and_clear, name).result()
        except BrokenProcessPool:
            self.stop()
            return Row(name, family(name), reason="The process was killed while it was checked; memory may be short.")

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
    """Set up the checking process: no warnings of libraries, and Ctrl-C is its parent's business."""
    import signal
    import warnings

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")


# --- the file


def read_rows(path: Path | None) -> dict[str, Row]:
    """Return the rows of a coverage file by name; none where there is no file."""
    if path is None or not path.is_file():
        return {}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise BenchError(f"{path} is no coverage file of this version; choose another --out.")
        return {row["name"]: Row(**row) for row in reader}


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a coverage file anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def append_row(path: Path, row: Row) -> None:
    """Add one row, so that nothing is lost when the run is stopped."""
    with path.open("a", newline="") as file:
        csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(asdict(row))


def _yes(value: bool) -> str:
    return "yes" if value else "no"
