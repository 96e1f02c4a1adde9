"""Geometry: golden values by hand, and boxes and masks that follow the pixels."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.data.cache import FrameCache
from bench.data.geometry import Geometry, match_channels
from bench.errors import BenchError
from bench.types import Sample


def painted(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    image = np.zeros((height, width, 3), dtype=np.uint8)
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = 255
    return image


def box_of(pixels: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def test_short_side_resize_then_crop_by_hand() -> None:
    # 400 x 200 -> short side 100: 200 x 100; crop 80: left floor(120/2) = 60, top floor(20/2) = 10.
    geometry = Geometry(size=80, resize="short", resize_size=100)
    assert geometry.resize_shape(200, 400) == (100, 200)
    assert geometry.offset(200, 400) == (10, 60)
    boxes = geometry.boxes(np.array([[160, 40, 240, 120]], dtype=np.float32), 200, 400)
    assert boxes.dtype == torch.float32
    assert boxes.tolist() == [[20.0, 10.0, 60.0, 50.0]]


def test_squash_by_hand() -> None:
    geometry = Geometry(size=100, resize="squash", resize_size=100)
    boxes = geometry.boxes(np.array([[100, 50, 200, 100]], dtype=np.float32), 200, 400)
    assert boxes.tolist() == [[25.0, 25.0, 50.0, 50.0]]


def test_a_frame_that_is_not_square_by_hand() -> None:
    # Stored 200 x 300 (height x width). Frame 64 x 96, of 80 x 120: 80/200 = 120/300, both exact.
    geometry = Geometry(size=(64, 96), resize="short", resize_size=(80, 120))
    assert geometry.resize_shape(200, 300) == (80, 120)
    assert geometry.offset(200, 300) == (8, 12)
    boxes = np.array([[50, 40, 150, 120], [0, 0, 30, 20]], dtype=np.float32)
    # x * .4 - 12, y * .4 - 8; the second box ends at (0, 0) and is gone.
    assert geometry.boxes(boxes, 200, 300).tolist() == [[8.0, 8.0, 48.0, 40.0]]


@pytest.mark.parametrize(
    ("stored", "resized"),
    [
        ((100, 400), (80, 320)),  # the height needs the larger scale, .8
        ((400, 100), (480, 120)),  # the width does, 1.2
        ((101, 307), (80, 243)),  # 307 * 80 / 101 = 243.2
        ((97, 307), (80, 253)),  # 253.2
        ((300, 97), (371, 120)),  # 371.1
    ],
)
def test_the_frame_is_covered(stored: tuple[int, int], resized: tuple[int, int]) -> None:
    geometry = Geometry((64, 96), "short", (80, 120))
    assert geometry.resize_shape(*stored) == resized
    assert geometry.frame(np.zeros((*stored, 3), np.uint8)).shape == (64, 96, 3)


def test_one_number_is_the_short_side_as_in_torchvision() -> None:
    geometry = Geometry((64, 96), "short", 100)
    assert geometry.resize_shape(200, 300) == (100, 150)
    assert geometry.offset(200, 300) == (18, 27)
    assert Geometry((64, 96), "squash", (64, 96)).resize_shape(17, 301) == (64, 96)


def test_a_mask_follows_a_frame_that_is_not_square() -> None:
    geometry = Geometry((6, 10), "none", 6)
    mask = np.zeros((8, 16), dtype=np.bool_)
    mask[2:4, 5:9] = True
    moved = geometry.mask(mask)  # top 1, left 3
    assert moved.shape == (6, 10)
    assert box_of(moved.numpy()) == (2, 1, 6, 3)


def test_a_pair_of_equal_numbers_is_the_square() -> None:
    square = Geometry(224, "short", 256)
    assert Geometry((224, 224), "short", (256, 256)) == square
    assert dataclasses.asdict(Geometry((224, 224), "short", [256, 256])) == {
        "size": 224,
        "resize": "short",
        "resize_size": 256,
        "interpolation": "bicubic",
    }
    assert Geometry((64, 96), "short", (73, 110)).id == "short73x110-bicubic-crop64x96"


@pytest.mark.parametrize("resized", [90, (63, 96), (64, 95)])
def test_a_frame_larger_than_the_resized_image_is_refused(resized: int | tuple[int, int]) -> None:
    with pytest.raises(BenchError, match="crops 64x96 pixels"):
        Geometry((64, 96), "short", resized)


def test_grey_frames_are_the_luma_before_resizing() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    grey = match_channels(Geometry((16, 24), "squash", (16, 24), "bilinear"), 1)
    wanted = Image.fromarray(image).convert("L").resize((24, 16), Image.Resampling.BILINEAR)
    frame = grey.frame(image)
    assert frame.shape == (16, 24, 3)
    assert np.array_equal(frame, np.repeat(np.asarray(wanted)[..., None], 3, axis=2))
    assert grey.id == "squash16x24-bilinear-crop16x24-grey"
    assert match_channels(grey, 3) == Geometry((16, 24), "squash", (16, 24), "bilinear")


def test_frames_that_are_not_square_and_grey_ones_are_kept_apart(tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    plain = Geometry((16, 24), "short", (18, 27))
    cache = FrameCache(tmp_path, 2**20)
    for geometry in (plain, match_channels(plain, 1), Geometry((24, 16), "short", (27, 18))):
        made = cache.frame(b"bytes", geometry, lambda: image)
        kept = cache.frame(b"bytes", geometry, lambda: pytest.fail("it is not read again"))
        assert np.array_equal(made.pixels, geometry.frame(image))
        assert np.array_equal(kept.pixels, made.pixels)
        assert kept.stored == (40, 60)
    assert cache.usage().entries == 3


def test_stored_227_is_cropped_from_pixel_one() -> None:
    # floor((227 - 224) / 2) = 1.
    geometry = Geometry(size=224, resize="none", resize_size=224)
    image = np.arange(227 * 227 * 3, dtype=np.int64).reshape(227, 227, 3).astype(np.uint8)
    assert np.array_equal(geometry.frame(image), image[1:225, 1:225])
    assert geometry.boxes(np.array([[0, 0, 11, 11]]), 227, 227).tolist() == [[0.0, 0.0, 10.0, 10.0]]


def test_long_side_is_rounded_down_as_torchvision_does() -> None:
    torchvision = pytest.importorskip("torchvision.transforms.functional")
    from PIL import Image

    for height, width in [(333, 500), (500, 375), (97, 301)]:
        resized = torchvision.resize(Image.new("RGB", (width, height)), 256)
        assert Geometry(224, "short", 256).resize_shape(height, width) == (
            resized.height,
            resized.width,
        )


def test_a_box_is_dropped_below_the_visible_share() -> None:
    geometry = Geometry(size=10, resize="none", resize_size=10)
    # A 20-pixel row cropped to columns 5..15: of [0,0,8,10] 3 of 8 columns stay.
    box = np.array([[0, 0, 8, 10]], dtype=np.float32)
    assert len(geometry.boxes(box, 10, 20, min_visible=0.375)) == 1
    assert len(geometry.boxes(box, 10, 20, min_visible=0.376)) == 0
    assert len(geometry.boxes(np.array([[0, 0, 5, 10]]), 10, 20, min_visible=0.0)) == 0
    assert geometry.boxes(np.zeros((0, 4), dtype=np.float32), 10, 20).shape == (0, 4)


def test_mask_is_taken_at_pixel_centres() -> None:
    mask = np.array([[True, False, False, True]] * 4)
    # 4 -> 2: the centres of the new pixels are at 1 and 3, the first of pixel [1,2), [3,4).
    assert Geometry(2, "squash", 2).mask(mask).tolist() == [[False, True]] * 2
    assert torch.equal(
        Geometry(8, "squash", 8).mask(mask), torch.from_numpy(mask.repeat(2, 0).repeat(2, 1))
    )


def test_one_wording_for_too_small_images() -> None:
    with pytest.raises(BenchError, match="64x48 pixels is smaller than the crop of 96"):
        Geometry(96, "none", 96).frame(np.zeros((48, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((224, "shrot", 256), "Did you mean short"),
        ((224, "short", 200), "must not be smaller"),
        ((0, "none", 0), "at least 1"),
        ((8, "short", 8, "bicubik"), "Did you mean bicubic"),
    ],
)
def test_bad_geometry_is_said(arguments: tuple, words: str) -> None:
    with pytest.raises(BenchError, match=words):
        Geometry(*arguments)


def test_id_names_what_matters() -> None:
    assert Geometry(224, "short", 256).id == "short256-bicubic-crop224"
    assert Geometry(224, "none", 1).id == Geometry(224, "none", 224).id == "none-crop224"


def test_sample_frames_everything_alike() -> None:
    image = painted(40, 60, (20, 10, 40, 30))
    mask = image[:, :, 0] > 0
    sample = Sample("a", "a", image, 0, np.array([[20, 10, 40, 30]], dtype=np.float32), mask, ~mask)
    framed = Geometry(20, "short", 20, "nearest").sample(sample)
    assert torch.equal(framed.mask, ~framed.ignore)
    assert np.array_equal(framed.pixels[:, :, 0] > 0, framed.mask.numpy())
    assert box_of(framed.mask.numpy()) == tuple(framed.boxes[0].int().tolist())
    bare = Geometry(20, "short", 20).sample(Sample("a", "a", image, 0))
    assert bare.boxes is None
    assert bare.mask is None


@st.composite
def pictures(draw: st.DrawFn) -> tuple[int, int, tuple[int, int, int, int]]:
    height, width = draw(st.integers(24, 90)), draw(st.integers(24, 90))
    x0, y0 = draw(st.integers(0, width - 9)), draw(st.integers(0, height - 9))
    return (
        height,
        width,
        (x0, y0, draw(st.integers(x0 + 8, width)), draw(st.integers(y0 + 8, height))),
    )


@settings(max_examples=60, deadline=None)
@given(
    picture=pictures(),
    resize=st.sampled_from(["squash", "short", "none"]),
    size=st.integers(12, 24),
)
def test_boxes_follow_the_painted_pixels(picture: tuple, resize: str, size: int) -> None:
    height, width, box = picture
    geometry = Geometry(size, resize, 24 if resize != "none" else size, "bilinear")
    boxes = geometry.boxes(np.array([box], dtype=np.float32), height, width, min_visible=0.0)
    seen = geometry.frame(painted(height, width, box))[:, :, 0]
    mask = geometry.mask(painted(height, width, box)[:, :, 0] > 0).numpy()
    if len(boxes) == 0:
        assert not mask.any()
        return
    x0, y0, x1, y1 = boxes[0].tolist()
    assert 0 <= x0 < x1 <= size
    assert 0 <= y0 < y1 <= size
    # The mask is exactly the pixels whose centre is in the box.
    centre = np.arange(size) + 0.5
    inside = ((centre >= y0) & (centre < y1))[:, None] & ((centre >= x0) & (centre < x1))[None, :]
    near = 1e-4  # a float32 edge that falls on a pixel centre may go either way
    loose = ((centre >= y0 - near) & (centre < y1 + near))[:, None] & (
        (centre >= x0 - near) & (centre < x1 + near)
    )
    assert not (mask & ~loose).any()
    tight = ((centre >= y0 + near) & (centre < y1 - near))[:, None] & (
        (centre >= x0 + near) & (centre < x1 - near)
    )
    assert not (tight & ~mask).any()
    assert inside.shape == mask.shape
    # The painted pixels end within a pixel and a half of the box (the filter blurs edges), however
    # scaled.
    bright = seen > 127
    if bright.any() and min(x1 - x0, y1 - y0) >= 3:
        assert np.abs(np.array(box_of(bright)) - np.array([x0, y0, x1, y1])).max() <= 1.0


@settings(max_examples=40, deadline=None)
@given(picture=pictures(), share=st.floats(0, 1))
def test_a_stricter_share_never_adds_a_box(picture: tuple, share: float) -> None:
    height, width, box = picture
    geometry = Geometry(16, "short", 24)
    strict = geometry.boxes(np.array([box]), height, width, share)
    loose = geometry.boxes(np.array([box]), height, width, share / 2)
    assert len(strict) <= len(loose)
    assert torch.equal(strict, loose[: len(strict)])


def test_a_thin_image_is_refused_before_its_memory_is_taken() -> None:
    thin = np.zeros((2, 3000, 3), dtype=np.uint8)
    assert Geometry(32, "short", 32).frame(thin).shape == (32, 32, 3)
    with pytest.raises(BenchError, match="3000x2 pixels is so thin"):
        Geometry(448, "short", 448).frame(thin)
