"""Runs on people's layouts: equal truth gives equal values, and what data lack is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import bench
from bench.board import leaderboard, write_board
from bench.errors import NotApplicable
from bench.models import Explainee
from tests.run.test_class_match import Classifier
from tests.support.layouts import (
    HEIGHT,
    WIDTH,
    box_mask,
    save_image,
    save_mask,
    write_annotations,
    write_coco,
    write_voc,
)

METRICS = "pointing_game,energy_pointing_game,box_localization,threshold_localization"
BOXES = [(i, 2 * i, 20 + i, 20 + 2 * i) for i in range(8)]
NAMES = [f"{i}.png" for i in range(8)]


@pytest.fixture(scope="module")
def model() -> Explainee:
    torch.manual_seed(0)
    net = Classifier(2).eval()
    return Explainee(net, (0.5,) * 3, (0.5,) * 3, 24, layer="conv", name="net")


def run(place: object, model: Explainee, metrics: str = METRICS) -> pd.DataFrame:
    frame = bench.evaluate(place, model, "grad_cam,random", metrics).frame
    keys = ["item", "method", "metric"]
    return frame.assign(item=frame["item"].str.rpartition("/")[2]).sort_values(keys)


def same_values(first: pd.DataFrame, second: pd.DataFrame) -> None:
    columns = ["item", "label", "part", "method", "metric", "value"]
    pd.testing.assert_frame_equal(
        first[columns].reset_index(drop=True), second[columns].reset_index(drop=True)
    )
    for one, other in zip(first["vector"], second["vector"], strict=True):
        assert (one is None and other is None) or np.array_equal(one, other, equal_nan=True)


def write_table(place: Path, masks: bool = False) -> Path:
    """Write the same images and boxes with annotations.csv."""
    for i, name in enumerate(NAMES):
        save_image(place / name, i)
        if masks:
            save_mask(place / "masks" / name, box_mask(*BOXES[i]))
    rows = [f"{name},{i % 2},{','.join(map(str, BOXES[i]))}" for i, name in enumerate(NAMES)]
    return write_annotations(place, rows, "file,label,x0,y0,x1,y1")


def write_coco_set(place: Path, masks: bool = False) -> Path:
    found = []
    for i, (x0, y0, x1, y1) in enumerate(BOXES):
        save_image(place / "images" / NAMES[i], i)
        corners = [x0, y0, x1, y0, x1, y1, x0, y1]
        more = {"segmentation": [corners]} if masks else {}
        box = {"bbox": [x0, y0, x1 - x0, y1 - y0], **more}
        found.append({"image_id": 100 + i, "category_id": (5, 70)[i % 2], **box})
    write_coco(place / "instances.json", NAMES, found, [(5, "a"), (70, "b")])
    return place


def test_coco_and_voc_give_the_values_of_the_table(tmp_path: Path, model: Explainee) -> None:
    expected = run(write_table(tmp_path / "table"), model)
    assert expected["value"].notna().any()
    same_values(run(write_coco_set(tmp_path / "coco"), model), expected)
    for i, (x0, y0, x1, y1) in enumerate(BOXES):
        save_image(tmp_path / "voc" / NAMES[i], i)
        write_voc(
            tmp_path / "voc" / f"{i}.xml",
            [("ab"[i % 2], (x0 + 1, y0 + 1, x1, y1))],
            (WIDTH, HEIGHT),
        )
    same_values(run(tmp_path / "voc", model), expected)


def test_masks_of_files_and_of_polygons_agree(tmp_path: Path, model: Explainee) -> None:
    metrics = "pixel_precision,energy_pointing_game"
    expected = run(write_table(tmp_path / "table", masks=True), model, metrics)
    assert expected["value"].notna().any()
    same_values(run(write_coco_set(tmp_path / "coco", masks=True), model, metrics), expected)


def test_what_the_data_cannot_serve_is_named(tmp_path: Path, model: Explainee) -> None:
    place = write_table(tmp_path / "table")
    records = bench.evaluate(
        place, model, "grad_cam,oracle", "average_drop,pixel_precision", out=tmp_path / "run"
    )
    sentence = "The metric pixel_precision is left out, since the subset has no masks."
    assert records.provenance["subsets"]["table"]["unserved"] == [sentence]
    board = leaderboard(records)
    assert f"table: {sentence}" in board.flags
    write_board(board, tmp_path / "run", tmp_path / "run")
    assert "pixel\\_precision is left out" in (tmp_path / "run" / "board.md").read_text()
    # A second run that lacks something else names both.
    records = bench.evaluate(
        place, model, "grad_cam", "average_drop,discriminability", out=tmp_path / "run"
    )
    assert len(records.provenance["subsets"]["table"]["unserved"]) == 2


def test_methods_without_truth_are_named(tmp_path: Path, model: Explainee) -> None:
    for i, name in enumerate(NAMES):
        save_image(tmp_path / "set" / "ab"[i % 2] / name, i)
    records = bench.evaluate(tmp_path / "set", model, "random,oracle", "average_drop")
    unserved = records.provenance["subsets"]["set"]["unserved"]
    assert unserved == ["The method oracle is left out, since the subset has no boxes or masks."]
    with pytest.raises(NotApplicable, match="need ground truth"):
        bench.evaluate(tmp_path / "set", model, "random", "box_localization")
