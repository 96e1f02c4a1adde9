"""Labels: what is a number, what is a name, and what is refused with its row."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.data import load_subset
from bench.data.labels import read_labels
from bench.errors import BenchError

NUMBERS = [
    ["7", "7.0", " 7", "7e0", "007", "+7", "7.", "70e-1", "\u00a07 "],
    [7, 7.0, np.int8(7), np.float32(7), np.uint64(7), np.array(7), Decimal("7.00"), b"7"],
]


@pytest.mark.parametrize("values", NUMBERS)
def test_every_spelling_of_a_number_is_that_number(values: list[Any]) -> None:
    reading = read_labels([*values, 0], (), "t")
    assert reading.labels == (7,) * len(values) + (0,)
    assert reading.classes == tuple("01234567")
    assert reading.sentence == "8 classes, numbers 0..7, 2 of them with images"
    assert read_labels(["0", *"123"], (), "t").sentence == "4 classes, numbers 0..3"


def test_names_are_names_only_where_not_all_are_numbers() -> None:
    reading = read_labels(["zebra", " ant", "bee ", "ant"], (), "t")
    assert reading.labels == (2, 0, 1, 0)
    assert reading.classes == ("ant", "bee", "zebra")
    assert reading.sentence == "3 classes by name: ant .. zebra"
    assert not reading.cautions
    nfd, nfc = "a\u0308ffle", "\u00e4ffle"
    assert read_labels([nfd, nfc, "b  c", "b c"], (), "t").labels == (1, 1, 0, 0)
    assert read_labels(["(other)", "1,2-dione"], (), "t").classes == ("(other)", "1,2-dione")


@pytest.mark.parametrize("word", ["NA", "None", "null", "nan", "N/A"])
def test_a_class_may_be_called_like_a_missing_value(word: str) -> None:
    reading = read_labels([word, "owl", word], (), "t")
    assert reading.classes[reading.labels[0]] == word
    assert [word in caution for caution in reading.cautions] == [True]


def test_booleans_keep_their_order_whichever_occurs() -> None:
    for values in ([True, True], [np.True_, np.True_], ["TRUE", "true"]):
        reading = read_labels(values, (), "t")
        assert (reading.labels, reading.classes) == ((1, 1), ("False", "True"))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0, None], "no label in row 2 of t"),
        ([0.0, float("nan")], "no label in row 2"),
        (["ant", "  "], "no label in row 2"),
        (["3", "ant", "4"], "'ant' in row 2 of t is neither a whole number nor"),
        (["ant", "bee", "4"], "'4' in row 3 of t is a number, and 2 of 3 are names"),
        (["2", "1.5"], "'1.5' in row 2 of t is not a whole number"),
        ([1, -1], "-1 in row 2 of t is negative"),
        ([1, 10**30], "no class number"),
        (["1", "1e4000"], "no class number"),
        ([float("inf")], "no class number"),
        (["1,0", "2,0"], "'1,0' in row 1 of t holds a comma"),
        ([[1], [2]], r"\[1\] in row 1 of t is a list"),
        ([np.array([0, 1])], "is a list"),
        (["[0, 2]", "1"], "is a list"),
        (["0|2", "1"], "is a list"),
        (["owl|ant", "ant"], r"owl\|ant in row 1 of t is a list"),
        ([{"a": 1}], "is a dict"),
        (["Ant", "ant"], "'Ant' in row 1 of t and 'ant' in row 2 of t differ only in capitals"),
    ],
)
def test_what_is_no_label_names_its_row(values: list[Any], words: str) -> None:
    with pytest.raises(BenchError, match=words) as caught:
        read_labels(values, (), "t")
    assert "\n" not in str(caught.value)


def test_labels_that_count_from_one_are_noticed() -> None:
    assert "count from 1" in read_labels(["1", "2", "3"], (), "t").cautions[0]
    assert not read_labels(["1", "3"], (), "t").cautions
    with pytest.raises(BenchError, match=r"3 in row 3 of t is not one of the 3 .* count from 1"):
        read_labels(["1", "2", "3"], ("a", "b", "c"), "t")


def test_the_order_of_sorted_names_is_said_where_numbers_disagree() -> None:
    (caution,) = read_labels([f"k{i}" for i in range(11)], (), "t").cautions
    assert "k10 is class 2 and k2 is class 3" in caution
    assert not read_labels([f"k{i}" for i in range(10)], (), "t").cautions


def test_given_classes_are_met_by_name_or_position() -> None:
    assert read_labels(["owl", "ant"], ("owl", "ant"), "t").labels == (0, 1)
    assert read_labels(["1", "0.0"], ("owl", "ant"), "t").labels == (1, 0)
    with pytest.raises(BenchError, match=r"'own' in row 1 .* is not the name .* Did you mean owl"):
        read_labels(["own"], ("owl", "ant"), "t")
    assert read_labels(["4", "8"], ("4", "8"), "t").labels == (0, 1)
    with pytest.raises(BenchError, match="may be the name or the position"):
        read_labels(["1", "1"], ("1", "2"), "t")
    assert read_labels([1, 1], ("1", "2"), "t", indexed=True).labels == (1, 1)


def test_imagenet_is_known_by_id_and_name() -> None:
    reading = read_labels(["n01443537", "tench", "great white shark"], "imagenet-1k", "t")
    assert reading.labels == (1, 0, 2)
    with pytest.raises(BenchError, match="more than one class"):
        read_labels(["crane"], "imagenet-1k", "t")
    assert "imagenet-1k" in read_labels(["n01443537", "n01440764"], (), "t").cautions[0]


# --- whole tables
# --------------------------------------------------------------------------------------------------
def write_folder(place: Path, table: str | bytes, names: tuple[str, ...] = ("p/0", "p/1")) -> Path:
    for i, name in enumerate(names):
        file = place / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + i, 10), (9 * i, 0, 0)).save(file)
    content = table.encode() if isinstance(table, str) else table
    (place / "annotations.csv").write_bytes(content)
    (place / "manifest.toml").write_text('name = "n"\nkind = "folder"\n')
    return place


TABLE = "file,label\np/0.png,4\np/1.png,2\n"


@pytest.mark.parametrize(
    "table",
    [
        TABLE,
        TABLE.replace(",", ";"),
        TABLE.replace(",", "\t"),
        TABLE.replace(",", "|"),
        "sep=;\n" + TABLE.replace(",", ";"),
        TABLE.encode("utf-16"),
        TABLE.encode("utf-16-le"),
        TABLE.encode("utf-8-sig"),
        TABLE.replace("\n", "\r\n\r\n").encode(),
        TABLE.replace(",", " , ").replace("file", "File").replace("label", "LABEL"),
        TABLE.replace("file", "file_name").replace("label", "class"),
        TABLE.replace("p/", "p\\"),
        TABLE.replace("p/", "./p//../p/"),
        ",file,label\n0,p/0.png,4.0\n1,p/1.png,2.0\n",
        '"file","label"\n"p/0.png","4"\n"p/1.png","2"\n',
        TABLE.replace("4\n", "4,,,\n"),
        TABLE + "\n \n",
    ],
)
def test_tables_of_any_program_are_read(tmp_path: Path, table: str | bytes) -> None:
    subset = load_subset(write_folder(tmp_path / "f", table))
    assert {s.image.shape[1]: s.label for s in subset} == {20: 4, 21: 2}
    assert sorted(subset.ids) == ["p/0.png", "p/1.png"]
    assert subset.notes[0].text.startswith("Labels: 5 classes, numbers 2..4")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (TABLE.replace("p/0", "Käfer").encode("latin-1"), "not UTF-8, from line 2 on"),
        (b"PK\x03\x04", "is a spreadsheet"),
        (TABLE + "p/1.png,0,7\n", "Line 4 of .* has 3 cells"),
        (TABLE + 'p/1.png,"0\n', "near line"),
        (TABLE.replace("label", "etikett"), "lacks the column label; .*says file, etikett"),
        (TABLE.replace("file,label", "path,filename,label"), "several columns .* file"),
        (TABLE.replace("label", "label,label"), "several columns .* label"),
        (TABLE.replace("p/1", "P/1"), "P/1.png is missing"),
        (TABLE.replace("p/1.png", "p/1.PNG"), "there is 1.png, so mind capitals"),
        (TABLE.replace("p/1.png", ""), "no file in line 3"),
        (TABLE.replace("2", "two"), "'two' in line 3 of"),
    ],
)
def test_a_table_that_is_wrong_names_its_line(
    tmp_path: Path, table: str | bytes, words: str
) -> None:
    with pytest.raises(BenchError, match=words) as caught:
        load_subset(write_folder(tmp_path / "f", table))
    assert "\n" not in str(caught.value)


def test_two_spellings_of_one_path_are_one_image(tmp_path: Path) -> None:
    table = "file,label,x0,y0,x1,y1\np/0.png,1,1,1,5,5\n./p/0.png,1,6,1,9,5\np/1.png,0,1,1,3,3\n"
    subset = load_subset(write_folder(tmp_path / "f", table))
    assert {s.id: len(s.boxes) for s in subset} == {"p/0.png": 2, "p/1.png": 1}


def test_parquet_labels_of_any_writer(tmp_path: Path) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(name: str, labels: pa.Array) -> Path:
        images = []
        for i in range(len(labels)):
            stream = io.BytesIO()
            Image.new("RGB", (20 + i, 10)).save(stream, "PNG")
            images.append({"bytes": stream.getvalue(), "path": None})
        columns = {"image": pa.array(images), "label": labels}
        pq.write_table(pa.table(columns), tmp_path / name)
        return tmp_path / name

    for labels in (pa.array([2.0, 0.0, 10.0]), pa.array(["2.0", "0", "10"]), pa.array([2, 0, 10])):
        subset = load_subset(write("a.parquet", labels))
        every = [*subset, *(subset.calibration() or ())]
        assert {s.image.shape[1]: s.label for s in every} == {20: 2, 21: 0, 22: 10}
    (tmp_path / "two").mkdir()
    write("two/a.parquet", pa.array([1, 0]))
    write("two/b.parquet", pa.array([1, None]))
    with pytest.raises(BenchError, match=r"no label in row 2 of .*two/b.parquet"):
        load_subset(tmp_path / "two")
    with pytest.raises(BenchError, match=r"\[0, 1\] in row 1 of .*c.parquet is a list"):
        load_subset(write("c.parquet", pa.array([[0, 1], [2]])))
