"""The tutorial on correcting attention, as a reader follows it: drawn in a real Chromium."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.finetune.attention_maps import load_maps
from tests.support.editor_pages import drag, settled, state, sync_api

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "tutorials" / "correct_attention.py"
DRAWN = 3


def start_script(folder: Path, *words: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-u", str(SCRIPT), *map(str, words)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def draw_objects(page: Any, count: int) -> None:
    """Fill the box of each object, and save: what a person does with the mouse."""
    for k in range(count):
        box = page.evaluate(f"fetch('/api/images/{k}').then((a) => a.json()).then((v) => v.boxes)")
        x0, y0, x1, y1 = box[0]
        page.keyboard.press("c")
        page.keyboard.press("x")
        drag(page, (x0, y0), (x1, y1))
        state(page, "Unsaved changes")
        page.keyboard.press("s")
        state(page, "Saved")
        if k + 1 < count:
            page.keyboard.press("ArrowRight")
            sync_api.expect(page.locator("#item")).to_contain_text(f"{k + 2} of {count}")
            settled(page)


@pytest.mark.slow
def test_a_reader_draws_and_the_network_follows(browser, tmp_path):
    with start_script(tmp_path, DRAWN) as script:
        lines: list[str] = []
        address = None
        while not (lines and " images to edit" in lines[-1]):
            line = script.stdout.readline()
            assert line, "".join(lines)
            lines.append(line)
            found = re.search(r"Open (http://127\.0\.0\.1:\d+/\?token=\S+) ", line)
            address = found[1] if found else address
        page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        page.goto(address)
        settled(page)
        draw_objects(page, DRAWN)
        page.context.close()
        out = "".join(lines) + script.communicate(timeout=1800)[0]
    assert script.returncode == 0, out
    drawn = load_maps(tmp_path / "maps")
    assert [one.facts["source"] for one in drawn] == ["editor"] * DRAWN
    assert all(one.facts["after"]["energy"] > 0.5 > one.facts["before"]["energy"] for one in drawn)
    (card,) = json.loads((tmp_path / "taught" / "taught.json").read_text()).values()
    assert card["maps"]["sources"] == {"editor": DRAWN}
    taught = card["agreement"]["edited"]
    assert taught["after"]["mse"] < taught["before"]["mse"]
    assert {path.name for path in (tmp_path / "figures").iterdir()} >= {
        "maps.png",
        "channels.png",
        "change.png",
        "figures.md",
    }
    assert f"{DRAWN} of {DRAWN} drawn" in out
    assert "simulated" not in (tmp_path / "figures" / "figures.md").read_text()
    assert (tmp_path / "board" / "board.md").is_file()
    assert re.search(r"\n +energy +higher", out)


@pytest.mark.slow
def test_without_a_terminal_simulated_maps_stand_in_and_say_so(tmp_path):
    with start_script(tmp_path) as script:
        out = script.communicate(timeout=1800)[0]
    assert script.returncode == 0, out
    assert all(one.simulated for one in load_maps(tmp_path / "maps"))
    assert "simulated maps" in (tmp_path / "figures" / "figures.md").read_text()
    assert "simulated" in out
