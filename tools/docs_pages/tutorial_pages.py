"""Tutorials: scripts whose comments are the text, with what they print and draw."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "docs" / "tutorials"
PICTURES = ("*.png",)


def list_tutorials() -> list[Path]:
    """Return the scripts of all tutorials."""
    return sorted(FOLDER.glob("*.py"))


def write_tutorial_page(script: str, output: str = "", pictures: list[str] | None = None) -> str:
    """Return a tutorial as a page.

    Args:
        script: The script. Its docstring is title and introduction; comments that start a line are
            the text; everything else is code.
        output: What the script prints.
        pictures: The pictures that it draws, relative to the page.
    """
    docstring = ast.get_docstring(ast.parse(script)) or ""
    title, _, introduction = docstring.partition("\n\n")
    parts = [f"# {title}", introduction]
    body = script.split('"""', 2)[2]
    for kind, lines in split_blocks(body):
        text = "\n".join(lines).strip("\n")
        if text:
            parts.append(text if kind == "text" else f"```python\n{text}\n```")
    if output:
        parts += ["## What it prints", f"```text\n{output.rstrip()}\n```"]
    if pictures:
        parts += [
            "## What it draws",
            *(f"![{Path(one).stem} of this tutorial]({one})" for one in pictures),
        ]
    return "\n\n".join(parts) + "\n"


def split_blocks(body: str) -> list[tuple[str, list[str]]]:
    """Return the blocks of a script, text and code in turn.

    >>> split_blocks("# One.\\nx = 1")
    [('text', ['One.']), ('code', ['x = 1'])]
    """
    blocks: list[tuple[str, list[str]]] = []
    for line in body.splitlines():
        comment = line == "#" or line.startswith("# ")
        kind = "text" if comment else "code"
        if not line and blocks:
            blocks[-1][1].append("")
            continue
        if not blocks or blocks[-1][0] != kind:
            blocks.append((kind, []))
        blocks[-1][1].append(line[2:] if comment else line)
    return blocks


def run_tutorial(script: Path, folder: Path) -> str:
    """Run a tutorial in a folder, and return what it prints.

    Raises:
        RuntimeError: The tutorial fails.
    """
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"The tutorial {script.name} fails:\n{done.stderr}")
    return done.stdout


def build_tutorial(script: Path, target: Path) -> str:
    """Run a tutorial, copy what it draws beside its page, and return the page."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        output = run_tutorial(script, folder)
        drawn = [file for pattern in PICTURES for file in sorted(folder.glob(pattern))]
        place = target / "tutorials" / "pictures"
        place.mkdir(parents=True, exist_ok=True)
        names = []
        for file in drawn:
            names.append(f"{script.stem}-{file.name}")
            (place / names[-1]).write_bytes(file.read_bytes())
    text = script.read_text(encoding="utf-8")
    return write_tutorial_page(text, output, [f"pictures/{one}" for one in names])
