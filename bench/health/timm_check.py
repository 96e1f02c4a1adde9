"""The check of one architecture: are its Grad-CAM maps finite, and is its grid in place?"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from bench.data.input_size import require_square
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.methods import METHODS
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network
from bench.randomness import generator

PLACES = 5


def examine(model: Explainee) -> dict[str, str]:
    """Return the row's facts from Grad-CAM maps and the changes of a few images.

    Weights are taken as they are drawn; where that fails, once more with weights that let a signal
    through in its place, as training would make them (`calibrate`).
    """
    wake(model.net)
    _, _, height, width = model.probe_shape
    facts = {"layer": model.layer, "grid": f"{height}x{width}", "weights": "drawn"}
    facts |= look_at(model, (height, width), spread=1)
    if facts["reason"] and calibrate(model):
        again = {**look_at(model, (height, width), spread=2), "weights": "calibrated"}
        if (not again["reason"], again["non_constant"], again["in_place"]) > (
            False,
            facts["non_constant"],
            facts["in_place"],
        ):
            facts |= again
    return facts


def look_at(model: Explainee, grid: tuple[int, int], spread: int) -> dict[str, str]:
    """Return what the maps of some images are, and whether the grid is in place."""
    cells = places(*grid)
    side = require_square(model.size, "The check of timm networks")
    trace = Trace(Prober(model), make_changed_images(side, grid, cells, spread))
    few = trace.select(torch.tensor([0, 1, PLACES + 1]))
    finite, non_constant = maps_are(few)
    allowed = tolerance(model, trace.captured.values)
    hits = count_in_place(precise(trace), cells, allowed)
    if hits < PLACES:  # before a flat image more stands out, or less
        flat = Trace(Prober(model), make_changed_images(side, grid, cells, spread, contrast=0))
        hits = max(hits, count_in_place(precise(flat), cells, allowed))
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
    both = {"finite": write_yes(finite), "non_constant": write_yes(non_constant)}
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
    with torch.no_grad(), guard_network(trace.model.net):
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
            model.net(torch.randn(6, *model.input_shape, generator=generator(0, "calibrate")))
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


def make_changed_images(
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
        with torch.no_grad(), guard_network(model.net):
            return model.grid(model.capture(trace.images.double()).values)
    finally:
        model.net.float()


def count_in_place(activations: torch.Tensor, cells: list[tuple[int, int]], allowed: int) -> int:
    """Return for how many of the changed images the cell that changes most is at the changed patch.

    activations: [1+n+1,K,h,w] for the images of `make_changed_images`.  allowed: how many cells
    away it may be, in rows and in columns.  The best of four measures counts: the change of a cell
    (its norm over channels); that less the mean over cells, since attention and gates change all
    cells alike; and each as a share of what the cell changes when the whole image does, since cells
    at an edge may be more or less sensitive.  A grid that is not in place fails under all.
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
    cell = (model.frame[0] / layout.height, model.frame[1] / layout.width)
    patches = (
        m
        for m in model.net.modules()
        if isinstance(m, nn.Conv2d) and m.in_channels == model.channels
    )
    return (
        0
        if layout.order == "NLC" and any(m.kernel_size == m.stride == cell for m in patches)
        else 1
    )


def write_yes(value: bool) -> str:
    """Return "yes" or "no"."""
    return "yes" if value else "no"
