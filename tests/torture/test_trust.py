"""Files of strangers never run code: each one here carries a payload that would make a folder."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import EpsImagePlugin, Image

import bench
from bench.board import load_gallery
from bench.errors import BenchError
from bench.finetune.attention_maps import load_map
from bench.finetune.loop import CHECKPOINT, _State
from bench.gate.baseline import load_baseline
from bench.models.weights_files import read_checkpoint
from bench.records.store import read_part
from bench.run.external_maps import load_maps


class Payload:
    """An object whose pickle makes a folder where it is read."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


@pytest.fixture
def canary(tmp_path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def payload(canary) -> Payload:
    return Payload(canary)


def test_the_payload_works(payload, canary):
    """What these tests find absent is really made where a pickle is read."""
    pickle.loads(pickle.dumps(payload))
    assert canary.is_dir()


def refuse(read: Callable[[], object], *words: str) -> None:
    """Read something, and expect one sentence."""
    with pytest.raises(BenchError) as caught:
        read()
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


# --- weights


def write_zip(path: Path, content: Any) -> None:
    torch.save({"weight": torch.zeros(2), "more": content}, path)


def write_legacy(path: Path, content: Any) -> None:
    torch.save({"more": content}, path, _use_new_zipfile_serialization=False)


def write_plain(path: Path, content: Any) -> None:
    path.write_bytes(pickle.dumps(content))


def write_late(path: Path, content: Any) -> None:
    """A zip of torch.save whose pickle was exchanged afterwards."""
    torch.save({"weight": torch.zeros(2)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, found in members.items():
            archive.writestr(name, pickle.dumps(content) if name.endswith("data.pkl") else found)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".tar"])
@pytest.mark.parametrize("write", [write_zip, write_legacy, write_plain, write_late])
def test_weights(tmp_path, payload, canary, write, suffix):
    path = tmp_path / f"weights{suffix}"
    write(path, payload)
    refuse(lambda: read_checkpoint(path, "mine"), str(path), "cannot be read")
    card = tmp_path / "mine.json"
    entry = {"file": path.name, "library": "timm", "arch": "resnet18"}
    card.write_text(json.dumps({"mine": entry}))
    refuse(lambda: bench.load_model(str(card)), str(path))
    refuse(lambda: bench.load_model("resnet18", weights=path), str(path))
    assert not canary.exists()


def test_a_checkpoint(tmp_path, payload, canary):
    write_zip(tmp_path / CHECKPOINT, payload)
    stopped = SimpleNamespace(folder=tmp_path, task=SimpleNamespace(net=torch.nn.Linear(1, 1)))
    refuse(lambda: _State.resume(stopped), str(tmp_path / CHECKPOINT))
    assert not canary.exists()


def test_a_program_of_torch_is_no_weights_file(tmp_path, canary):
    path = tmp_path / "weights.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
    refuse(lambda: read_checkpoint(path, "mine"), str(path))


def test_a_card_names_no_function_and_no_other_file(tmp_path, canary):
    torch.save({}, tmp_path / "w.pth")
    card = tmp_path / "mine.json"
    right = {"file": "w.pth", "library": "timm", "arch": "resnet18"}
    for facts in (
        {"library": "os", "arch": "mkdir", "kwargs": {"path": str(canary)}},
        {"library": "cambench", "arch": "os.mkdir"},
        {"library": "cambench", "arch": "__class__"},
        {"library": "transformers", "arch": "utils"},
        {"library": "transformers", "arch": "__import__"},
        {"wrap": {"kind": "os:mkdir", "path": str(canary)}},
        {"kwargs": {"checkpoint_path": "w.pth"}},
        {"kwargs": {"pretrained": True}},
    ):
        card.write_text(json.dumps({"mine": right | facts}))
        refuse(lambda: bench.load_model(str(card)))
    assert not canary.exists()


def test_code_beside_a_network_of_transformers_never_runs(tmp_path, canary, monkeypatch):
    """transformers would ask at the terminal whether to run it; the answer here is yes."""
    pytest.importorskip("transformers", reason="needs the extra cambench[hf] (transformers)")
    folder = tmp_path / "net"
    folder.mkdir()
    code = f"import os\nos.mkdir({str(canary)!r})\n"
    (folder / "mine.py").write_text(code + "class C: pass\nclass N: pass\nclass P: pass\n")
    auto = {"AutoConfig": "mine.C", "AutoModelForImageClassification": "mine.N"}
    config = {"model_type": "mine", "auto_map": auto, "architectures": ["N"]}
    (folder / "config.json").write_text(json.dumps(config))
    processor = {"auto_map": {"AutoImageProcessor": "mine.P"}, "image_processor_type": "P"}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    torch.save({}, folder / "pytorch_model.bin")
    asked = []
    monkeypatch.setattr("builtins.input", lambda *_: asked.append(1) or "y")
    refuse(lambda: bench.load_model(f"hf:{folder}"), "Python code", "does not run")
    card = tmp_path / "mine.json"
    for file in ("net", "net/pytorch_model.bin"):
        entry = {"file": file, "library": "transformers", "arch": "auto"}
        card.write_text(json.dumps({"mine": entry}))
        refuse(lambda: bench.load_model(str(card)), "Python code", "does not run")
    (folder / "config.json").write_text(json.dumps({"model_type": "vit", "image_size": 32}))
    refuse(lambda: bench.load_model(str(card)))
    assert not asked
    assert not canary.exists()


# --- maps, galleries, boards


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of archives that are refused
def test_maps_with_objects(tmp_path, payload, canary):
    subset = bench.load_subset("scenes-val[:2]")
    objects = np.array([[payload]], object)
    np.save(tmp_path / "maps.npy", objects)
    np.savez(tmp_path / "maps.npz", **{subset.ids[0]: objects})
    np.savez(tmp_path / "stack.npz", ids=objects, maps=objects)
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / f"{subset.ids[0]}.npy", objects)
    (tmp_path / "plain.npz").write_bytes(pickle.dumps(payload))
    (tmp_path / "plain.npy").write_bytes(pickle.dumps(payload))
    for name in ("maps.npy", "maps.npz", "stack.npz", "folder", "plain.npz", "plain.npy"):
        refuse(lambda name=name: load_maps(tmp_path / name, subset))
    gc.collect()
    assert not canary.exists()


def test_a_gallery_with_objects(tmp_path, payload, canary):
    (tmp_path / "gallery").mkdir()
    objects = np.array([[payload]], object)
    for content in ({"a|image": objects}, {"a|title": np.array(payload, object)}):
        np.savez(tmp_path / "gallery" / "net-0.npz", **content)
        refuse(lambda: load_gallery(tmp_path), "cannot be read")
    (tmp_path / "gallery" / "net-0.npz").write_bytes(pickle.dumps(payload))
    refuse(lambda: load_gallery(tmp_path), "cannot be read")
    assert not canary.exists()


@pytest.fixture
def ghostscript(tmp_path, canary, monkeypatch) -> None:
    """Put a program `gs` before all others, as Pillow calls it for EPS."""
    if sys.platform == "win32":
        pytest.skip("Pillow finds another program on Windows")
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nmkdir -p "{canary}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 96\n%%EndComments\nshowpage\n%%EOF\n"


def test_pictures_are_no_programs(tmp_path, ghostscript, canary):
    """EPS is read by Ghostscript, whatever the file's name; so it is no picture here."""
    for folder in ("a", "b"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        (tmp_path / "images" / folder / "x.png").write_bytes(EPS)
    refuse(lambda: load_map(tmp_path / "images" / "a" / "x.png"), "cannot be read")
    with pytest.raises(BenchError):
        bench.load_subset(str(tmp_path / "images"))[0]
    assert not canary.exists()
    with contextlib.suppress(OSError), Image.open(io.BytesIO(EPS)) as image:
        image.load()
    assert canary.is_dir()  # so Pillow would have run it


def write_parquet(path: Path, payload: Payload) -> None:
    """A table whose metadata asks for an unpickled type, in each way that pyarrow has had."""
    pickled = pickle.dumps(payload)
    names = (b"arrow.py_extension_type", b"arrow.r.vctrs", b"pandas")
    fields = [
        pa.field(
            f"f{number}",
            pa.string(),
            metadata={b"ARROW:extension:name": name, b"ARROW:extension:metadata": pickled},
        )
        for number, name in enumerate(names)
    ]
    described = json.dumps({"columns": [], "index_columns": [], "creator": pickled.hex()})
    schema = pa.schema(fields, metadata={b"pandas": described.encode(), b"huggingface": b"{}"})
    pq.write_table(pa.table([["x"]] * 3, schema=schema), path)


def test_metadata_of_parquet(tmp_path, payload, canary):
    """Records, baselines, boards and data sets are parquet."""
    path = tmp_path / "x.parquet"
    write_parquet(path, payload)
    for read in (
        lambda: read_part(path),
        lambda: bench.load_subset(str(path))[0],
        lambda: load_baseline(path),
    ):
        with contextlib.suppress(BenchError):  # it may be refused, or read as text
            read()
    assert not canary.exists()


def test_code_in_a_data_set_is_not_imported(tmp_path, canary, monkeypatch):
    """A folder of images may hold Python files, and be the working folder."""
    code = f"import os\nos.mkdir({str(canary)!r})\n"
    for name in ("__init__", "conftest", "data", "images", "sitecustomize", "x"):
        (tmp_path / f"{name}.py").write_text(code)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / folder / "x.png")
    monkeypatch.chdir(tmp_path)
    subset = bench.load_subset(str(tmp_path))
    assert subset[0].image.shape == (32, 32, 3)
    assert not canary.exists()


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.mkdir [{canary}]",
        '{{"py/reduce": [{{"py/function": "os.mkdir"}}, {{"py/tuple": ["{canary}"]}}]}}',
        'name = "x"\nkind = "folder"\npath = "$(mkdir {canary})"\n',
        "name = \"x\"\nkind = \"__import__('os').mkdir('{canary}')\"\n",
    ],
)
def test_texts_are_data(tmp_path, canary, text):
    """A manifest, a card, a run.json or a baseline is read as text, and nothing in it is run."""
    written = text.format(canary=canary)
    for name in ("x.toml", "x.json", "run.json"):
        (tmp_path / name).write_text(written)
    for read in (
        lambda: bench.load_subset(str(tmp_path / "x.toml")),
        lambda: bench.load_model(str(tmp_path / "x.json")),
        lambda: bench.Records.load(tmp_path),
    ):
        refuse(read)
    assert not canary.exists()
