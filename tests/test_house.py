"""The laws of the code's layout: the package keeps them, and small trees break one each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import measure_house
import pytest
from house import House

ROOT = Path(__file__).parents[1]

LONG_SIGNATURE = "def add(\n" + "    n,\n" * 40 + "):\n    x()\n"
LONG_FUNCTION = "def add() -> int:\n    n = 0\n" + "    n += 1\n" * 38 + "    return n\n"

CLEAN = {
    "__init__.py": "",
    "errors.py": "class BenchError(Exception): ...\n",
    "data/__init__.py": "from bench.data.subset import Subset\n",
    "data/subset.py": "from ..errors import BenchError\nclass Subset:\n    pass\n",
    "engine/__init__.py": "",
    "engine/case.py": "import torch\nfrom bench.data import Subset\nclass Case(Subset): ...\n",
    "cli/__init__.py": "",
    "cli/run.py": "import typer\ndef run():\n    from bench.engine.case import Case\n    Case()\n",
}
"""Files of a package that breaks no law."""

BREACHES: dict[str, tuple[str, dict[str, str], str]] = {
    "a long file": ("files", {"types.py": "x = 1\n" * 401}, "types.py: 401 lines"),
    "a long function": ("functions", {"types.py": LONG_FUNCTION}, "types.py:1 add: 41 lines"),
    "a long signature": ("functions", {"types.py": LONG_SIGNATURE}, "types.py:1 add: 43 lines"),
    "a long body of a command": (
        "functions",
        {"cli/plan.py": LONG_FUNCTION.replace("n += 1\n", "n += 1\n    n += 1\n", 1)},
        "cli/plan.py:1 add: 41 lines",
    ),
    "a wide line": ("lines", {"types.py": f"x = '{'y' * 95}'\n"}, "bench/types.py: 1 lines"),
    "a cycle": (
        "cycles",
        {"files.py": "import bench.types\n", "types.py": "from bench import files\n"},
        "bench.files <-> bench.types",
    ),
    "a cycle through a package": (
        "cycles",
        {"data/subset.py": "from bench.data import load_subset\n"},
        "bench.data <-> bench.data.subset",
    ),
    "a lazy cycle": (
        "cycles",
        {
            "files.py": "import torch\nfrom .types import a\n",
            "types.py": "def a() -> None:\n    from bench.files import b\n    b()\n",
        },
        "bench.files <-> bench.types",
    ),
    "a cycle through a public name": (
        "cycles",
        {
            "__init__.py": "_HOMES = {'Case': 'bench.engine.case'}\n",
            "engine/case.py": "import torch\nfrom bench.engine.trace import run\n",
            "engine/trace.py": "def run():\n    from bench import Case\n    Case()\n",
        },
        "bench.engine.case <-> bench.engine.trace",
    ),
    "an arrow": (
        "arrows",
        {"data/subset.py": "from bench.engine import x\n"},
        "data/subset.py: data imports engine (bench.engine)",
    ),
    "metrics that import methods": (
        "arrows",
        {"methods/__init__.py": "", "metrics/energy.py": "from bench.methods import x\n"},
        "metrics/energy.py: metrics imports methods (bench.methods)",
    ),
    "a board that imports fine-tuning": (
        "arrows",
        {"finetune/__init__.py": "", "board/page.py": "from bench import finetune\n"},
        "board/page.py: board imports finetune (bench.finetune)",
    ),
    "an arrow for type checkers": (
        "arrows",
        {
            "data/subset.py": "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from bench.engine import x\n"
        },
        "data/subset.py: data imports engine (bench.engine)",
    ),
    "no room": ("arrows", {"attic/box.py": ""}, "attic/box.py: attic is no room"),
    "typer": ("typer", {"data/load.py": "import typer\n"}, "data/load.py:1"),
    "rich": ("rich", {"data/load.py": "def a():\n    from rich import box\n"}, "data/load.py:2"),
    "a lazy import": (
        "lazy",
        {"data/load.py": "def a():\n    from bench.data.subset import Subset\n"},
        "data/load.py:2 imports bench.data.subset",
    ),
    "a file name": (
        "file names",
        {"engine/subset.py": ""},
        "subset.py: data/subset.py, engine/subset.py",
    ),
    "a class name": (
        "class names",
        {"cli/plan.py": "def a():\n    class Subset:\n        pass\n"},
        "Subset: cli/plan.py, data/subset.py",
    ),
}
"""{what is broken: (law, files beside the clean ones, breach)}."""

KEPT = {
    "types only": {
        "files.py": "import typing\nif typing.TYPE_CHECKING:\n    import rich, bench.types\n",
        "types.py": "import bench.files\n",
    },
    "a function at the limit": {"types.py": LONG_FUNCTION.replace("    n += 1\n", "", 1)},
    "comments and docstrings": {
        "types.py": LONG_FUNCTION.replace("    n += 1\n", '    """Add."""\n\n    # one\n', 1)
    },
    "the signature of a command": {"cli/plan.py": LONG_SIGNATURE},
    "commands and base files": {"cli/subset.py": "", "data/base.py": "", "engine/base.py": ""},
    "rich where it prints": {"board/console.py": "import rich\n", "progress.py": "import rich\n"},
    "a heavy library spared": {
        "data/load.py": "def a():\n    import bench.data.tables\n",
        "data/tables.py": "import pandas\n",
    },
}


def write_house(root: Path, files: dict[str, str]) -> House:
    """Write a clean package with further files below `root`, and read it."""
    for path, text in (CLEAN | files).items():
        (root / "bench" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "bench" / path).write_text(text)
    return House.read(root)


def list_breaches(house: House) -> dict[str, list[str]]:
    """Return {law: its breaches} for the laws that are broken."""
    found = {name: check(house) for name, (_, check) in measure_house.LAWS.items()}
    return {name: breaches for name, breaches in found.items() if breaches}


@pytest.fixture(scope="module")
def house() -> House:
    return House.read(ROOT)


@pytest.mark.parametrize("law", measure_house.LAWS)
def test_the_package_keeps_the_law(house: House, law: str) -> None:
    title, check = measure_house.LAWS[law]
    breaches = check(house)
    assert not breaches, title


@pytest.mark.parametrize("kind", BREACHES)
def test_one_breach_breaks_one_law(tmp_path: Path, kind: str) -> None:
    law, files, breach = BREACHES[kind]
    assert list_breaches(write_house(tmp_path, files)) == {law: [breach]}


@pytest.mark.parametrize("kind", ["nothing more", *KEPT])
def test_what_is_allowed_breaks_no_law(tmp_path: Path, kind: str) -> None:
    assert list_breaches(write_house(tmp_path, KEPT.get(kind, {}))) == {}


def test_every_law_has_a_breach() -> None:
    assert {law for law, _, _ in BREACHES.values()} == set(measure_house.LAWS)


def test_wide_lines_count_in_tests_and_tools(tmp_path: Path) -> None:
    for folder in ("tests", "tools"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.py").write_text("#" * 101 + "\n" + "#" * 100 + "\n")
    house = write_house(tmp_path, {})
    assert list_breaches(house) == {"lines": ["tests/one.py: 1 lines", "tools/one.py: 1 lines"]}


def test_the_command_exits_1_where_a_law_is_broken(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "measure_house.py"), str(tmp_path)]
    write_house(tmp_path, {})
    done = subprocess.run([*command, "--check"], capture_output=True, text=True, check=True)
    assert "holds         0  import cycles, lazy imports included" in done.stdout
    write_house(tmp_path, {"engine/subset.py": ""})
    done = subprocess.run(
        [*command, "--check", "--list"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "broken        1  file names that occur twice or more" in done.stdout
    assert "subset.py: data/subset.py, engine/subset.py" in done.stdout
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


LONG_SENTENCES, LONG_TEXTS = 211, 42
"""Most sentences of more than 25 words in public docstrings, and in help and error texts. These
numbers only go down: who shortens a sentence lowers them.
"""


def test_sentences_do_not_get_longer(house: House) -> None:
    assert len(measure_house.list_long_sentences(house)) <= LONG_SENTENCES
    assert len(measure_house.list_long_texts(house)) <= LONG_TEXTS


def test_long_help_and_error_texts_are_found(tmp_path: Path) -> None:
    long, short = "Give " + "one {name} " * 13 + "word.", "Give " + "one " * 12 + "{name}."
    for text, count in ((long, 2), (short, 0)):
        code = f"def add():\n    raise ValueError(f{text!r})\n\n\nx = Option(help={text!r})\n"
        found = measure_house.list_long_texts(write_house(tmp_path, {"types.py": code}))
        assert len(found) == count


def test_measures_of_a_small_package(tmp_path: Path) -> None:
    long = "Return " + "a " * 25 + "sum."
    files = {
        "__init__.py": "",
        "sums.py": f'def told(a, *b, c=1, **d):\n    """{long} Short."""\n    return a\n\n\n'
        "class Sum:\n    @property\n    def of(self):\n        return 1\n\n"
        "    @classmethod\n    def made(cls):\n        return cls()\n\n"
        "    def shared(self):\n        def add():\n            pass\n\n        return add\n\n\n"
        "@register_method('x')\ndef guided(trace):\n    import bench.other\n    return trace\n",
        "other.py": "",
    }
    for path, text in files.items():
        (tmp_path / "bench").mkdir(exist_ok=True)
        (tmp_path / "bench" / path).write_text(text)
    (tmp_path / "README.md").write_text("# One two\n\n| a | b |\n")
    facts = measure_house.measure(House.read(tmp_path))
    assert facts["functions"] == "6"
    assert facts["code lines of a function: median, p90, max"] == "2, 3, 4"
    assert facts["function names that start with no verb"] == "2 of 3 (66.7%)"
    assert facts["most arguments outside cli"] == "4 (told)"
    assert facts["lazy imports of own modules"] == "1"
    assert facts["sentences of public docstrings over 25 words"] == "1"
    assert facts["README: lines, words, table rows"] == "3, 8, 1"
