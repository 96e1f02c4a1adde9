"""How files were read is printed before a run and kept in run.json; class names are compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from bench.data import load_subset
from bench.models.explainee import Explainee
from bench.models.network_classes import read_stated_names
from bench.protocol import get_protocol
from bench.run.plan import Plan, make_plan
from tests.support.command_line import cambench, refused


def write_scenes(place: Path, labels: str, boxes: str) -> Path:
    """Write four scenes as half transparent PNG files with boxes in a column of lists."""
    place.mkdir(parents=True)
    subset, lines = load_subset("scenes-val", limit=4), ["file,label,bbox"]
    for i, sample in enumerate(subset):
        alpha = np.full(sample.image.shape[:2], 255, np.uint8)
        alpha[:2] = 0
        Image.fromarray(np.dstack([sample.image, alpha])).save(place / f"{i}.png")
        rows, columns = np.nonzero(sample.mask)
        x0, y0, x1, y1 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        box = {"xyxy": (x0, y0, x1, y1), "fraction": (x0 / 96, y0 / 96, x1 / 96, y1 / 96)}[boxes]
        lines.append(f'{i}.png,{labels.format(sample.label)},"{[float(v) for v in box]}"')
    (place / "annotations.csv").write_text("\n".join(lines) + "\n")
    keys = {"xyxy": "xyxy", "fraction": "fraction-xyxy"}[boxes]
    geometry = '[geometry]\nsize = 96\nresize = "none"\n'
    (place / "manifest.toml").write_text(
        f'name = "mine"\nkind = "folder"\nboxes = "{keys}"\n{geometry}'
    )
    return place


def run(subset: Path, out: Path) -> tuple[str, str, dict]:
    words = ["--models", "resnet-scenes", "--methods", "grad_cam", "--metrics", "pointing_game"]
    done = cambench("run", "--subset", subset, *words, "--calibration", "0", "--out", out)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr, json.loads((out / "run.json").read_text())


def test_a_run_prints_and_keeps_how_files_were_read(tmp_path: Path) -> None:
    stdout, stderr, record = run(write_scenes(tmp_path / "a", "{}.0", "xyxy"), tmp_path / "out")
    reading = record["subsets"]["mine"]["reading"]
    assert reading[0].startswith("Labels: ")
    assert reading[0] in stdout
    assert reading[1] == "Boxes: 4 boxes from bbox: left, top, right, bottom in pixels."
    assert reading[1] in stdout
    (caution,) = [one for one in reading if "composited on white" in one]
    assert "4 of 4 images" in caution
    assert stderr.count(caution) == 1
    again = run(write_scenes(tmp_path / "b", " {}e0", "fraction"), tmp_path / "other")[2]
    from bench.records.store import Records

    first, second = (
        Records.load(tmp_path / one).frame.sort_values("item") for one in ("out", "other")
    )
    assert again["subsets"]["mine"]["reading"][0] == reading[0]
    assert first["value"].tolist() == second["value"].tolist()


def test_boxes_in_another_unit_are_refused_before_anything_runs(tmp_path: Path) -> None:
    place = write_scenes(tmp_path / "a", "{}", "fraction")
    (place / "manifest.toml").write_text('name = "mine"\nkind = "folder"\n')
    refused(cambench("run", "--subset", place, "--out", tmp_path / "out"), 'boxes = "fraction-')
    assert not (tmp_path / "out").exists()


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.features(x)).mean((2, 3)))


def write_names(place: Path, names: list[str]) -> Path:
    place.mkdir()
    for i, _ in enumerate(names):
        Image.new("RGB", (16, 16)).save(place / f"{i}.png")
    rows = "".join(f"{i}.png,{name}\n" for i, name in enumerate(names))
    (place / "annotations.csv").write_text("file,label\n" + rows)
    (place / "manifest.toml").write_text('name = "n"\nkind = "folder"\n')
    return place


def test_the_same_classes_in_another_order_are_matched_by_name(tmp_path: Path) -> None:
    def plan(classes: list[str]) -> Plan:
        model = Explainee(Small(), size=16, layer="features", name="m", card={"classes": classes})
        return make_plan(subset, [model], "grad_cam", "deletion", get_protocol("cambench-1"))

    subset = load_subset(write_names(tmp_path / "f", ["k2", "k10", "k1"]))
    assert subset.class_names == ("k1", "k10", "k2")
    matched = plan(["k1", "k2", "k10"])
    names = {
        i: matched.subset.class_names[n]
        for i, n in zip(matched.subset.source.ids, matched.subset.source.labels, strict=True)
    }
    assert names == {"0.png": "k2", "1.png": "k10", "2.png": "k1"}
    assert list(matched.subset.source.labels) == [1, 2, 0]
    assert "matched by name" in matched.notes[0]
    assert not plan(["K1", "k10", "k2"]).notes
    assert not plan(["a", "b", "c"]).notes, "other names are not compared"
    net = Small()
    net.pretrained_cfg = {"label_names": ["k1", "k2", "k10"]}
    assert read_stated_names(Explainee(net, size=16, layer="features")) == ("k1", "k2", "k10")
