"""Frames kept between runs: the same pixels, never stale ones, in no more room than is allowed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from bench.cli import app
from bench.data import Geometry, Subset, cache, load_subset
from bench.data.cache import BOUND_VARIABLE, FrameCache, open_frame_cache, read_cache_bound
from bench.data.images import ImagesSource
from bench.errors import BenchError
from bench.files import CACHE_VARIABLE

ROOT = Path(__file__).parents[2]
GEOMETRY = Geometry(24, "short", 32)
SIZE = cache._HEADER.size + 32 + 24 * 24 * 3
COUNT = 6


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FrameCache:
    """Turn the user's cache on, in a folder of the test's own."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv(BOUND_VARIABLE, "1")
    found = open_frame_cache()
    assert found is not None
    return found


def write(file: Path, seed: int, side: int = 50) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, quality=90)


@pytest.fixture
def photos(tmp_path: Path) -> Subset:
    place = tmp_path / "photos"
    place.mkdir()
    rows = ["file,label,x0,y0,x1,y1"]
    for i in range(COUNT):
        write(place / f"{i}.jpg", i, 50 + i)
        rows.append(f"{i}.jpg,{i % 2},5,6,30.5,33")
    (place / "annotations.csv").write_text("\n".join(rows) + "\n")
    (place / "manifest.toml").write_text('name = "photos"\nkind = "folder"\n')
    return load_subset(place)


def pixels(subset: Subset, geometry: Geometry = GEOMETRY) -> torch.Tensor:
    return subset.batch(range(len(subset)), geometry).pixels


def without(
    monkeypatch: pytest.MonkeyPatch, subset: Subset, geometry: Geometry = GEOMETRY
) -> torch.Tensor:
    with monkeypatch.context() as patch:
        patch.setenv(BOUND_VARIABLE, "0")
        return pixels(subset, geometry)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of images as they are decoded."""
    from bench.data import decode as decode_module
    from bench.data import images

    seen: list[str] = []

    def noted(record, where, *turned, decode=decode_module.decode):
        seen.append(Path(where).name)
        return decode(record, where, *turned)

    cache.pixels_version()  # of the code as it is
    monkeypatch.setattr(images, "decode", noted)
    return seen


@pytest.mark.parametrize(
    "geometry", [GEOMETRY, Geometry(24, "squash", 24, "bilinear"), Geometry(40, "none", 40)]
)
def test_batches_are_the_same_with_and_without(photos, geometry, monkeypatch, decoded, kept):
    with monkeypatch.context() as patch:
        patch.setenv(BOUND_VARIABLE, "0")
        plain = photos.batch(range(COUNT), geometry)
    assert kept.usage().entries == 0
    for times in (2, 2):  # the first fills the cache, the second reads it
        batch = photos.batch(range(COUNT), geometry)
        assert torch.equal(batch.pixels, plain.pixels)
        assert torch.equal(batch.labels, plain.labels)
        assert (batch.ids, batch.image_ids) == (plain.ids, plain.image_ids)
        assert batch.truth.masks is None
        for one, other in zip(batch.truth.boxes, plain.truth.boxes, strict=True):
            assert torch.equal(one, other)
        assert len(decoded) == times * COUNT
    assert kept.usage().entries == COUNT


def test_a_changed_file_is_decoded_anew_whatever_its_date_says(photos, tmp_path, monkeypatch):
    file = tmp_path / "photos" / "3.jpg"
    before, facts = pixels(photos), file.stat()
    other = tmp_path / "other.jpg"
    for seed in range(1000, 2000):
        write(other, seed, 53)
        if other.stat().st_size == facts.st_size:  # of the same size, too
            break
    file.write_bytes(other.read_bytes())
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)
    after = pixels(photos)
    assert not torch.equal(before, after)
    assert torch.equal(after, without(monkeypatch, photos))


def test_preprocessing_and_versions_are_part_of_the_key(photos, monkeypatch, kept):
    content = b"an image"
    keys = {
        cache.frame_key(content, g)
        for g in (GEOMETRY, Geometry(24, "short", 33), Geometry(24, "squash", 32))
    }
    keys.add(cache.frame_key(b"another", GEOMETRY))
    keys.add(cache.frame_key(content, Geometry(24, "short", 32, "bilinear")))
    monkeypatch.setattr(PIL, "__version__", "0.0")
    cache.pixels_version.cache_clear()
    try:
        keys.add(cache.frame_key(content, GEOMETRY))
    finally:
        cache.pixels_version.cache_clear()
    assert len(keys) == 6


@pytest.mark.parametrize(
    "harm",
    [
        lambda whole: whole[:100],
        lambda whole: b"",
        lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
        lambda whole: whole + b"x",
        lambda whole: whole[:8] + b"\0" * 4 + whole[12:],  # the height of the stored image
        lambda whole: b"x" + whole[1:],
    ],
)
def test_a_broken_entry_is_dropped_and_decoded_again(
    photos, kept, decoded, harm: Callable[[bytes], bytes]
):
    expected = pixels(photos)
    files = sorted(kept.folder.rglob("*.frame"))
    whole = files[2].read_bytes()
    files[2].write_bytes(harm(whole))
    decoded.clear()
    assert torch.equal(pixels(photos), expected)
    assert len(decoded) == 1
    assert files[2].read_bytes() == whole


def test_an_entry_under_another_key_is_not_taken(photos, kept, decoded):
    expected = pixels(photos)
    files = sorted(kept.folder.rglob("*.frame"))
    files[0].write_bytes(files[1].read_bytes())
    assert torch.equal(pixels(photos), expected)
    assert len(decoded) == COUNT + 1


def test_the_bound_is_kept_and_what_was_used_last_stays(photos, tmp_path, decoded):
    small = FrameCache(tmp_path / "small", int(3.5 * SIZE))
    contents = [(tmp_path / "photos" / f"{i}.jpg").read_bytes() for i in range(COUNT)]

    def use(i: int) -> None:
        def decode() -> np.ndarray:
            decoded.append(str(i))
            return np.zeros((32, 40, 3), dtype=np.uint8)

        small.frame(contents[i], GEOMETRY, decode)
        assert small.usage().size <= small.bound

    for number, i in enumerate((0, 1, 2)):
        use(i)
        set_used(small, contents[i], number)
    use(0)  # used again: now 1 is the oldest
    use(3)
    decoded.clear()
    use(0)
    use(2)
    use(3)
    assert decoded == []
    use(1)
    assert decoded == ["1"]


def set_used(kept: FrameCache, content: bytes, when: float) -> None:
    os.utime(kept.path(cache.frame_key(content, GEOMETRY)), (when, when))


def test_an_image_larger_than_the_bound_is_not_kept(photos, tmp_path, monkeypatch):
    monkeypatch.setenv(BOUND_VARIABLE, str((SIZE - 1) / 2**30))
    found = open_frame_cache()
    pixels(photos)
    assert found is not None
    assert found.usage().entries == 0


def test_what_others_wrote_counts(photos, tmp_path):
    """Another process fills the folder after this one has looked: what this one adds makes it look
    again.
    """
    bound = 64 * SIZE
    mine, other = FrameCache(tmp_path / "both", bound), FrameCache(tmp_path / "both", bound)
    black = np.zeros((32, 40, 3), dtype=np.uint8)
    for one, count in ((mine, 1), (other, 63), (mine, 60)):
        for i in range(count):
            one.frame(f"{count} {i}".encode(), GEOMETRY, lambda: black)
            assert one.usage().size <= bound + 3 * SIZE


def test_leftovers_of_killed_processes_are_removed(photos, kept):
    pixels(photos)
    shard = next(kept.folder.iterdir())
    old, new = shard / ".a.tmp", shard / ".b.tmp"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    assert kept.usage().entries == COUNT
    assert not old.exists()
    assert new.exists()


FILL = """
import sys, torch
from bench.data import Geometry, load_subset
photos = load_subset(sys.argv[1])
for _ in range(20):
    torch.save(photos.batch(range(len(photos)), Geometry(24, "short", 32)).pixels, sys.argv[2])
"""


def test_two_processes_share_a_cache_with_room_for_neither(photos, tmp_path, monkeypatch):
    expected = without(monkeypatch, photos)
    monkeypatch.setenv(BOUND_VARIABLE, str(4.5 * SIZE / 2**30))
    command = [sys.executable, "-c", FILL, str(tmp_path / "photos")]
    running = [
        subprocess.Popen(
            [*command, str(tmp_path / f"{i}.pt")],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for i in range(2)
    ]
    assert [process.wait() for process in running] == [0, 0]
    for i in range(2):
        assert torch.equal(torch.load(tmp_path / f"{i}.pt"), expected)
    found = open_frame_cache()
    assert found is not None
    assert not list(found.folder.rglob("*.tmp"))


def test_a_folder_that_cannot_be_written_fails_no_run(photos, tmp_path, monkeypatch, decoded):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    assert torch.equal(pixels(photos), without(monkeypatch, photos))


def test_an_image_that_cannot_be_read_is_the_same_sentence(photos, tmp_path, monkeypatch, kept):
    pixels(photos)
    (tmp_path / "photos" / "1.jpg").write_bytes(b"no image")
    (tmp_path / "photos" / "2.jpg").unlink()
    for name in ("1.jpg", "2.jpg"):
        said = []
        for bound in ("0", "1"):
            monkeypatch.setenv(BOUND_VARIABLE, bound)
            with pytest.raises(BenchError) as raised:
                photos.batch([photos.ids.index(name)], GEOMETRY)
            said.append(str(raised.value))
        assert said[0] == said[1]
        assert name in said[0]
    with pytest.raises(BenchError, match=r"In the subset photos: .* smaller than the crop"):
        photos.batch([photos.ids.index("3.jpg")], Geometry(60, "none", 60))
    assert kept.usage().entries == COUNT


def test_a_source_that_changes_its_images_is_not_cached(photos, kept):
    class Dark(ImagesSource):
        def read(self, position):
            sample = super().read(position)
            return type(sample)(
                sample.id, sample.image_id, sample.image // 2, sample.label, sample.boxes
            )

    bright = pixels(photos)
    photos.source.__class__ = Dark
    assert pixels(photos).max() < 0.51 < bright.max()


def test_parquet_is_cached_and_scenes_are_not(photos, tmp_path, kept, monkeypatch, decoded):
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    dataset = photos.source._dataset.add_column("label", [0, 1] * (COUNT // 2))
    (tmp_path / "stored").mkdir()
    dataset.to_parquet(str(tmp_path / "stored" / "all.parquet"))
    (tmp_path / "stored" / "manifest.toml").write_text('name = "stored"\nkind = "parquet"\n')
    monkeypatch.setenv("CAMBENCH_DATA_ROOTS", str(tmp_path / "photos"))
    stored = load_subset(tmp_path / "stored")
    assert torch.equal(pixels(stored), without(monkeypatch, stored))
    assert kept.usage().entries == COUNT
    decoded.clear()
    pixels(photos)  # the same images, found by what they are
    assert decoded == []
    load_subset("scenes-val", limit=2).batch([0, 1], Geometry(96, "none", 96))
    assert kept.usage().entries == COUNT


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_a_bound_that_is_no_number_is_one_sentence(text, monkeypatch):
    monkeypatch.setenv(BOUND_VARIABLE, text)
    with pytest.raises(BenchError, match=r"CAMBENCH_CACHE_GIB is .* give the cache's bound in GiB"):
        open_frame_cache()


def test_the_command_shows_and_clears(photos, kept, monkeypatch):
    pixels(photos)
    run = CliRunner().invoke
    shown = run(app, ["cache"])
    assert shown.exit_code == 0
    assert (
        f"{kept.folder}: {COUNT} decoded images, {COUNT * SIZE / 1024:.1f} KiB of at most 1.0 GiB."
        in shown.output
    )
    assert f"Dropped {COUNT} images" in run(app, ["cache", "--clear"]).output
    assert not list(kept.folder.rglob("*.frame"))
    assert ": 0 decoded images, 0 bytes of at most" in run(app, ["cache"]).output
    pixels(photos)
    assert kept.usage().entries == COUNT
    monkeypatch.setenv(BOUND_VARIABLE, "0")
    assert "turned off (CAMBENCH_CACHE_GIB is 0)" in run(app, ["cache"]).output


def test_no_cache_turns_it_off(photos, tmp_path, kept, monkeypatch):
    words = [
        "run",
        "--subset",
        str(tmp_path / "photos"),
        "--models",
        "resnet18",
        "--methods",
        "random",
        "--plan",
    ]
    CliRunner().invoke(app, [*words, "--no-cache"])
    assert read_cache_bound() == 0
    assert open_frame_cache() is None
    pixels(photos)
    assert kept.usage().entries == 0
