"""The pictures of a run: an item has one file, whatever was run, stopped or merged before."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

import bench
from bench.board import load_gallery
from bench.errors import AssumptionWarning, BenchError
from bench.records.gallery_parts import list_gallery, merge_gallery, read_arrays, write_gallery

TASK = "net-eval-000000-000004"


def make_arrays(items: str, *methods: str, shade: int = 7) -> dict[str, np.ndarray]:
    arrays = {}
    for item in items:
        arrays[f"{item}|image"] = np.full((8, 8, 3), shade, np.uint8)
        arrays[f"{item}|title"] = np.array(f"class of {item}")
        for number, method in enumerate(methods):
            arrays[f"{item}|{method}"] = np.full((4, 4), number + 0.5, np.float16)
    return arrays


def read_all(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / "gallery").iterdir()}


def count_homes(folder: Path) -> dict[str, int]:
    """Return in how many files each key lies."""
    found: dict[str, int] = {}
    for file in list_gallery(folder / "gallery"):
        for key in read_arrays(file):
            found[key] = found.get(key, 0) + 1
    return found


def test_a_task_that_is_computed_twice_has_one_file(tmp_path):
    """A run that was killed between its pictures and its records computes the task again."""
    write_gallery(tmp_path, TASK, make_arrays("ab", "grad_cam"))
    before = read_all(tmp_path)
    write_gallery(tmp_path, TASK, make_arrays("ab", "grad_cam"))
    assert read_all(tmp_path) == before
    assert list(before) == [f"{TASK}-0.npz"]


def test_a_later_method_and_a_later_map_join_the_file(tmp_path):
    write_gallery(tmp_path, TASK, make_arrays("ab", "cam", "grad_cam"))
    write_gallery(tmp_path, TASK, make_arrays("a", "grad_cam", "lrp"))
    pictures = load_gallery(tmp_path, ["net"])["net"]
    assert list(pictures["a"].maps) == ["cam", "grad_cam", "lrp"]
    assert pictures["a"].maps["grad_cam"][0, 0] == 0.5  # of the second call
    assert pictures["b"].maps["grad_cam"][0, 0] == 1.5
    assert len(read_all(tmp_path)) == 1


def test_an_item_of_two_tasks_stays_in_its_first_file(tmp_path):
    """--limit 4, then --limit 8 with one more method: another task has the same items."""
    write_gallery(tmp_path, TASK, make_arrays("ab", "cam"))
    write_gallery(tmp_path, "net-eval-000000-000008", make_arrays("abc", "lrp"))
    write_gallery(tmp_path, "net-2-eval-000000-000008", make_arrays("abc", "lrp"))
    assert len(read_all(tmp_path)) == 3
    assert count_homes(tmp_path)["a|image"] == 2  # one for each of the two models
    assert list(load_gallery(tmp_path, ["net", "net-2"])["net"]["a"].maps) == ["cam", "lrp"]


def test_files_that_were_doubled_before_become_one(tmp_path):
    for number, method in enumerate(("cam", "lrp", "cam")):
        write_gallery(tmp_path / str(number), TASK, make_arrays("ab", method, shade=7))
        source = tmp_path / str(number) / "gallery" / f"{TASK}-0.npz"
        (tmp_path / "gallery").mkdir(exist_ok=True)
        shutil.copy(source, tmp_path / "gallery" / f"{TASK}-{number + 9}.npz")
    assert count_homes(tmp_path)["a|image"] == 3
    write_gallery(tmp_path, TASK, make_arrays("a", "rise"))
    assert count_homes(tmp_path)["a|image"] == 1
    write_gallery(tmp_path, TASK, make_arrays("b", "rise"))
    assert list(read_all(tmp_path)) == [f"{TASK}-11.npz"]
    assert list(load_gallery(tmp_path, ["net"])["net"]["b"].maps) == ["cam", "lrp", "rise"]


def test_maps_of_another_picture_are_not_shown_over_it(tmp_path):
    write_gallery(tmp_path, TASK, make_arrays("a", "cam"))
    write_gallery(tmp_path, TASK, make_arrays("a", "lrp", shade=9))
    picture = load_gallery(tmp_path, ["net"])["net"]["a"]
    assert picture.image[0, 0, 0] == 9
    assert list(picture.maps) == ["lrp"]


def test_a_merge_that_is_repeated_changes_nothing(tmp_path):
    one, two, out = tmp_path / "one", tmp_path / "two", tmp_path / "out"
    write_gallery(one, TASK, make_arrays("ab", "cam"))
    write_gallery(two, "net-eval-000000-000008", make_arrays("abc", "lrp"))
    for source in (one, two):
        merge_gallery(source, out)
    before = read_all(out)
    for source in (one, two, one):
        merge_gallery(source, out)
    assert read_all(out) == before
    assert set(count_homes(out).values()) == {1}
    assert list(load_gallery(out, ["net"])["net"]["a"].maps) == ["cam", "lrp"]


def test_a_damaged_file_is_kept_and_the_run_goes_on(tmp_path):
    write_gallery(tmp_path, TASK, make_arrays("a", "cam"))
    file = tmp_path / "gallery" / f"{TASK}-0.npz"
    file.write_bytes(b"")
    with pytest.raises(BenchError, match=r"gallery file .* cannot be read"):
        load_gallery(tmp_path)
    with pytest.warns(AssumptionWarning, match=r"kept as .*\.npz\.damaged"):
        write_gallery(tmp_path, TASK, make_arrays("a", "cam"))
    assert (file.parent / f"{file.name}.damaged").read_bytes() == b""
    assert list(load_gallery(tmp_path, ["net"])["net"]["a"].maps) == ["cam"]


def test_no_flipped_bit_is_read_as_another_picture(tmp_path):
    write_gallery(tmp_path, TASK, make_arrays("ab", "cam"))
    file = tmp_path / "gallery" / f"{TASK}-0.npz"
    content, right = file.read_bytes(), read_arrays(file)
    chance = random.Random(5)
    for _ in range(300):
        place, bit = chance.randrange(len(content)), chance.randrange(8)
        file.write_bytes(
            content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]
        )
        try:
            found = read_arrays(file)
        except BenchError:
            continue
        assert found.keys() <= right.keys()
        assert all(np.array_equal(found[key], right[key]) for key in found)


@pytest.mark.parametrize(
    ("key", "array"),
    [
        ("a|image", np.zeros((8, 8), np.uint8)),
        ("a|image", np.zeros((0, 8, 3), np.uint8)),
        ("a|image", np.zeros((8, 8, 3), np.float32)),
        ("a|cam", np.zeros((4, 4), np.complex64)),
        ("a|cam", np.zeros(4, np.float16)),
        ("a|cam", np.array([[{}]], object)),
        ("a|title", np.zeros(3)),
        ("a|boxes", np.zeros((2, 3), np.float32)),
    ],
)
def test_arrays_of_another_kind_are_refused(tmp_path, key, array):
    np.savez(tmp_path / "x-0.npz", **{key: array})
    with pytest.raises(BenchError, match=r"x-0.npz cannot be read \(.*\)"):
        read_arrays(tmp_path / "x-0.npz")


def test_a_run_that_is_repeated_never_doubles_a_picture(tmp_path):
    """Resumed after its records were lost, and then with another method."""
    out = tmp_path / "run"

    def run(*methods: str) -> None:
        bench.evaluate(
            "scenes-val[:2]",
            "resnet-scenes",
            methods,
            metrics=["pointing_game"],
            out=out,
            calibration=0,
        )

    run("grad_cam")
    once = read_all(out)
    for part in (out / "records").glob("*.parquet"):
        part.unlink()
    run("grad_cam")
    assert read_all(out) == once
    run("grad_cam", "cam")
    assert list(read_all(out)) == list(once)
    assert set(count_homes(out).values()) == {1}
