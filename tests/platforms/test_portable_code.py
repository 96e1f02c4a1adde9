"""Laws of code that runs on every system: text has an encoding, and POSIX is asked for first."""

from __future__ import annotations

import ast
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.file_moves import PAUSES, move_into_place
from bench.files import replaced_file
from bench.finetune.attention_maps import utc_now

pytestmark = pytest.mark.quick

PACKAGE = Path(__file__).parents[2] / "bench"

POSIX = {
    "os": {
        *("fork", "forkpty", "getuid", "geteuid", "getgid", "getegid", "setuid", "statvfs"),
        *("uname", "mkfifo", "chown", "fchmod", "killpg", "setsid", "getpgid", "nice", "wait4"),
        *("sched_getaffinity", "WNOHANG", "O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC", "pread"),
    },
    "signal": {
        *("SIGKILL", "SIGHUP", "SIGALRM", "SIGPIPE", "SIGUSR1", "SIGUSR2", "SIGCHLD", "alarm"),
        *("SIGXFSZ", "SIGQUIT", "setitimer", "pthread_sigmask"),
    },
    "time": {"tzset"},
}
"""What a module has on POSIX only."""

MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "readline"}
"""Modules of POSIX only."""

ASKED = ("sys.platform", "os.name", "hasattr(", "platform.system")
"""How code asks for a system."""

HANDLED = ("ImportError", "ModuleNotFoundError", "AttributeError")
"""What code expects where a system lacks something."""


def list_breaches(text: str) -> list[str]:
    """Return the breaches of a module: LINE: what is wrong."""
    return [f"{node.lineno}: {what}" for node, what in _walk(ast.parse(text), False)]


def _walk(node: ast.AST, asked: bool) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    if isinstance(node, ast.If | ast.IfExp):
        asked = asked or any(one in ast.unparse(node.test) for one in ASKED)
    if isinstance(node, ast.Try):
        kinds = " ".join(ast.unparse(h.type) for h in node.handlers if h.type)
        asked = asked or any(one in kinds for one in HANDLED)
    if isinstance(node, ast.Call) and (what := _find_plain_text(node)):
        yield node, what
    if not asked:
        yield from _find_posix(node)
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, asked)


def _find_plain_text(node: ast.Call) -> str | None:
    """Return what is wrong with a call that reads or writes text in the encoding of a system."""
    named = {one.arg for one in node.keywords}
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
    if name in ("read_text", "write_text") and isinstance(node.func, ast.Attribute):
        if isinstance(node.func.value, ast.Name) and node.func.value.id == "found":
            return None  # a distribution's metadata, which is UTF-8
        return None if "encoding" in named else f"{name} without encoding"
    if name == "open":
        modes = [one.value for one in node.args if isinstance(one, ast.Constant)]
        modes += [k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)]
        text = [one for one in modes if one in ("r", "w", "a", "x", "r+", "w+", "a+", "rt", "wt")]
        bare = not node.args and isinstance(node.func, ast.Attribute) and "newline" in named
        return "open without encoding" if (text or bare) and "encoding" not in named else None
    return None


def _find_posix(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        if node.attr in POSIX.get(node.value.id, ()):
            yield node, f"{node.value.id}.{node.attr} is of POSIX only"
    elif isinstance(node, ast.Import | ast.ImportFrom):
        module = node.module if isinstance(node, ast.ImportFrom) else None
        names = {module} if module else {one.name for one in node.names}
        for name in names & MODULES:
            yield node, f"{name} is of POSIX only"


def test_the_package_asks_before_it_uses_posix_and_names_encodings():
    found = {
        file.relative_to(PACKAGE).as_posix(): breaches
        for file in sorted(PACKAGE.rglob("*.py"))
        if (breaches := list_breaches(file.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("import fcntl", "1: fcntl is of POSIX only"),
        ("import os\nos.fork()", "2: os.fork is of POSIX only"),
        ("import signal\nx = signal.SIGKILL", "2: signal.SIGKILL is of POSIX only"),
        ("path.read_text()", "1: read_text without encoding"),
        ("path.open('w', newline='')", "1: open without encoding"),
        ("path.open(newline='')", "1: open without encoding"),
        ("open(name, 'a')", "1: open without encoding"),
    ],
)
def test_a_breach_is_seen(text, wrong):
    assert list_breaches(text) == [wrong]


@pytest.mark.parametrize(
    "text",
    [
        "try:\n    import resource\nexcept ImportError:\n    resource = None",
        "n = os.sched_getaffinity(0) if hasattr(os, 'sched_getaffinity') else 1",
        "if sys.platform != 'win32':\n    os.fork()",
        "path.open('rb')",
        "Image.open(path)",
        "path.read_text(encoding='utf-8')",
    ],
)
def test_code_that_asks_first_is_none(text):
    assert list_breaches(text) == []


# --- replacing a file that somebody reads


class Reader:
    """Somebody who holds a file open for a number of tries, as on Windows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tries: int) -> None:
        self.left, self.real = tries, Path.replace
        monkeypatch.setattr(Path, "replace", lambda one, other: self.replace(one, other))
        monkeypatch.setattr(time, "sleep", lambda _: None)

    def replace(self, one: Path, other: Path) -> Path:
        self.left -= 1
        if self.left >= 0:
            raise PermissionError(13, "Permission denied", str(one))
        return self.real(one, other)


def test_a_reader_who_leaves_is_waited_for(tmp_path, monkeypatch):
    file = tmp_path / "run.json"
    file.write_bytes(b"old")
    Reader(monkeypatch, len(PAUSES))
    with replaced_file(file) as temporary:
        temporary.write_bytes(b"new")
    assert file.read_bytes() == b"new"


def test_a_reader_who_stays_is_one_sentence_and_the_old_file_stays(tmp_path, monkeypatch):
    file = tmp_path / "run.json"
    file.write_bytes(b"old")
    Reader(monkeypatch, len(PAUSES) + 1)
    with (
        pytest.raises(BenchError, match=r"Cannot replace .*run\.json .*close that program"),
        replaced_file(file) as temporary,
    ):
        temporary.write_bytes(b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("run.json", b"old")]


def test_other_errors_are_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waited"))
    with pytest.raises(FileNotFoundError):
        move_into_place(tmp_path / "none", tmp_path / "file")


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of a process is fixed here")
@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles", "XYZ+11:30"])
def test_times_are_of_one_zone(monkeypatch, zone):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert utc_now().endswith("+00:00")
    finally:
        monkeypatch.undo()
        time.tzset()
