"""The rates of a network here and now: seconds per forward, backward and replay of the head."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.data.input_size import Size, split_size
from bench.engine.counts import Counts
from bench.engine.folding import folds_of
from bench.engine.memory import fitting, is_out_of_memory, wait_for
from bench.engine.prober import Prober
from bench.errors import NotApplicable
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network

REPEATS, PATIENCE = 3, 0.3
"""A call is timed so often, but no more when it has taken so many seconds: a run waits for this
before it starts.
"""

CPU_IMAGES = 16
"""A CPU is measured on so many images at most: there a larger batch is not faster, and a run waits
for this.
"""

GRADIENT_IMAGES = 4
"""Images of the batch that backwards are timed on, which keep all their layers' outputs."""

HEAD_BACKWARD = 2.0
"""A backward of the head in replays of the head."""


@dataclass(frozen=True)
class Rates:
    """Seconds per image of one whole forward, one backward, and one replay of the head.

    measured: here; False where the rate was given.
    """

    forward: float
    backward: float
    head: float
    measured: bool = True

    def seconds(self, counts: Counts) -> float:
        """Return how long the networks take for so much."""
        heads = counts.head_forwards + HEAD_BACKWARD * counts.head_backwards
        return counts.forwards * self.forward + counts.backwards * self.backward + heads * self.head

    def scale_to(self, forwards_per_second: float) -> Rates:
        """Return these rates as of a machine that runs so many forwards in a second."""
        factor = 1 / (forwards_per_second * self.forward)
        return Rates(
            1 / forwards_per_second, self.backward * factor, self.head * factor, measured=False
        )


def measure_rates(model: Explainee, side: Size, batch_size: int) -> Rates:
    """Return what forwards, backwards and head replays take, on one batch of zeros after a warm-up.

    Where memory is too short for the batch, on one that it is enough for, as in the run.
    """
    count = min(batch_size, CPU_IMAGES) if model.device.type == "cpu" else batch_size
    return fitting(lambda size: _time_batch(model, side, size), count, model.device)


def _time_batch(model: Explainee, side: Size, batch_size: int) -> Rates:
    prober = Prober(model, batch_size)
    images = torch.zeros(
        batch_size, model.channels, *split_size(side), device=model.device
    ).contiguous(memory_format=torch.channels_last)
    few = images[:GRADIENT_IMAGES].clone().requires_grad_()
    with guard_network(model.net):
        with torch.inference_mode():
            captured = model.capture(images)
            rows = torch.arange(len(images))
            with folds_of(model).apply():  # as perturbed images run
                prober.logits(images)  # the warm-up
                forward = _time_call(model, lambda: prober.logits(images)) / len(images)
            head = _time_call(
                model, lambda: model.split.head(captured.values, captured, rows)
            ) / len(images)

        backward = _time_backward(model, prober, few, forward)
    return Rates(forward, backward, head)


def _time_backward(model: Explainee, prober: Prober, images: torch.Tensor, forward: float) -> float:
    """Return the seconds of a backward pass of one image, at least those of a forward.

    A network that cuts its graph has none, and gradient methods are not applicable there.
    """

    def both() -> None:
        torch.autograd.grad(prober.logits(images).amax(1).sum(), images)

    try:
        both()
    except NotApplicable:
        return forward
    except RuntimeError as error:  # the graph is cut, which nobody has asked about yet
        if is_out_of_memory(error):
            raise
        return forward
    return max(_time_call(model, both) / len(images) - forward, forward)


def _time_call(model: Explainee, call: Callable[[], object]) -> float:
    """Return the shortest time of some calls: what else the machine does only makes them longer."""
    times: list[float] = []
    while len(times) < REPEATS and sum(times) < PATIENCE:
        wait_for(model.device)
        start = time.perf_counter()
        call()
        wait_for(model.device)
        times.append(time.perf_counter() - start)
    return min(times)
