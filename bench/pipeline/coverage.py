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
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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

NOT_BUILT = "Not built"
PLACES = 5
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
            "size": str(model.size),
        }
        facts |= examine(model)
    except (
        Exception
    ) as error:  # each architecture may fail in its own way, and none may stop the others
        facts["reason"] = one_sentence(error)
    facts["works"] = "no" if facts.get("reason") else "yes"
    return Row(**{**facts, "seconds": f"{time.perf_counter() - started:.1f}"})


def examine(model: Explainee) -> dict[str, str]:
    """Return the row's facts from Grad-CAM maps and the changes of a few images.

    Weights are taken as they are drawn; where that fails, once more with weights that let a signal
    through in its place, as training would make them (`calibrate`).
    """
    wake(model.net)
    _, _, height, width = model.probe_shape
    facts = {"layer": model.layer, "grid": f"{height}x{width}", "weights": "drawn"}
    facts |= looked_at(model, (height, width), spread=1)
    if facts["reason"] and calibrate(model):
        again = {**looked_at(model, (height, width), spread=2), "weights": "calibrated"}
        if (not again["reason"], again["non_constant"], again["in_place"]) > (
            False,
            facts["non_constant"],
            facts["in_place"],
        ):
            facts |= again
    return facts


def looked_at(model: Explainee, grid: tuple[int, int], spread: int) -> dict[str, str]:
    """Return what the maps of some images are, and whether the grid is in place."""
    cells = places(*grid)
    trace = Trace(Prober(model), changed_images(model.size, grid, cells, spread))
    few = trace.select(torch.tensor([0, 1, PLACES + 1]))
    finite, non_constant = maps_are(few)
    allowed = tolerance(model, trace.captured.values)
    hits = in_place(precise(trace), cells, allowed)
    if hits < PLACES:  # before a flat image more stands out, or less
        flat = Trace(Prober(model), changed_images(model.size, grid, cells, spread, contrast=0))
        hits = max(hits, in_place(precise(flat), cells, allowed))
    problems = (
        (not torch.isfinite(trace.logits).all(), "With random weights the logits overflow."),
        (not finite, "With random weights Grad-CAM is not finite."),
        (not replays(few), f"Replayed from layer {model.layer!r} the network gives other logits."),
        (
            not non_constant,
            "With random weights Grad-CAM is constant: no place speaks for a class.",
        ),
        (
            hits < PLACES,
            f"With random weights only {hits} of {PLACES} changed patches stand out at their place "
            "in the grid.",
        ),
    )
    reason = next((sentence for wrong, sentence in problems if wrong), "")
    both = {"finite": _yes(finite), "non_constant": _yes(non_constant)}
    return both | {"in_place": f"{hits}/{PLACES}", "reason": reason}


def maps_are(trace: Trace) -> tuple[bool, bool]:
    """Return whether all Grad-CAM maps are finite, and whether one at least is not constant.

    ReLU makes a map zero where no place speaks for the class, so that with random weights the
    predicted class of one image says little: all images are looked at, from their highest and from
    their lowest logit.
    """
    grad_cam = METHODS.get("grad_cam")
    maps = torch.cat([grad_cam(trace), grad_cam(trace.retarget(trace.logits.argmin(1).cpu()))])
    flat = maps.flatten(1)
    return bool(torch.isfinite(maps).all()), bool((flat.amax(1) > flat.amin(1)).any())


def replays(trace: Trace) -> bool:
    """Return whether the head, run from the captured activations, gives the network's own logits
    (to 1e-4).
    """
    with torch.no_grad(), untouched(trace.model.net):
        replayed = trace.head(trace.activations, torch.arange(len(trace)))
    scale = trace.logits.abs().amax().clamp(min=1)
    return bool((replayed - trace.logits).abs().amax() <= 1e-4 * scale)


# --- random weights that let a signal through


def wake(net: nn.Module) -> None:
    """Make weights that start at zero speak, as training would: norms get ones, convolutions and
    linear layers noise.

    timm starts the last norm of many residual branches at zero, some of them in branches that
    nothing by-passes.
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


def calibrate(model: Explainee) -> bool:
    """Let signals through, each in its place; return whether there was anything to do.

    Depthwise kernels get a centre that weighs thrice as much as all the rest, which becomes
    positive: random ones move what they see to a side, and many of them move it far. Batch norms
    get the statistics of a few noise images: with those that timm starts from (0 and 1) the signal
    of a deep network dies out or overflows.
    """
    modules = list(model.net.modules())
    depthwise = [m for m in modules if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1]
    norms = [m for m in modules if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    model.net.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        for convolution in depthwise:
            kernel = convolution.weight.abs_()
            kernel[:, :, kernel.shape[2] // 2, kernel.shape[3] // 2] += 3 * kernel.sum((2, 3))
        if norms:
            model.net(
                torch.randn(6, 3, model.size, model.size, generator=generator(0, "calibrate"))
            )
    model.net.eval()
    return bool(depthwise or norms)


# --- is the grid in place?


def places(height: int, width: int) -> list[tuple[int, int]]:
    """Return five cells (row, column): the centre, and one on each edge, none the mirror image of
    another.

    Tokens that are counted wrongly by one shift a row's first or last cell to the other side of the
    image, rows and columns that are swapped move the cells at a third of an edge: both are seen,
    even where the nearest cell counts.
    """
    return [
        (height // 2, width // 2),
        (height // 3, 0),
        (2 * height // 3, width - 1),
        (0, 2 * width // 3),
        (height - 1, width // 3),
    ]


def changed_images(
    size: int,
    grid: tuple[int, int],
    cells: Iterable[tuple[int, int]],
    spread: int = 1,
    contrast: float = 0.5,
) -> torch.Tensor:
    """Return [1+n+1,3,S,S]: an image; copies of it, each with one patch changed; an image that is
    changed everywhere.

    The image is noise of standard deviation `contrast`.  A patch is centred on its cell, `spread`
    cells wide, and becomes noise of deviation 2 around a colour of +-2 (noise alone is lost in
    layers that average).
    """
    rng = generator(0, "coverage")
    base = contrast * torch.randn(3, size, size, generator=rng)
    images = [base]
    for row, column in cells:
        rows, columns = _span(row, grid[0], size, spread), _span(column, grid[1], size, spread)
        image = base.clone()
        image[:, rows, columns] = _other(image[:, rows, columns].shape, (1, 1), rng)
        images.append(image)
    return torch.stack([*images, _other(base.shape, grid, rng)])


def _other(shape: torch.Size, colours: tuple[int, int], rng: torch.Generator) -> torch.Tensor:
    colour = 2 * torch.randn(1, 3, *colours, generator=rng).sign()
    return (
        2 * torch.randn(shape, generator=rng) + nn.functional.interpolate(colour, size=shape[1:])[0]
    )


def _span(index: int, count: int, size: int, spread: int) -> slice:
    """Return the pixels of a patch centred on cell `index` of `count`, `spread` cells wide, at
    least one.
    """
    extra = (spread - 1) / 2
    start = max(0, int((index - extra) * size / count))
    return slice(start, max(start + 1, min(size, int((index + 1 + extra) * size / count))))


def precise(trace: Trace) -> torch.Tensor:
    """Return A [n,K,h,w] float64; run anew in float64 where the changes would drown in float32's
    rounding.
    """
    wide = trace.activations.double()
    if (wide[1:] - wide[:1]).norm() > 1e-4 * wide[:1].norm():
        return wide
    model = trace.model
    model.net.double()
    try:
        with torch.no_grad(), untouched(model.net):
            return model.grid(model.capture(trace.images.double()).values)
    finally:
        model.net.float()


def in_place(activations: torch.Tensor, cells: list[tuple[int, int]], allowed: int) -> int:
    """Return for how many of the changed images the cell that changes most is at the changed patch.

    activations: [1+n+1,K,h,w] for the images of `changed_images`.  allowed: how many cells away it
    may be, in rows and in columns.  "Most" by the best of four measures: the change of a cell, its
    norm over channels; that less the mean over cells (what attention and gates do to all cells
    alike); and each as a share of what the cell changes when the whole image does (cells at an edge
    may be more or less sensitive). A grid that is not in place fails under all.
    """
    difference = activations[1:] - activations[:1]
    own = difference - difference.mean((2, 3), keepdim=True)
    hits = 0
    for change in (difference.norm(dim=1), own.norm(dim=1)):
        sensitivity = change[-1].clamp(min=float(change[-1].median()) / 2)
        hits = max(
            hits,
            _hits(change[:-1], cells, allowed),
            _hits(change[:-1] / sensitivity, cells, allowed),
        )
    return hits


def _hits(change: torch.Tensor, cells: list[tuple[int, int]], allowed: int) -> int:
    hits = 0
    for (row, column), field in zip(cells, change, strict=True):
        if not bool(torch.isfinite(field).all()) or not bool(field.any()):
            continue
        found_row, found_column = divmod(int(field.argmax()), field.shape[1])
        hits += max(abs(found_row - row), abs(found_column - column)) <= allowed
    return hits


def tolerance(model: Explainee, values: torch.Tensor) -> int:
    """Return 0 where each cell is a token of one patch, and patches do not overlap (ViT), else 1.

    Strided convolutions with padding put a cell up to half a stride off the pixels that it is said
    to cover, so that two cells are equally near to a patch.
    """
    layout = model.layout(values)
    cell = (model.size / layout.height, model.size / layout.width)
    patches = (m for m in model.net.modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3)
    return (
        0
        if layout.order == "NLC" and any(m.kernel_size == m.stride == cell for m in patches)
        else 1
    )


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
            row = too_large(name, sizes[name], limit) or workers.check(name)
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


def too_large(name: str, count: int, limit: float) -> Row | None:
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
