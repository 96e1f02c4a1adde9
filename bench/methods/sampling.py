"""Gradients at many points per image, packed into full batches over images and points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from bench.engine.trace import Trace


@dataclass(frozen=True)
class Gradients:
    """One batch of points: rows [n] (whose image), scores S_c [n], gradients dS_c/dx [n,3,H,W]."""

    rows: torch.Tensor
    scores: torch.Tensor
    gradients: torch.Tensor


def gradients_at(
    trace: Trace, count: int, point: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> Iterator[Gradients]:
    """Yield the gradients at `count` points per image, in full batches over images and points.

    point: (rows [n], numbers [n]) -> images [n,3,H,W]; asked for point 0 of every image, then for
    point 1, and so on.
    """
    index = torch.arange(count * len(trace))
    for pairs in torch.split(index, trace.prober.batch_size):
        rows, numbers = pairs % len(trace), pairs // len(trace)
        with torch.enable_grad():
            images = point(rows, numbers).detach().requires_grad_()
            logits = trace.prober.logits(images)
            scores = logits.gather(1, trace.targets[rows].to(logits.device)[:, None])[:, 0]
            (gradients,) = torch.autograd.grad(scores.sum(), images)
        trace.prober.counts.backwards += len(images)
        yield Gradients(rows, scores.detach(), gradients)


def enumerate_by_image(
    batches: Iterator[Gradients],
) -> Iterator[tuple[int, tuple[int, torch.Tensor]]]:
    """Yield (how many points of this image were seen, (row, gradient [3,H,W])), point by point."""
    seen: dict[int, int] = {}
    for batch in batches:
        for row, gradient in zip(batch.rows.tolist(), batch.gradients, strict=True):
            seen[row] = seen.get(row, 0) + 1
            yield seen[row], (row, gradient)


def expand_per_image(values: torch.Tensor, trace: Trace) -> torch.Tensor:
    """Return one number per image [n] as [n,1,1,1] on the images' device."""
    return values.to(trace.images)[:, None, None, None]


def spread(trace: Trace) -> torch.Tensor:
    """Return max x - min x per image over all channels, [B,1,1,1]."""
    return trace.images.amax((1, 2, 3), keepdim=True) - trace.images.amin((1, 2, 3), keepdim=True)


def normal(trace: Trace, generators: list[torch.Generator], rows: torch.Tensor) -> torch.Tensor:
    """Return the next standard normal draw of the images at `rows`, [n,3,H,W]."""
    shape = trace.images.shape[1:]
    return torch.stack([torch.randn(shape, generator=generators[i]) for i in rows.tolist()]).to(
        trace.images.device
    )
