"""One flipped bit in whatever is stored is found, or changes nothing that is read."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from bench.board.gallery import load_gallery
from bench.board.publish import publish_board
from bench.data.cache import Frame, FrameCache, frame_key
from bench.data.geometry import Geometry
from bench.errors import AssumptionWarning, BenchError
from bench.finetune.attention_maps import DRAWN, load_map, make_edited_map, map_path, write_map
from bench.finetune.loop import CHECKPOINT, KEYS, load_checkpoint
from bench.finetune.sealed_tensors import read_sealed_tensors, write_sealed_tensors
from bench.gate.baseline import load_baseline, save_baseline
from bench.json_state import write_sealed_json
from bench.models.bundled_sums import SUMS
from bench.models.zoo import MODELS, WEIGHTS_FOLDER
from bench.records.item_table import ITEMS, KnownItem, read_items, write_items
from bench.records.run_facts import HEALTH, read_health, read_provenance
from bench.records.store import Records, Store, read_table, write_parquet
from bench.seals import DamagedFileError, add_trailer
from tests.support import toy_records
from tests.support.bit_flips import flip_bits

ROOT = Path(__file__).parents[2]
MORE = 40
"""How many times as many bits the slow test flips."""

Stored = tuple[Path, Callable[[], Any]]
"""A file, and how what it holds is read."""


def show_table(table: Any) -> str:
    return repr(table.to_pydict())


def store_records(folder: Path, run: Path) -> Stored:
    part = folder / "part-0.parquet"
    shutil.copyfile(next((run / "records").glob("*.parquet")), part)
    return part, lambda: show_table(read_table(part))


def store_baseline(folder: Path, run: Path) -> Stored:
    del run
    file = folder / "baseline.parquet"
    save_baseline(load_baseline(ROOT / "leaderboards" / "gate" / "baseline.parquet"), file)

    def read() -> str:
        found = load_baseline(file)
        return found.frame.to_csv() + json.dumps(found.facts, sort_keys=True)

    return file, read


def store_items(folder: Path, run: Path) -> Stored:
    del run
    items = {("s", "eval", f"i{n}"): KnownItem(f"{n:064d}", "f", f"{n}:1") for n in range(20)}
    write_items(folder, items)
    return folder / ITEMS, lambda: read_items(folder)


def store_provenance(folder: Path, run: Path) -> Stored:
    shutil.copyfile(run / "run.json", folder / "run.json")
    return folder / "run.json", lambda: read_provenance(folder)


def store_health(folder: Path, run: Path) -> Stored:
    del run
    write_sealed_json(folder / HEALTH, read_health(ROOT / "leaderboards" / "scenes")["health"])
    return folder / HEALTH, lambda: read_health(folder)


def store_gallery(folder: Path, run: Path) -> Stored:
    part = folder / "gallery" / "resnet-scenes-eval-0.npz"
    part.parent.mkdir()
    shutil.copyfile(next((run / "gallery").glob("*.npz")), part)

    def read() -> dict[str, Any]:
        (pictures,) = load_gallery(folder).values()
        maps = {item: {m: v.tobytes() for m, v in p.maps.items()} for item, p in pictures.items()}
        return {i: (p.title, p.image.tobytes(), maps[i]) for i, p in pictures.items()}

    return part, read


def store_map(folder: Path, run: Path) -> Stored:
    del run
    grey = np.random.default_rng(0).integers(0, 255, (96, 96), dtype=np.uint8)
    texts = ("image_id", "subset", "manifest_id", "model", "weights_id", "when")
    facts = dict.fromkeys(texts, "x") | {"item": "i", "label": 1, "source": DRAWN, "revision": 1}
    path = map_path(folder, "i")
    write_map(path, make_edited_map(grey, facts))

    def read() -> tuple[bytes, Any]:
        found = load_map(path)
        return found.values.tobytes(), found.facts

    return path, read


def store_checkpoint(folder: Path, run: Path) -> Stored:
    del run
    content = {**dict.fromkeys(KEYS, "x"), "net": {"w": torch.randn(40, 40)}}
    path = folder / CHECKPOINT
    torch.save(content, path)
    add_trailer(path)

    def read() -> tuple[str, bytes]:
        found = load_checkpoint(path, torch.device("cpu"))
        return repr(sorted(found)), found.pop("net")["w"].numpy().tobytes()

    return path, read


def store_masks(folder: Path, run: Path) -> Stored:
    """A damaged file of masks is made anew, which `tests/finetune/test_masks.py` shows."""
    del run
    from safetensors import SafetensorError

    path = folder / "masks.safetensors"
    tensors = {"levels": torch.arange(3000, dtype=torch.uint8), "carries": torch.ones(9) > 0}
    write_sealed_tensors(path, tensors, {"key": "k"})

    def read() -> Any:
        try:
            found, told = read_sealed_tensors(path)
        except SafetensorError as error:
            raise BenchError(str(error)) from None
        return told, {name: (str(t.dtype), t.tolist()) for name, t in found.items()}

    return path, read


def store_frame(folder: Path, run: Path) -> Stored:
    """A damaged frame of the cache is dropped and decoded anew: the pixels are always the same."""
    del run
    cache, geometry = FrameCache(folder, 2**20), Geometry(32, "squash", 32, "bilinear")
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    file = cache.path(frame_key(b"content", geometry))

    def read() -> bytes:
        found: Frame = cache.frame(b"content", geometry, lambda: image)
        return found.pixels.tobytes()

    read()
    return file, read


CARD = "resnet-scenes"


def store_weights(suffix: str) -> Callable[[Path, Path], Stored]:
    def store(folder: Path, run: Path) -> Stored:
        del run
        for name in (f"{CARD}.json", f"{CARD}.safetensors", SUMS):
            shutil.copyfile(WEIGHTS_FOLDER / name, folder / name)

        def read() -> str:
            from bench.models.bundled_sums import check_bundled_card
            from bench.models.cards import from_card

            check_bundled_card(folder / f"{CARD}.json")
            return from_card(folder / f"{CARD}.json").weights_id

        return folder / f"{CARD}{suffix}", read

    return store


STORED: dict[str, tuple[Callable[[Path, Path], Stored], int]] = {
    "records": (store_records, 60),
    "baseline": (store_baseline, 24),
    "items": (store_items, 60),
    "run.json": (store_provenance, 120),
    "health.json": (store_health, 40),
    "gallery": (store_gallery, 40),
    "edited map": (store_map, 60),
    "checkpoint": (store_checkpoint, 60),
    "masks": (store_masks, 60),
    "frame": (store_frame, 60),
    "card": (store_weights(".json"), 9),
    "weights": (store_weights(".safetensors"), 9),
}
"""{what is stored: (how it is made, bits that the short test flips)}."""


@pytest.mark.parametrize("what", STORED)
def test_a_flipped_bit_is_found(what: str, tmp_path: Path, finished_run: Path) -> None:
    store, count = STORED[what]
    found = flip_bits(*store(tmp_path, finished_run), count)
    assert found.total() == count
    assert set(found) <= {"refused", "same"}, found


@pytest.mark.slow
@pytest.mark.parametrize("what", STORED)
def test_many_flipped_bits_are_found(what: str, tmp_path: Path, finished_run: Path) -> None:
    store, count = STORED[what]
    found = flip_bits(*store(tmp_path, finished_run), count * MORE, seed=1)
    assert set(found) <= {"refused", "same"}, found


def test_without_checksums_flipped_bits_pass(tmp_path: Path) -> None:
    """The law above is no law of the formats: the same rows without checksums read as others."""
    file = tmp_path / "rows.parquet"
    rows = toy_records.build(
        toy_records.row(f"{n}:0", "random", "energy", n / 999) for n in range(999)
    )
    write_parquet(file, rows.frame)
    pq.write_table(read_table(file), file)
    found = flip_bits(file, lambda: show_table(read_table(file)), 60)
    assert found["silent"] > 0
    assert set(found) <= {"refused", "same", "silent"}


def test_a_file_that_another_program_has_written_anew_is_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    frame = toy_records.build([toy_records.row("1:0", "random", "energy", 0.25)]).frame
    write_parquet(file, frame)
    pq.write_table(pq.read_table(file), file)
    assert read_table(file)["value"].to_pylist() == [0.25]
    write_parquet(file, frame)
    pd.read_parquet(file).assign(value=0.5).to_parquet(file)
    assert read_table(file)["value"].to_pylist() == [0.5]


def break_file(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def test_a_damaged_part_is_named_kept_and_computed_anew(
    tmp_path: Path, finished_run: Path, cambench: Callable[..., None]
) -> None:
    from tests.torture.conftest import SMALL_RUN

    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    before = Records.load(run)
    (part,) = Store(run).parts
    break_file(part)
    broken = part.read_bytes()
    for words in (
        ("board", run),
        ("merge", run, "--out", tmp_path / "merged"),
        ("baseline", run, "--out", tmp_path / "base.parquet"),
    ):
        with pytest.raises(BenchError, match=rf"{part.name} is damaged: .*start the run again"):
            cambench(*words)
    with pytest.raises(BenchError, match="is damaged"):
        publish_board(run, tmp_path / "board")
    assert not (tmp_path / "base.parquet").exists()
    assert not (tmp_path / "board").exists()
    cambench(*SMALL_RUN, "--out", run)
    assert (run / "damaged" / part.name).read_bytes() == broken
    after = Records.load(run)
    counted = ~before.frame["metric"].isin(["seconds", "peak_memory"])
    columns = ["item", "method", "metric", "value", "metric_id"]
    assert after.frame[counted][columns].equals(before.frame[counted][columns])


def test_a_damaged_run_json_is_refused_and_an_edited_one_read(
    tmp_path: Path, finished_run: Path
) -> None:
    file = tmp_path / "run.json"
    text = (finished_run / "run.json").read_text()
    file.write_text(text.replace("grad_cam", "grad_cat"))
    with pytest.raises(DamagedFileError, match=r'run\.json is damaged.*delete its line "sha256"'):
        read_provenance(tmp_path)
    lines = [line for line in text.splitlines() if not line.startswith(' "sha256"')]
    file.write_text("\n".join(lines))
    assert read_provenance(tmp_path) == read_provenance(finished_run)
    file.write_text(json.dumps(json.loads(text)))  # another program has written it anew
    assert read_provenance(tmp_path) == read_provenance(finished_run)


def test_boards_and_baselines_without_checksums_read_as_before() -> None:
    for folder in (ROOT / "leaderboards").glob("*/run.json"):
        assert read_provenance(folder.parent)["protocol"]["id"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", AssumptionWarning)
        assert len(Records.load(ROOT / "leaderboards" / "scenes"))
        assert len(load_baseline(ROOT / "leaderboards" / "gate" / "baseline.parquet").frame)


def test_every_bundled_file_is_listed_with_its_digest() -> None:
    from bench.file_contents import file_sha256
    from bench.models.bundled_sums import read_sums

    files = {f.name: file_sha256(f) for f in WEIGHTS_FOLDER.iterdir() if f.name != SUMS}
    assert read_sums(WEIGHTS_FOLDER) == files
    assert {entry.card for entry in MODELS if "bundled" in entry.groups} == {
        os.fspath(WEIGHTS_FOLDER / name) for name in files if name.endswith(".json")
    }
