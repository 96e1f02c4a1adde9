"""The documentation site covers all that is registered, and its sources hold together."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from pathlib import Path

import pytest
import yaml
from docs_pages import board_links, command_pages, field_pages, links, method_pages, site_tree
from docs_pages.formulas import FORMULA
from docs_pages.metric_pages import write_health, write_metric_page
from docs_pages.pictures import PICTURES
from docs_pages.pictures.stage import write_caption
from docs_pages.python_pages import list_names
from docs_pages.tutorial_pages import list_tutorials, split_blocks, write_tutorial_page

import bench
from bench.cli.catalogue import value_facts
from bench.methods import METHODS
from bench.metrics import METRICS
from bench.metrics.base import board_names
from bench.protocol import PROTOCOLS, Protocol

ROOT = Path(__file__).parents[2]
TEXTS = ROOT / "docs" / "metrics"
SECTIONS = ("## Formula", "## How to read it", "## What it cannot tell")


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """Return all Markdown pages of the site, tutorials without what they print."""
    found = dict(site_tree.copy_shown()) | dict(site_tree.generate_pages())
    scripts = {script.stem: script.read_text() for script in list_tutorials()}
    found |= {f"tutorials/{name}.md": write_tutorial_page(text) for name, text in scripts.items()}
    return {place: text for place, text in found.items() if isinstance(text, str)}


def list_missing_values(text: str, names: set[str]) -> set[str]:
    """Return the names that no code word or pattern of a text covers."""
    patterns = re.findall(r"`([^`\s]+)`", text)
    return {one for one in names if not any(fnmatch.fnmatchcase(one, p) for p in patterns)}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_has_a_text_that_names_all_its_values(metric):
    text = (TEXTS / f"{metric.name}.md").read_text()
    assert text.startswith("# ")
    assert all(section in text for section in SECTIONS)
    assert FORMULA.search(text)
    names = {one for name, value in metric.values.items() for one in board_names(name, value)}
    assert not list_missing_values(text, names)


def test_a_value_without_text_is_found():
    text = (TEXTS / "deletion.md").read_text()
    assert list_missing_values(text, {"deletion", "a_new_value"}) == {"a_new_value"}


def test_no_text_is_about_a_metric_that_is_not_there():
    beside = {"index", "map-similarity"}
    assert {text.stem for text in TEXTS.glob("*.md")} - beside == set(METRICS.names)


def test_every_metric_has_a_picture_with_a_caption():
    assert set(PICTURES) == set(METRICS.names)
    assert all(len(write_caption(name)) > 40 for name in PICTURES)


def test_a_metric_page_has_range_direction_standing_and_health(pages):
    page = pages["metrics/pixel_precision.md"]
    assert '<a id="pixel_ap"></a>`pixel_ap`' in page
    assert "| 0 to 1 | higher is better ↑ | ranked |" in page
    assert "| higher is better ↑ | reported § |" in page
    health = write_health(METRICS.get("average_drop"), ROOT / "leaderboards")
    assert "fails †" in health
    assert "No published report" in write_health(METRICS.get("idsds"), ROOT / "leaderboards")


def test_a_metric_page_shows_what_the_code_declares():
    metric = METRICS.get("deletion")
    changed = dataclasses.replace(metric, needs=("masks",), standard=False)
    text = (TEXTS / "deletion.md").read_text()
    page = write_metric_page(changed, text, ROOT / "leaderboards")
    assert "masks of the objects" in page
    assert "runs hold it where they name it" in page
    assert "masks of the objects" not in write_metric_page(metric, text, ROOT / "leaderboards")


def test_the_overview_names_every_value_that_boards_show(pages):
    overview = pages["metrics/index.md"]
    for metric in METRICS:
        for name, value in metric.values.items():
            facts = value_facts(name, value)
            if value.reduce != "curve" and not name.endswith("_held"):
                assert f"({metric.name}.md#{facts['board']})" in overview


def test_every_method_has_a_section_with_source_cost_and_call(pages):
    for name in (*METHODS.names, *METHODS.unlisted):
        method = METHODS.get(name)
        page = pages[f"reference/methods/{method_pages.find_family(method)}.md"]
        section = page.partition(f"## `{method.name}` {{#{method.base}}}")[2].partition("\n## ")[0]
        assert "Cost on `resnet-scenes`" in section, name
        assert "Gradients:" in section
        assert "cambench run --methods" in section
        for parameter in method.all_parameters:
            assert f"| `{parameter}` |" in section


def test_every_command_and_option_has_its_place(pages):
    commands = command_pages.list_commands()
    assert {"run", "check", "finetune aft", "zoo train"} <= set(commands)
    index = pages["reference/cli/index.md"]
    for words, command in commands.items():
        page = pages[f"reference/cli/{command_pages.name_page(words)}"]
        assert f"`cambench {words}`" in index
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                assert parameter.opts[0] in page, (words, parameter.opts)


def test_every_field_of_every_protocol_has_a_value_and_a_meaning(pages):
    page = pages["reference/protocols.md"]
    assert f"| field | {' | '.join(PROTOCOLS)} |" in page
    meanings = field_pages.read_meanings()
    for field in field_pages.list_fields():
        assert f'<a id="{field}"></a>`{field}`' in page
        for name in PROTOCOLS:
            value = getattr(PROTOCOLS[name], field)
            shown = f"`{field_pages.write_value(value)}`"
            changed = value != getattr(Protocol(), field)
            assert (f"**{shown}**" if changed else shown) in page
    assert "softmax" in meanings["score"]
    assert meanings["geometry"].startswith('"own"')


def test_every_key_of_every_file_has_a_row(pages):
    for keys, _ in field_pages.SCHEMAS.values():
        for key in keys.model_fields:
            assert f"| `{key}`" in pages["reference/schema.md"]


def test_the_python_page_has_every_public_name(pages):
    assert {name.rpartition(".")[2] for name in list_names()} == {*bench.__all__} - {"__version__"}
    assert all(f"::: {name}\n" in pages["reference/python.md"] for name in list_names())


# --- the site


def list_nav(entries: list) -> list[str]:
    """Return the pages of a navigation, in its order."""
    found: list[str] = []
    for entry in entries:
        one = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found += list_nav(one) if isinstance(one, list) else [one]
    return found


def test_the_navigation_has_every_page_that_is_written_by_hand(pages):
    nav = list_nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert len(nav) == len(set(nav))
    assert not set(nav) - set(pages)
    beside = ("reference/cli/", "leaderboards/")
    lost = {page for page in set(pages) - set(nav) if not page.startswith(beside)}
    assert not lost


def find_broken_links(pages: dict[str, str]) -> list[str]:
    """Return the links to pages, pictures and places on pages that the site does not have."""
    pictures = {place for place, _ in site_tree.copy_shown()} | set(site_tree.list_pictures())
    broken = []
    for place, text in pages.items():
        for target in links.list_targets(text):
            path, _, anchor = target.partition("#")
            if links.is_outside(target):
                continue
            found = links.resolve(place, path)
            if found not in pages and found not in pictures:
                broken.append(f"{place}: {target}")
            elif anchor and f'id="{anchor}"' not in pages.get(found, ""):
                heads = re.findall(r"^#+ (.+)$", pages.get(found, ""), re.MULTILINE)
                if not any(make_anchor(head) == anchor for head in heads):
                    broken.append(f"{place}: {target}")
    return broken


def make_anchor(head: str) -> str:
    """Return the anchor that Markdown gives a heading."""
    own = re.search(r"\{#([\w-]+)\}$", head)
    if own:
        return own[1]
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", head).strip().lower())


def test_every_link_of_the_site_leads_somewhere(pages):
    assert find_broken_links(pages) == []


def test_broken_links_are_found(pages):
    wrong = {"gate.md": "[a](nowhere.md) [b](metrics/deletion.md#nothing) [c](statistics.md)"}
    assert find_broken_links(pages | wrong) == [
        "gate.md: nowhere.md",
        "gate.md: metrics/deletion.md#nothing",
    ]


def test_links_that_leave_the_site_become_text():
    text = "[a](gate.md), [b](../pyproject.toml), [c](https://example.org), `[d](x)` ![e](../e.png)"
    moved = links.move_links(text, "docs/new.md", {"docs/gate.md"})
    assert "[a](gate.md), b (`pyproject.toml`), [c](https://example.org)" in moved
    assert "`[d](x)` *(picture `e.png`)*" in moved
    assert links.list_targets("![a[:2], b](c.png) `[d](e)` [f](g)") == ["c.png", "g"]
    code = "```\n[a](../pyproject.toml)\n```\n"
    assert links.move_links(code, "docs/new.md", set()) == code


def test_headers_of_boards_link_to_their_values(pages):
    board = pages["leaderboards/scenes/board.md"]
    assert board.startswith("# Board scenes\n")
    header = next(line for line in board.splitlines() if line.startswith(board_links.HEADER))
    assert "[deletion ↓](../../metrics/deletion.md#deletion)" in header
    assert r"[pixel\_ap (v1) ↑](../../metrics/pixel_precision.md#pixel_ap)" in header
    assert board_links.link_header("| method | F | mine ↑ |", "") == "| method | F | mine ↑ |"


def test_a_script_becomes_text_and_code():
    script = '"""Title\n\nWords.\n"""\n\n# One\n# two.\n\nx = 1  # here\n'
    page = write_tutorial_page(script, "1\n", ["a.png"])
    assert page.startswith("# Title\n\nWords.\n\nOne\ntwo.\n\n```python\nx = 1  # here\n```")
    assert "```text\n1\n```" in page
    assert "(a.png)" in page
    assert split_blocks("#\n# a")[0] == ("text", ["", "a"])
