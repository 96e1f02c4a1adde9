"""`cambench run --subset` on somebody's own folder: what is printed before and after."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.command_line import cambench, refused
from tests.support.layouts import save_image, write_coco

SMALL = ["--models", "resnet-scenes", "--methods", "random,constant", "--calibration", "0"]


def test_what_was_found_and_left_out_is_printed(tmp_path: Path) -> None:
    for i in range(8):
        save_image(tmp_path / "photos" / str(i % 3) / f"{i}.png", i)
    metrics = ["--metrics", "average_drop,pointing_game", "--limit", "2"]
    place = ["--subset", tmp_path / "photos", "--out", tmp_path / "run"]
    done = cambench("run", *SMALL, *metrics, *place)
    assert done.returncode == 0, done.stderr
    found = "8 images in 3 class folders; their names are numbers, labels are 0 to 2; boxes: none"
    assert found in done.stdout
    left = "The metric pointing_game is left out, since the subset has no boxes or masks."
    taken = "numbers up to 2, and resnet-scenes has 10 classes: the numbers are taken as its class"
    assert done.stderr.count(f"! {left}") == 1
    assert done.stderr.count(taken) == 1
    assert f"photos: {left}" in done.stdout.replace("\n", " ")  # among the board's flags
    facts = json.loads((tmp_path / "run" / "run.json").read_text())["subsets"]["photos"]
    assert facts["unserved"] == [left]
    assert facts["found"][0].startswith(found)


def test_a_subset_of_other_classes_is_refused(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(8)]
    for i, name in enumerate(names):
        save_image(tmp_path / "set" / "images" / name, i)
    boxes = [{"image_id": 100 + i, "category_id": 3, "bbox": [1, 1, 9, 9]} for i in range(8)]
    write_coco(tmp_path / "set" / "instances.json", names, boxes, [(3, "kite"), (4, "kiwi")])
    refused(
        cambench("run", *SMALL, "--subset", tmp_path / "set", "--out", tmp_path / "run"),
        "The model resnet-scenes has 10 classes and the subset set 2",
    )
