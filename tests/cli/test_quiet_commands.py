"""Every long command has --quiet: errors and the last line alone."""

from __future__ import annotations

import inspect
import io

import pytest
import typer
from rich.console import Console

from bench.cli import application, output
from bench.cli.output import EndOfCommand, keep_quiet, say, stoppable, warn
from bench.cli.registration import expand_options
from bench.errors import BenchError, state_assumption
from tests.support.command_line import cambench, refused

LONG = {"run", "plan", "score", "board", "merge", "explain", "health", "protocols", "check"}
LONG |= {"gate-rates"}
FINETUNE = {"abn", "aft", "classifier", "guided", "masked", "sa", "simulate"}
SMALL = ["--models", "resnet-scenes", "--methods", "grad_cam,random", "--metrics", "deletion"]
SMALL += ["--limit", "2", "--calibration", "0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("quiet") / "run"
    assert cambench("run", *SMALL, "--out", out, "--quiet").returncode == 0
    return out


def list_options(command: typer.models.CommandInfo) -> set[str]:
    """Return the names of a command's parameters."""
    assert command.callback is not None
    return set(inspect.signature(command.callback).parameters)


def test_every_long_command_can_be_kept_quiet():
    app = application.app
    quiet = {str(one.name) for one in app.registered_commands if "quiet" in list_options(one)}
    assert quiet == LONG
    groups = {str(group.name): group.typer_instance for group in app.registered_groups}
    assert groups["finetune"] is not None
    tuned = groups["finetune"].registered_commands
    assert {str(one.name) for one in tuned if "quiet" in list_options(one)} == FINETUNE
    assert all("quiet" in list_options(one) for one in groups["zoo"].registered_commands)


@pytest.fixture
def printed(monkeypatch):
    """Catch what is printed: (standard output, standard error)."""
    files = io.StringIO(), io.StringIO()
    monkeypatch.setattr(output, "console", Console(file=files[0], width=200))
    monkeypatch.setattr(output, "errors", Console(file=files[1], width=200))
    return files


def say_and_raise(line: str, error: BaseException) -> None:
    say(line)
    raise error


def test_quiet_prints_the_last_line_alone(printed):
    with keep_quiet(True):
        say("first")
        warn("a warning")
        say("last")
    assert [file.getvalue() for file in printed] == ["last\n", ""]


def test_quiet_prints_nothing_of_what_fails_or_is_stopped(printed):
    with pytest.raises(BenchError), keep_quiet(True):
        say_and_raise("first", BenchError("It fails."))
    with pytest.raises(EndOfCommand), keep_quiet(True), stoppable("Stopped; it goes on."):
        say_and_raise("first", KeyboardInterrupt())
    assert [file.getvalue() for file in printed] == ["", "Stopped; it goes on.\n"]


def test_quiet_keeps_the_line_of_a_command_that_ends_with_a_code(printed):
    with pytest.raises(EndOfCommand), keep_quiet(True):
        say_and_raise("Regression: 1 (of 3 cells).", EndOfCommand(1))
    assert printed[0].getvalue() == "Regression: 1 (of 3 cells).\n"


def test_what_is_assumed_is_not_printed_by_a_quiet_command(printed):
    def work() -> None:
        state_assumption("An assumption.")
        say("done")

    expand_options(work, long=True)(quiet=True, debug=False)
    assert [file.getvalue() for file in printed] == ["done\n", ""]


def read_errors(done) -> list[str]:
    """Return the lines of stderr, less those that Triton's binding writes when Python ends."""
    lines = done.stderr.splitlines()
    ends = [place for place, line in enumerate(lines) if line.startswith("nanobind: leaked")]
    return lines[: ends[0]] if ends else lines


def test_a_run_its_board_and_a_merge_print_one_line(folder, tmp_path):
    for words in (
        ("run", *SMALL, "--out", folder),
        ("board", folder),
        ("merge", folder, "--out", tmp_path / "all"),
    ):
        done = cambench(*words, "--quiet")
        assert done.returncode == 0, done.stderr
        assert read_errors(done) == []
        (line,) = done.stdout.splitlines()
        assert line.startswith("Board, tables and plots: ")
    loud = cambench("merge", folder, "--out", tmp_path / "all", "--verbose")
    assert "percentile interval" in " ".join(loud.stdout.split())


def test_health_of_stored_records_prints_one_line(folder):
    done = cambench("health", folder, "--stored", "-q")
    assert len(done.stdout.splitlines()) == (done.returncode == 0)
    assert len(read_errors(done)) == (done.returncode != 0)


def test_a_plan_prints_its_time_alone(tmp_path):
    done = cambench("plan", *SMALL, "--rates-only", "--quiet")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("Time: about ")
    assert read_errors(done) == []


def test_errors_stay(folder, tmp_path):
    refused(cambench("board", tmp_path / "none", "--quiet"), "none")
    refused(cambench("merge", folder, tmp_path / "none", "--out", tmp_path / "all", "-q"), "none")
