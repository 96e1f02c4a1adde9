"""How a command ends: one sentence and exit code 2 for whatever goes wrong."""

from __future__ import annotations

import errno
import io
import sys

import pytest

from bench import cli
from bench.cli import failures
from bench.cli.failures import LOG_FILE, note_folder, run_safely, shorten
from bench.errors import BenchError
from bench.plain_streams import PlainStream


def raise_it(error: BaseException) -> None:
    raise error


def fall_deep(n: int = 0) -> int:
    return fall_deep(n + 1)


FAULTS = {
    "a sentence": (lambda: raise_it(BenchError("Unknown model 'x'.")), "Unknown model 'x'."),
    "a fault": (lambda: {}["key"], "KeyError: 'key'"),
    "an exit of 0": (lambda: sys.exit(0), "sys.exit(0) was called at"),
    "an exit of 1": (lambda: sys.exit(1), "sys.exit(1) was called at"),
    "an exit with words": (lambda: sys.exit("bye"), "sys.exit('bye')"),
    "a code of nobody": (lambda: 7, "exit code 7"),
    "no memory": (lambda: raise_it(MemoryError()), "Memory ran out"),
    "deep": (fall_deep, "nested too deeply"),
    "no space": (lambda: raise_it(OSError(errno.ENOSPC, "No space left", "a.csv")), "a.csv"),
    "a generator": (lambda: raise_it(GeneratorExit()), "GeneratorExit"),
    "a group": (lambda: raise_it(BaseExceptionGroup("two", [KeyError(1)])), "two"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_goes_wrong_is_one_sentence_and_2(fault, capsys):
    start, words = FAULTS[fault]
    assert run_safely(start) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert words in err
    assert "Traceback" not in err


def test_ctrl_c_is_130_and_a_regression_stays_1(capsys):
    assert run_safely(lambda: raise_it(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "Stopped.\n"
    assert [run_safely(lambda code=code: code) for code in (0, None, 1, 130)] == [0, 0, 1, 130]


def test_a_fault_leaves_its_traceback_where_one_looks(tmp_path, capsys, monkeypatch):
    def start(folder=tmp_path) -> None:
        note_folder(folder)
        {}["key"]

    run_safely(start)
    assert str(tmp_path / LOG_FILE) in capsys.readouterr().err
    log = (tmp_path / LOG_FILE).read_text()
    assert "KeyError: 'key'" in log
    assert "test_failures.py" in log
    run_safely(lambda: start(tmp_path / "no folder"))
    assert not (tmp_path / "no folder").exists()
    assert "CAMBENCH_DEBUG=1" in capsys.readouterr().err
    monkeypatch.setenv("CAMBENCH_DEBUG", "1")
    run_safely(start)
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_bad_input_leaves_no_log(tmp_path, capsys):
    def start() -> None:
        note_folder(tmp_path)
        raise BenchError("This is no fault.")

    run_safely(start)
    assert list(tmp_path.iterdir()) == []


def test_a_sentence_is_one_line_of_bounded_length():
    assert shorten("a\nb\tc") == "a b c"
    assert len(shorten("9" * 5000)) == 200
    assert len(shorten("nine " * 5000)) == 2000
    assert "\x1b" not in shorten("\x1b[31mred")


def test_a_full_disk_at_standard_output_is_no_success(capsys, monkeypatch):
    class FullDisk(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    stream = PlainStream(io.BufferedWriter(FullDisk()), "utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    done = []
    assert run_safely(lambda: (print("x" * 100_000, flush=True), done.append(1))[0]) == 2
    assert done == [1]  # the work behind the words is not lost
    assert "No space left on device" in capsys.readouterr().err


def test_a_usage_error_names_the_help(monkeypatch, capsys):
    for words, expected in (
        (["run", "--limit", "x"], "cambench run --help"),
        (["nonsense"], "cambench --help"),
        (["--debug"], "cambench --help"),
        (["run", "--limit", "9" * 5000], "--limit"),
    ):
        monkeypatch.setattr(sys, "argv", ["cambench", *words])
        assert run_safely(cli.start) == 2
        err = capsys.readouterr().err.splitlines()
        assert len(err[-1]) < 600
        assert err[-1].startswith("Error: ")
        assert expected in err[-1]


def test_the_guard_is_what_turns_a_fault_into_a_sentence(monkeypatch):
    """The negative: without it, the fault leaves."""
    monkeypatch.setattr(failures, "end_with", raise_it)
    with pytest.raises(KeyError):
        run_safely(lambda: {}["key"])
