"""Pixels of every mode become what a viewer shows, or a sentence."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data import load_subset
from bench.data.decode import decode
from bench.data.image_survey import survey_images
from bench.errors import BenchError

GREY = np.random.default_rng(5).integers(0, 256, (9, 13), dtype=np.uint8)
RGB = np.random.default_rng(6).integers(0, 256, (9, 13, 3), dtype=np.uint8)


def encode(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def read(content: bytes, turned: bool = False) -> np.ndarray:
    return decode({"bytes": content}, "x.img", turned)


def write_png(samples: np.ndarray, kind: int) -> bytes:
    """Return a 16-bit PNG [H,W,C] of a colour kind, by the format's own rules."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    height, width = samples.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in samples)
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def assert_grey(pixels: np.ndarray, expected: np.ndarray) -> None:
    assert np.array_equal(pixels, np.repeat(expected[:, :, None], 3, axis=2))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_keep_black_and_white(form: str) -> None:
    wide = GREY.astype(np.uint16) * 257
    assert_grey(read(encode(Image.fromarray(wide), form)), GREY)
    between = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(between / 257).astype(np.uint8)
    assert_grey(read(encode(Image.fromarray(between), form)), expected)
    assert_grey(read(write_png(wide[:, :, None], 0)), GREY)


def test_sixteen_bit_colours_are_the_upper_bits() -> None:
    assert np.array_equal(read(write_png(RGB.astype(np.uint16) * 257, 2)), RGB)
    with pytest.raises(BenchError, match="is nearly black: its 16-bit channels"):
        read(write_png(RGB.astype(np.uint16) * 16, 2))


def write_twelve_bits(values: np.ndarray) -> bytes:
    """Return a TIFF of 12 bits a pixel, two pixels in three bytes, by the format's own rules."""
    height, width = values.shape
    pairs = values.reshape(-1, 2).astype(int)
    packed = np.stack(
        [pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1
    )
    body = packed.astype(np.uint8).tobytes()
    tags = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1)]
    tags += [(278, height), (279, len(body))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(body))
    return head + body + struct.pack("<H", len(tags)) + entries + b"\0" * 4


def test_twelve_bits_are_scaled_where_the_file_says_so() -> None:
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    expected = np.rint(values.astype(float) * 255 / 4095).astype(np.uint8)
    assert_grey(read(write_twelve_bits(values)), expected)


def test_floats_fill_one_or_255() -> None:
    for scale in (1, 255):
        values = GREY.astype(np.float32) / 255 * scale
        assert_grey(read(encode(Image.fromarray(values), "TIFF")), GREY)
    black = np.zeros((4, 4), np.float32)
    assert read(encode(Image.fromarray(black), "TIFF")).max() == 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (GREY.astype(np.uint16) * 16, "nearly black: its 16-bit pixels end at 40"),
        (GREY.astype(np.uint16), "nearly black"),
        (GREY.astype(np.int32) * 300, "32-bit pixels from 0 to 7"),
        (GREY.astype(np.float32) / 100, "float pixels from 0 to 2"),
        (GREY.astype(np.float32) - 40, "float pixels from -"),
        (np.full((4, 4), np.nan, np.float32), "float pixels from nan"),
    ],
)
def test_pixels_of_unknown_brightness_are_refused(values: np.ndarray, words: str) -> None:
    with pytest.raises(BenchError, match=f"The image x.img .*{words}") as caught:
        read(encode(Image.fromarray(values), "TIFF"))
    assert "\n" not in str(caught.value)


def shown_on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[:, :, None] / 255
    return np.rint(colours * share + 255 * (1 - share)).astype(np.uint8)


def test_transparency_is_composited_on_white() -> None:
    alpha = np.tile(np.linspace(0, 255, 13).astype(np.uint8), (9, 1))
    rgba = Image.fromarray(np.dstack([RGB, alpha]))
    assert np.array_equal(read(encode(rgba, "PNG")), shown_on_white(RGB, alpha))
    la = Image.fromarray(np.dstack([GREY, alpha]))
    grey = np.repeat(GREY[:, :, None], 3, axis=2)
    assert np.array_equal(read(encode(la, "PNG")), shown_on_white(grey, alpha))
    webp = read(encode(rgba, "WEBP", lossless=True, exact=True))
    assert np.array_equal(webp, shown_on_white(RGB, alpha))


def test_a_transparent_colour_is_white_in_palettes_and_colour_keys() -> None:
    indices = (GREY % 4).astype(np.uint8)
    palette = [10, 20, 30, 40, 50, 60, 70, 80, 90, 200, 0, 0]
    image = Image.fromarray(indices)
    image = Image.frombytes("P", image.size, indices.tobytes())
    image.putpalette(palette)
    expected = np.array(palette, np.uint8).reshape(4, 3)[indices]
    for form in ("PNG", "GIF"):
        assert np.array_equal(read(encode(image, form)), expected)
        seen = read(encode(image, form, transparency=3))
        assert np.array_equal(seen, np.where((indices == 3)[:, :, None], 255, expected))
    key = encode(Image.fromarray(RGB), "PNG", transparency=tuple(int(v) for v in RGB[2, 3]))
    assert read(key)[2, 3].tolist() == [255, 255, 255]
    assert np.array_equal(read(key)[0, 0], RGB[0, 0])


def test_ordinary_images_are_bit_equal_to_pillow_and_opaque_alpha_changes_nothing() -> None:
    opaque = Image.fromarray(np.dstack([RGB, np.full((9, 13), 255, np.uint8)]))
    assert np.array_equal(read(encode(opaque, "PNG")), RGB)
    for mode in ("RGB", "L", "CMYK", "YCbCr", "1"):
        image = Image.fromarray(RGB).convert(mode)
        for form in ("JPEG", "TIFF"):
            if form == "TIFF" or mode in ("RGB", "L", "CMYK"):
                content = encode(image, form)
                with Image.open(io.BytesIO(content)) as opened:
                    assert np.array_equal(read(content), np.asarray(opened.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_only_where_asked(orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(Image.fromarray(RGB), "PNG", exif=exif)
    assert np.array_equal(read(content), RGB)
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(
            read(content, turned=True), np.asarray(ImageOps.exif_transpose(image))
        )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><p>404", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<svg xmlns='a'/>", "XML or SVG"),
        (b"%PDF-1.7", "a PDF"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, "HEIC"),
        (b"\0" * 128 + b"DICM", "DICOM"),
        (b"\x93NUMPY", "a NumPy array"),
        (encode(Image.fromarray(RGB), "TIFF", tiffinfo={339: (3, 3, 3)}), "TIFF of a kind"),
        (b"no image at all", "no image format that Pillow knows"),
        (encode(Image.fromarray(RGB), "PNG")[:90], "cut short"),
        (encode(Image.fromarray(RGB), "JPEG")[:300], "cut short|no image format"),
    ],
)
def test_why_a_file_is_no_image_is_said(content: bytes, words: str) -> None:
    with pytest.raises(BenchError, match=rf"The image x.img cannot be read: .*({words})") as caught:
        read(content)
    assert "BytesIO" not in str(caught.value)
    assert ("fetch it again" in str(caught.value)) == (
        not content or "cut short" in str(caught.value)
    )


def test_a_run_says_once_what_was_assumed_about_pixels(tmp_path: Path) -> None:
    alpha = np.dstack([RGB, np.zeros((9, 13), np.uint8)])
    frames = [Image.fromarray(RGB), Image.fromarray(RGB[::-1].copy())]
    (tmp_path / "a.png").write_bytes(encode(Image.fromarray(alpha), "PNG"))
    (tmp_path / "b.png").write_bytes(encode(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"))
    frames[0].save(tmp_path / "c.webp", save_all=True, append_images=frames[1:], lossless=True)
    Image.fromarray(RGB).save(tmp_path / "d.png")
    rows = "".join(f"{name},0\n" for name in ("a.png", "b.png", "c.webp", "d.png"))
    (tmp_path / "annotations.csv").write_text("file,label\n" + rows)
    (tmp_path / "manifest.toml").write_text('name = "n"\nkind = "folder"\n')
    subset = load_subset(tmp_path)
    cautions = [note.text for note in subset.notes if note.caution]
    assert len(cautions) == 3
    for name, words in (("a.png", "white"), ("b.png", "8 bits"), ("c.webp", "the first is read")):
        assert any(name in one and words in one and "of 4 images" in one for one in cautions)
    images = {sample.id: sample.image for sample in subset}
    assert images["a.png"].min() == 255
    assert np.array_equal(images["c.webp"], RGB)


def test_an_unreadable_image_in_parquet_names_its_file_and_row(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole, broken = encode(Image.fromarray(RGB), "PNG"), b"<html>"
    for name, contents in (("a", [whole, whole]), ("b", [whole, broken])):
        column = pa.array([{"bytes": content, "path": None} for content in contents])
        pq.write_table(pa.table({"image": column, "label": [0, 0]}), tmp_path / f"{name}.parquet")
    subset = load_subset(tmp_path)
    with pytest.raises(BenchError, match=r"row 2 of .*b\.parquet\) cannot be read: it is a web"):
        [*subset, *(subset.calibration() or ())]
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(BenchError, match=r"cannot be read .*b\.parquet"):
        load_subset(tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(tmp_path: Path, orientation: int) -> None:
    """Pillow turns a TIFF when it loads it, so nothing here turns it again."""
    stored = np.random.default_rng(orientation).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for name, packing in (("raw.tif", None), ("lzw.tif", "tiff_lzw")):
        file = tmp_path / name
        Image.fromarray(stored).save(file, compression=packing, tiffinfo={274: orientation})
        shown = np.asarray(Image.open(file).convert("RGB"))
        for turned in (False, True):
            assert np.array_equal(decode({"path": str(file)}, name, turned), shown)
        facts = survey_images(lambda _, file=file: ({"path": str(file)}, "it"), 1)
        assert facts[0].shown(False) == facts[0].shown(True) == shown.shape[1::-1]


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_white_may_be_zero(tmp_path: Path, kind: str) -> None:
    """PhotometricInterpretation 0 means that 0 is white; Pillow minds it for 8 bits only."""
    grey = np.linspace(0, 255, 12 * 16).round().reshape(12, 16).astype(np.uint8)
    full = {"uint8": 255, "uint16": 65535, "float32": 1}[kind]
    raw = (full - grey.astype(np.float64) / 255 * full).astype(kind)
    Image.fromarray(raw).save(tmp_path / "a.tif")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    black = np.array([262, 3], "<u2").tobytes() + np.array([1, 1], "<u4").tobytes()
    assert content.count(black) == 1
    where = content.index(black) + 8
    content[where : where + 4] = bytes(4)
    found = decode({"bytes": bytes(content)}, "a.tif")
    assert np.array_equal(found, np.repeat(grey[:, :, None], 3, axis=2))
