"""The law of the command line: exit 0, 2 or 130, no traceback, nothing outside --out.

Every option of every command gets values that its declared type cannot be, in this process and
through the same `main`. The short test draws some; the long one tries all and counts them.
"""

from __future__ import annotations

import io
import json
import signal
import sys
import time
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench import cli
from bench.cli import failures
from tests.torture.nasty_files import CASES, Place
from tests.torture.nasty_values import NEVER, list_options, write_words

OPTIONS = list_options()
LONGEST = 60
"""Seconds after which a command counts as hanging."""

UNKNOWN = "an error that it does not know"
"""In the sentence of an exception that nothing has foreseen."""


class Ended:
    """How one command ended: its code, what it printed, its seconds."""

    def __init__(self, words: list[str]) -> None:
        out, err, argv, start = io.StringIO(), io.StringIO(), sys.argv, time.monotonic()
        sys.argv = ["cambench", *words]
        handler = signal.signal(signal.SIGALRM, self._stop)
        signal.alarm(LONGEST)
        try:
            with redirect_stdout(out), redirect_stderr(err):
                self.code = failures.run_safely(cli.start)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, handler)
            sys.argv = argv
        self.words, self.seconds = words, time.monotonic() - start
        self.out, self.err = out.getvalue(), err.getvalue()

    @staticmethod
    def _stop(*_: object) -> None:
        raise TimeoutError("the command hangs")

    def breaches(self) -> list[str]:
        """Return what of the law this command broke."""
        said = [line for line in self.err.splitlines() if line.startswith("Error: ")]
        broken = {
            f"exit code {self.code}": self.code not in (0, 2, 130),
            "a traceback": "Traceback (most recent call last)" in self.out + self.err,
            "no sentence": self.code == 2 and len(said) != 1,
            "a hang": self.seconds > LONGEST or "the command hangs" in self.err,
            "an unknown error": UNKNOWN in self.err,
        }
        return [name for name, holds in broken.items() if holds]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("fuzz")
    return {"missing": str(root / "missing"), "out": str(root / "out")}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, which must stay empty, with a cache of its own."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CAMBENCH_CACHE", str(tmp_path / "cache"))
    return folder


REFUSED = [
    (option, value) for option in OPTIONS for value in option.values if value in NEVER - {""}
]


@given(st.sampled_from(REFUSED))
@settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_what_no_option_takes_is_refused_in_a_sentence(places, elsewhere, case):
    option, value = case
    if option.kind not in (int, float) and value in ("nan", "inf", "-inf", "1e400", "1j", "x"):
        return
    ended = Ended(write_words(option, value, OPTIONS, places))
    assert ended.code == 2, ended.words
    assert ended.breaches() == [], (ended.words, ended.err)
    assert not [*elsewhere.iterdir()]
    assert not Path(places["out"]).exists()


def test_the_fuzz_sees_a_fault(places, monkeypatch):
    """The negative: a fault in a command, and one of the guard."""
    words = write_words(OPTIONS[0], "scenes-val", OPTIONS, places)
    monkeypatch.setattr(cli, "start", lambda: {}["key"])
    assert Ended(words).breaches() == ["an unknown error"]
    monkeypatch.setattr(cli, "start", lambda: 1)
    assert Ended(words).breaches() == ["exit code 1"]
    monkeypatch.setattr(failures, "end_with", lambda error: 2)
    monkeypatch.setattr(cli, "start", lambda: {}["key"])
    assert Ended(words).breaches() == ["no sentence"]


@pytest.mark.slow
def test_every_option_and_file_keeps_the_law(places, elsewhere, tmp_path, capsys):
    """Try all of it, and print the counts of docs/reliability.md."""
    ended = [
        Ended(write_words(option, value, OPTIONS, places))
        for option in OPTIONS
        for value in option.values
    ]
    place = Place.make(tmp_path / "files")
    ended += [Ended([str(word) for word in words]) for words in CASES(place)]
    counts = Counter(breach for one in ended for breach in one.breaches())
    with capsys.disabled():
        distinct = len({tuple(one.words) for one in ended})
        codes = Counter(one.code for one in ended)
        print(f"\n{distinct} distinct invocations, codes {dict(codes)}, breaches {dict(counts)}")
        for one in ended:
            if one.breaches():
                print(json.dumps([one.breaches(), one.words])[:300], one.err[:600])
    assert distinct >= 640
    assert not counts
    assert not [*elsewhere.iterdir()]
