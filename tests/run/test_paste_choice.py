"""Pastes of a run: what a network keeps is true and the same each time."""

from __future__ import annotations

import copy
import dataclasses
import json
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import bench
from bench.data import Subset
from bench.data.expressions import is_expression
from bench.data.open_pastes import open_pastes
from bench.data.pasted import LEAST_SHARE, MOST_SHARE, PastedSource, bound_shares
from bench.engine.prober import Prober
from bench.errors import AssumptionWarning, BenchError
from bench.health.reload import reload_run
from bench.planning.estimate import count_cost
from bench.protocol import get_protocol
from bench.records.merge import merge_runs
from bench.run.evaluate import FinishedTask, run_plan
from bench.run.paste_search import CONTROL, RISE, SCALED, USES, PasteSearch, SearchState
from bench.run.plan import Plan, choose_items, make_plan
from bench.work_stages import Listener, listening
from tests.support.command_line import cambench
from tests.support.nets import randomise

ITEMS, CALIBRATING = 6, 2
RULES = get_protocol("cambench-1")


def open_small(count: int = 60, start: int = 0) -> Subset:
    """Return open pastes of some scenes, which have no calibration part of their own."""
    inner = bench.load_subset("scenes-val").part(start, start + count)
    inner = dataclasses.replace(inner, calibrating=None)
    return open_pastes("small", is_expression, lambda _text, data_root: inner, None)


@pytest.fixture(scope="module")
def model() -> bench.Explainee:
    return bench.load_model("resnet-scenes")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    """Use a cache folder of this file."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("cache")
        patch.setenv("CAMBENCH_CACHE", str(place))
        yield place


def choose(model: bench.Explainee, count: int = ITEMS) -> Subset:
    opened = open_small().limit(count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumptionWarning)
        return choose_items(opened, [model], RULES, CALIBRATING).subset


@pytest.fixture(scope="module")
def built(model: bench.Explainee, cache: Path) -> Subset:
    return choose(model)


def predict(model: bench.Explainee, image: np.ndarray, label: int) -> float:
    """Return the probability of a class, of one image alone and with a softmax by hand."""
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        logits = model.net.eval()(model.normalise(pixels))[0].double().numpy()
    powers = np.exp(logits - logits.max())
    return float(powers[label] / powers.sum())


def source_of(subset: Subset) -> PastedSource:
    assert isinstance(subset.source, PastedSource)
    return subset.source


# --- what is kept


def test_every_item_moves_the_class_and_its_control_does_not(built, model) -> None:
    places = source_of(built)._places
    assert len(built) == ITEMS
    assert len(built.calibration()) >= CALIBRATING
    for pool, paste in places[:4] + places[-2:]:
        labels = pool.subset.labels
        own, other, third = (int(labels[n]) for n in (paste.source, paste.target, paste.control))
        assert len({own, other, third}) == 3
        before = predict(model, pool.read(paste.target)[0], own)
        after = predict(model, pool.compose(paste), own)
        controlled = predict(model, pool.compose(paste, control=True), own)
        assert after - before > RISE
        assert controlled < CONTROL
        stored = (paste.before, paste.after, paste.controlled)
        assert stored == pytest.approx((before, after, controlled), abs=1e-4)
        assert predict(model, pool.read(paste.source)[0], own) > 0.9
        assert len(pool.read(paste.source)[1]) == 1


def test_sizes_places_and_uses_are_within_their_limits(built) -> None:
    places = source_of(built)._places
    for pool, paste in places:
        share = paste.height * paste.width / 96**2
        assert LEAST_SHARE - 0.01 < share < MOST_SHARE + 0.01
        assert 0 <= paste.top <= 96 - paste.height
        assert 0 <= paste.left <= 96 - paste.width
        assert bound_shares(pool.read(paste.source)[1][0], (96, 96)) is not None
    for part in ("source", "target"):
        uses = Counter((id(pool), getattr(paste, part)) for pool, paste in places)
        assert max(uses.values()) <= USES


def test_items_name_their_network_and_the_choice_is_said(built, model) -> None:
    assert built.name.endswith(",resnet-scenes)")
    assert all(item.endswith(model.weights_id) for item in built.ids)
    assert "pastes were tried (rescaled to 10% to 35% of the frame)" in built.found[0]
    assert built.found[1].startswith("Calibration: ")
    scored, aside = {*built.ids}, {*built.calibration().ids}
    assert not scored & aside
    assert built.explain == "label"


def test_a_larger_limit_keeps_the_first_items(built, model) -> None:
    fewer = choose(model, 3)
    assert fewer.ids == built.ids[:3]
    assert fewer.manifest_id == built.manifest_id


def test_a_second_choice_runs_no_network(built, model) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        again = choose_items(open_small().limit(ITEMS), [model], RULES, CALIBRATING).subset
    assert again.ids == built.ids
    assert not [one for one in said if "forwards" in str(one.message)]


def test_a_stopped_choice_goes_on_where_it_stopped(built, model, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CAMBENCH_CACHE", str(tmp_path))
    stops = []

    def stop(done: float, total: float, words: str) -> None:
        if words.startswith("Searching"):  # its start, before a round, and before another one
            stops.append(done)
            if len(stops) == 3:
                raise KeyboardInterrupt

    with listening(Listener(stop)), pytest.raises(KeyboardInterrupt):
        choose(model)
    (kept,) = (tmp_path / "pastes").glob("*.json")
    assert SearchState.read(kept).tried == 20
    again = choose(model)
    assert again.ids == built.ids
    assert again.calibration().ids == built.calibration().ids


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"kept": [{"source": 1}]}', '{"kept": [], "tried": -1}']
)
def test_a_broken_file_is_made_anew(tmp_path, text) -> None:
    (tmp_path / "state.json").write_text(text)
    assert SearchState.read(tmp_path / "state.json") == SearchState()


def test_a_control_that_moves_the_class_drops_the_paste(built, model, tmp_path) -> None:
    pool, paste = source_of(built)._places[0]
    search = PasteSearch(Prober(model), pool, tmp_path / "state.json", SCALED)
    search._judge([dataclasses.replace(paste, control=paste.source)])  # the object itself
    assert (search.state.tried, search.state.moved, search.state.succeeded) == (1, 1, 0)
    assert not search.state.kept
    search._judge([paste])
    assert [one.attempt for one in search.state.kept] == [paste.attempt]
    search._judge([dataclasses.replace(paste, target=paste.source, attempt=9)])  # it was there
    assert (search.state.tried, search.state.moved) == (3, 2)


@pytest.mark.parametrize(
    ("after", "controlled", "kept"),
    [(0.75, 0.09, 1), (0.5, 0.0, 0), (0.75, 0.1, 0), (0.51, 0.0, 1)],
)
def test_both_limits_are_strict(built, model, tmp_path, after, controlled, kept) -> None:
    pool, paste = source_of(built)._places[0]
    search = PasteSearch(Prober(model), pool, tmp_path / "state.json", SCALED)
    values = {"before": 0.0, "after": after, "controlled": controlled}
    for attempt in range(5):
        search._count(dataclasses.replace(paste, attempt=attempt, **values))
    assert search.state.succeeded == 5 * kept
    assert len(search.state.kept) == USES * kept


# --- what is refused


def test_too_few_pastes_are_refused_with_their_numbers(model, cache) -> None:
    with pytest.raises(BenchError, match=r"Too few pastes move .*, \d+ of 150: .*Give --limit \d+"):
        choose_items(open_small(5).limit(150), [model], RULES, 0)


def test_a_network_that_no_paste_moves_is_refused(model, cache) -> None:
    blind = model.replace_net(randomise(copy.deepcopy(model.net), 3))
    with pytest.raises(BenchError, match=r"No paste moves the class .* right with p > 0.9 in 0"):
        choose_items(open_small(12), [blind], RULES, 0)


def test_each_network_has_items_of_its_own(built, model) -> None:
    other = bench.load_model("vgg-scenes")
    with pytest.raises(BenchError, match="resnet-scenes, vgg-scenes; run them apart"):
        make_plan(open_small(), [model, other], "random", "pointing_game", RULES)
    named = bench.load_subset("pasted(scenes-val,resnet-scenes)")
    with pytest.raises(BenchError, match="are for resnet-scenes, and the run has vgg-scenes"):
        make_plan(named, [other], "random", "pointing_game", RULES)


# --- as a subset of a run


def plan_small(model: bench.Explainee, subset: Subset) -> Plan:
    metrics = ["pointing_game", "energy", "pixel_precision", "box_localization"]
    return make_plan(
        subset.limit(4), [model], ["grad_cam", "random"], metrics, RULES, 4, 2, calibration=2
    )


def test_the_plan_is_what_is_run_and_nothing_is_run_twice(built, model, tmp_path) -> None:
    plan, seen = plan_small(model, built), []
    cost = count_cost(plan)
    records = run_plan(plan, tmp_path / "run", finished=seen.append)
    assert isinstance(seen[-1], FinishedTask)
    assert cost.run == seen[-1].counts
    assert cost.models[0].images == {"eval": 4, "calibration": 2}
    assert records.provenance["subsets"][built.name]["chosen"] == list(built.found)
    frame = records.frame[records.frame["part"] == "eval"]
    assert {"pointing", "energy", "pixel_ap"} <= set(frame["metric"])
    assert frame.loc[frame["metric"] == "energy", "value"].notna().all()
    assert frame["item_id"].str.len().eq(16).all()
    again = []
    run_plan(plan, tmp_path / "run", finished=again.append)
    assert not again
    parts = []
    for number in (1, 2):
        shard = dataclasses.replace(plan, shard=(number, 2))
        run_plan(shard, tmp_path / f"{number}")
        parts.append(tmp_path / f"{number}")
    merged = merge_runs(parts, tmp_path / "both")
    _assert_equal(merged.frame, records.frame)


def _assert_equal(one: pd.DataFrame, two: pd.DataFrame) -> None:
    """Assert that two runs hold the same values, whatever the order of their rows."""
    key = ["part", "item", "method", "metric"]
    both = [
        frame[~frame["metric"].isin(["seconds", "peak_memory"])]
        .set_index(key)
        .sort_index()["value"]
        for frame in (one, two)
    ]
    pd.testing.assert_series_equal(*both)


@pytest.mark.slow
def test_the_command_runs_one_part_for_each_network(tmp_path) -> None:
    text, out = "pasted(scenes-val[:40])", tmp_path / "run"
    words = ["run", "--subset", text, "--models", "resnet-scenes,vgg-scenes", "--limit", "3"]
    words += ["--methods", "grad_cam,random", "--metrics", "pointing_game", "--out", out]
    done = cambench(*words, CAMBENCH_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    facts = json.loads((out / "run.json").read_text())
    names = [f"pasted(scenes-val[:40],{name})" for name in ("resnet-scenes", "vgg-scenes")]
    assert sorted(facts["subsets"]) == names
    page = (out / "board.md").read_text()
    assert page.count("- Chosen: Of 40 images") == 2
    again = cambench(*words, CAMBENCH_CACHE=str(tmp_path / "cache"))
    assert "in 0 tasks" in again.stdout
    records = bench.Records.load(out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAMBENCH_CACHE", str(tmp_path / "cache"))
        loaded = reload_run(records, names[0])
    assert loaded.subset.name == names[0]
    assert len(loaded.subset) == 3
