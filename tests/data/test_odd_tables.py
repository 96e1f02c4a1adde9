"""Tables and label columns of odd programs: each is read as its author meant it, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import load_subset
from bench.data.box_columns import find_box_columns, parse_boxes
from bench.data.labels import read_labels
from bench.errors import BenchError


@pytest.mark.parametrize(
    "form",
    [
        lambda n: str(n).translate(str.maketrans("0123456789", "０１２３４５６７８９")),
        lambda n: str(n).translate(str.maketrans("0123456789", "۰۱۲۳۴۵۶۷۸۹")),
        "'{}'".format,
        "'{}".format,
        '"{}"'.format,
        "tensor({})".format,
        "tensor({}, device='cuda:0')".format,
        "np.int64({})".format,
    ],
)
def test_numbers_in_other_clothes_are_numbers(form) -> None:
    wanted = [10, 2, 0, 11, 3]
    reading = read_labels([form(n) for n in wanted], (), "the test")
    assert list(reading.labels) == wanted
    assert reading.sentence.startswith("12 classes, numbers 0..11")


def test_a_name_in_quotes_or_brackets_stays_a_name() -> None:
    names = ["'twas", "tensor(cat)", "int", '"dog"']
    assert read_labels(names, (), "the test").classes == tuple(sorted(names))


def test_joined_names_whose_parts_recur_are_lists() -> None:
    with pytest.raises(BenchError, match=r"cat\|dog in row 1 .* is a list"):
        read_labels(["cat|dog", "cat|owl", "fox|hen"], (), "the test")
    once = read_labels(["cat|tom", "dog|rex"], (), "the test")
    assert once.classes == ("cat|tom", "dog|rex")


def test_classes_called_by_other_numbers_are_mentioned() -> None:
    odd = read_labels([0, 1, 2], ("7", "3", "5"), "the test", indexed=True)
    assert "class 0 is called 7" in odd.cautions[0]
    assert not read_labels([0, 1, 2], ("0", "1", "2"), "the test", indexed=True).cautions


def test_sizes_of_images_are_no_sizes_of_boxes() -> None:
    header = ("file", "label", "width", "height", "bbox_x", "bbox_y", "bbox_width", "bbox_height")
    found = find_box_columns(header)
    assert found is not None
    assert found.names == header[4:]
    assert found.order == "xywh"


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(BenchError, match=r"several columns for boxes' xmin \('xmin', 'XMin'\)"):
        find_box_columns(("xmin", "ymin", "xmax", "ymax", "XMin"))


def test_lists_of_texts_are_boxes() -> None:
    assert parse_boxes([["2", "3", "20.5", "21"]], "row 1") == [[2, 3, 20.5, 21]]
    assert parse_boxes([[["2", "3", "4", "5"], ["1", "1", "2", "2"]]], "row 1") == [
        [2, 3, 4, 5],
        [1, 1, 2, 2],
    ]
    with pytest.raises(BenchError, match="not lists of four finite numbers"):
        parse_boxes([["2", "3", "20"]], "row 1")


def test_a_name_longer_than_a_file_may_have_is_missing(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    table = f"file,label\na.png,0\n{'b' * 300}.png,1\n"
    (tmp_path / "annotations.csv").write_text(table)
    with pytest.raises(BenchError, match=r"bbb\.png is missing \(1 of 2"):
        load_subset(tmp_path)
