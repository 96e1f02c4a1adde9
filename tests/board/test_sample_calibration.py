"""What the images of an ImageNet board give without any network, from its records."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import bench
from bench.board import leaderboard
from bench.board.sample_calibration import NO_COMPARISON, describe_sample
from bench.records.store import Records
from bench.run.describe import describe_run
from bench.run.plan import make_plan
from tests.support import toy_records as toy

BOARDS = Path(__file__).parents[2] / "leaderboards"
FACTS = {
    "manifest_id": "m",
    "title": "Photographs",
    "licence": "",
    "n": 2,
    "n_calibration": 0,
    "imagenet_boxes": True,
}


def build(rows: list[dict], card: dict | None = None, **changes: object) -> Records:
    models = {m: {"weights_id": f"w-{m}", "parent": "", "card": card or {}} for m in ("net", "two")}
    subset = {key: fact for key, fact in (FACTS | changes).items() if fact is not None}
    return toy.build(rows, subsets={"toy": subset}, models=models)


def centre(method: str = "center_gaussian") -> list[dict]:
    """Two images of two networks: IoU .6 at the first tau, and .4."""
    vectors = {"i0": [0.6, 0.1], "i1": [0.4, 0.2]}
    return [
        toy.row(item, method, "box_iou", v, model=model, part=part, correct=item == "i0")
        for (item, v), part in zip(vectors.items(), ("eval", "calibration"), strict=True)
        for model in ("net", "two")
    ]


def test_numbers_by_hand():
    # At the first tau: hits at .3 and .5, and at .3: (2/3 + 1/3) / 2. Each image counts once.
    found = describe_sample(build(centre(), {"published_top1": "71.2 (its card)"}), "toy")
    assert found[0].startswith("Centre Gaussian, no network: MaxBoxAccV2 .500 [.333, .667] on 2 ")
    assert ".525 on the whole set" in found[0]
    assert found[1] == (
        "Top-1 of net: 50.0 % [0.0, 100.0] on 2 images of this board; published: 71.2 (its card)."
    )
    assert found[2].startswith("Top-1 of two: 50.0 %")
    assert found[3] == NO_COMPARISON == "No value of this board compares with a paper's."


def test_what_the_records_lack_is_said():
    found = describe_sample(build(centre("grad_cam")), "toy")
    assert "MaxBoxAccV2 not recorded" in found[0]
    assert found[1].endswith("published: not recorded.")
    missing = [{**row, "vector": None} for row in centre()]
    assert "not recorded" in describe_sample(build(missing), "toy")[0]


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"imagenet_boxes": False, "title": "ILSVRC2012"}, False),
        ({"imagenet_boxes": None, "title": "500 images of ILSVRC2012"}, True),
        ({"imagenet_boxes": None, "title": "Scenes"}, False),
        ({"imagenet_boxes": None, "title": None}, False),
    ],
)
def test_only_boards_of_imagenet_say_it(changes, shown):
    assert bool(describe_sample(build(centre(), **changes), "toy")) == shown


def test_the_page_holds_it(tmp_path):
    rows = [*centre(), *(toy.row(f"i{k}", "center_gaussian", "energy", 0.5) for k in range(2))]
    leaderboard(build(rows), resamples=20).save(tmp_path)
    page = (tmp_path / "board.md").read_text()
    assert "## Sample calibration: toy" in page
    assert f"- {NO_COMPARISON}" in page


def test_a_committed_board_gives_what_it_can():
    """Its run.json is older than the key, and its cards state what was published."""
    records = Records.load(BOARDS / "ilsvrc-sample-1k")
    found = describe_sample(records, "ilsvrc-sample-1k", resamples=200)
    assert "MaxBoxAccV2 .613 [" in found[0]
    assert "on 300 images" in found[0]
    assert len(found) == 5
    assert "published: 56.34" in found[3]
    costly = Records.load(BOARDS / "ilsvrc-costly")
    assert "not recorded" in describe_sample(costly, "ilsvrc-sample-1k", resamples=200)[0]
    scenes = Records.load(BOARDS / "scenes-pairs")
    assert not describe_sample(scenes, next(iter(scenes.provenance["subsets"])))


def facts_of(subset: bench.Subset, model: str) -> SimpleNamespace:
    plan = make_plan(
        subset, [bench.load_model(model)], ["random"], ["complexity"], bench.Protocol()
    )
    return SimpleNamespace(**describe_run(plan)["subsets"][subset.name])


def test_scenes_are_not_imagenet():
    assert (
        facts_of(bench.load_subset("scenes-val", limit=2), "resnet-scenes").imagenet_boxes is False
    )


def test_real_subsets_say_what_they_are(data_root):
    model = f"{data_root}/weights/models.json#squeezenet1_1.onnxzoo_in1k"
    sample = bench.load_subset("ilsvrc-sample-1k", limit=2, data_root=data_root)
    assert facts_of(sample, model).imagenet_boxes is True
    without = bench.load_subset("ccby-250", limit=2, data_root=data_root)
    assert facts_of(without, model).imagenet_boxes is False


def test_a_real_run_prints_it(data_root):
    model = bench.load_model(f"{data_root}/weights/models.json#squeezenet1_1.onnxzoo_in1k")
    subset = bench.load_subset("ilsvrc-sample-1k", limit=4, data_root=data_root)
    records = bench.evaluate(subset, model, ["center_gaussian"], ["box_accuracy"], calibration=4)
    centre_line, top1, last = describe_sample(records, subset.name, resamples=100)
    assert "on 8 images of this board" in centre_line
    right = records.frame.drop_duplicates("item")["correct"].mean()
    assert f"{100 * np.float64(right):.1f} %" in top1
    assert "published: 56.34" in top1
    assert last == NO_COMPARISON
