"""Boards and protocols: one protocol to a board, its id in every caption, and what its fields say
about reducing.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from bench.board.board import leaderboard
from bench.board.measures import list_measures
from bench.board.tables import write_caption
from bench.errors import BenchError
from bench.files import write_json
from bench.protocol import get_protocol
from bench.records.store import Records, check_protocol, write_parquet


def refused(records: Records) -> str:
    with pytest.raises(BenchError) as caught:
        leaderboard(records)
    text = str(caught.value)
    assert "\n" not in text
    assert text.count(". ") == 0
    return text


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("protocol_id", "mix protocols"),
        ("metric_id", "several metric_ids for metric deletion"),
        ("method_id", "several method_ids for method a"),
        ("weights_id", "several weights_ids for model net"),
        ("manifest_id", "several manifest_ids for subset toy"),
    ],
)
def test_a_board_refuses_to_mix_ids(toy: SimpleNamespace, column: str, words: str) -> None:
    rows = [
        toy.row("i0", "a", "deletion", 0.1),
        toy.row("i1", "a", "deletion", 0.2, **{column: "other@2"}),
    ]
    assert words in refused(toy.build(rows))


def test_a_board_refuses_records_that_run_json_does_not_describe(toy: SimpleNamespace) -> None:
    rows = toy.scalars("deletion", {"a": [0.1, 0.2]}, protocol_id="rise@1")
    assert "The records are of protocol rise@1, and run.json describes cambench-1@x" in refused(
        toy.build(rows)
    )


def test_the_protocol_stands_in_every_caption(toy: SimpleNamespace, tmp_path: Path) -> None:
    name = get_protocol("quantus[step_features=96]").id
    rows = toy.scalars("deletion", {"a": [0.1, 0.2], "b": [0.3, 0.1]}, protocol_id=name)
    board = leaderboard(toy.build(rows, protocol={"name": "quantus", "id": name}), resamples=50)
    for subset, model in board.scopes:
        assert f"protocol {name}" in write_caption(board, subset, model)
    board.save(tmp_path)
    pages = [
        *tmp_path.glob("*.md"),
        *(tmp_path / "tables").glob("*.md"),
        *(tmp_path / "tables").glob("*.tex"),
    ]
    assert len(pages) >= 3
    for page in pages:
        # LaTeX escapes the underscore.
        assert name in page.read_text().replace("\\_", "_"), page.name


def box_rows(toy: SimpleNamespace, n: int = 6) -> list[dict[str, object]]:
    """Image k has a box of IoU .6 at threshold k % 2 only."""
    vectors = [0.6 * np.eye(2)[k % 2] for k in range(n)]
    return [toy.row(f"i{k}", "a", "box_iou", v) for k, v in enumerate(vectors)]


def test_thresholds_can_be_chosen_on_the_scored_images(toy: SimpleNamespace) -> None:
    rows = box_rows(toy)[:5]  # three of them want threshold 0
    protocol = {"name": "wsol", "id": "cambench-1@x", "box_ious": [0.5], "box_tau_from": "scored"}
    board = leaderboard(toy.build(rows, protocol=protocol), resamples=50)
    shown = board.frame.set_index("metric")
    assert shown.loc["box_accuracy", "mean"] == pytest.approx(3 / 5)
    assert shown.loc["box_accuracy", "peaked"]
    assert np.isnan(shown.loc["box_accuracy", "rank"])  # sharpening moves it
    assert "chosen on the scored images" in shown.loc["box_accuracy", "title"]
    assert "box_accuracy_oracle" not in shown.index
    assert not [flag for flag in board.flags if "calibration" in flag]
    # The default needs calibration images and has none here.
    default = leaderboard(
        toy.build(rows, protocol={**protocol, "box_tau_from": "calibration"}), resamples=50
    )
    shown = default.frame.set_index("metric")
    assert np.isnan(shown.loc["box_accuracy", "mean"])
    assert shown.loc["box_accuracy_oracle", "mean"] == pytest.approx(3 / 5)


@pytest.mark.parametrize("change", [{"score": "logit"}, {"curve_ends": "last"}])
def test_curves_without_the_clean_probability_are_not_divided_by_it(
    toy: SimpleNamespace, change: dict
) -> None:
    rows = [
        row
        for k in range(3)
        for row in (
            toy.row(f"i{k}", "a", "deletion", 0.2),
            toy.row(f"i{k}", "a", "deletion_curve", [0.8, 0.4, 0.1]),
        )
    ]
    records = toy.build(rows)
    plain = {m.name for m in list_measures(records.frame, records.provenance)}
    assert "deletion_relative" in plain
    other = {**records.provenance, "protocol": {**records.provenance["protocol"], **change}}
    assert plain - {m.name for m in list_measures(records.frame, other)} == {"deletion_relative"}


def stored(toy: SimpleNamespace, folder: Path, protocol: str) -> Path:
    rules = get_protocol(protocol)
    records = toy.build(
        toy.scalars("deletion", {"a": [0.1, 0.2]}, protocol_id=rules.id),
        protocol={"name": rules.name, "id": rules.id},
    )
    write_parquet(folder / "records" / "part-0.parquet", pd.DataFrame(records.frame))
    write_json(folder / "run.json", records.provenance)
    return folder


def test_a_run_of_another_protocol_is_refused_by_name(toy: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    run = stored(toy, tmp_path, "rise[steps=3]")
    check_protocol(run, "rise[steps=3]")
    for wrong in ("rise", "cambench-1"):
        with pytest.raises(BenchError, match=r"is of protocol rise\[steps=3\]@.*, not") as caught:
            check_protocol(run, wrong)
        assert "\n" not in str(caught.value)
    with pytest.raises(BenchError, match="Did you mean rise"):
        check_protocol(run, "rize")
