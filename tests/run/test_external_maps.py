"""Maps made elsewhere: the same scores as the method that made them, and one sentence for what
cannot be read.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import torch

import bench
from bench.errors import BenchError
from bench.models.architectures import build_seeded, resnet_scenes
from bench.run.evaluate import FinishedTask
from bench.run.external_maps import TARGETS
from bench.run.map_files import resize_map

METRICS = ("deletion", "pointing_game", "complexity", "cost", "max_sensitivity", "box_localization")


@pytest.fixture(scope="module")
def model() -> bench.Explainee:
    """Random weights that are right about the last of the four scenes and wrong about the
    others.
    """
    return bench.Explainee(build_seeded(resnet_scenes, 3), size=96, name="small")


@pytest.fixture(scope="module")
def subset() -> bench.Subset:
    return bench.load_subset("scenes-val", limit=4)


@pytest.fixture(scope="module")
def own(model, subset) -> dict[str, np.ndarray]:
    """Grad-CAM of the predicted class, by item id."""
    batch = subset.batch(range(4), subset.geometry)
    maps = bench.explain(
        model, model.normalise(batch.pixels), method="grad_cam", ids=batch.image_ids
    )
    return dict(zip(batch.ids, maps.numpy(), strict=True))


def evaluate(
    subset, model, maps, methods=("grad_cam", "random"), metrics=METRICS, out=None, **more
):
    return bench.evaluate(
        subset,
        model,
        [*methods, maps],
        list(metrics),
        out=out,
        shard_size=2,
        **{"calibration": 0, **more},
    )


def values(records: bench.Records, metric: str, method: str) -> np.ndarray:
    frame = records.frame[(records.frame["metric"] == metric) & (records.frame["method"] == method)]
    return frame.sort_values("item")["value"].to_numpy()


# ---------------------------------------------------------------------------------- what they score


def test_maps_score_what_the_method_that_made_them_scores(subset, model, own, tmp_path):
    np.savez(tmp_path / "theirs.npz", **own)
    maps = bench.load_maps(tmp_path / "theirs.npz", subset)
    records = evaluate(subset, model, maps, metrics=["deletion", "complexity"])
    for metric in ("deletion", "entropy"):
        np.testing.assert_allclose(
            values(records, metric, "theirs"), values(records, metric, "grad_cam"), atol=1e-6
        )
    assert records.provenance["equal"]["small"]["theirs"] == "grad_cam"
    facts = records.provenance["methods"]["theirs"]
    assert facts["fidelity"] == facts["group"] == "external"
    assert facts["parameters"]["sha256"] == maps.sha256
    assert maps.sha256[:12] in facts["citation"]


def test_every_form_gives_the_same_maps_and_id(subset, own, tmp_path):
    np.savez(tmp_path / "a.npz", **own)
    np.savez_compressed(
        tmp_path / "b.npz", ids=np.array(list(own)), maps=np.stack(list(own.values()))
    )
    (tmp_path / "c").mkdir()
    for item, one in own.items():
        np.save(tmp_path / "c" / f"{item}.npy", one)
    sources = [tmp_path / "a.npz", tmp_path / "b.npz", tmp_path / "c", own]
    found = [bench.load_maps(source, subset, name="maps") for source in sources]
    assert len({method.id for method in found}) == 1
    np.save(tmp_path / "d.npy", np.stack([own[item] for item in subset.ids]))
    found.append(bench.load_maps(tmp_path / "d.npy", subset, name="maps"))
    for method in found:
        for item, one in own.items():
            np.testing.assert_array_equal(method.reads[item](), one)
    assert "no ids" in found[-1].notes[0]


def test_an_id_says_the_bytes_and_the_class(subset, own):
    one = bench.load_maps(own, subset, name="maps")
    other = {**own, subset.ids[0]: own[subset.ids[0]] + np.float32(1e-3)}
    assert bench.load_maps(other, subset, name="maps").id != one.id
    assert bench.load_maps(own, subset, "label", name="maps").id != one.id
    assert bench.load_maps({k: own[k] for k in reversed(own)}, subset, name="maps").id == one.id
    assert (
        bench.load_maps(own, subset.limit(2), name="maps").id == one.id
    )  # a limit is no change of the maps
    in_order = [
        bench.load_maps(own, limited, name="maps").id for limited in (subset, subset.limit(2))
    ]
    assert in_order[0] == in_order[1]


def test_rows_in_order_keep_their_id_under_another_limit(subset, own, tmp_path):
    np.save(tmp_path / "rows.npy", np.stack(list(own.values())))
    two, four = (bench.load_maps(tmp_path / "rows.npy", s) for s in (subset.limit(2), subset))
    assert two.id == four.id
    assert set(two.reads) == set(subset.ids[:2])
    assert "2 after them are left out" in two.notes[0]


def test_what_a_finished_map_cannot_say_is_nan(subset, model, own):
    records = evaluate(subset, model, bench.load_maps(own, subset, name="theirs"))
    for metric in ("forwards", "seconds", "max_sensitivity"):
        assert np.isnan(values(records, metric, "theirs")).all()
        assert np.isfinite(values(records, metric, "grad_cam")).any()
    assert records.frame.loc[records.frame["method"] == "theirs", "forwards"].isna().all()
    board = bench.leaderboard(records)
    row = board.table("max_sensitivity").set_index("method").loc["theirs"]
    assert row["n"] == 0
    assert np.isnan(row["rank"])


@pytest.mark.parametrize("target", TARGETS)
def test_metrics_of_the_other_class_are_scored_where_both_agree(subset, model, own, target):
    records = evaluate(subset, model, bench.load_maps(own, subset, target, name="theirs"))
    frame = records.frame[records.frame["method"] == "theirs"].set_index(["item", "metric"])
    agree = frame.xs("deletion", level="metric")["correct"].sort_index()
    assert set(agree) == {True, False}
    for metric, explained in (("deletion", "predicted"), ("pointing_all", "label")):
        scored = np.isfinite(frame.xs(metric, level="metric")["value"].sort_index())
        expected = agree | (explained == target)
        pd.testing.assert_series_equal(scored, expected, check_names=False)


def test_missing_and_broken_maps_are_counted_and_unranked(subset, model, own):
    given = {item: one.copy() for item, one in own.items()}
    del given[subset.ids[0]]
    given[subset.ids[1]][3, 4] = np.inf
    maps = bench.load_maps(given, subset, name="theirs")
    assert maps.non_finite == 1
    (gap,) = maps.gaps(subset, None)
    assert subset.ids[0] in gap
    board = bench.leaderboard(evaluate(subset, model, maps, metrics=["deletion"]))
    row = board.table("deletion").set_index("method").loc["theirs"]
    assert (row["n"], row["n_nan"], row["expected"]) == (2, 2, 4)
    assert np.isnan(row["rank"])
    assert any("theirs is scored on 2 of 4 items" in flag for flag in board.flags)


def test_small_maps_are_resized_bilinearly(subset, model):
    one = np.array([[0.0, 4.0], [0.0, 4.0]], dtype=np.float32)
    # Four columns over two cells: centres at -.25, .25, .75, 1.25 of the cells, the outer ones
    # clamped.
    np.testing.assert_allclose(resize_map(one, (2, 4))[0].numpy(), [0.0, 1.0, 3.0, 4.0], atol=1e-6)
    maps = bench.load_maps(dict.fromkeys(subset.ids, one), subset, name="small")
    assert maps.facts()["parameters"]["sizes"] == "2x2"
    records = evaluate(subset, model, maps, metrics=["pointing_game"])
    assert len(values(records, "pointing_all", "small")) == 4


def test_a_limit_that_grows_computes_only_what_is_new(subset, model, own, tmp_path):
    maps = bench.load_maps(own, subset, name="theirs")
    evaluate(subset.limit(2), model, maps, out=tmp_path, metrics=["deletion"])
    seen: list[FinishedTask] = []
    records = evaluate(
        subset, model, maps, out=tmp_path, metrics=["deletion"], finished=seen.append
    )
    assert [state.task.start for state in seen] == [2]
    assert len(values(records, "deletion", "theirs")) == 4


def test_maps_without_calibration_have_no_box_accuracy(model, own, subset):
    records = evaluate(
        subset,
        model,
        bench.load_maps(own, subset, "label", "theirs"),
        ["oracle"],
        ["box_localization"],
        calibration=50,
    )
    board = bench.leaderboard(records)
    table = board.table("box_accuracy").set_index("method")
    assert np.isfinite(table.loc["oracle", "mean"])
    assert (
        table.loc["theirs", "n"] == 0
    )  # not at tau = 0, which is where the argmax of nothing lies
    assert any("0 calibration images for theirs" in flag for flag in board.flags)
    assert board.table("box_accuracy_oracle").set_index("method").loc["theirs", "n"] > 0


def test_several_items_of_an_image_have_their_own_maps(model, subset):
    from bench.engine.prober import Prober
    from bench.engine.trace import Trace
    from bench.run.external_maps import Item

    maps = bench.load_maps(
        {subset.ids[0]: np.zeros((4, 4)), subset.ids[1]: np.ones((4, 4))}, subset, "label", "theirs"
    )
    items = {"image": [Item(subset.ids[0], "image", 0), Item(subset.ids[1], "image", 1)]}
    object.__setattr__(maps, "items", items)
    trace = Trace(
        Prober(model), torch.zeros(3, 3, 96, 96), torch.tensor([1, 0, 2]), ids=["image"] * 3
    )
    found = maps(trace).amax((1, 2)).tolist()
    assert found[:2] == [1, 0]
    assert np.isnan(found[2])


# ---------------------------------------------------------------------------------- what is refused


def test_unknown_ids_are_said_with_the_nearest(subset, own):
    maps = bench.load_maps({**own, "scenes-val-00000x": np.zeros((4, 4))}, subset, name="theirs")
    assert "1 map (scenes-val-00000x) of no item of scenes-val" in maps.notes[0]
    assert "Did you mean scenes-val-000" in maps.notes[0]
    with pytest.raises(BenchError, match=r"None of the 1 ids .* Did you mean scenes-val-000000"):
        bench.load_maps({"scene-val-000000": np.zeros((4, 4))}, subset, name="theirs")


def test_ids_with_slashes_and_percent_signs(tmp_path, subset, own, model):
    (tmp_path / "m" / "deep").mkdir(parents=True)
    coded = subset.ids[0].replace("-", "%2D")
    np.save(tmp_path / "m" / f"{coded}.npy", own[subset.ids[0]])
    np.save(tmp_path / "m" / "deep" / "x.npy", own[subset.ids[0]])
    maps = bench.load_maps(tmp_path / "m", subset)
    assert set(maps.reads) == {subset.ids[0]}
    assert "deep/x" in maps.notes[0]


WRONG = {
    "a volume": (np.zeros((3, 4, 4)), "shape (3, 4, 4)"),
    "a vector": (np.zeros(4), "shape (4,)"),
    "nothing": (np.zeros((0, 4)), "shape (0, 4)"),
    "complex": (np.zeros((4, 4), dtype=complex), "complex128"),
    "text": (np.full((4, 4), "a"), "real numbers"),
}


@pytest.mark.parametrize(("one", "words"), WRONG.values(), ids=WRONG)
def test_wrong_arrays_are_one_sentence(subset, one, words):
    with pytest.raises(BenchError, match=re.escape(words)) as said:
        bench.load_maps({subset.ids[0]: one}, subset, name="theirs")
    assert subset.ids[0] in str(said.value)


def test_wrong_files_are_one_sentence(subset, tmp_path):
    def refused(path, words, **more):
        with pytest.raises(BenchError, match=words):
            bench.load_maps(tmp_path / path, subset, **more)

    refused("none.npz", "There are no maps at")
    (tmp_path / "text.npz").write_text("no zip")
    refused("text.npz", "cannot be read")
    (tmp_path / "maps.csv").write_text("1,2")
    refused("maps.csv", "neither .npz nor .npy")
    (tmp_path / "empty").mkdir()
    refused("empty", "There are no maps in")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused("objects.npy", "cannot be read")
    np.save(tmp_path / "flat.npy", np.zeros((4, 4)))
    refused("flat.npy", r"no array \[N,h,w\]")
    np.save(tmp_path / "three.npy", np.zeros((3, 4, 4)))
    refused("three.npy", "3 maps without ids and scenes-val has 4 items")
    np.savez(tmp_path / "uneven.npz", ids=np.array(["a"]), maps=np.zeros((2, 4, 4)))
    refused("uneven.npz", r"it must be \[N\] and \[N,h,w\]")
    np.savez(tmp_path / "twice.npz", ids=np.array(["a", "a"]), maps=np.zeros((2, 4, 4)))
    refused("twice.npz", "two maps of the id 'a'")
    np.savez(tmp_path / "grad_cam.npz", **{subset.ids[0]: np.zeros((4, 4))})
    refused("grad_cam.npz", "already a method named 'grad_cam'")
    refused("grad_cam.npz", "cannot be called", name="a,b")
    refused("grad_cam.npz", "target is 'both'", name="x", target="both")


def test_maps_of_another_shape_than_the_frame_are_refused(subset, model):
    maps = bench.load_maps({subset.ids[0]: np.zeros((30, 40))}, subset, name="theirs")
    with pytest.raises(BenchError, match=r"30x40 .* frame of 96x96"):
        evaluate(subset, model, maps)


def test_two_maps_of_one_name_are_refused(subset, model, own):
    maps = bench.load_maps(own, subset, name="theirs")
    with pytest.raises(BenchError, match="Two methods of the run are called 'theirs'"):
        bench.evaluate(subset, model, [maps, maps], ["complexity"])


# -------------------------------------------------------------------------------------- the snippet


def test_the_documented_snippet_saves_maps_that_can_be_scored(tmp_path, monkeypatch):
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "rescoring.md").read_text()
    (code,) = re.findall(r"```python\n(import bench.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    subset = bench.load_subset("scenes-val", limit=8)
    maps = bench.load_maps("layer_cam_mine.npz", subset)
    records = bench.evaluate(subset, "resnet-scenes", ["layer_cam", maps], ["complexity"])
    np.testing.assert_allclose(
        values(records, "gini", "layer_cam_mine"), values(records, "gini", "layer_cam"), atol=1e-6
    )
