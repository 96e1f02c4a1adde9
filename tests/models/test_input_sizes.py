"""Inputs that are not 3 x S x S: sizes and channels, from the constructor to a run's records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import bench
from bench.board.coupling import is_same_reference
from bench.board.overlays import draw_overlays
from bench.data.geometry import Geometry
from bench.data.input_size import read_size
from bench.errors import AssumptionWarning
from bench.models.input_channels import find_channels
from bench.models.zoo import from_timm
from bench.types import Truth
from tests.support.nets import randomise


def make_net(channels: int = 3, seed: int = 0) -> nn.Module:
    """A small convolutional network of two strides: a quarter of the image each way."""
    return randomise(
        nn.Sequential(
            nn.Conv2d(channels, 8, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, 2, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(12, 4),
        ),
        seed,
    )


def make_vit() -> nn.Module:
    rng = torch.random.get_rng_state()
    torch.manual_seed(3)
    net = timm.create_model(
        "vit_tiny_patch16_224", img_size=(64, 96), dynamic_img_size=True, depth=2, num_classes=4
    )
    torch.random.set_rng_state(rng)
    return net.eval()


def draw_images(channels: int, height: int, width: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(channels)
    return torch.randn(2, channels, height, width, generator=rng)


# --- sizes


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (96, 96),
        (96.0, 96),
        ("96", 96),
        ("96x96", 96),
        ((96, 96.0), 96),
        ([64, 96], (64, 96)),
        ("64 x 96", (64, 96)),
        ("64,96", (64, 96)),
        ("(64, 96)", (64, 96)),
        ("64\u00d796", (64, 96)),
        (np.int64(64), 64),
    ],
)
def test_a_size_is_read(given: Any, wanted: int | tuple[int, int]) -> None:
    assert read_size(given, "it") == wanted
    assert bench.Explainee(make_net(), size=given).size == wanted


@pytest.mark.parametrize(
    "given",
    [0, -3, "big", 1e9, 224.5, True, float("nan"), "", "64x", "x64", [], [1, 2, 3], {}, ".."],
)
def test_nonsense_is_one_sentence(given: Any) -> None:
    with pytest.raises(bench.BenchError, match=r"^mine: the size .* give it as 224, \[224, 320\]"):
        bench.Explainee(make_net(), size=given, name="mine")


def test_square_sizes_keep_their_facts() -> None:
    one, pair = (bench.Explainee(make_net(), size=s, name="n") for s in (64, (64, 64)))
    assert one.geometry == pair.geometry == Geometry(64, "short", 73, "bicubic")
    assert one.weights_id == pair.weights_id
    assert one.facts()["size"] == 64


def test_a_geometry_of_another_size_is_refused() -> None:
    with pytest.raises(bench.BenchError, match="frames of 32 pixels and its size is 64x96"):
        bench.Explainee(make_net(), size=(64, 96), geometry=Geometry(32, "squash", 32))


def test_cards_take_every_form_of_a_size(tmp_path: Path) -> None:
    net = timm.create_model("resnet18", num_classes=2)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    entry = {"file": "w.pth", "library": "timm", "arch": "resnet18", "kwargs": {"num_classes": 2}}
    sizes = {"text": "64x96", "pair": [64, 96], "float": 64.0, "bad": "huge"}
    card = {name: entry | {"size": size} for name, size in sizes.items()}
    (tmp_path / "models.json").write_text(json.dumps(card))
    for name, wanted in (("text", (64, 96)), ("pair", (64, 96)), ("float", 64)):
        assert bench.load_model(tmp_path / f"models.json#{name}").size == wanted
    with pytest.raises(bench.BenchError, match=r"models\.json#bad: the size 'huge'"):
        bench.load_model(tmp_path / "models.json#bad")


# --- networks that are not square


@pytest.mark.parametrize(("kind", "grid"), [("cnn", (16, 24)), ("vit", (4, 6))])
def test_a_network_at_64_by_96(kind: str, grid: tuple[int, int]) -> None:
    net = make_net() if kind == "cnn" else make_vit()
    model = bench.Explainee(net, (0.5,) * 3, (0.25,) * 3, (64, 96), name=kind)
    assert model.probe_shape[2:] == grid
    images = draw_images(3, 64, 96)
    truth = Truth(boxes=(torch.tensor([[8.0, 8, 90, 40]]),) * 2)
    names = ["grad_cam", "saliency", "occlusion", "recipro_cam", "random"]
    names += ["raw_attention", "attention_rollout", "legrad"] if kind == "vit" else []
    maps = bench.explain(model, images, [0, 1], names)
    assert {m.shape for m in maps.values()} == {(2, 64, 96)}
    metrics = ["deletion", "insertion", "road", "energy", "pointing_game"]
    scores = bench.score(model, images, [0, 1], maps["grad_cam"], metrics, truth)
    assert all(bool(torch.isfinite(s[s != torch.inf]).all()) for s in scores.values())
    # Deletion's first point is the clean image, its last the baseline colour everywhere.
    curve = bench.score(model, images, [0, 1], maps["saliency"], "deletion", curves=True)
    with torch.no_grad():
        clean = net(images).double().softmax(1)[[0, 1], [0, 1]]
        colour = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        grey = ((colour - 0.5) / 0.25).expand(1, 3, 64, 96)
        empty = net(grey).double().softmax(1)[0, :2]
    assert torch.allclose(curve["deletion_curve"][:, 0], clean, atol=1e-5)
    assert torch.allclose(curve["deletion_curve"][:, -1], empty, atol=1e-5)


def test_the_patches_of_a_wide_vit_are_where_they_are_in_the_image() -> None:
    net = make_vit()
    model = bench.Explainee(net, (0.5,) * 3, (0.25,) * 3, (64, 96))
    images = draw_images(3, 64, 96)[:1]
    changed = images.clone()
    changed[:, :, 16:32, 80:96] += 3  # row 1 of 4, column 5 of 6
    with torch.no_grad():
        cut = model.cut_at("patch_embed")
        grids = [cut.grid(cut.capture(one).values) for one in (images, changed)]
    moved = (grids[0] - grids[1]).norm(dim=1)[0]
    assert divmod(int(moved.argmax()), 6) == (1, 5)
    assert int((moved > 0).sum()) == 1


def test_another_size_than_declared_runs_or_is_one_sentence() -> None:
    model = bench.Explainee(make_net(), size=64, name="cnn")
    images = draw_images(3, 96, 160)
    own = bench.Explainee(make_net(), size=(96, 160), name="cnn")
    assert torch.equal(bench.explain(model, images, [0, 1]), bench.explain(own, images, [0, 1]))
    fixed = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1, num_classes=4)
    with pytest.raises(bench.BenchError, match=r"are 96x160 pixels .* vit declares 64x64"):
        bench.explain(bench.Explainee(fixed, size=64, name="vit"), images)


def write_folder(path: Path, mode: str = "RGB") -> Path:
    """Write four pictures of 40 x 60 with a bright patch, its boxes, and a manifest at 32 x 48."""
    path.mkdir()
    rng = np.random.default_rng(0)
    rows = ["file,label,x0,y0,x1,y1"]
    for i in range(4):
        image = rng.integers(0, 120, (40, 60, 3), dtype=np.uint8)
        image[10:30, 5 * i : 5 * i + 20] = (240, 200, 160)
        Image.fromarray(image).convert(mode).save(path / f"{i}.png")
        rows.append(f"{i}.png,{i},{5 * i},10,{5 * i + 20},30")
    (path / "annotations.csv").write_text("\n".join(rows) + "\n")
    (path / "manifest.toml").write_text(
        'name = "wide"\nkind = "folder"\ncalibration = "none"\n'
        '[geometry]\nsize = [32, 48]\nresize = "short"\nresize_size = [40, 60]\n'
    )
    return path / "manifest.toml"


def test_a_run_over_frames_that_are_not_square(tmp_path: Path) -> None:
    subset = bench.load_subset(write_folder(tmp_path / "data"))
    model = bench.Explainee(make_net(), size=(32, 48), name="wide")
    batch = subset.batch(range(4), subset.geometry)
    # Crop 32 x 48 of 40 x 60: 4 rows and 6 columns are left out on each side.
    boxes = {item: box.tolist() for item, box in zip(batch.ids, batch.truth.boxes, strict=True)}
    assert boxes["1.png"] == [[0.0, 6.0, 19.0, 26.0]]
    records = bench.evaluate(
        subset, model, ["grad_cam", "oracle"], ["deletion", "energy", "pointing_game"],
        out=tmp_path / "run", gallery=2,
    )  # fmt: skip
    frame = records.frame
    oracle = frame[(frame["method"] == "oracle") & (frame["metric"] == "energy")]
    assert len(oracle) == 4
    assert np.allclose(oracle["value"], 1)
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["models"]["wide"]["size"] == [32, 48]
    bench.leaderboard(records).save(tmp_path / "run")
    assert any((tmp_path / "run").rglob("*gallery*.png"))
    with pytest.raises(bench.BenchError, match=r"fixed at 32x48 pixels and square wants 32"):
        bench.evaluate(subset, bench.Explainee(make_net(), size=32, name="square"), "grad_cam",
                       "deletion", out=tmp_path / "other")  # fmt: skip


def test_read_makes_what_timm_makes(tmp_path: Path) -> None:
    model = from_timm(
        "vit_tiny_patch16_224", None, None,
        {"img_size": (64, 96), "depth": 1, "dynamic_img_size": True},
    )  # fmt: skip
    assert (model.size, model.geometry.resize_size) == ((64, 96), (71, 106))
    config = timm.data.resolve_data_config({"input_size": (3, 64, 96)}, model=model.net)
    transform = timm.data.create_transform(**config)
    for height, width in ((91, 300), (300, 91), (64, 96), (133, 201)):
        rng = np.random.default_rng(height)
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        image.save(tmp_path / "one.png")
        own = model.denormalise(model.read(tmp_path / "one.png"))[0]
        theirs = model.denormalise(transform(image)[None])[0]
        # torchvision rounds the crop's place half up, the geometry down: at most one pixel apart.
        offsets = [(y, x) for y in (0, 1) for x in (0, 1)]
        gaps = [
            float((own[:, y:, x:] - theirs[:, : 64 - y, : 96 - x]).abs().max()) for y, x in offsets
        ]
        assert min(gaps) < 1e-5


# --- channels


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_channels_of_a_network_are_found(channels: int) -> None:
    class Unshuffled(nn.Module):
        """Pixels become channels before the first layer, which is registered last."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(7, 2)
            self.stem = nn.Conv2d(4 * channels, 7, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(nn.functional.pixel_unshuffle(x, 2))
            return self.head(x.mean((2, 3)))

    for given in (1, 3, 4, 5):
        assert find_channels(Unshuffled(), (given, 8, 8)) == channels
        assert find_channels(make_net(channels), (given, 8, 8)) == channels
    normed = nn.Sequential(nn.BatchNorm2d(channels), make_net(channels))
    assert find_channels(normed, (2, 8, 8)) == channels
    assert find_channels(nn.Flatten(), (channels, 8, 8)) is None


def test_a_network_that_makes_its_own_channels_is_left_alone() -> None:
    class Repeats(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_net(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.net(x.expand(-1, 3, -1, -1))
            return logits

    model = bench.Explainee(Repeats(), 0.5, 0.25, (16, 24))
    assert bench.explain(model, draw_images(1, 16, 24), [0, 1]).shape == (2, 16, 24)


@pytest.mark.parametrize(("wanted", "given"), [(1, 3), (5, 3), (3, 1), (3, 5)])
def test_mean_and_std_of_another_length_are_refused(wanted: int, given: int) -> None:
    numbers = rf"takes images of {wanted} channels?, and mean and std have {given} numbers? each"
    with pytest.raises(bench.BenchError, match=numbers):
        bench.Explainee(make_net(wanted), (0.5,) * given, (0.25,) * given)


@pytest.mark.parametrize(
    ("mean", "std"),
    [((124, 116, 104), (58, 57, 57)), ((0, 0, 0), (255, 255, 255)), ((0.5, 0.5, 127), (0.2,) * 3)],
)
def test_statistics_of_bytes_are_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(bench.BenchError, match="divide those of pixels from 0 to 255 by 255"):
        bench.Explainee(make_net(), mean, std)


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,) * 3, (0.2,) * 2), ((), ()), ("abc", "abc"), ((0.5,) * 3, (0,) * 3)]
)
def test_mean_and_std_that_are_none_are_refused(mean: Any, std: Any) -> None:
    with pytest.raises(bench.BenchError, match="one number for each channel"):
        bench.Explainee(make_net(), mean, std)


def test_a_grey_network_end_to_end(tmp_path: Path) -> None:
    subset = bench.load_subset(write_folder(tmp_path / "data"))
    model = bench.Explainee(make_net(1), [0.4], [0.2], (32, 48), name="grey",
                            geometry=Geometry((32, 48), "short", (40, 60)))  # fmt: skip
    file = tmp_path / "data" / "2.png"
    with Image.open(file) as stored:
        luma = np.asarray(stored.convert("L"), np.float32)[4:36, 6:54] / 255
    images = model.read(file)
    assert images.shape == (1, 1, 32, 48)
    assert torch.allclose(images[0, 0], torch.from_numpy((luma - 0.4) / 0.2), atol=1e-5)
    # The run sees the same pixels, and the same class.
    records = bench.evaluate(
        subset, model, ["grad_cam", "rise[masks=8]", "input_x_gradient"],
        ["deletion", "insertion", "average_drop", "energy", "road"],
        out=tmp_path / "run", gallery=2,
    )  # fmt: skip
    with torch.no_grad():
        predicted = int(model.net(images).argmax())
    rows = records.frame[records.frame["item"] == "2.png"]
    assert set(rows["predicted"]) == {predicted}
    assert rows["value"].notna().any()
    bench.leaderboard(records).save(tmp_path / "run")
    maps = bench.explain(model, images, None, ["grad_cam"])
    draw_overlays(
        model.denormalise(images)[0], {k: m[0] for k, m in maps.items()}, "grey", tmp_path / "e.png"
    )
    with Image.open(tmp_path / "e.png") as drawn:
        assert drawn.size[0] > 100
    colour = bench.Explainee(make_net(), size=(32, 48), name="colour")
    with pytest.raises(bench.BenchError, match="images of 1 and 3 channels"):
        bench.evaluate(subset, [model, colour], "grad_cam", "deletion", out=tmp_path / "both")


def test_timm_networks_take_other_channels() -> None:
    model = bench.load_model("resnet10t", in_chans=1, num_classes=2, mean=[0.45], std=[0.23])
    assert (model.input_shape[0], model.mean) == (1, (0.45,))
    assert model.card["kwargs"] == {"in_chans": 1, "num_classes": 2}
    with pytest.warns(AssumptionWarning, match="assumed: mean 0.449 and std 0.226"):
        grey = bench.load_model("resnet10t", in_chans=1, num_classes=2)
    assert grey.mean == pytest.approx((0.449,), abs=1e-3)


def test_colours_of_grey_networks_are_their_luma() -> None:
    model = bench.Explainee(make_net(1), [0.5], [0.25], 16)
    luma = 0.299 * 0.485 + 0.587 * 0.456 + 0.114 * 0.406
    got = model.denormalise(model.colour((0.485, 0.456, 0.406)))
    assert got.shape == (1, 1, 1)
    assert float(got) == pytest.approx(luma, abs=1e-4)
    assert is_same_reference((0.485, 0.456, 0.406), "zero", {"mean": [luma]})
    assert not is_same_reference((0.485, 0.456, 0.406), "zero", {"mean": [0.5]})


def test_five_bands_as_tensors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = bench.Explainee(make_net(5), [0.1, 0.2, 0.3, 0.4, 0.5], [0.2] * 5, (16, 24),
                            name="bands")  # fmt: skip
    images = draw_images(5, 16, 24)
    maps = bench.explain(model, images, None, ["grad_cam", "saliency", "integrated_gradients"])
    assert all(bool(torch.isfinite(m).all()) for m in maps.values())
    assert "bands has 5 channels, so its mean takes the place of the RGB colour" in caplog.text
    scores = bench.score(
        model, images, [0, 1], maps["saliency"], ["deletion", "insertion"], curves=True
    )
    with torch.no_grad():  # of the mean, normalised, nothing is left
        empty = model.net(torch.zeros(1, 5, 16, 24)).double().softmax(1)[0, :2]
    assert torch.allclose(scores["deletion_curve"][:, -1], empty, atol=1e-6)
    with pytest.raises(bench.BenchError, match=r"give normalised images \[B,5,H,W\]"):
        bench.explain(model, draw_images(3, 16, 24))
    Image.new("RGB", (30, 30)).save(tmp_path / "one.png")
    with pytest.raises(bench.BenchError, match="wants 5 channels, and images in files have 3"):
        model.read(tmp_path / "one.png")
    subset = bench.load_subset(write_folder(tmp_path / "data"))
    with pytest.raises(bench.BenchError, match="wants 5 channels, and images in files have 3"):
        bench.evaluate(subset, model, "grad_cam", "deletion", out=tmp_path / "run")
