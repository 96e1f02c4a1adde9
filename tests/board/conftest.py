"""What tests of boards share: builders of records, a whole random run, and its board."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bench.board.board import Board, leaderboard
from bench.records.store import Records
from tests.support.toy_records import build, random_records, row, scalars


@pytest.fixture(scope="session")
def toy() -> SimpleNamespace:
    """The builders: row, build, scalars, random_records."""
    return SimpleNamespace(row=row, build=build, scalars=scalars, random_records=random_records)


@pytest.fixture(scope="session")
def run() -> Records:
    """A whole random run: 6 methods, 2 models, 12 images."""
    return random_records()


@pytest.fixture(scope="session")
def board(run: Records) -> Board:
    return leaderboard(run, resamples=500)
