"""The package: names that exist, imports that are quick, a wheel that works from an empty
folder.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import bench

ROOT = Path(__file__).parents[1]
PROMISED = [
    *(
        "Explainee",
        "evaluate",
        "explain",
        "leaderboard",
        "load_maps",
        "load_model",
        "load_subset",
        "score",
    ),
    *("register_method", "register_metric", "register_model", "register_subset"),
]


def test_every_promised_name_is_there():
    for name in PROMISED:
        assert name in bench.__all__
        assert callable(getattr(bench, name))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bench.nothing


def test_importing_bench_does_not_import_torch():
    code = "import sys, bench; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


SLOW_TO_IMPORT = (
    *(
        "captum",
        "cv2",
        "datasets",
        "gradio",
        "jinja2",
        "matplotlib",
        "ray",
        "scipy.stats",
        "seaborn",
    ),
    *("sklearn", "starlette", "statsmodels", "uvicorn"),
)
"""What a run needs after its images are computed, or not at all."""


def loaded(code: str, *names: str) -> set[str]:
    """Return which of these modules, or of `SLOW_TO_IMPORT`, a new process has loaded after running
    some code.
    """
    told = (
        f"import sys; print('LOADED', *(name for name in {(*names, *SLOW_TO_IMPORT)!r} if name "
        "in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{told}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize(
    "code",
    [
        "import bench",
        "from bench.cli import app; app(['--help'], standalone_mode=False)",
        "from bench.cli import app; app(['run', '--help'], standalone_mode=False)",
    ],
)
def test_what_computes_nothing_imports_nothing_that_does(code):
    assert loaded(code, "numpy", "pandas", "pyarrow", "timm", "torch", "torchvision") == set()


def test_nothing_is_imported_before_the_first_forward_that_it_does_not_need(tmp_path):
    """A plug-in waits for the first forward of a run, says what is loaded, and stops it."""
    plugin = tmp_path / "watch.py"
    plugin.write_text(
        "import os, sys, torch\n"
        "def first(module, args):\n"
        f"    print('LOADED', *(name for name in ('torch', *{SLOW_TO_IMPORT!r}) if name in "
        "sys.modules), flush=True)\n"
        "    os._exit(7)\n"
        "torch.nn.modules.module.register_module_forward_pre_hook(first)\n"
    )
    words = [
        "run",
        "--plugin",
        str(plugin),
        "--models",
        "resnet-scenes",
        "--limit",
        "2",
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    assert done.stdout.rpartition("LOADED")[2].split() == ["torch"]


@pytest.mark.slow
def test_the_wheel_runs_from_an_empty_folder(tmp_path):
    """Manifests and weights travel in the wheel: nothing of the checkout is on the path."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            str(tmp_path / "dist"),
            str(ROOT),
        ],
        check=True,
        capture_output=True,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert not [n for n in names if n.startswith("tests/")]
        assert {
            f"bench/editor/page/{p.name}" for p in (ROOT / "bench" / "editor" / "page").iterdir()
        } <= {*names}
        archive.extractall(site)
    empty = tmp_path / "empty"
    empty.mkdir()
    words = [
        "run",
        "--limit",
        "4",
        "--methods",
        "grad_cam,random,oracle",
        "--metrics",
        "deletion,pointing_game",
    ]
    code = f"import sys; sys.path.insert(0, {str(site)!r}); sys.argv = ['cambench', *{words!r}]; "
    code += (
        f"import bench; assert bench.__file__.startswith({str(site)!r}); from bench.cli import "
        "main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=empty, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (empty / "runs" / "scenes-val" / "board.md").is_file()
