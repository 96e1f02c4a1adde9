"""`cambench list`: one entry per line, one entry in full, JSON, and the names of boards."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bench.errors import BenchError
from bench.methods import METHODS
from bench.metrics import METRICS
from bench.models import MODELS
from bench.protocol import PROTOCOLS
from tests.support.command_line import ROOT, cambench, refused


@pytest.mark.parametrize("what", ["methods", "metrics", "models", "subsets", "protocols"])
def test_list_shows_what_there_is(what):
    done = cambench("list", what)
    assert done.returncode == 0, done.stderr
    rows = [line.split("  ") for line in done.stdout.splitlines()]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    expected = {
        "methods": (["grad_cam", "official", "cam"], ["oracle", "control", "control"]),
        "metrics": (["deletion", "faithfulness", "standard", "deletion↓* deletion_curve"],),
        "models": (["resnet-scenes"], ["vgg-scenes"]),
        "subsets": (["scenes-pairs"], ["imagenet-val-500"]),
        "protocols": (["cambench-1", "cambench-1@76032da1c3b1"],),
    }[what]
    for row in expected:
        assert row in [found[: len(row)] for found in cells]
    names = {
        "methods": [*METHODS.names, *METHODS.unlisted],
        "metrics": METRICS.names,
        "models": MODELS.names,
        "protocols": [*PROTOCOLS],
    }
    assert [found[0] for found in cells] == names.get(what, [found[0] for found in cells])
    assert ("steps=28" in done.stdout) == (what == "protocols")


def test_a_narrow_terminal_folds_no_line_of_a_pipe():
    """One line per metric, without colours, in a pipe of a terminal of 40 columns."""
    script = f"COLUMNS=40 CLICOLOR_FORCE=1 {sys.executable} -m bench list metrics | cat"
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == METRICS.names
    assert max(map(len, lines)) > 80
    assert "\x1b" not in done.stdout


def test_groups_wildcards_and_lists_choose_what_is_listed():
    listed = cambench("list", "metrics", "localization/*,-costly").stdout.splitlines()
    assert [line.split()[0] for line in listed] == METRICS.select("localization/*,-costly")
    listed = cambench("list", "methods", "default").stdout.splitlines()
    assert [line.split()[0] for line in listed] == METHODS.select("default")
    assert [
        line.split()[0] for line in cambench("list", "models", "vgg*").stdout.splitlines()
    ] == MODELS.select("vgg*")


def test_one_entry_is_shown_in_full():
    for name in ("energy_pointing_game", "energy"):
        shown = cambench("list", "metrics", name, columns=40).stdout
        assert shown.startswith("energy_pointing_game\n")
        assert (
            "Energy pointing game: higher is better, not ranked, moved by sharpening the map, 0 "
            "to 1, mean over images; on boards energy" in shown
        )
        assert "NaN without truth" in " ".join(shown.split())
    method = cambench("list", "methods", "sa_cam[lambda=0.5]").stdout
    for words in (
        "sa_cam[lambda=0.5]@",
        "reconstruction",
        "Liang, Li and Jiang",
        "lambda  0.5",
        "form    additive",
    ):
        assert words in method
    assert "resnet_scenes" in cambench("list", "models", "resnet-scenes").stdout
    assert "licence" in cambench("list", "subsets", "imagenet-val-500").stdout
    changed = cambench("list", "protocols", "cambench-1[steps=56]").stdout
    assert "changes  steps  56" in changed


def test_json_holds_everything():
    (facts,) = json.loads(cambench("list", "metrics", "box_accuracy", "--json").stdout)
    assert facts["name"] == "box_localization"
    assert facts["values"]["box_iou"]["board"] == "box_accuracy"
    assert not facts["values"]["box_iou"]["ranked"]  # as boards do
    assert facts["values"]["box_iou"]["peaked"]
    methods = json.loads(cambench("list", "methods", "--json").stdout)
    by_address = ("power(grad_cam)", "ranked(grad_cam)", "top(grad_cam)")  # in no group
    assert {facts["name"]: facts["fidelity"] for facts in methods} == {
        m.name: m.fidelity for m in (*METHODS, *map(METHODS.get, by_address))
    }


def test_what_cannot_be_listed_is_one_sentence():
    refused(cambench("list", "metrics", "deltion"), "deltion", "Did you mean deletion")
    refused(cambench("list", "methods", "--check"), "--check is for models")
    refused(cambench("list", "models", "--out", "x.csv"), "--out goes with --check only")
    refused(cambench("list", "protocols", "rize"), "rize", "rise")
    refused(cambench("list", "models", "orignals"), "orignals", "originals")


def test_names_of_values_stand_for_their_metrics():
    wanted = ["energy_pointing_game", "pointing_game", "box_localization", "pixel_precision"]
    assert (
        METRICS.select("energy,pointing,box_accuracy,pixel_ap_pooled,energy_pointing_game")
        == wanted
    )
    assert METRICS.select("localization/*,-energy") == METRICS.select(
        "localization/*,-energy_pointing_game"
    )
    assert METRICS.get("box_accuracy") is METRICS.get("box_localization")


@pytest.mark.parametrize(
    ("registry", "name", "sentence"),
    [
        (METRICS, "energi", "Unknown metric 'energi'. Did you mean energy, energy_lift?"),
        (METRICS, "box_acuracy", "Unknown metric 'box_acuracy'. Did you mean box_accuracy?"),
        (METHODS, "scorecam", "Unknown method 'scorecam'. Did you mean score_cam?"),
        (METHODS, "cam/gradcam", "Did you mean cam/grad_cam, cam/xgrad_cam"),
        (MODELS, "orignals", "Did you mean originals"),
    ],
)
def test_suggestions_are_addresses_and_none_comes_twice(registry, name, sentence):
    with pytest.raises(BenchError) as caught:
        registry.select(name)
    assert sentence in str(caught.value)
    suggested = str(caught.value).partition("Did you mean ")[2].rstrip("?").split(", ")
    assert len(set(suggested)) == len(suggested)
    for address in suggested:
        assert registry.select(address)
