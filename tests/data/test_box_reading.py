"""Boxes: which columns, which order and unit, and what is refused with its remedy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data import Subset, load_subset
from bench.data.box_columns import find_box_columns, parse_boxes
from bench.data.geometry import Geometry
from bench.data.manifest import Manifest
from bench.errors import BenchError

WIDTH, HEIGHT = 300, 160
XYXY = (60.0, 32.0, 240.0, 80.0)  # of an object in the image
DEFAULT = "x0,y0,x1,y1"


def write(
    place: Path,
    rows: list[str],
    header: str = DEFAULT,
    keys: str = "",
    orientation: int = 1,
) -> Path:
    """Write one image for each row of boxes (`;` separates the boxes of an image)."""
    place.mkdir(exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    lines = [f"file,label,{header}"]
    for i, row in enumerate(rows):
        Image.new("RGB", (WIDTH, HEIGHT), (i, 0, 0)).save(place / f"{i}.png", exif=exif)
        lines += [f"{i}.png,0,{box}" for box in row.split(";")]
    (place / "annotations.csv").write_text("\n".join(lines) + "\n")
    (place / "manifest.toml").write_text(f'name = "n"\nkind = "folder"\n{keys}\n')
    return place


def boxes(subset: Subset) -> dict[str, list[list[float]]]:
    return {sample.id: np.round(sample.boxes, 3).tolist() for sample in subset}


def share(values: tuple[float, ...], scale: float = 1) -> str:
    sides = (WIDTH, HEIGHT) * 2
    return ",".join(str(scale * value / side) for value, side in zip(values, sides, strict=True))


x0, y0, x1, y1 = XYXY
XYWH = (x0, y0, x1 - x0, y1 - y0)
CXCYWH = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)


def text(values: tuple[float, ...]) -> str:
    return ",".join(map(str, values))


@pytest.mark.parametrize(
    ("header", "row", "keys"),
    [
        (DEFAULT, text(XYXY), ""),
        ("X0,Y0,X1,Y1", text(XYXY), ""),
        ("x1,y1,x2,y2", text(XYXY), ""),
        ("xmin,ymin,xmax,ymax", text(XYXY), ""),
        ("XMin,XMax,YMin,YMax", text((x0, x1, y0, y1)), ""),
        ("bbox_x_min,bbox_y_min,bbox_x_max,bbox_y_max", text(XYXY), ""),
        ("left,top,right,bottom", text(XYXY), ""),
        ("width,height,xmin,ymin,xmax,ymax", f"{WIDTH},{HEIGHT},{text(XYXY)}", ""),
        ("x,y,w,h", text(XYWH), ""),
        ("x,y,width,height", text(XYWH), ""),
        ("left,top,width,height", text(XYWH), ""),
        ("BBox-X1,bbox y1,bbox_x2,bbox_y2", text(XYXY), ""),
        ("bbox_x,bbox_y,bbox_w,bbox_h", text(XYWH), ""),
        ("cx,cy,w,h", text(CXCYWH), ""),
        ("x_center,y_center,width,height", share(CXCYWH), 'boxes = "fraction"'),
        ("boxes", f'"[{text(XYXY)}]"', ""),
        ("bbox", f'"[{text((100, 32, 240, 80))}]"', ""),
        ("bbox", f'"[{text(XYWH)}]"', 'boxes = "xywh"'),
        ("bbox", f'"{text(XYXY).replace(",", " ")}"', 'boxes = "xyxy"'),
        (DEFAULT, text(XYWH), 'boxes = "xywh"'),
        (DEFAULT, text(CXCYWH), 'boxes = "cxcywh"'),
        (DEFAULT, text((y0, x0, y1, x1)), 'boxes = "yxyx"'),
        (DEFAULT, text((x0, y0, x1 - 1, y1 - 1)), 'boxes = "pixels"'),
        (DEFAULT, share(XYXY), 'boxes = "fraction"'),
        (DEFAULT, share(XYWH), 'boxes = "fraction-xywh"'),
        (DEFAULT, share(CXCYWH), 'boxes = "fraction-cxcywh"'),
        (DEFAULT, share(XYXY, 100), 'boxes = "percent"'),
        (DEFAULT, share(XYWH, 100), 'boxes = "percent-xywh"'),
    ],
)
def test_boxes_in_any_columns_are_the_object(
    tmp_path: Path, header: str, row: str, keys: str
) -> None:
    expected = [100.0, 32.0, 240.0, 80.0] if "100" in row and header == "bbox" else [*XYXY]
    subset = load_subset(write(tmp_path / "f", [row], header, keys))
    assert boxes(subset) == {"0.png": [expected]}
    assert subset.notes[1].text.startswith("Boxes: 1 box from ")
    framed = Geometry(100, "squash", 100).sample(subset[0])
    sides = np.array([WIDTH, HEIGHT] * 2)
    assert np.allclose(framed.boxes, np.array([expected]) * 100 / sides, atol=1e-3)


@pytest.mark.parametrize(
    ("row", "header", "words"),
    [
        (share(XYXY), DEFAULT, r"lie within 0..1, .* fractions .*boxes = \"fraction-xyxy\""),
        (share(CXCYWH), DEFAULT, r"boxes = \"fraction-cxcywh\""),
        (f"{text(XYXY)};0,0,1,1", DEFAULT, "lies within one pixel, as a fraction"),
        ("200,20,90,70", DEFAULT, r"line 2 .*is reversed .*boxes = \"xywh\""),
        ("200,20,190,10", DEFAULT, "is reversed .*swap its corners"),
        ("60,32,60,80", DEFAULT, r"is reversed or empty .*boxes = \"pixels\""),
        ("-1,-1,-1,-1", DEFAULT, "stand for no box; leave its cells empty"),
        ("0,0,0,0", DEFAULT, "stand for no box"),
        ("60,32,,80", DEFAULT, "has 3 of its four finite numbers"),
        ("60,32,inf,80", DEFAULT, "is not four finite numbers"),
        ('"60,5",32,90,80', DEFAULT, "has a decimal comma"),
        ("60px,32,90,80", DEFAULT, "'60px' is no number"),
        ("60,32,400,80", DEFAULT, "lies outside its image of 300x160 pixels; cut it to the image"),
        ("32,160,80,240", DEFAULT, r"lies outside .*boxes = \"yxyx\""),
        (f'"[{text(XYWH)}]"', "bbox", r"boxes = \"xyxy\" or boxes = \"xywh\""),
        ('"[1,2,3]"', "bbox", "not lists of four"),
        (f"{text(XYXY)},1", "xmin,ymin,xmax,ymax,bbox", "leave one of the two"),
        ("60,32,240", "xmin,ymin,xmax", "lacks the column ymax"),
        ("1,1,9,1,9,9,1,9", "x1,y1,x2,y2,x3,y3,x4,y4", "corners of polygons"),
    ],
)
def test_what_is_no_box_names_row_and_remedy(
    tmp_path: Path, row: str, header: str, words: str
) -> None:
    with pytest.raises(BenchError, match=words) as caught:
        load_subset(write(tmp_path / "f", [row], header))
    assert "\n" not in str(caught.value)


def test_the_remedies_work(tmp_path: Path) -> None:
    one_pixel = load_subset(write(tmp_path / "a", ["60,32,60,32"], keys='boxes = "pixels"'))
    assert boxes(one_pixel) == {"0.png": [[60, 32, 61, 33]]}
    empty = load_subset(write(tmp_path / "b", [",,,", text(XYXY)]))
    assert boxes(empty) == {"0.png": [], "1.png": [[*XYXY]]}
    with pytest.raises(BenchError, match="names another unit"):
        load_subset(write(tmp_path / "c", [text(XYXY)], keys='boxes = "fraction"'))
    with pytest.raises(BenchError, match="have no last pixel"):
        load_subset(write(tmp_path / "d", [text(XYWH)], "x,y,w,h", 'boxes = "pixels"'))


def test_a_list_column_is_read_in_the_order_that_fits(tmp_path: Path) -> None:
    rows = [f'"[{text(XYWH)}]"', '"[200, 20, 90, 70]"']
    subset = load_subset(write(tmp_path / "f", rows, "bbox"))
    assert boxes(subset) == {"0.png": [[*XYXY]], "1.png": [[200, 20, 290, 90]]}
    assert subset.manifest.boxes == "xywh", "what was found is part of the subset's id"


def test_what_is_suspicious_is_a_warning(tmp_path: Path) -> None:
    rows = [f"{20 + i},{20 + i},{60 + i},{50 + i}" for i in range(9)]
    cautions = [n.text for n in load_subset(write(tmp_path / "a", rows)).notes if n.caution]
    assert any('boxes = "xywh"' in one for one in cautions)
    assert any('boxes = "percent"' in one for one in cautions)
    rows = [f"{120 + i},{20 + i},{290 - i},{150 - i}" for i in range(9)]
    assert not [n for n in load_subset(write(tmp_path / "b", rows)).notes if n.caution]
    twice = load_subset(write(tmp_path / "c", [";".join([text(XYXY)] * 3)]))
    assert boxes(twice) == {"0.png": [[*XYXY]]}
    assert any("2 boxes of" in n.text and "count once" in n.text for n in twice.notes)
    unused = load_subset(write(tmp_path / "d", [f"{text(XYXY)},9"], f"{DEFAULT},polygon"))
    assert any("polygon" in n.text for n in unused.notes if n.caution)
    none = load_subset(write(tmp_path / "e", ["9,hen"], "polygon,note"))
    assert not none.has_boxes
    assert [n.caution for n in none.notes if "polygon" in n.text] == [True]
    assert [n.caution for n in none.notes if "note" in n.text] == [False]


def test_exif_is_applied_where_boxes_fit_only_then(tmp_path: Path) -> None:
    tall, wide, both = "10,150,90,290", "150,10,290,90", "20,20,90,80"
    turned = load_subset(write(tmp_path / "a", [tall, both], orientation=6))
    assert turned[0].image.shape == (WIDTH, HEIGHT, 3)
    assert boxes(turned) == {"0.png": [[10, 150, 90, 290]], "1.png": [[20, 20, 90, 80]]}
    assert turned.manifest.exif == "turned"
    stored = load_subset(write(tmp_path / "b", [wide, both], orientation=8))
    assert stored[0].image.shape == (HEIGHT, WIDTH, 3)
    for place, orientation in (("c", 6), ("d", 3)):
        doubtful = load_subset(write(tmp_path / place, [both], orientation=orientation))
        assert doubtful[0].image.shape == (HEIGHT, WIDTH, 3)
        cautions = [n.text for n in doubtful.notes if n.caution]
        assert len([one for one in cautions if 'exif = "turned"' in one]) == 1
    asked = load_subset(write(tmp_path / "e", [both], keys='exif = "turned"', orientation=6))
    assert asked[0].image.shape == (WIDTH, HEIGHT, 3)
    with pytest.raises(BenchError, match=r"fit only when its EXIF .* is applied, and those"):
        load_subset(write(tmp_path / "f", [tall, wide], orientation=6))


def test_frames_of_turned_images_are_cached_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CAMBENCH_CACHE_GIB", "1")
    geometry = Geometry(32, "short", 32)
    place = write(tmp_path / "f", ["20,20,90,80"], orientation=6)
    half = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    half[:, : WIDTH // 2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(half).save(place / "0.png", exif=exif)
    stored = load_subset(place).batch([0], geometry).pixels
    (place / "manifest.toml").write_text('name = "n"\nkind = "folder"\nexif = "turned"\n')
    for _ in range(2):  # decoded, and from the cache
        turned = load_subset(place).batch([0], geometry)
        assert (turned.pixels[0, 0, 0] > 0.9).all()
    assert (stored[0, 0, :, 0] > 0.9).all()


def test_a_manifest_without_the_new_key_keeps_its_id() -> None:
    content = {"name": "n", "kind": "folder"}
    old = Manifest.parse(content, "m.toml")
    # The id of this manifest before there was the key.
    assert old.id == "455fa29e1f7f"
    assert Manifest.parse({**content, "exif": "turned"}, "m.toml").id != old.id
    with pytest.raises(BenchError, match="unknown exif 'turn'"):
        Manifest.parse({"name": "n", "kind": "folder", "exif": "turn"}, "m.toml")


def test_cells_and_columns_are_parsed_alone() -> None:
    nested = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]
    for cell in (
        "[[1,2,3,4],[5,6,7,8]]",
        "[[1. 2. 3. 4.]\n [5. 6. 7. 8.]]",
        nested,
        np.array(nested),
    ):
        assert parse_boxes([cell], "t") == nested
    for cell in (None, "", "[]", [], float("nan")):
        assert parse_boxes([cell], "t") == []
    assert find_box_columns(["x", "y", "width"]) is None
    assert find_box_columns(["boxes", "bbox"]).unused == ("bbox",)
