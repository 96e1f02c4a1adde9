"""Ids of methods are part of every published record: what does not change a map must not change them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.methods import METHODS

BOARDS = Path(__file__).parents[2] / "leaderboards"


@pytest.mark.parametrize("board", ["scenes", "scenes-field", "ilsvrc-mobilenetv2"])
def test_methods_are_those_of_the_published_records(board):
    frame = pd.read_parquet(BOARDS / board / "records.parquet", columns=["method", "method_id"]).drop_duplicates()
    now = {name: METHODS.get(name).id for name in frame.method}
    assert now == dict(zip(frame.method, frame.method_id, strict=True))
