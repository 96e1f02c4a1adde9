"""Image processors of `transformers`: our pixels against theirs, on a real photograph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.errors import BenchError
from bench.models.image_processor import apply_preprocessing, read_processor
from tests.support.nets import randomise
from tests.support.transformers_nets import transformers

LARGEST = {"Pil": 1e-3, "": 2.01}
"""{backend: the largest difference of a pixel, in levels of 255}: none to PIL's resizing, up to two
levels to torchvision's."""

PROCESSORS: list[tuple[str, dict[str, Any], str]] = [
    ("ViT", {"size": {"height": 96, "width": 96}}, "squash96-bilinear-crop96"),
    ("ViT", {"do_normalize": False}, "squash224-bilinear-crop224"),
    ("DeiT", {}, "squash256-bicubic-crop224"),
    ("Bit", {"size": {"shortest_edge": 256}}, "short256-bicubic-crop224"),
    ("CLIP", {"resample": 1}, "short224-lanczos-crop224"),
    ("ConvNext", {"size": {"shortest_edge": 224}, "crop_pct": 0.9}, "short248-bicubic-crop224"),
    ("ConvNext", {}, "squash384-bicubic-crop384"),
    ("Levit", {}, "short256-bicubic-crop224"),
    ("MobileNetV2", {"resample": 0}, "short256-nearest-crop224"),
    (
        "MobileViT",
        {"size": {"shortest_edge": 288}, "crop_size": {"height": 256, "width": 256}},
        "short288-bicubic-crop256",
    ),
    (
        "EfficientNet",
        {"rescale_offset": True, "rescale_factor": 1 / 127.5},
        "squash346-bicubic-crop346",
    ),
]


@pytest.fixture(scope="module")
def photograph(data_root: Path) -> np.ndarray:
    """Return 227 x 178 pixels of a photograph: the crops start at odd halves."""
    path = min((data_root / "ilsvrc-sample-1k" / "images").iterdir())
    return np.asarray(Image.open(path).convert("RGB"))[:, :178].copy()


@pytest.mark.parametrize("backend", LARGEST)
@pytest.mark.parametrize(("kind", "options", "geometry"), PROCESSORS)
def test_pixels_are_the_processors(photograph, kind, options, geometry, backend):
    made = getattr(transformers, f"{kind}ImageProcessor{backend}", None)
    if made is None:
        pytest.skip(f"this transformers has no {kind}ImageProcessor{backend}")
    processor = made(**options)
    found = read_processor(processor, "net")
    assert found.geometry.id == geometry
    theirs = processor(images=Image.fromarray(photograph), return_tensors="pt")["pixel_values"][0]
    ours = apply_preprocessing(found, photograph)
    levels = (ours - torch.as_tensor(theirs)).abs() * torch.tensor(found.std).view(3, 1, 1) * 255
    assert float(levels.max()) <= LARGEST[backend]
    assert found.bgr == (kind == "MobileViT")


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("Perceiver", {}, "does not resize, crop and normalise"),
        ("CLIP", {"do_center_crop": False}, "does not resize, crop and normalise"),
        ("ViT", {"do_resize": False}, "does not resize, crop and normalise"),
        ("ViT", {"resample": 4}, "resample=4, which cambench does not have"),
    ],
)
def test_what_cannot_be_expressed_is_refused(kind, options, reason):
    processor = getattr(transformers, f"{kind}ImageProcessor")(**options)
    with pytest.raises(BenchError, match=reason):
        read_processor(processor, "net")


def test_a_processor_that_does_more_than_its_fields_say_is_refused():
    class Darker(transformers.ViTImageProcessor):
        def __call__(self, *args: Any, **options: Any) -> Any:
            made = super().__call__(*args, **options)
            return {"pixel_values": made["pixel_values"] - 0.2}

    with pytest.raises(BenchError, match="does not resize, crop and normalise"):
        read_processor(Darker(), "net")


def test_blue_green_red_reaches_the_network():
    import bench

    config = transformers.MobileViTConfig(image_size=64, num_labels=4)
    net = randomise(transformers.MobileViTForImageClassification(config), 1)
    processor = transformers.MobileViTImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}
    )
    model = bench.Explainee(net, processor=processor, layer="mobilevit.conv_1x1_exp")
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = net(pixels.flip(1)).logits
        assert torch.equal(model.net(model.normalise(pixels)), wanted)
        assert not torch.allclose(net(pixels).logits, wanted)
