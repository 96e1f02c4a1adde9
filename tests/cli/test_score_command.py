"""`cambench score`: maps in, a board out; what cannot be read is one sentence and exit code 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.command_line import cambench, refused

WORDS = [
    "--model",
    "resnet-scenes",
    "--subset",
    "scenes-val",
    "--limit",
    "2",
    "--metrics",
    "deletion,pointing_game",
]
IDS = ["scenes-val-000000", "scenes-val-000001"]


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "theirs.npz", **{item: rng.normal(size=(7, 7)) for item in IDS})
    return tmp_path / "theirs.npz"


def test_score_makes_a_board_and_goes_on(maps, tmp_path):
    out = tmp_path / "run"
    done = cambench("score", maps, *WORDS, "--methods", "random,grad_cam", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "theirs: 2 maps of 7x7, resized bilinearly to the 96x96 frame." in done.stdout
    assert "theirs explains the predicted class; on 0 of 2 items" in done.stdout
    assert "theirs against grad_cam: deletion" in done.stdout
    board = (out / "board.md").read_text()
    assert "| theirs | ext. |" in board
    assert "theirs | external | external | 2 maps of the predicted class" in board
    again = cambench("score", maps, *WORDS, "--methods", "random,grad_cam", "--out", out)
    assert again.returncode == 0, again.stderr
    assert len(list((out / "records").glob("*.parquet"))) == 1


def test_bad_maps_are_one_sentence(maps, tmp_path):
    refused(cambench("score", tmp_path / "none.npz", *WORDS), "There are no maps at")
    np.savez(tmp_path / "other.npz", **{"scene-val-000000": np.zeros((7, 7))})
    refused(
        cambench("score", tmp_path / "other.npz", *WORDS),
        "None of the 1 ids",
        "Did you mean scenes-val-000000",
    )
    np.savez(tmp_path / "wide.npz", **{IDS[0]: np.zeros((7, 9))})
    refused(cambench("score", tmp_path / "wide.npz", *WORDS), "7x9", "frame of 96x96")
    refused(
        cambench("score", maps, *WORDS, "--name", "grad_cam"), "already a method named 'grad_cam'"
    )
    several = [word if word != "resnet-scenes" else "originals" for word in WORDS]
    refused(cambench("score", maps, *several), "maps explain one")


@pytest.mark.slow
def test_missing_and_unknown_maps_are_said(tmp_path):
    np.savez(
        tmp_path / "some.npz", **{IDS[0]: np.ones((7, 7)), "scenes-val-00000x": np.ones((7, 7))}
    )
    done = cambench(
        "score", tmp_path / "some.npz", *WORDS, "--methods", "random", "--out", tmp_path / "run"
    )
    assert done.returncode == 0, done.stderr
    assert "! 1 map (scenes-val-00000x) of no item of scenes-val, left out." in done.stderr
    assert f"! 1 item ({IDS[1]}) of 2 of scenes-val without a map" in done.stderr
    assert "some is scored on 1 of 2 items" in (tmp_path / "run" / "board.md").read_text()
