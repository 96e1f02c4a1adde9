"""What tests of runs share: a small network that is right about little, and a few scenes."""

from __future__ import annotations

import pytest

import bench
from bench.models.architectures import build_seeded, resnet_scenes


@pytest.fixture
def model() -> bench.Explainee:
    return bench.Explainee(build_seeded(resnet_scenes, 0), size=96, name="small")


@pytest.fixture
def subset() -> bench.Subset:
    return bench.load_subset("scenes-val", limit=3)
