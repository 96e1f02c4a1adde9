"""The training loop: seeded, resumable, best weights kept, early stop.

A recipe is a `TrainingTask`: it says what is trained, the loss of a batch, and how good the network
is now. All that decides the weights is in the task and in `Settings`, and every draw comes from
(seed, epoch): a training that was stopped and started again ends with the same bytes as one that
ran through.
"""

from __future__ import annotations

import csv
import json
import math
import os
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from bench.engine.memory import keep_memory
from bench.errors import BenchError, take_first_line
from bench.file_contents import check_plain_file
from bench.files import replaced_file
from bench.folder_owner import own_folder
from bench.randomness import generator
from bench.ranges import Range
from bench.seals import add_trailer, check_file

CHECKPOINT, HISTORY = "checkpoint.pt", "history.csv"
KEYS = ("stamp", "net", "optimiser", "schedule", "history", "best")
"""What a checkpoint holds."""

SCORE = "score"
PRECISIONS = ("auto", "float32", "bfloat16")

Report = Callable[[dict[str, Any]], None]
"""Called after each epoch with its numbers: epoch, loss, seconds, what the task reports, what
validation gave.
"""
Tick = Callable[[int, int], None]
"""Called after each step with (steps done, steps in all)."""
WARMUP_SLACK = 1e-6
"""Rising steps this near to one are none."""


RATES = Range(0, 1000)
"""What a learning rate and a weight decay can be."""


@dataclass(frozen=True)
class Settings:
    """How a network is trained, whatever the task.

    epochs: passes over the examples.  batch_size: examples per step; the last incomplete batch of
    an epoch is left out. lr, weight_decay: of AdamW.  schedule: one cycle with `warmup` as the
    share of rising steps, or constant. patience: stop after so many epochs without a better score;
    0 never stops early.  keep: the weights of the epoch with the best score, or the last ones.
    precision: of the forward pass; auto = bfloat16 where the device computes it fast, weights and
    evaluation are float32 always.
    """

    epochs: int = 10
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    seed: int = 0
    schedule: Literal["one_cycle", "constant"] = "one_cycle"
    warmup: float = 0.2
    patience: int = 0
    keep: Literal["best", "last"] = "best"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 0)):
            if getattr(self, name) < least:
                raise BenchError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        for name in ("lr", "weight_decay"):
            if not RATES.holds(getattr(self, name)):
                raise BenchError(f"{name} is {getattr(self, name)}; it must be {RATES}.")


class TrainingTask(ABC):
    """What is trained. `net` is the whole network, whose state dict is kept; `size` the number of
    examples.
    """

    net: nn.Module
    size: int

    @abstractmethod
    def parameters(self) -> list[dict[str, Any]]:
        """Return optimiser groups: {"params": [...]} and perhaps "lr", "weight_decay"; nothing else
        is changed.
        """

    @abstractmethod
    def train_mode(self) -> None:
        """Set each module to train or eval: frozen parts, with their batch statistics, to eval."""

    @abstractmethod
    def loss(
        self, rows: torch.Tensor, rng: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the loss of the examples `rows` [n] int64, and numbers to report; rng: of the
        augmentation.
        """

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Return numbers on held-out data, the network in eval mode; "score", higher = better,
        chooses the best.
        """


@dataclass
class History:
    """What a training was: a row of numbers per epoch, the best epoch (counted from 1), whether it
    stopped early.

    before: the numbers on held-out images before the first step; {} in older checkpoints.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    before: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0
    best_score: float = -math.inf
    stopped_early: bool = False

    @property
    def best(self) -> dict[str, float]:
        """Return the numbers of the kept epoch."""
        return self.epochs[self.best_epoch - 1]

    @property
    def changes(self) -> dict[str, tuple[float, float]]:
        """Return {number: (before, after)} on held-out images, for the kept epoch."""
        return {
            name: (old, self.best[name])
            for name, old in self.before.items()
            if name != SCORE and name in self.best
        }


def fit(
    task: TrainingTask,
    settings: Settings,
    folder: Path,
    stamp: dict[str, Any],
    report: Report | None = None,
    tick: Tick | None = None,
) -> History:
    """Train the task's network in place and return the history; the network ends with the kept
    weights, in eval mode.

    folder: gets checkpoint.pt and history.csv after every epoch.  stamp: what else decides the
    weights (data, parent, the recipe's own settings); a checkpoint of another stamp or of other
    settings is an error, one of the same is gone on from.
    """
    if task.size < 1:
        raise BenchError("There is nothing to train on: the training set is empty.")
    keep_memory()
    state = _State(
        task, settings, folder, json.dumps([stamp, vars(settings)], sort_keys=True, default=str)
    )
    with own_folder(folder, "training"):
        state.resume()
        if not state.history.epochs:
            state.history.before = _validate(task)
        while not state.finished:
            row = _epoch(task, settings, state, tick)
            state.keep(row | _validate(task))
            if report:
                report(state.history.epochs[-1])
    state.restore()
    return state.history


def _validate(task: TrainingTask) -> dict[str, float]:
    task.net.eval()
    with torch.no_grad():
        return task.validate()


def _epoch(
    task: TrainingTask, settings: Settings, state: _State, tick: Tick | None
) -> dict[str, float]:
    """Train one epoch and return its mean numbers."""
    started, sums, epoch = (
        time.perf_counter(),
        defaultdict[str, float](float),
        len(state.history.epochs),
    )
    task.train_mode()
    steps = steps_per_epoch(task.size, settings)
    device = next(task.net.parameters()).device
    for step, (rows, rng) in enumerate(batches(task.size, settings, epoch)):
        with autocast(settings, device):
            loss, numbers = task.loss(rows, rng)
        state.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        state.optimiser.step()
        state.schedule.step()
        value = loss.item()
        if not math.isfinite(value):
            raise BenchError(
                f"The loss became {value} in epoch {epoch + 1}, step {step + 1}; take a smaller "
                "learning rate, or precision float32."
            )
        for name, number in ({"loss": value} | numbers).items():
            sums[name] += number
        if tick:
            tick(epoch * steps + step + 1, settings.epochs * steps)
    means = {name: total / steps for name, total in sums.items()}
    return {"epoch": epoch + 1} | means | {"seconds": time.perf_counter() - started}


def steps_per_epoch(size: int, settings: Settings) -> int:
    """Return the number of batches of an epoch; fewer examples than a batch are one batch."""
    return max(size // settings.batch_size, 1)


def batches(
    size: int, settings: Settings, epoch: int
) -> Iterator[tuple[torch.Tensor, torch.Generator]]:
    """Yield the rows of each full batch of an epoch and the generator of its augmentation, from the
    seed.
    """
    rng = generator(settings.seed, "epoch", str(epoch))
    order = torch.randperm(size, generator=rng)
    for start in range(0, max(size - settings.batch_size, 0) + 1, settings.batch_size):
        yield order[start : start + settings.batch_size], rng


def autocast(settings: Settings, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context of the forward pass: bfloat16 where it is asked for, or helps."""
    lower = settings.precision == "bfloat16" or (
        settings.precision == "auto" and fast_bfloat16(device)
    )
    return torch.autocast(device.type, torch.bfloat16) if lower else nullcontext()


def fast_bfloat16(device: torch.device) -> bool:
    """Return whether bfloat16 is computed by the device itself and not by way of float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _State:
    """Optimiser, schedule, history and best weights, and their checkpoint."""

    def __init__(self, task: TrainingTask, settings: Settings, folder: Path, stamp: str) -> None:
        self.task, self.settings, self.folder, self.stamp = task, settings, folder, stamp
        groups = task.parameters()
        rates = [group.get("lr", settings.lr) for group in groups]
        self.optimiser = torch.optim.AdamW(
            groups, lr=settings.lr, weight_decay=settings.weight_decay
        )
        self.schedule = _schedule(self.optimiser, rates, settings, task.size)
        self.history = History()
        self.best: dict[str, torch.Tensor] = {}

    @property
    def finished(self) -> bool:
        """Return whether all epochs are done, or patience is at its end."""
        return self.history.stopped_early or len(self.history.epochs) >= self.settings.epochs

    def keep(self, row: dict[str, float]) -> None:
        """Take an epoch's numbers into the history, keep the weights if they are the best, write
        the checkpoint.
        """
        history, score = self.history, -math.inf if math.isnan(row[SCORE]) else row[SCORE]
        history.epochs.append(row)
        # The first weights are kept whatever their score is.
        if self.settings.keep == "last" or not self.best or score > history.best_score:
            history.best_epoch, history.best_score = len(history.epochs), score
            self.best = {k: v.detach().cpu().clone() for k, v in self.task.net.state_dict().items()}
        waited = len(history.epochs) - history.best_epoch
        history.stopped_early = 0 < self.settings.patience <= waited
        self._write()

    def _write(self) -> None:
        content = {
            "stamp": self.stamp,
            "net": self.task.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": vars(self.history),
            "best": self.best,
        }
        with replaced_file(self.folder / CHECKPOINT, durable=True) as temporary:
            torch.save(content, temporary)
            add_trailer(temporary)
        self._write_history()

    def _write_history(self) -> None:
        names = list(dict.fromkeys(name for row in self.history.epochs for name in row))
        with (
            replaced_file(self.folder / HISTORY) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.history.epochs)

    def resume(self) -> None:
        """Take up the folder's checkpoint, if there is one."""
        path = self.folder / CHECKPOINT
        if not os.path.lexists(path):
            return
        check_plain_file(path, "checkpoint")
        content = load_checkpoint(path, next(self.task.net.parameters()).device)
        if content["stamp"] != self.stamp:
            raise BenchError(
                f"The folder {self.folder} holds a training of other settings, data or parent; "
                f"choose another --out, or remove {path}."
            )
        self.task.net.load_state_dict(content["net"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.schedule.load_state_dict(content["schedule"])
        self.history = History(**content["history"])
        self.best = {k: v.cpu() for k, v in content["best"].items()}
        self._write_history()  # a kill after the checkpoint has left it without the last epoch

    def restore(self) -> None:
        """Put the kept weights into the network."""
        self.task.net.load_state_dict(self.best)
        self.task.net.eval()


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Return the content of a checkpoint, with its tensors on a device.

    Raises:
        BenchError: the file is damaged, cannot be read, or is no checkpoint of a training.
    """
    remedy = "remove it to start anew"
    try:
        check_file(path, "The checkpoint", remedy)
        content = torch.load(path, map_location=device, weights_only=True)
    except BenchError:
        raise
    except Exception as error:  # pickle, zip and the file system each raise their own
        raise BenchError(
            f"The checkpoint {path} cannot be read ({take_first_line(error)}); {remedy}."
        ) from error
    missing = [key for key in KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise BenchError(f"{path} is no checkpoint of a training (no {missing[0]}); {remedy}.")
    return dict(content)


def _schedule(
    optimiser: torch.optim.Optimizer, rates: list[float], settings: Settings, size: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if settings.schedule == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)
    steps = settings.epochs * steps_per_epoch(size, settings)
    warmup = settings.warmup
    if abs(warmup * steps - 1) < WARMUP_SLACK:
        # OneCycleLR divides by (rising steps - 1): where one step rises, none does.
        warmup = (1 - WARMUP_SLACK) / steps
    return torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=rates, total_steps=steps, pct_start=warmup
    )
