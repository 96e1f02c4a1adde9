"""What people give by mistake: each is one sentence with the way to wrap it."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import bench
from bench.errors import BenchError
from tests.support.nets import make_images

SIDE = 16


@pytest.fixture
def model() -> bench.Explainee:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return bench.Explainee(net, size=SIDE, layer="0")


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        ("dog.jpg", r"the text 'dog\.jpg'; give model\.read\(FILES\)"),
        (["a.jpg", "b.jpg"], r"give model\.read\(FILES\)"),
        (Image.new("RGB", (8, 8)), r"PIL\.Image\.Image; give model\.read\(FILE\)"),
        ([torch.ones(3, 8, 8)], r"torch\.stack"),
        (torch.ones(3, 8, 8), r"without a batch axis; give images\[None\]"),
        (np.ones((1, 3, 8, 8)), r"numpy\.ndarray; give a tensor"),
        (torch.ones(1, 3, 8, 8, dtype=torch.uint8), r"holds uint8 .* model\.normalise"),
        (torch.full((1, 3, 8, 8), 255.0), "values up to 255, far from"),
        ({"pixel_values": torch.ones(1, 3, 8, 8)}, r'images\["pixel_values"\]'),
        (None, "images is None"),
    ],
)
def test_images(model, images, reason):
    with pytest.raises(BenchError, match=reason):
        bench.explain(model, images)
    with pytest.raises(BenchError, match=reason):
        bench.score(model, images, None, torch.ones(1, 8, 8), "deletion")


def test_pixels_as_a_network_without_normalisation_takes_them():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = bench.Explainee(net, (0.0,) * 3, (1 / 255,) * 3, SIDE, "0")
    assert bench.explain(model, make_images(1, 1, SIDE).abs() * 50).shape == (1, SIDE, SIDE)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (nn.Sequential(nn.Flatten()), r"bare network \(Sequential\); give bench\.Explainee"),
        ([nn.Flatten()], r"bare network \(Flatten\); give bench\.Explainee"),
        (3, "model is int"),
    ],
)
def test_models(given, reason):
    with pytest.raises(BenchError, match=reason):
        bench.evaluate("scenes-val", given, "grad_cam", "energy")


def test_models_in_memory():
    images = make_images(1, 1, SIDE)
    with pytest.raises(BenchError, match="bare network"):
        bench.explain(nn.Flatten(), images)
    with pytest.raises(BenchError, match=r"give bench\.load_model\('resnet18'\)"):
        bench.explain("resnet18", images)


@pytest.mark.parametrize(
    ("subset", "reason"),
    [
        (datasets.Dataset.from_dict({"image": [1]}), "No column 'label' is in the dataset"),
        ([torch.ones(3, 8, 8)], r"a list of torch\.Tensor; give a subset's name"),
        (torch.ones(2, 3, 8, 8), r"torch\.Tensor; give a subset's name"),
        (torch.utils.data.TensorDataset(torch.ones(2, 3)), "is a torch Dataset"),
        (torch.utils.data.DataLoader([1]), "is a DataLoader"),
        (None, "subset is None"),
    ],
)
def test_subsets(model, subset, reason):
    with pytest.raises(BenchError, match=reason):
        bench.evaluate(subset, model, "grad_cam", "energy")
