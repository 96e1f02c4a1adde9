"""The start of the command: it runs cambench's own `bench`, and names the file of any other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cambench_start

ROOT = Path(__file__).parents[1]


def run_start(cwd: Path, *path: Path, isolate: bool = False) -> subprocess.CompletedProcess[str]:
    """Run `cambench --version` in a folder, with these folders searched first.

    isolate: search nothing else, so that the repository is not on the path.
    """
    places = [*path] if isolate else [*path, ROOT]
    code = "import sys; sys.argv = ['cambench', '--version']; import cambench_start as c; c.main()"
    return subprocess.run(
        # -P as for the console script: the working folder is not searched
        [sys.executable, *(["-S"] if isolate else []), "-P", "-c", code],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", ["bench.py", "bench/__init__.py"])
def test_another_bench_is_named_with_exit_code_2(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("raise SystemExit('it was run')\n")
    done = run_start(tmp_path, tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"cambench cannot start: its package is called bench, and Python finds {file} instead; "
        "rename that, or take its folder out of PYTHONPATH (or its project out of this "
        "environment).\n"
    )


@pytest.mark.parametrize("name", ["bench.py", "bench/__init__.py"])
def test_a_bench_in_the_working_folder_is_not_searched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("raise SystemExit('it was run')\n")
    done = run_start(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("cambench ")


def test_a_folder_of_data_called_bench_is_no_module(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    assert run_start(tmp_path, tmp_path).returncode == 0


def test_a_missing_package_is_said(tmp_path: Path) -> None:
    (tmp_path / "cambench_start.py").write_bytes((ROOT / "cambench_start.py").read_bytes())
    done = run_start(tmp_path, tmp_path, isolate=True)
    assert done.returncode == 2
    assert "its package bench is missing" in done.stderr
    (tmp_path / "bench").mkdir()
    done = run_start(tmp_path, tmp_path, isolate=True)
    assert done.returncode == 2
    assert f"Python finds {tmp_path / 'bench'} instead" in done.stderr


def test_our_package_carries_the_mark() -> None:
    assert cambench_start.find_stranger() is None
    text = (ROOT / "bench" / "__init__.py").read_text(encoding="utf-8")
    assert text.startswith(cambench_start.MARK)


def test_the_installed_command_starts_here() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'cambench = "cambench_start:main"' in text
    assert '"cambench_start.py" = "cambench_start.py"' in text
