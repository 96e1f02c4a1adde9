"""A run that is started again trusts contents: only what changed is computed, and nothing old
counts.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import bench
from bench.board import leaderboard
from bench.errors import AssumptionWarning, BenchError
from bench.gate.baseline import from_records
from bench.gate.comparable import check_comparable
from bench.health.reload import check_contents
from bench.records.item_table import ITEMS
from bench.records.left_out import SKIPPED, read_skipped
from bench.records.merge import merge_runs
from bench.records.store import KEY, Records, Store
from bench.run.evaluate import FinishedTask, run_plan
from bench.run.plan import make_plan
from tests.support.nets import GapLinear, randomise

COUNT = 7


def tiny() -> bench.Explainee:
    return bench.Explainee(
        randomise(GapLinear(classes=3), 0), size=24, layer="features", name="gap"
    )


def draw(file: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


def write_rows(place: Path, rows: list[str]) -> None:
    (place / "annotations.csv").write_text("\n".join(["file,label,x0,y0,x1,y1", *rows, ""]))


def row(number: int, box: str = "2,2,20,20") -> str:
    return f"{number}.bmp,{number % 3},{box}"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for number in range(COUNT + 1):
        draw(folder / f"{number}.bmp", number)
    write_rows(folder, [row(number) for number in range(COUNT)])
    return folder


def whole_of(subset: bench.Subset) -> bench.Subset:
    """Return a subset of which every row is scored, and none calibrates."""
    everything = tuple(range(len(subset.source.ids)))
    return bench.data.Subset(subset.name, subset.manifest, subset.source, everything)


def evaluate(place: Path, out: Path | None, methods=("grad_cam",), **more):
    """Return the records, and how many images were computed."""
    whole = whole_of(bench.load_subset(place))
    images: list[int] = []

    def note(state: FinishedTask) -> None:
        images.append(state.asked.everything)

    records = bench.evaluate(
        whole,
        tiny(),
        list(methods),
        ["energy", "complexity"],
        out=out,
        shard_size=2,
        finished=note,
        calibration=0,
        **more,
    )
    return records, (images[-1] // 2 if images else 0)  # a pass and a map for each


def values(records: Records) -> pd.DataFrame:
    kept = records.frame[[*KEY, "value", "item_id"]]
    return kept[~kept["metric"].isin(["seconds", "peak_memory"])].sort_values(
        KEY, ignore_index=True
    )


def assert_like_a_fresh_run(records: Records, place: Path) -> None:
    pd.testing.assert_frame_equal(values(records), values(evaluate(place, None)[0]))


def test_nothing_is_computed_twice_and_every_record_names_its_content(place, tmp_path):
    records, computed = evaluate(place, tmp_path / "out")
    assert computed == COUNT
    assert records.frame["item_id"].str.fullmatch("[0-9a-f]{16}").all()
    assert evaluate(place, tmp_path / "out")[1] == 0


@pytest.mark.parametrize("seed", [1, 99])  # 1: the picture of another item, which is there twice
def test_other_pixels_under_the_same_name_are_computed_anew(place, tmp_path, seed):
    out = tmp_path / "out"
    evaluate(place, out)
    size = (place / "3.bmp").stat().st_size
    draw(place / "3.bmp", seed)
    assert (place / "3.bmp").stat().st_size == size
    records, computed = evaluate(place, out)
    assert computed == 1
    assert_like_a_fresh_run(records, place)
    on_disk = pd.concat(map(pd.read_parquet, Store(out).parts))
    assert len(on_disk) == len(records)
    assert list((out / "replaced").glob("*.rows"))
    assert evaluate(place, out)[1] == 0


def test_removed_and_added_rows_keep_the_work_of_the_others(place, tmp_path):
    out = tmp_path / "out"
    evaluate(place, out)
    write_rows(place, [row(number) for number in range(COUNT + 1) if number != 2])
    records, computed = evaluate(place, out)
    assert computed == 1  # the added one
    assert_like_a_fresh_run(records, place)
    assert set(records.frame["manifest_id"]) == {
        records.provenance["subsets"]["mine"]["manifest_id"]
    }
    assert records.provenance["subsets"]["mine"]["n"] == COUNT
    write_rows(place, [row(number) for number in range(COUNT + 1)])
    records, computed = evaluate(place, out)
    assert computed == 0  # the row that came back
    assert_like_a_fresh_run(records, place)


def test_a_row_removed_under_a_manifest_that_pins_nothing_does_not_count(place, tmp_path):
    (place / "manifest.toml").write_text('name = "mine"\nkind = "folder"\n')
    out = tmp_path / "out"
    evaluate(place, out)
    write_rows(place, [row(number) for number in range(COUNT) if number != 2])
    records, computed = evaluate(place, out)
    assert computed == 0
    assert_like_a_fresh_run(records, place)


@pytest.mark.parametrize("changed", ["4.bmp,1,3,3,9,9", "4.bmp,0,2,2,20,20"])
def test_another_box_or_label_computes_only_its_item(place, tmp_path, changed):
    out = tmp_path / "out"
    evaluate(place, out)
    write_rows(place, [changed if number == 4 else row(number) for number in range(COUNT)])
    records, computed = evaluate(place, out)
    assert computed == 1
    assert_like_a_fresh_run(records, place)


def test_other_preprocessing_is_refused(place, tmp_path):
    evaluate(place, tmp_path / "out")
    (place / "manifest.toml").write_text(
        'name = "mine"\nkind = "folder"\n[geometry]\nsize = 24\nresize = "squash"\n'
    )
    with pytest.raises(BenchError, match="other images or preprocessing"):
        evaluate(place, tmp_path / "out")


def test_the_run_says_what_changed_and_what_left(place, tmp_path):
    evaluate(place, tmp_path / "out")
    draw(place / "3.bmp", 99)
    write_rows(place, [row(number) for number in range(1, COUNT)])
    whole, notes = whole_of(bench.load_subset(place)), []
    plan = make_plan(whole, [tiny()], ["grad_cam"], ["energy"], bench.Protocol(), calibration=0)
    run_plan(plan, tmp_path / "out", note=notes.append)
    changed, gone = notes
    assert changed.startswith("1 image (3.bmp) of mine changed")
    assert gone.startswith("1 image (0.bmp) left mine")


def test_records_without_contents_are_joined_by_the_manifest(place, tmp_path):
    out = tmp_path / "out"
    evaluate(place, out)
    for part in Store(out).parts:
        pd.read_parquet(part).drop(columns="item_id").to_parquet(part)
    (out / ITEMS).unlink()
    assert evaluate(place, out)[1] == 0
    assert len(Records.load(out)) == COUNT * len(Records.load(out).frame["metric"].unique())
    records, computed = evaluate(place, out, methods=["grad_cam", "random"])
    assert computed > 0
    assert set(records.frame["item_id"].notna()) == {False, True}


def test_generated_scenes_name_no_content(subset, model, tmp_path):
    bench.evaluate(subset, model, ["random"], ["complexity"], out=tmp_path, calibration=0)
    assert not (tmp_path / ITEMS).exists()
    for part in Store(tmp_path).parts:
        assert "item_id" not in pd.read_parquet(part)


def test_a_killed_run_goes_on(place, tmp_path):
    out = tmp_path / "out"
    code = (
        "import sys, time; from pathlib import Path; from tests.run.test_resume import *; "
        "import bench.run.evaluate as e; take = e.ItemLedger.take\n"
        "def slow(*a): take(*a); print('task', flush=True); time.sleep(0.3)\n"
        "e.ItemLedger.take = slow; evaluate(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, place, out],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.stdout.readline()
        time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
    finished = len({item for part in Store(out).parts for item in pd.read_parquet(part)["item"]})
    assert finished >= 2
    draw(place / "6.bmp", 99)
    records, computed = evaluate(place, out)
    assert COUNT - finished <= computed <= COUNT - finished + 1
    assert_like_a_fresh_run(records, place)


def test_a_folder_with_two_contents_uses_the_present_one_and_says_so(place, tmp_path):
    out = tmp_path / "out"
    evaluate(place, out)
    kept = {part.name: part.read_bytes() for part in Store(out).parts}
    draw(place / "3.bmp", 99)
    evaluate(place, out)
    for name, content in kept.items():  # as a folder that was copied over another
        (out / "records" / f"{name.rpartition('-')[0]}-9.parquet").write_bytes(content)
    for part in (out / "records").glob("*-9.parquet"):
        frame = pd.read_parquet(part)
        frame[frame["item"] == "3.bmp"].to_parquet(part)
    records = Records.load(out)
    assert_like_a_fresh_run(records, place)
    (line,) = [flag for flag in leaderboard(records).flags if "changed after" in flag]
    assert line.startswith("1 image changed")
    (out / ITEMS).unlink()  # without the table nothing says which one is there now
    with pytest.raises(BenchError, match=r"two contents of 3\.bmp"):
        Records.load(out)


def test_a_broken_table_of_items_is_made_again(place, tmp_path):
    whole, _ = evaluate(place, tmp_path / "out")
    content = bytearray((tmp_path / "out" / ITEMS).read_bytes())
    content[40] ^= 255
    (tmp_path / "out" / ITEMS).write_bytes(content)
    with pytest.raises(BenchError, match="damaged"):
        Records.load(tmp_path / "out")
    with pytest.warns(AssumptionWarning, match=ITEMS):
        records, _ = evaluate(place, tmp_path / "out")
    assert (tmp_path / "out" / "damaged" / ITEMS).read_bytes() == content
    assert list(records.frame["value"]) == list(whole.frame["value"])


def test_runs_of_different_pictures_are_not_merged(place, tmp_path):
    evaluate(place, tmp_path / "one")
    draw(place / "3.bmp", 99)
    evaluate(place, tmp_path / "two", methods=["random"])
    with pytest.raises(BenchError, match=r"different images under the same names \(1 of mine"):
        merge_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "both")
    evaluate(place, tmp_path / "one")
    merged = merge_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "both")
    assert set(merged.frame["method"]) == {"grad_cam", "random"}
    assert evaluate(place, tmp_path / "both", methods=["grad_cam", "random"])[1] == 0


def test_the_gate_pairs_equal_pictures_only(place, tmp_path):
    first = from_records(evaluate(place, tmp_path / "one")[0])
    write_rows(place, [row(number) for number in range(COUNT + 1)])
    more = from_records(evaluate(place, tmp_path / "two")[0])
    check_comparable(first, more)  # a row more, and the others are the same
    draw(place / "3.bmp", 99)
    other = from_records(evaluate(place, tmp_path / "three")[0])
    with pytest.raises(BenchError, match="1 images of mine are not those of the baseline"):
        check_comparable(first, other)


def test_images_that_changed_are_not_taken_for_those_of_the_run(place, tmp_path):
    records = evaluate(place, tmp_path / "out")[0]
    subset = bench.load_subset(place)
    check_contents(records, whole_of(subset), tiny().geometry)
    draw(place / "3.bmp", 99)
    with pytest.raises(BenchError, match=r"1 images of mine are not those of the run \(such as 3"):
        check_contents(records, whole_of(subset), tiny().geometry)


# --- images that cannot be read


def test_an_unreadable_image_stops_the_run_with_the_remedy(place, tmp_path):
    (place / "5.bmp").write_bytes((place / "5.bmp").read_bytes()[:90])
    with pytest.raises(BenchError, match=r"5\.bmp cannot be read.*add --skip-unreadable") as raised:
        evaluate(place, tmp_path / "out")
    assert "finished tasks are kept" in str(raised.value)
    assert len(Store(tmp_path / "out").parts) == 2


def test_unreadable_images_are_left_out_and_declared(place, tmp_path):
    out, whole = tmp_path / "out", (place / "5.bmp").read_bytes()
    (place / "5.bmp").write_bytes(whole[:90])
    records, computed = evaluate(place, out, skip_unreadable=True)
    assert computed == COUNT - 1
    entry = {"kind": "unreadable", "subset": "mine", "part": "eval", "n": 1, "items": ["5.bmp"]}
    assert json.loads((out / "run.json").read_text())["left_out"] == [entry]
    ((key, reason),) = read_skipped(out).items()
    assert key == ("mine", "eval", "5.bmp")
    assert "cannot be read" in reason
    flags = leaderboard(records).flags
    text = "mine: n = 6; 1 image of the subset could not be read and is left out (skipped.csv)."
    assert text in flags
    (place / "5.bmp").write_bytes(whole)
    mended, computed = evaluate(place, out)
    assert computed == 1
    assert_like_a_fresh_run(mended, place)
    assert not (out / SKIPPED).exists()
    assert "left_out" not in json.loads((out / "run.json").read_text())


def test_an_image_that_breaks_later_takes_its_records_along(place, tmp_path):
    evaluate(place, tmp_path / "out")
    (place / "5.bmp").write_bytes(b"nothing")
    records, computed = evaluate(place, tmp_path / "out", skip_unreadable=True)
    assert computed == 0
    assert "5.bmp" not in set(records.frame["item"])
    assert "5.bmp" not in set(Records.load(tmp_path / "out").frame["item"])


def test_an_image_that_breaks_and_is_put_back_is_no_longer_left_out(place, tmp_path):
    evaluate(place, tmp_path / "out")
    whole = (place / "5.bmp").read_bytes()
    (place / "5.bmp").write_bytes(b"nothing")
    evaluate(place, tmp_path / "out", skip_unreadable=True)
    (place / "5.bmp").write_bytes(whole)
    mended, computed = evaluate(place, tmp_path / "out")
    assert computed == 0  # its records are still there
    assert_like_a_fresh_run(mended, place)
    assert not (tmp_path / "out" / SKIPPED).exists()
    assert "left_out" not in json.loads((tmp_path / "out" / "run.json").read_text())
    assert not [flag for flag in leaderboard(mended).flags if "could not be read" in flag]


def test_a_wrong_box_is_never_skipped(place, tmp_path):
    write_rows(place, [row(number, "2,2,99,20") for number in range(COUNT)])
    with pytest.raises(BenchError, match="lies outside its image"):
        evaluate(place, tmp_path / "out", skip_unreadable=True)


def test_a_shard_is_declared_until_the_merge_has_all(place, tmp_path):
    for shard in ("1/2", "2/2"):
        evaluate(place, tmp_path / shard[0], shard=shard)
    facts = json.loads((tmp_path / "1" / "run.json").read_text())
    assert facts["left_out"] == [{"kind": "shard", "n": 1, "shards": ["2/2"]}]
    merged = merge_runs([tmp_path / "1", tmp_path / "2"], tmp_path / "both")
    assert "left_out" not in merged.provenance
    shutil.rmtree(tmp_path / "1")
    pd.testing.assert_frame_equal(values(merged), values(evaluate(place, None)[0]))
