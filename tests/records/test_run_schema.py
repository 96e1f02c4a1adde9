"""run.json and baselines of another shape: one sentence, or they work as before."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError
from bench.gate.baseline import METADATA, load_baseline
from bench.json_state import read_json_state
from bench.records.left_out import list_missing_shards
from bench.records.precision_verdict import find_clash, write_precision
from bench.records.provenance import merge_provenance
from bench.records.run_facts import read_provenance

ROOT = Path(__file__).parents[2]
BOARD = ROOT / "leaderboards" / "scenes"
VALUES: tuple[Any, ...] = (
    *(None, 5, -1, 1.5, "x", "", [], {}, ["x"], [[1]], {"a": 1}, True),
    *(math.nan, math.inf, 10**17),
)
"""What takes the place of each value in turn."""


def list_places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in inner:
        yield (*place, key)
        if isinstance(one, dict | list):
            yield from list_places(one, (*place, key))


def change_one(facts: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """Return facts with another value in one place, or without it."""
    changed = copy.deepcopy(facts)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    if value is None and random.Random(str(place)).random() < 0.5:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return changed


def use(folder: Path, whole: dict[str, Any]) -> None:
    """Read a run.json and do what the commands do with it."""
    told = read_provenance(folder)
    for one, two in ((told, whole), (whole, told)):
        merge_provenance(copy.deepcopy(one), copy.deepcopy(two))
        find_clash(one, two)
    write_precision(told)
    list_missing_shards(told)


def test_any_other_value_is_one_sentence_or_works(tmp_path: Path) -> None:
    whole = read_provenance(BOARD)
    places = [place for place in list_places(whole) if "card" not in place[:-1]]
    cases = [(place, value) for place in places for value in VALUES]
    random.Random(0).shuffle(cases)
    sentences: list[str] = []
    for place, value in cases[:400]:
        (tmp_path / "run.json").write_text(json.dumps(change_one(whole, place, value)))
        try:
            use(tmp_path, whole)
        except BenchError as error:
            sentences.append(str(error))
    assert len(sentences) > 200
    assert not [text for text in sentences if "\n" in text or len(text) > 400]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not valid JSON"),
        (b"[1, 2]", "holds no JSON object"),
        (b"null", "holds no JSON object"),
        (b'{"a": ' * 30_000 + b"1" + b"}" * 30_000, "nests deeper than 64 levels"),
        (b'{"a": ' * 100 + b"1" + b"}" * 100, "nests deeper than 64 levels"),
        (b'{"a": "\xff\xfe"}', "no text in UTF-8"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not valid JSON"),
        (b'{"a": ' + b"9" * 30 + b"}", "more than 18 digits"),
        (b'{"protocol": {}}', "run.json lacks protocol.id"),
        (b'{"protocol": 5}', "protocol = 5, which must be an object"),
    ],
)
def test_what_is_no_run_is_one_sentence(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(BenchError, match=words) as raised:
        read_provenance(tmp_path)
    assert "restore it from a copy" in str(raised.value)


def test_every_published_run_has_the_shape() -> None:
    files = sorted((ROOT / "leaderboards").glob("*/run.json"))
    assert len(files) > 8
    for file in files:
        assert read_provenance(file.parent) == read_json_state(file, "")


def test_a_baseline_of_another_shape_is_one_sentence(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(ROOT / "leaderboards" / "gate" / "baseline.parquet").slice(0, 9)
    whole = json.loads(table.schema.metadata[METADATA])
    file = tmp_path / "baseline.parquet"
    broken = (
        *("{", "[]", json.dumps({**whole, "format": 2}), json.dumps({**whole, "values": 5})),
        *(json.dumps({k: v for k, v in whole.items() if k != key}) for key in ("models", "format")),
        json.dumps({**whole, "methods": {}}),
    )
    for content in broken:
        pq.write_table(table.replace_schema_metadata({METADATA: content.encode()}), file)
        with pytest.raises(BenchError, match=r"baseline\.parquet .*make it again"):
            load_baseline(file)
    pq.write_table(table.replace_schema_metadata({METADATA: json.dumps(whole).encode()}), file)
    assert len(load_baseline(file).frame) == 9
    pq.write_table(
        table.drop_columns(["item"]).replace_schema_metadata(table.schema.metadata), file
    )
    with pytest.raises(BenchError, match="has no column item"):
        load_baseline(file)
