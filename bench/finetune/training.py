"""One training: its images, its settings and its files, the same for every recipe."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.data import Subset
from bench.finetune.data import Pictures, hold_out, make_pictures
from bench.finetune.loop import History, Report, Settings, Tick, TrainingTask, fit
from bench.finetune.save import describe_data, write_model
from bench.models.explainee import Explainee


@dataclass(frozen=True)
class Training:
    """What a recipe trains on, how its loop runs, and where it writes the result.

    Args:
        subset: Images to train on.
        out: Folder of the weights, their card, the checkpoint and the history.
        name: Name of the trained model.
        validation: Held-out images. None holds out a tenth of `subset`.
        settings: Settings of the loop. None takes the recipe's own.
        command: Command line, for the card.
        facts: Further keys of the card. They replace keys of the same name.
        report: Called after each epoch with its numbers.
        tick: Called after each step with (steps done, steps in all).
    """

    subset: Subset
    out: Path
    name: str
    validation: Subset | None = None
    settings: Settings | None = None
    command: str = ""
    facts: dict[str, Any] | None = None
    report: Report | None = None
    tick: Tick | None = None

    @cached_property
    def parts(self) -> tuple[Subset, Subset]:
        """Return the images to train on and the held-out images."""
        if self.validation is None:
            return hold_out(self.subset)
        return self.subset, self.validation

    @property
    def data(self) -> list[str]:
        """Return the descriptions of both parts, for cards and checkpoints."""
        return [describe_data(part) for part in self.parts]

    def make_pictures(self, model: Explainee) -> tuple[Pictures, Pictures]:
        """Return the pictures of both parts as a model sees them."""
        train, check = self.parts
        return make_pictures(train, model), make_pictures(check, model)

    def fit(self, task: TrainingTask, settings: Settings, stamp: dict[str, Any]) -> History:
        """Train the task's network in place.

        Args:
            task: What is trained.
            settings: Settings of the loop, complete.
            stamp: What else decides the weights. The data are added, unless it has them.

        Returns:
            The numbers of every epoch.
        """
        return fit(task, settings, self.out, {"data": self.data} | stamp, self.report, self.tick)

    def save(
        self,
        model: Explainee,
        history: History,
        card: dict[str, Any],
        parent: Explainee | None = None,
    ) -> Path:
        """Write the trained network's weights and its card.

        Args:
            model: The trained network.
            history: Its epochs, from `fit`.
            card: The recipe's own keys of the card.
            parent: The model that training started from.

        Returns:
            The path of the card.
        """
        trained_on, tested_on = self.data
        common = {
            "command": self.command,
            "data": trained_on,
            "top1_subset": tested_on,
            "epoch": history.best_epoch,
            **({"held_out": history.changes} if history.changes else {}),
        }
        return write_model(self.out, self.name, model, common | card | (self.facts or {}), parent)
