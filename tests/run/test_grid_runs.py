"""Runs on grids: networks choose the images, see n times their side, and are held to the truth."""

from __future__ import annotations

import dataclasses
import json
import warnings

import pytest
import torch
from torch import nn

import bench
from bench.errors import AssumptionWarning, BenchError, NotApplicable
from bench.health.reload import reload_run
from bench.models.grid_networks import enlarge_model, multiply_size, separate_cells
from bench.protocol import get_protocol
from bench.records.merge import merge_runs
from bench.run.announcement import announce_work
from bench.run.evaluate import run_plan
from bench.run.plan import Plan, make_plan, read_shard
from bench.run.waiting_work import find_kinds
from bench.work_stages import Listener, listening
from tests.support.nets import MEAN, STD, make_net

METHODS = ["saliency", "center_gaussian", "oracle"]
GRIDS = "grid(scenes-val[:24],2)"
FORWARDS = "ignore::bench.errors.AssumptionWarning"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep passes in a folder of this test."""
    monkeypatch.setenv("CAMBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "grids"


def plan_grids(subset: str = GRIDS, limit: int = 2, models=None, **given) -> Plan:
    return make_plan(
        bench.load_subset(subset, limit=limit),
        models or [bench.load_model("resnet-scenes")],
        METHODS,
        "grid_localization",
        get_protocol("cambench-1"),
        **given,
    )


def mean_values(records, model: str = "resnet-scenes"):
    frame = records.frame[records.frame["model"] == model]
    return frame.groupby(["method", "metric"])["value"].mean()


@pytest.mark.filterwarnings(FORWARDS)
def test_a_run_explains_each_cell_at_twice_the_side_and_finds_the_floors():
    plan = plan_grids()
    assert plan.geometry.size == plan.models[0].size == 192
    assert len(plan.subset) == 8
    records = run_plan(plan, None)
    frame = records.frame
    assert set(frame["target"]) == set(plan.subset.labels.tolist())
    values = mean_values(records)
    assert values["center_gaussian", "grid_auc"] == pytest.approx(0.5, abs=1e-9)
    assert values["center_gaussian", "grid_share"] == pytest.approx(0.25, abs=1e-9)
    assert values["oracle", "grid_auc"] == values["oracle", "grid_share"] == 1
    assert values["saliency", "grid_auc"] > 0.52
    # The unit that is resampled is the grid: each has four items.
    assert frame.groupby("image")["item"].nunique().tolist() == [4, 4]
    described = records.provenance["subsets"][plan.subset.name]
    assert described["n"] == 8
    assert "right with p > 0.9 in resnet-scenes" in described["found"][0]


@pytest.mark.filterwarnings(FORWARDS)
def test_a_run_of_grids_is_loaded_again_with_its_enlarged_network():
    records = run_plan(plan_grids(), None)
    (subset,) = records.provenance["subsets"]
    again = reload_run(records, subset)
    assert [model.size for model in again.models] == [192]
    assert not again.notes
    assert set(again.subset.ids) == set(records.frame["item"])
    records.provenance["models"]["resnet-scenes"]["weights_id"] = "another"
    with pytest.raises(BenchError, match=r"its weights .* are not the run's another"):
        reload_run(records, subset)


@pytest.mark.filterwarnings(FORWARDS)
def test_the_forwards_of_a_run_are_those_that_its_plan_announces():
    plan, told = plan_grids(limit=1), []
    work = announce_work(plan, find_kinds(plan, None))
    run_plan(plan, None, finished=told.append)
    assert told[-1].counts == work.run


def test_what_networks_say_of_images_is_kept_and_resumed(own_cache):
    with pytest.warns(AssumptionWarning, match="in 24 forwards"):
        first = plan_grids()
    (file,) = own_cache.glob("*.json")
    whole = file.read_text()
    kept = json.loads(whole)
    assert len(kept) == 24
    # A pass that was stopped after 20 images goes on where it was.
    file.write_text(json.dumps(dict(list(kept.items())[:20])))
    with pytest.warns(AssumptionWarning, match="in 4 forwards"):
        assert plan_grids().manifest_id == first.manifest_id
    again = json.loads(file.read_text())
    assert again.keys() == kept.keys()
    assert [p for _, p in again.values()] == pytest.approx([p for _, p in kept.values()])
    file.write_text("broken")
    with pytest.warns(AssumptionWarning, match="in 24 forwards"):
        assert plan_grids().subset.ids == first.subset.ids
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", AssumptionWarning)
        assert plan_grids().subset.ids == first.subset.ids
    assert not [one for one in said if "forwards" in str(one.message)]


@pytest.mark.filterwarnings(FORWARDS)
def test_progress_counts_the_images_of_all_networks():
    seen: list[tuple[float, float, str]] = []
    models = [bench.load_model(name) for name in ("resnet-scenes", "vgg-scenes")]
    with listening(Listener(lambda *state: seen.append(state))):
        plan = plan_grids(models=models)
    assert seen[-1][:2] == (48, 48)
    assert seen[-1][2].startswith("Looking at scenes-val")
    alone = plan_grids()
    assert not {*alone.subset.ids} & {*plan.subset.ids}


@pytest.mark.filterwarnings(FORWARDS)
def test_too_few_confident_images_are_counted_in_the_refusal():
    with pytest.raises(BenchError, match=r"Of 4 images, \d are right with p > 0.9 in vgg-scenes"):
        plan_grids("grid(scenes-val[:4],2)", models=[make_unsure()])


def make_unsure() -> bench.Explainee:
    """Return vgg-scenes with logits so small that it is sure of nothing."""
    model = bench.load_model("vgg-scenes")
    last = [m for m in model.net.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight.mul_(1e-3)
    return model


@pytest.mark.slow
@pytest.mark.filterwarnings(FORWARDS)
def test_shards_make_the_run(tmp_path):
    plan = plan_grids(shard_size=4)
    whole = run_plan(plan, tmp_path / "whole")
    for i in (1, 2):
        shard = dataclasses.replace(plan_grids(shard_size=4), shard=read_shard(f"{i}/2"))
        run_plan(shard, tmp_path / f"shard{i}")
    merged = merge_runs([tmp_path / "shard1", tmp_path / "shard2"], tmp_path / "merged")
    key = ["item", "method", "metric"]
    one, other = (r.frame.set_index(key)["value"].sort_index() for r in (whole, merged))
    assert one.drop("seconds", level="metric", errors="ignore").equals(
        other.drop("seconds", level="metric", errors="ignore")
    )


class Flat(nn.Module):
    """A network for one size of image only."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, stride=8)
        self.head = nn.Linear(4 * 12 * 12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).relu().flatten(1))


def make_flat() -> bench.Explainee:
    return bench.Explainee(Flat(), MEAN, STD, 96, "features", name="flat")


@pytest.mark.filterwarnings(FORWARDS)
def test_a_network_that_cannot_take_a_grid_is_left_out_in_a_sentence():
    with pytest.raises(
        NotApplicable, match="flat takes images of 96 pixels and cannot take a grid"
    ):
        enlarge_model(make_flat(), 2)
    plan = plan_grids(models=[bench.load_model("resnet-scenes"), make_flat()])
    assert [model.name for model in plan.models] == ["resnet-scenes"]
    assert plan.notes[0].startswith("flat takes images of 96 pixels")
    with pytest.raises(BenchError, match="No network of the run can be shown grid"):
        plan_grids(models=[make_flat()])


def test_a_transformer_of_timm_takes_a_grid_by_its_dynamic_size():
    import timm

    torch.manual_seed(0)
    net = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, num_classes=5, depth=2, patch_size=8
    ).eval()
    model = bench.Explainee(net, MEAN, STD, 32, name="vit")
    large = enlarge_model(model, 2)
    assert large.probe_shape[2:] == (8, 8)
    image = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(large.net(image), net(image))
    assert net.dynamic_img_size is False


@pytest.mark.parametrize("kind", ["norm", "vit"])
@pytest.mark.filterwarnings(FORWARDS)
def test_separate_cells_know_nothing_of_each_other(kind):
    model = bench.Explainee(make_net(kind, 0, 32), MEAN, STD, 32, "features", name=kind)
    apart = separate_cells(model, 2)
    x = torch.randn(2, 3, 64, 64, requires_grad=True)
    classes = model.num_classes
    out = apart.net(x)
    assert out.shape == (2, 4 * classes)
    cell = x[:, :, 32:, :32]  # the third
    expected = model.net(cell).log_softmax(1)
    torch.testing.assert_close(out[:, 2 * classes : 3 * classes], expected, atol=1e-5, rtol=1e-5)
    shares = out.softmax(1).reshape(2, 4, classes).sum(2)
    torch.testing.assert_close(shares, torch.full((2, 4), 0.25))
    gradient = torch.autograd.grad(out[:, 2 * classes + 1].sum(), x)[0]
    assert gradient[:, :, 32:, :32].abs().sum() > 0
    assert gradient[:, :, :32].abs().sum() == gradient[:, :, :, 32:].abs().sum() == 0
    small, large = model.probe_shape, apart.probe_shape
    assert large == (4 * small[0], small[1], 2 * small[2], 2 * small[3])


@pytest.mark.filterwarnings(FORWARDS)
def test_maps_of_separate_cells_lie_in_the_cell():
    records = run_plan(plan_grids("di_full(scenes-val[:24],2)", limit=1), None)
    values = mean_values(records)
    assert values["saliency", "grid_share"] == 1
    assert values["saliency", "grid_auc"] > 0.99
    assert values["center_gaussian", "grid_auc"] == pytest.approx(0.5, abs=1e-9)


def test_sizes_of_rectangles_are_multiplied_side_by_side():
    assert multiply_size((64, 96), 2) == (128, 192)
