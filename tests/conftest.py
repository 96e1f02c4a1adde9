"""What every test shares: one torch thread, plain number formats, and where the real images are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

# Two cores are shared with other work, and tiny nets are slower with threads than without.
torch.set_num_threads(int(os.environ.get("CAMBENCH_TEST_THREADS", "1")))

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Return the folder of real images: `CAMBENCH_DATA`, else `../shared/data`; skip where there is neither."""
    named = os.environ.get("CAMBENCH_DATA")
    root = Path(named) if named else ROOT.parent / "shared" / "data"
    if not root.is_dir():
        pytest.skip(f"no real images: {root} is not a folder (set CAMBENCH_DATA to one that has ilsvrc-sample-1k)")
    return root
