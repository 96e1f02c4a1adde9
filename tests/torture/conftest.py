"""What the tests of this folder share: one small finished run that each of them may copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.cli import app

# Four scenes, two methods and one metric: about a second, and every file that a run writes.
SMALL_RUN = (
    *("run", "--models", "resnet-scenes", "--subset", "scenes-val", "--limit", "4"),
    *("--calibration", "4", "--methods", "grad_cam,random", "--metrics", "pointing_game"),
)


@pytest.fixture
def cambench() -> Callable[..., None]:
    """Return a function that runs one command line in this process and raises what it raises."""

    def call(*words: object) -> None:
        app([str(word) for word in words], standalone_mode=False)

    return call


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished small run. A test copies it before it breaks anything."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    app([*SMALL_RUN, "--out", str(folder)], standalone_mode=False)
    return folder
