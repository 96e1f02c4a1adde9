"""A plug-in is known by its source: every edit of a file of the user's own that its imports reach
changes its ids.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import bench
from bench import plugins
from bench.errors import BenchError
from bench.function_source import is_built_in, source_digest
from bench.methods import METHODS
from bench.metrics import METRICS
from bench.protocol import Protocol
from bench.source_walk import is_own

METHOD = """
{imports}

def mine(trace):
    {inside}
    return trace.upsample({call}(trace.activations).sum(1))
"""
HELPER = "def positive(a):\n    return a.clamp(min=0)\n"
EDITED = "def positive(a):\n    return a.abs()\n"
START = (
    "from bench.function_source import note_source, source_digest; from bench.plugins import "
    "load_plugin; "
)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def digest_in_a_new_process(plugin: Path, then: str = "", *paths: Path) -> str:
    """Return the digest that a fresh process gives the function `mine` of a plug-in file; then:
    code before.
    """
    return run(f"module = load_plugin({str(plugin)!r}); note_source(module.mine); {then}", *paths)


def run(code: str, *paths: Path) -> str:
    """Run code that sets `module` in a fresh process, which loads no torch; return the digest of
    `module.mine`.
    """
    places = [str(Path(bench.__file__).parents[1]), *map(str, paths)]
    whole = (
        f"import sys; sys.path[:0] = {places!r}\n{START}\n{code}\nprint(source_digest(module.mine))"
    )
    done = subprocess.run(
        [sys.executable, "-c", whole], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


FORMS = {
    "beside": (
        {"mine.py": METHOD.format(imports="import helper", inside="", call="helper.positive")},
        "helper.py",
    ),
    "from": (
        {
            "mine.py": METHOD.format(
                imports="from helper import positive", inside="", call="positive"
            )
        },
        "helper.py",
    ),
    "in a function": (
        {
            "mine.py": METHOD.format(
                imports="", inside="from helper import positive", call="positive"
            )
        },
        "helper.py",
    ),
    "of a helper": (
        {
            "mine.py": METHOD.format(imports="import first", inside="", call="first.positive"),
            "first.py": "from helper import positive\n",
        },
        "helper.py",
    ),
    "relative": (
        {
            "pack/__init__.py": "",
            "pack/mine.py": METHOD.format(
                imports="from . import helper", inside="", call="helper.positive"
            ),
        },
        "pack/helper.py",
    ),
    "relative, up": (
        {
            "pack/__init__.py": "",
            "pack/inner/__init__.py": "",
            "pack/inner/mine.py": METHOD.format(
                imports="from ..helper import positive", inside="", call="positive"
            ),
        },
        "pack/helper.py",
    ),
    "by name": (
        {
            "mine.py": METHOD.format(
                imports="import importlib",
                inside="m = importlib.import_module('helper')",
                call="m.positive",
            )
        },
        "helper.py",
    ),
    "in a namespace package": (
        {
            "mine.py": METHOD.format(
                imports="from space.helper import positive", inside="", call="positive"
            )
        },
        "space/helper.py",
    ),
    "by name, renamed": (
        {
            "mine.py": METHOD.format(
                imports="from importlib import import_module as load",
                inside="m = load(name='helper')",
                call="m.positive",
            )
        },
        "helper.py",
    ),
    "by a star": (
        {
            "mine.py": METHOD.format(
                imports="from pack import *", inside="", call="helper.positive"
            ),
            "pack/__init__.py": "__all__ = ['helper']\n",
        },
        "pack/helper.py",
    ),
    "a package's own file": (
        {
            "mine.py": METHOD.format(
                imports="from pack.part import positive", inside="", call="positive"
            ),
            "pack/part.py": "from pack import positive\n",
        },
        "pack/__init__.py",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_edited_helper_changes_the_id(tmp_path, form):
    files, helper = FORMS[form]
    write(tmp_path, {**files, helper: HELPER})
    plugin = next(tmp_path.rglob("mine.py"))
    before = digest_in_a_new_process(plugin)
    assert digest_in_a_new_process(plugin) == before
    (tmp_path / "beside_the_point.py").write_text("x = 1\n")
    assert digest_in_a_new_process(plugin) == before
    (tmp_path / helper).write_text(EDITED)
    assert digest_in_a_new_process(plugin) != before


def test_a_plugin_elsewhere_with_the_same_files_has_the_same_id(tmp_path):
    files = {"mine.py": FORMS["beside"][0]["mine.py"], "helper.py": HELPER}
    write(tmp_path / "one", files)
    write(tmp_path / "two", files)
    assert digest_in_a_new_process(tmp_path / "one" / "mine.py") == digest_in_a_new_process(
        tmp_path / "two" / "mine.py"
    )


@pytest.mark.parametrize("finder", ["path file", "finder"])
def test_an_editable_install_counts_by_its_files(tmp_path, finder):
    """Editable installs put a folder on the path, or a finder of their own in front of it."""
    project = tmp_path / "src"
    write(project, {"theirs/__init__.py": "", "theirs/helper.py": HELPER})
    write(
        tmp_path,
        {
            "mine.py": FORMS["beside"][0]["mine.py"].replace(
                "import helper", "from theirs import helper"
            )
        },
    )
    if finder == "path file":
        start = f"sys.path.append({str(project)!r})"
    else:
        start = (
            "import importlib.util, types; Finder = types.SimpleNamespace(find_spec=lambda name, "
            "path=None, target=None: importlib.util.spec_from_file_location(name, "
            f"{str(project / 'theirs/__init__.py')!r}, "
            f"submodule_search_locations=[{str(project / 'theirs')!r}]) if name == 'theirs' else "
            "None); sys.meta_path.append(Finder)"
        )
    code = f"{start}; module = load_plugin({str(tmp_path / 'mine.py')!r})"
    before = run(code)
    (project / "theirs/helper.py").write_text(EDITED)
    assert run(code) != before


def test_an_installed_plugin_counts_by_name_version_and_record(tmp_path):
    place = tmp_path / "lib" / "site-packages"
    method = METHOD.format(imports="from theirs import helper", inside="", call="helper.positive")
    info = {"theirs-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n"}
    info["theirs-1.0.dist-info/top_level.txt"] = "theirs\n"
    record = "theirs-1.0.dist-info/RECORD"
    write(
        place,
        {
            "theirs/__init__.py": "",
            "theirs/helper.py": HELPER,
            "theirs/mine.py": method,
            **info,
            record: "a",
        },
    )
    code = "import theirs.mine as module"
    before = run(code, place)
    assert run(code, place) == before
    write(place, {"theirs/helper.py": EDITED, record: "b"})  # what an upgrade does
    assert run(code, place) != before


def test_a_file_that_was_edited_after_the_import_never_passes_for_either_version(tmp_path):
    write(tmp_path, {"mine.py": FORMS["beside"][0]["mine.py"], "helper.py": HELPER})
    plugin = tmp_path / "mine.py"
    first = digest_in_a_new_process(plugin)
    edit = f"__import__('pathlib').Path({str(tmp_path / 'helper.py')!r}).write_text({EDITED!r})"
    mixed = digest_in_a_new_process(plugin, edit)
    assert len({first, mixed, digest_in_a_new_process(plugin)}) == 3


def test_a_file_that_is_gone_after_the_import_changes_no_id(tmp_path):
    write(tmp_path, {"mine.py": "def mine(trace):\n    return trace.images[:, 0]\n"})
    plugin = tmp_path / "mine.py"
    before = digest_in_a_new_process(plugin)
    assert digest_in_a_new_process(plugin, f"__import__('os').remove({str(plugin)!r})") == before


def test_the_ids_of_a_method_and_a_metric_follow_a_helper(tmp_path, monkeypatch):
    """The same in one process, by what is registered: each round loads a copy of the files from a
    folder of its own.
    """
    text = """
import bench
from aid import positive

@bench.register_method("mine_with_aid")
def mine(trace):
    return trace.upsample(positive(trace.activations).sum(1))

@bench.register_metric("peak_with_aid")
def peak(case):
    return {"peak_with_aid": positive(case.maps).flatten(1).amax(1)}
"""
    ids = []
    for number, aid in enumerate((HELPER, HELPER, EDITED)):
        folder = tmp_path / str(number)
        write(folder, {"mine.py": text, "aid.py": aid})
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.delitem(sys.modules, "aid", raising=False)
        try:
            plugins.load_plugin(folder / "mine.py")
            ids.append(
                (METHODS.get("mine_with_aid").id, METRICS.get("peak_with_aid").id(Protocol()))
            )
        finally:
            METHODS.remove("mine_with_aid")
            METRICS.remove("peak_with_aid")
            sys.path.remove(str(folder))
    assert ids[0] == ids[1]
    assert ids[0][0] != ids[2][0]
    assert ids[0][1] != ids[2][1]


def typed(code: str, name: str = "f"):
    """Return a function of a piece of code that no file holds, as in a notebook."""
    space = {"__name__": "__main__"}
    exec(code, space)
    return space[name]


def test_a_typed_function_has_a_digest_that_follows_its_code_and_what_this_names():
    code = (
        "SIGN = 1\ndef g(a):\n    return a * SIGN\ndef f(trace, power=1):\n    return "
        "g(trace.activations)"
    )
    one = source_digest(typed(code))
    assert source_digest(typed(code)) == one
    for old, new in (
        ("SIGN = 1", "SIGN = -1"),
        ("a * SIGN", "a + SIGN"),
        ("power=1", "power=2"),
        ("activ", "Activ"),
    ):
        assert source_digest(typed(code.replace(old, new))) != one, new


def test_closures_partials_and_callable_objects_count_by_what_they_hold():
    def make(k):
        return lambda trace: trace.images[:, 0] * k

    def plain(trace, *, k=1):
        return trace.images[:, 0] * k

    class Scaled:
        def __init__(self, k):
            self.k = k

        def __call__(self, trace):
            return trace.images[:, 0] * self.k

    for build in (make, lambda k: functools.partial(plain, k=k), Scaled):
        assert source_digest(build(1)) == source_digest(build(1))
        assert source_digest(build(1)) != source_digest(build(2))


def test_what_is_the_users_own():
    assert is_own(Path(__file__))
    for module in (json, pytest, bench):
        assert not is_own(Path(module.__file__))


CARRIED = {
    "a decorator of a helper": (
        "from helper import loud\n\nK = 1\n\n@loud\ndef mine(trace):\n    return K\n",
        "def loud(f):\n    def inner(trace):\n        return f(trace)\n    return inner\n",
    ),
    "a list in a closure": (
        "from helper import make\n\nmine = make([1])\n",
        "def make(k):\n    return lambda trace: k\n",
    ),
    "a bound method": (
        "from helper import B\n\nmine = B(1).go\n",
        "class B:\n    def __init__(self, k):\n        self.k = k\n    def go(self, t):\n"
        "        return self.k\n",
    ),
    "an object with slots": (
        "from helper import B\n\nmine = B(1)\n",
        "class B:\n    __slots__ = ('k', '__weakref__')\n    def __init__(self, k):\n"
        "        self.k = k\n    def __call__(self, t):\n        return self.k\n",
    ),
}


@pytest.mark.parametrize("form", CARRIED)
def test_the_registering_file_and_what_a_function_carries_count(tmp_path, form):
    text, helper = CARRIED[form]
    write(tmp_path, {"mine.py": text, "helper.py": helper})
    before = digest_in_a_new_process(tmp_path / "mine.py")
    assert digest_in_a_new_process(tmp_path / "mine.py") == before  # no address is in it
    # Another length: Python takes cached code for a file of the same second and size.
    (tmp_path / "mine.py").write_text(text.replace("1", "222"))
    assert digest_in_a_new_process(tmp_path / "mine.py") != before


def test_what_decorates_a_built_in_or_sits_in_a_folder_called_bench_is_a_plugin(tmp_path):
    grad_cam = METHODS.get("grad_cam").function
    assert is_built_in(grad_cam)

    @functools.wraps(grad_cam)
    def mine(trace):
        return -grad_cam(trace)

    assert not is_built_in(mine)
    space = {"__name__": "bench.mine"}
    exec(compile("def f(trace):\n    return 1", str(tmp_path / "bench/mine.py"), "exec"), space)
    assert not is_built_in(space["f"])


LOADS = """
from pathlib import Path
from bench.errors import BenchError
from bench.plugins import load_plugin
for file in sys.argv[1:]:
    try:
        print(load_plugin(file).K)
    except BenchError as error:
        print(error)
"""


def load_in_a_new_process(*files: Path, cwd: Path) -> list[str]:
    places = [str(Path(bench.__file__).parents[1])]
    code = f"import sys; sys.path[:0] = ['', *{places!r}]\n{LOADS}"
    words = [sys.executable, "-c", code, *map(str, files)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=cwd)
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("text", "helper"),
    [
        ("from helper import K\n", "helper.py"),
        ("K = 0\ndef f():\n    import helper\n", "helper.py"),
    ],
)
def test_a_helper_of_the_same_name_beside_another_plugin_is_refused(tmp_path, text, helper):
    for number in (1, 2):
        folder = tmp_path / f"folder{number}"
        write(folder, {f"mine{number}.py": text, helper: f"K = {number}\n"})
    files = [tmp_path / "folder1/mine1.py", tmp_path / "folder2/mine2.py"]
    first, second = load_in_a_new_process(*files, cwd=tmp_path)
    assert first in ("1", "0")
    assert "folder2/helper.py, and Python finds another one of that name" in second


def test_the_same_package_name_in_two_folders_is_refused(tmp_path):
    for number in (1, 2):
        package = f"folder{number}/methods"
        write(
            tmp_path,
            {
                f"{package}/__init__.py": "",
                f"{package}/mine{number}.py": "from .helper import K\n",
                f"{package}/helper.py": f"K = {number}\n",
            },
        )
    files = [tmp_path / f"folder{n}/methods/mine{n}.py" for n in (1, 2)]
    first, second = load_in_a_new_process(*files, cwd=tmp_path)
    assert first == "1"
    assert "folder2/methods/__init__.py, and Python finds another one of that name" in second


def test_a_helper_beside_the_plugin_comes_before_one_in_the_working_folder(tmp_path):
    files = {"sub/mine.py": "from helper import K\n", "sub/helper.py": "K = 1\n"}
    write(tmp_path, {**files, "helper.py": "K = 2\n"})
    assert load_in_a_new_process(tmp_path / "sub/mine.py", cwd=tmp_path) == ["1"]


def test_line_ends_encodings_and_archives(tmp_path):
    write(tmp_path, {"mine.py": FORMS["beside"][0]["mine.py"], "helper.py": HELPER})
    before = digest_in_a_new_process(tmp_path / "mine.py")
    (tmp_path / "helper.py").write_bytes(HELPER.replace("\n", "\r\n").encode())
    assert digest_in_a_new_process(tmp_path / "mine.py") == before
    latin = "# -*- coding: latin-1 -*-\nK = 'é'\n".encode("latin-1")
    (tmp_path / "latin.py").write_bytes(latin)
    assert load_in_a_new_process(tmp_path / "latin.py", cwd=tmp_path) == ["é"]
    with zipfile.ZipFile(tmp_path / "lib.zip", "w") as archive:
        archive.writestr("helper.py", HELPER)
    (tmp_path / "helper.py").unlink()
    inside = digest_in_a_new_process(tmp_path / "mine.py", "", tmp_path / "lib.zip")
    with zipfile.ZipFile(tmp_path / "lib.zip", "w") as archive:
        archive.writestr("helper.py", EDITED)
    assert digest_in_a_new_process(tmp_path / "mine.py", "", tmp_path / "lib.zip") != inside


def test_a_name_that_looks_like_an_older_version_is_refused():
    with pytest.raises(BenchError, match="looks like a name of an older version"):
        bench.register_method("mine (v2)")(lambda trace: trace.images[:, 0])
