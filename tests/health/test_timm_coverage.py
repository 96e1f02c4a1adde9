"""The coverage run: one row per architecture whatever happens, resumed from its file, stopped with
Ctrl-C.
"""

from __future__ import annotations

import csv
import os
import signal

import pytest
import timm
import torch

from bench.errors import BenchError
from bench.health import timm_coverage
from bench.health.timm_check import PLACES, count_in_place, places
from bench.health.timm_coverage import Row, check, run, select, summary
from bench.models import Explainee


@pytest.fixture
def here(monkeypatch):
    """Check in this process; returns the names that were checked."""
    done = []

    def checked(_workers, name):
        done.append(name)
        return check(name)

    monkeypatch.setattr(timm_coverage.Workers, "check", checked)
    return done


def test_rows_are_written_as_they_come_and_not_done_again(tmp_path, here):
    out = tmp_path / "coverage.csv"
    first = list(run(["test_vit"], out))
    states = []
    both = list(run(["test_resnet", "test_vit"], out, progress=lambda *state: states.append(state)))
    assert here == ["test_vit", "test_resnet"]
    assert both[0] == first[0]
    assert [row.name for row in both] == ["test_vit", "test_resnet"]
    assert states[-1] == (2, 2, "done")
    with out.open() as file:
        written = list(csv.DictReader(file))
    assert [row["name"] for row in written] == ["test_vit", "test_resnet"]
    assert {**written[0], "seconds": ""} == {
        "name": "test_vit",
        "family": "vision_transformer",
        "parameters": "0.4",
        "size": "160",
        "layer": "blocks.5.norm1",
        "grid": "10x10",
        "finite": "yes",
        "non_constant": "yes",
        "in_place": "5/5",
        "weights": "drawn",
        "works": "yes",
        "seconds": "",
        "reason": "",
    }
    assert summary(both) == "2 of 2 architectures work (100.0%)."


def test_a_model_that_fails_is_a_row_with_its_reason(monkeypatch):
    def failing(name, **_kwargs):
        raise ValueError("the dog\nate it")

    monkeypatch.setattr(timm, "create_model", failing)
    row = check("test_vit")
    assert (row.works, row.family) == ("no", "vision_transformer")
    assert row.reason.startswith("timm could not build 'test_vit' (ValueError: the dog)")
    monkeypatch.setattr(timm_coverage, "load_model", failing)
    assert check("test_vit").reason == "ValueError: the dog ate it"


def test_what_is_above_the_limit_is_not_built(here):
    rows = list(run(["test_vit", "vit_tiny_patch16_224"], limit=1))
    assert here == ["test_vit"]
    large = rows[1]
    assert (large.name, large.works, large.parameters) == ("vit_tiny_patch16_224", "no", "5.7")
    assert large.reason == "Not built: 6 M parameters, above the limit of 1 M (--limit)."
    assert (
        summary(rows) == "1 of 1 architectures work (100.0%); 1 were above the limit and not built."
    )


class Scaled(torch.nn.Module):
    """A small network whose logits are scaled."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale
        self.body = torch.nn.Conv2d(3, 4, 4, stride=4)
        self.fc = torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.scale * self.body(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("scale", "reason"),
    [(0.0, "No layer of this network has"), (1e38 * 10, "returns NaN or infinite logits")],
)
def test_a_network_that_vanishes_or_overflows_says_so(scale, reason, monkeypatch):
    monkeypatch.setattr(
        timm_coverage, "load_model", lambda name: Explainee(Scaled(scale), size=32, name=name)
    )
    row = check("test_vit")
    assert row.works == "no"
    assert reason in row.reason


def test_stopped_it_keeps_what_is_done(tmp_path, monkeypatch):
    def stopped(_workers, name):
        if name == "test_resnet":
            raise KeyboardInterrupt
        return Row(name)

    monkeypatch.setattr(timm_coverage.Workers, "check", stopped)
    out = tmp_path / "coverage.csv"
    with pytest.raises(KeyboardInterrupt):
        list(run(["test_resnet", "test_vit"], out))
    assert list(timm_coverage.read_rows(out)) == ["test_vit"]


@pytest.mark.slow
def test_a_killed_process_is_a_row_and_the_next_model_gets_another():
    workers = timm_coverage.Workers()
    try:
        assert workers.check("test_resnet").works == "yes"
        (process,) = workers._pool._processes.values()
        os.kill(process.pid, signal.SIGKILL)
        process.join(30)
        row = workers.check("test_vit")
        assert (row.works, row.name) == ("no", "test_vit")
        assert "killed" in row.reason
        assert workers.check("test_vit").works == "yes"
    finally:
        workers.stop()


def test_names_and_files_that_are_not_there_are_one_sentence(tmp_path):
    assert select("test_vit, test_resne*,test_vit") == ["test_vit", "test_resnet"]
    with pytest.raises(BenchError, match=r"No timm architecture fits 'tset_vit'.*test_vit"):
        select("tset_vit")
    other = tmp_path / "other.csv"
    other.write_text("name,value\n")
    with pytest.raises(BenchError, match=r"other\.csv is no coverage file"):
        list(run(["test_vit"], other))


@pytest.mark.parametrize("grid", [(7, 7), (14, 14), (5, 5), (9, 12)])
def test_places_tell_rows_from_columns_and_show_tokens_counted_wrongly(grid):
    """A perfect response at each place is found; swapped axes and a shift by a token are not, even
    one cell off.
    """
    height, width = grid
    cells = places(height, width)
    assert len(set(cells)) == PLACES

    def response(move):
        images = torch.zeros(PLACES + 2, 1, height, width, dtype=torch.float64)
        images[-1] = 1 + torch.rand(height, width, generator=torch.Generator().manual_seed(0))
        for image, (row, column) in zip(images[1:], cells, strict=False):
            index = move(row, column) % (height * width)
            image.view(-1)[index] = 1
        return images

    assert count_in_place(response(lambda r, c: r * width + c), cells, 0) == PLACES
    for shift in (-2, -1, 1, 2):
        moved = response(lambda r, c, shift=shift: r * width + c + shift)
        assert count_in_place(moved, cells, 0) == 0
        assert count_in_place(moved, cells, 1) < PLACES
    if height == width:
        assert count_in_place(response(lambda r, c: c * width + r), cells, 1) < PLACES
