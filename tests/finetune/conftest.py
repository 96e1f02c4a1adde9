"""An attention branch network for tests: random attention over the bundled resnet-scenes, which keeps its accuracy."""

from __future__ import annotations

import pytest

import bench
from bench.models.abn import AttentionBranchNetwork


@pytest.fixture(scope="session")
def abn() -> bench.Explainee:
    parent = bench.load_model("resnet-scenes")
    net = AttentionBranchNetwork(parent.net).eval()
    return bench.Explainee(
        net, parent.mean, parent.std, parent.size, name="abn-untrained", parent=parent.name, geometry=parent.geometry
    )


@pytest.fixture(scope="session")
def scenes() -> bench.Subset:
    return bench.load_subset("scenes-val", limit=24)
