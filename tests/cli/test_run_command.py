"""`cambench run`, `board` and `explain`: what they print and refuse, and plug-ins."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.cli.output import loading_modules
from bench.protocol import get_protocol
from tests.support.command_line import ROOT, cambench, refused
from tests.support.interrupts import interruptible

SMALL = [
    "--models",
    "resnet-scenes",
    "--metrics",
    "deletion,pointing_game",
    "--limit",
    "2",
    "--calibration",
    "0",
]


@pytest.mark.slow
def test_protocols_are_listed_and_a_board_is_of_one(tmp_path: Path) -> None:
    listed = cambench("list", "protocols").stdout
    for name in (
        "cambench-1@76032da1c3b1",
        "rise@",
        "wsol@",
        "quantus@",
        "torchcam@",
        "step_features=224",
    ):
        assert name in listed
    words = [
        "--methods",
        "grad_cam",
        "--metrics",
        "deletion",
        "--out",
        tmp_path / "run",
        "--models",
        "resnet-scenes",
    ]
    small = ["--limit", "2", "--protocol", "torchcam[steps=4]"]
    assert get_protocol("torchcam[steps=4]").id in cambench("run", *words, *small).stdout
    refused(
        cambench("board", tmp_path / "run", "--protocol", "torchcam"),
        "is of protocol torchcam[steps=4]@",
    )
    refused(cambench("run", *words, "--protocol", "torchcam[step=4]"), "no field 'step'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three scenes with annotations.csv."""
    import bench

    path = tmp_path_factory.mktemp("mine")
    (path / "images").mkdir()
    rows = ["file,label,x0,y0,x1,y1"]
    scenes = bench.load_subset("scenes-val", limit=3)
    for i, sample in enumerate(scenes):
        Image.fromarray(sample.image).save(path / "images" / f"{i}.png")
        rows += [
            f"images/{i}.png,{sample.label},{','.join(str(v) for v in box)}" for box in sample.boxes
        ]
    (path / "annotations.csv").write_text("\n".join(rows) + "\n")
    (path / "manifest.toml").write_text(
        'name = "mine"\nkind = "folder"\ntitle = "Mine"\nlicence = "own"\ncalibration = "none"\n'
        '[geometry]\nsize = 96\nresize = "none"\n'
    )
    return path


def test_the_default_run_has_two_parts():
    done = cambench("run", "--plan")
    assert done.returncode == 0, done.stderr
    assert "3 models, 21 methods" in done.stdout
    assert "3 models, 6 methods" in done.stdout
    asked = cambench("run", "--plan", "--methods", "grad_cam")
    assert asked.stdout.count("methods") == 1


@pytest.mark.slow
def test_the_default_run_has_fine_tuned_models_beside_their_originals(tmp_path):
    cheap = [
        "--metrics",
        "deletion",
        "--limit",
        "2",
        "--calibration",
        "0",
        "--out",
        tmp_path / "run",
    ]
    done = cambench("run", *cheap)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "run" / "board.md").read_text()
    assert "scenes-val: abn-scenes-guided against abn-scenes (simulated maps)" in page
    assert "scenes-val: resnet-scenes-aft against resnet-scenes" in page
    assert "grad_cam against tft(grad" in page.replace("\\", "")
    assert "SIMULATED" in page


def test_a_run_ends_in_a_board_and_goes_on_where_it_stopped(tmp_path):
    methods = ["--methods", "grad_cam,hires_cam,oracle,random"]
    done = cambench("run", *SMALL, *methods, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "forwards" in done.stdout
    assert "minutes" in done.stdout
    assert "deletion ↓" in done.stdout
    assert "pointing ↑" in done.stdout
    assert "grad_cam" in done.stdout
    assert (tmp_path / "run" / "board.md").is_file()
    assert list((tmp_path / "run" / "plots").glob("*.png"))
    assert list((tmp_path / "run" / "tables").glob("*.tex"))
    parts = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "records").iterdir()}
    again = cambench("run", *SMALL, *methods, "--out", tmp_path / "run")
    assert again.returncode == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "records").iterdir()} == parts
    shutil.rmtree(tmp_path / "run" / "plots")
    rebuilt = cambench("board", tmp_path / "run")
    assert rebuilt.returncode == 0
    assert list((tmp_path / "run" / "plots").glob("*.png"))
    published = cambench("board", tmp_path / "run", "--publish", tmp_path / "published")
    assert published.returncode == 0, published.stderr
    assert (tmp_path / "published" / "records.parquet").stat().st_size < 5 * 2**20
    assert str(tmp_path) not in (tmp_path / "published" / "run.json").read_text()


PLUGIN = """
import bench

@bench.register_method("mine", fidelity="unstated", citation="tests")
def mine(trace):
    return trace.upsample((trace.gradients * trace.activations).sum(1))

@bench.register_metric("peak", better="higher")
def peak(case):
    return {"peak": case.maps.flatten(1).amax(1)}
"""


def test_a_plugin_of_ten_lines_is_compared_with_grad_cam(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    plugin = ["--plugin", tmp_path / "mine.py", "--out", tmp_path / "run"]
    metrics = [
        "--models",
        "resnet-scenes",
        "--metrics",
        "deletion,peak",
        "--limit",
        "4",
        "--calibration",
        "0",
    ]
    done = cambench("run", *plugin, *metrics, "--methods", "mine,grad_cam")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "mine against grad_cam: deletion" in line]
    assert len(lines) == 1
    assert "n=4" in lines[0]
    assert "[" in lines[0]
    listed = cambench("list", "methods", "--plugin", tmp_path / "mine.py")
    (line,) = [line for line in listed.stdout.splitlines() if line.startswith("mine ")]
    assert line.split()[1:3] == ["unstated", "plugin"]


def test_the_collector_rests_only_while_modules_are_loaded():
    with pytest.raises(ImportError), loading_modules():
        raise ImportError
    assert gc.isenabled()
    with loading_modules():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with loading_modules():
            pass
        assert not gc.isenabled()  # as it was
    finally:
        gc.enable()


def test_help_has_examples():
    assert "cambench run --plugin mine.py" in cambench("run", "--help").stdout


def test_explain_writes_a_picture(folder, tmp_path):
    out = tmp_path / "picture.png"
    done = cambench(
        "explain", folder / "images" / "0.png", "--methods", "cam/grad*,oracle", "--out", out
    )
    assert done.returncode == 0, done.stderr
    assert "n/a: oracle needs ground truth" in done.stdout
    pixels = np.asarray(Image.open(out).convert("RGB"))
    assert pixels.std() > 10


@pytest.mark.slow
def test_a_run_over_a_folder_and_from_elsewhere(folder, tmp_path):
    done = cambench("run", "--subset", folder, *SMALL, "--methods", "grad_cam,oracle", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "mine" / "board.md").is_file()


# --- bad input


def test_unknown_names(tmp_path):
    out = ["--out", tmp_path / "run"]
    refused(cambench("run", "--methods", "grad_kam", *out), "grad_kam", "Did you mean", "grad_cam")
    refused(
        cambench("run", "--models", "resnet-scene", *out, fresh=True),
        "resnet-scene",
        "Did you mean",
    )
    refused(cambench("run", "--subset", "scenes-vall", *out), "scenes-vall")
    refused(cambench("run", "--metrics", "deltion", *out), "deltion", "deletion")
    refused(cambench("run", "--protocol", "rize", *out), "rize")
    refused(cambench("run", "--device", "cuda:99", *out), "cuda:99")
    refused(cambench("board", tmp_path / "none"), "no run")
    refused(cambench("explain", tmp_path / "none.jpg"), "none.jpg")
    refused(cambench("zoo", "train", "alexnet"), "alexnet")


def test_corrupt_image_keeps_finished_work(folder, tmp_path):
    broken = tmp_path / "mine"
    shutil.copytree(folder, broken)
    import bench

    last = bench.load_subset(broken)
    files = {f"images/{i}.png": broken / "images" / f"{i}.png" for i in range(3)}
    name = next(f for f in files if Path(f).stem in last.ids[-1])
    files[name].write_bytes(files[name].read_bytes()[:200])
    run = [
        "run",
        "--subset",
        broken,
        "--models",
        "resnet-scenes",
        "--metrics",
        "pointing_game",
        "--out",
        tmp_path / "r",
    ]
    refused(cambench(*run, "--methods", "oracle"), name.split("/")[1])
    shutil.copy(folder / name, files[name])
    assert cambench(*run, "--methods", "oracle").returncode == 0


def test_missing_annotations_and_empty_subset(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(cambench("run", "--subset", tmp_path / "empty"), "annotations.csv")
    (tmp_path / "empty" / "annotations.csv").write_text("file,label,x0,y0,x1,y1\n")
    refused(cambench("run", "--subset", tmp_path / "empty"), "empty")
    refused(cambench("run", "--subset", "imagenet-val-500"), "imagenet")


def test_wrong_classes_and_weights(tmp_path, folder):
    refused(cambench("run", "--models", "resnet10t", "--limit", "2"), "classes")
    (tmp_path / "w.pth").write_bytes(b"nothing")
    refused(
        cambench("run", "--models", "resnet10t", "--weights", tmp_path / "w.pth"),
        "w.pth",
        "cannot be read",
    )
    bundled = ROOT / "bench" / "models" / "weights" / "vgg-scenes.safetensors"
    refused(cambench("run", "--models", "resnet10t", "--weights", bundled), "do not fit")


def test_unwritable_output(tmp_path):
    (tmp_path / "file").write_text("")
    refused(
        cambench("run", *SMALL, "--methods", "random", "--out", tmp_path / "file" / "run"),
        "choose another --out",
    )


def test_a_plugin_that_fails_says_so(tmp_path):
    (tmp_path / "bad.py").write_text("import nothing_of_that_name\n")
    refused(cambench("run", "--plugin", tmp_path / "bad.py"), "bad.py", "ModuleNotFoundError")
    refused(cambench("run", "--plugin", tmp_path / "none.py"), "not a file")


def test_a_method_that_returns_the_wrong_shape_is_named(tmp_path):
    source = """
        import bench

        @bench.register_method("wrong")
        def wrong(trace):
            return trace.activations
        """
    (tmp_path / "wrong.py").write_text(textwrap.dedent(source))
    done = cambench(
        "run",
        *SMALL,
        "--plugin",
        tmp_path / "wrong.py",
        "--methods",
        "wrong",
        "--out",
        tmp_path / "run",
    )
    refused(done, "Method wrong returned (2, 96, 12, 12)", "(2, 96, 96)")


@pytest.mark.slow
def test_nan_maps_are_shown_unranked(tmp_path):
    source = """
        import bench, torch

        @bench.register_method("holes")
        def holes(trace):
            return torch.full((len(trace), *trace.size), torch.nan)
        """
    (tmp_path / "holes.py").write_text(textwrap.dedent(source))
    done = cambench(
        "run",
        *SMALL,
        "--plugin",
        tmp_path / "holes.py",
        "--methods",
        "holes,random",
        "--out",
        tmp_path / "run",
    )
    assert done.returncode == 0, done.stderr
    csv = next((tmp_path / "run" / "tables").glob("*resnet-scenes.csv")).read_text()
    assert any("holes" in line and ",0," in line for line in csv.splitlines())


def test_ctrl_c_exits_130_and_the_same_command_goes_on(tmp_path):
    command = [
        sys.executable,
        "-m",
        "bench",
        "run",
        "--models",
        "resnet-scenes",
        "--limit",
        "100",
        "--methods",
    ]
    command += [
        "grad_cam,layer_cam,random",
        "--metrics",
        "deletion",
        "--out",
        str(tmp_path / "run"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with interruptible(command, environment) as process:
        deadline = time.monotonic() + 120
        while (
            not list((tmp_path / "run").glob("records/*.parquet")) and time.monotonic() < deadline
        ):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Start the same command again" in stderr
    assert list((tmp_path / "run" / "records").glob("*.parquet"))
