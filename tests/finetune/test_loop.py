"""The loop: resuming equals running through, the best weights are kept, what cannot be trained is
said.
"""

from __future__ import annotations

import csv
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from bench.errors import BenchError
from bench.finetune import loop
from bench.finetune.loop import (
    CHECKPOINT,
    HISTORY,
    SCORE,
    Settings,
    TrainingTask,
    batches,
    fit,
    steps_per_epoch,
)
from bench.models.architectures import build_seeded
from bench.ranges import Range

SETTINGS = Settings(epochs=4, batch_size=4, lr=0.05, precision="float32")


class Line(TrainingTask):
    """Fits y = 2x with batch norm in between; the noise comes from the batch's generator."""

    def __init__(self, scores: list[float] | None = None) -> None:

        def build() -> nn.Module:
            return nn.Sequential(nn.Linear(1, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))

        self.net = build_seeded(build, 0)
        self.size = 18
        self.x = torch.linspace(-1, 1, self.size)[:, None]
        self.scores = list(scores or [])
        self.seen: list[list[int]] = []

    def parameters(self):
        return [{"params": list(self.net.parameters())}]

    def train_mode(self):
        self.net.train()

    def loss(self, rows, rng):
        self.seen.append(rows.tolist())
        x = self.x[rows] + 0.01 * torch.randn(len(rows), 1, generator=rng)
        loss = (self.net(x) - 2 * self.x[rows]).square().mean()
        return loss, {"twice": 2 * loss.item()}

    def validate(self):
        assert not self.net.training
        error = float((self.net(self.x) - 2 * self.x).square().mean())
        # The scores are those of the epochs; before the first step nothing was seen.
        given = self.scores and self.seen
        return {"error": error, SCORE: self.scores.pop(0) if given else -error}


class Interrupted(Line):
    """Is stopped, as by Ctrl-C, in the middle of its third epoch."""

    def loss(self, rows, rng):
        if len(self.seen) == 10:
            raise KeyboardInterrupt
        return super().loss(rows, rng)


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def untimed(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history.epochs]


@pytest.mark.parametrize("schedule", ["one_cycle", "constant"])
def test_a_training_that_was_stopped_ends_as_one_that_ran_through(tmp_path, schedule):
    settings = replace(SETTINGS, schedule=schedule)
    whole = Line()
    expected = fit(whole, settings, tmp_path / "whole", {"data": 1})
    with pytest.raises(KeyboardInterrupt):
        fit(Interrupted(), settings, tmp_path / "parts", {"data": 1})
    resumed = Line()
    history = fit(resumed, settings, tmp_path / "parts", {"data": 1})
    assert len(resumed.seen) == 8  # two epochs of four batches; the two before were kept
    assert same(whole.net, resumed.net)
    assert untimed(history) == untimed(expected)


def test_a_finished_training_is_not_done_again(tmp_path):
    first, again = Line(), Line()
    fit(first, SETTINGS, tmp_path, {})
    fit(again, SETTINGS, tmp_path, {})
    assert again.seen == []
    assert same(first.net, again.net)


def test_same_seed_same_weights_other_seed_others(tmp_path):
    nets = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        task = Line()
        fit(task, replace(SETTINGS, seed=seed), tmp_path / folder, {})
        nets.append(task.net)
    assert same(nets[0], nets[1])
    assert not same(nets[0], nets[2])


def test_the_best_epoch_is_kept_or_the_last(tmp_path):
    best, last = Line([1, 3, 2, 0]), Line([1, 3, 2, 0])
    history = fit(best, SETTINGS, tmp_path / "best", {})
    assert (history.best_epoch, history.best_score, history.best["epoch"]) == (2, 3, 2)
    two = Line()
    fit(two, replace(SETTINGS, epochs=2, schedule="constant"), tmp_path / "constant-2", {})
    constant = Line([1, 3, 2, 0])
    fit(constant, replace(SETTINGS, schedule="constant"), tmp_path / "constant-4", {})
    assert same(
        two.net, constant.net
    )  # with a constant rate the second of four epochs is the second of two
    assert fit(last, replace(SETTINGS, keep="last"), tmp_path / "last", {}).best_epoch == 4
    assert not same(best.net, last.net)


def test_patience_stops_early_and_stays_stopped(tmp_path):
    settings = replace(SETTINGS, epochs=9, patience=2)
    task = Line([1, 3, 2, 2.5, 9])
    history = fit(task, settings, tmp_path, {})
    assert (len(history.epochs), history.best_epoch, history.stopped_early) == (4, 2, True)
    again = Line([9])
    assert len(fit(again, settings, tmp_path, {}).epochs) == 4
    assert again.seen == []


def test_a_score_that_is_no_number_is_never_better(tmp_path):
    history = fit(Line([float("nan"), 1, float("nan"), 0.5]), SETTINGS, tmp_path / "a", {})
    assert history.best_epoch == 2
    assert fit(Line([2, float("nan"), 1, 1]), SETTINGS, tmp_path / "b", {}).best_epoch == 1


def test_every_epoch_sees_full_batches_in_an_order_of_its_own():
    epochs = [[rows.tolist() for rows, _ in batches(18, SETTINGS, epoch)] for epoch in (0, 1)]
    for epoch in epochs:
        assert [len(rows) for rows in epoch] == [4, 4, 4, 4] == [4] * steps_per_epoch(18, SETTINGS)
        assert len({row for rows in epoch for row in rows}) == 16
    assert epochs[0] != epochs[1]
    few = list(batches(3, SETTINGS, 0))
    assert [len(rows) for rows, _ in few] == [3] == [3] * steps_per_epoch(3, SETTINGS)


def test_the_history_is_a_table(tmp_path):
    fit(Line(), SETTINGS, tmp_path, {})
    rows = list(csv.DictReader((tmp_path / HISTORY).read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert all(float(row["twice"]) == pytest.approx(2 * float(row["loss"])) for row in rows)


def test_progress_and_numbers_are_told(tmp_path):
    steps, epochs = [], []
    fit(
        Line(),
        SETTINGS,
        tmp_path,
        {},
        epochs.append,
        lambda done, total: steps.append((done, total)),
    )
    assert steps == [(n + 1, 16) for n in range(16)]
    assert [row["epoch"] for row in epochs] == [1, 2, 3, 4]


def test_another_training_in_the_same_folder_is_refused(tmp_path):
    fit(Line(), SETTINGS, tmp_path, {"data": 1})
    for settings, stamp in ((SETTINGS, {"data": 2}), (replace(SETTINGS, lr=0.01), {"data": 1})):
        with pytest.raises(
            BenchError, match="other settings, data or parent; choose another --out"
        ):
            fit(Line(), settings, tmp_path, stamp)


def test_a_broken_checkpoint_is_said(tmp_path):
    (tmp_path / CHECKPOINT).write_bytes(b"half of a file")
    with pytest.raises(
        BenchError, match=r"checkpoint\.pt cannot be read .*; remove it to start anew"
    ):
        fit(Line(), SETTINGS, tmp_path, {})


def test_a_loss_that_explodes_is_said(tmp_path, monkeypatch):
    # No rate that settings take makes this small network explode.
    monkeypatch.setattr(loop, "RATES", Range(0, 1e30))
    with pytest.raises(
        BenchError, match=r"The loss became (nan|inf) in epoch .*smaller learning rate"
    ):
        fit(Line(), replace(SETTINGS, lr=1e30), tmp_path, {})


@pytest.mark.parametrize("steps", range(1, 12))
@pytest.mark.parametrize("warmup", [0.1, 0.2, 0.5])
def test_a_training_may_have_any_number_of_steps(steps, warmup, tmp_path):
    # Of 5 steps a fifth is 1: OneCycleLR divided by the rising steps less one.
    settings = replace(SETTINGS, epochs=steps, batch_size=18, warmup=warmup)
    history = fit(Line(), settings, tmp_path, {})
    assert len(history.epochs) == steps
    assert all(math.isfinite(row["loss"]) for row in history.epochs)


def test_what_changed_on_held_out_images_is_kept_over_a_stop(tmp_path):
    untrained = Line()
    untrained.net.eval()
    with torch.no_grad():
        before = untrained.validate()["error"]
    whole = fit(Line(), SETTINGS, tmp_path / "whole", {})
    with pytest.raises(KeyboardInterrupt):
        fit(Interrupted(), SETTINGS, tmp_path / "parts", {})
    resumed = fit(Line(), SETTINGS, tmp_path / "parts", {})
    assert whole.changes == resumed.changes == {"error": (before, whole.best["error"])}


def test_nothing_to_train_on(tmp_path):
    task = Line()
    task.size = 0
    with pytest.raises(BenchError, match="training set is empty"):
        fit(task, SETTINGS, tmp_path, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("batch_size", 0), ("patience", -1), ("lr", -1.0), ("lr", float("nan"))],
)
def test_bad_settings(name, value):
    with pytest.raises(BenchError, match=f"{name} is {value}; it must be"):
        replace(SETTINGS, **{name: value})


def test_bfloat16_is_used_where_it_is_asked_for_or_fast(monkeypatch):
    cpu = torch.device("cpu")
    for fast, precision, expected in (
        (True, "auto", True),
        (False, "auto", False),
        (False, "bfloat16", True),
        (True, "float32", False),
    ):
        monkeypatch.setattr(loop, "fast_bfloat16", lambda _, fast=fast: fast)
        with loop.autocast(replace(SETTINGS, precision=precision), cpu):
            assert torch.is_autocast_enabled("cpu") is expected
