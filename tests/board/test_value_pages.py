"""Values of boards have a page, and headers link to it where the site has an address."""

from __future__ import annotations

import pytest

from bench.board.tables import Section, render
from bench.board.value_pages import DOCS_VARIABLE, find_value_page, link_header, write_address
from bench.metrics import METRICS, Value, register_metric
from bench.metrics.base import board_names


def test_every_value_of_a_built_in_metric_has_a_page():
    for metric in METRICS:
        for name, value in metric.values.items():
            if metric.builtin:
                for shown in board_names(name, value):
                    page = f"metrics/{metric.name}.md#{board_names(name, value)[0]}"
                    assert find_value_page(shown) == page


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("pointing@correct", "metrics/pointing_game.md#pointing"),
        ("pixel_ap (v1)", "metrics/pixel_precision.md#pixel_ap"),
        ("deletion_relative", "metrics/deletion.md#deletion"),
        ("box_accuracy_oracle", "metrics/box_localization.md#box_accuracy"),
        ("box_accuracy_ranked_50@correct", "metrics/box_sets.md#box_accuracy_ranked"),
        ("mine", ""),
    ],
)
def test_variants_of_a_value_lead_to_its_page(name, page):
    assert find_value_page(name) == page


def test_a_value_of_a_plug_in_has_no_page():
    @register_metric("toy_peak", values={"toy_peak": Value("Toy peak")})
    def toy_peak(case):
        return {"toy_peak": case.maps.flatten(1).amax(1)}

    try:
        assert find_value_page("toy_peak") == ""
    finally:
        METRICS.remove("toy_peak")


def render_header(header: str) -> str:
    page = render(
        "table.md.j2",
        subset="a",
        model="b",
        caption="c",
        sections=[Section("d", [header], [])],
    )
    return next(line for line in page.splitlines() if line.startswith("| method"))


def test_a_header_links_only_where_the_site_has_an_address(monkeypatch):
    monkeypatch.delenv(DOCS_VARIABLE, raising=False)
    assert render_header("pixel_ap ↑") == r"| method | F | pixel\_ap ↑ |"
    monkeypatch.setenv(DOCS_VARIABLE, "https://docs.example/bench")
    address = "https://docs.example/bench/metrics/pixel_precision/#pixel_ap"
    assert render_header("pixel_ap ↑†") == rf"| method | F | [pixel\_ap ↑†]({address}) |"
    assert render_header("mine ↑") == "| method | F | mine ↑ |"


def test_a_header_with_a_version_links_as_well(monkeypatch):
    monkeypatch.setenv(DOCS_VARIABLE, "https://docs.example/")
    assert link_header("apd (v1) ↓§").endswith("/metrics/threshold_quality/#apd)")
    assert write_address("a.md", "https://x/") == "https://x/a/"
