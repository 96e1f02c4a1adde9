"""What every test shares: one torch thread, plain number formats, and where the real images are."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.data import Subset
from bench.models import Explainee
from bench.types import Sample

# A test that keeps decoded images does so in a folder of its own.
os.environ["CAMBENCH_CACHE_GIB"] = "0"

# Two cores are shared with other work, and tiny nets are slower with threads than without.
torch.set_num_threads(int(os.environ.get("CAMBENCH_TEST_THREADS", "1")))

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Return the folder of real images: `CAMBENCH_DATA`, else `../shared/data`; skip where there is
    neither.
    """
    named = os.environ.get("CAMBENCH_DATA")
    root = Path(named) if named else ROOT.parent / "shared" / "data"
    if not root.is_dir():
        pytest.skip(
            f"no real images: {root} is not a folder (set CAMBENCH_DATA to one that has "
            "ilsvrc-sample-1k)"
        )
    return root


@pytest.fixture(scope="session")
def abn() -> Explainee:
    """Return a network with an untrained attention branch over resnet-scenes: right in class, wrong
    in place.
    """
    from bench.models import load_model
    from bench.models.abn import AttentionBranchNetwork

    parent = load_model("resnet-scenes")
    net = AttentionBranchNetwork(parent.net).eval()
    card = parent.card | {"wrap": {"kind": "abn", "map_kernel": 3}}
    return Explainee(
        net, parent.mean, parent.std, parent.size, name="abn", geometry=parent.geometry, card=card
    )


@pytest.fixture(scope="session")
def scenes() -> Subset:
    """Return the first 24 scenes of scenes-val, with masks and boxes."""
    from bench.data import load_subset

    return load_subset("scenes-val", limit=24)


class WithoutTruth:
    """A source of samples as another one, but with neither boxes nor masks."""

    has_boxes = has_masks = False

    def __init__(self, source: Any) -> None:
        self._source = source

    def __getattr__(self, name: str) -> object:
        return getattr(self._source, name)

    def read(self, position: int) -> Sample:
        return dataclasses.replace(self._source.read(position), boxes=None, mask=None)


@pytest.fixture
def without_truth() -> type[WithoutTruth]:
    return WithoutTruth
