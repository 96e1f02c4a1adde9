"""Labels and a network's classes: what fits, what is matched by name, what is said and refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import bench
from bench.data import Subset, load_subset
from bench.data.class_names import imagenet_names, imagenet_wnids
from bench.errors import BenchError
from bench.models import Explainee
from bench.run.class_match import match_classes
from tests.support.layouts import list_samples, save_image


class Classifier(nn.Module):
    """A network of so many classes, whose class is decided by the mean colour."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(images).relu().mean((2, 3)))


def network(count: int, name: str = "net", **card: object) -> Explainee:
    torch.manual_seed(0)
    net = Classifier(count).eval()
    return Explainee(net, (0.5,) * 3, (0.5,) * 3, 24, layer="conv", name=name, card=card)


def folders(place: Path, names: list[str], count: int = 5) -> Subset:
    for row, name in enumerate(names):
        for i in range(count):
            save_image(place / name / f"{i}.png", 10 * row + i)
    return load_subset(place)


def labels_of(subset: Subset) -> dict[str, int]:
    return {item.split("/")[0]: one.label for item, one in list_samples(subset).items()}


def test_equal_counts_are_taken_as_they_are(tmp_path: Path) -> None:
    subset = folders(tmp_path / "set", ["a", "b", "c"])
    assert match_classes([network(3)], subset) == (subset, ())


def test_numbers_below_the_classes_are_taken_and_said(tmp_path: Path) -> None:
    subset = folders(tmp_path / "set", [str(i) for i in range(12)], 2)
    same, notes = match_classes([network(1000)], subset)
    assert same is subset
    assert notes == (
        "The labels of the subset set are numbers up to 11, and net has 1000 classes: the numbers "
        "are taken as its class numbers.",
    )
    with pytest.raises(BenchError, match=r"reach 11, and the model net has 10 classes, 0 to 9;"):
        match_classes([network(10)], subset)


def test_names_are_matched_with_those_of_the_card(tmp_path: Path) -> None:
    subset = folders(tmp_path / "set", ["cat", "dog", "big_bird"])
    model = network(4, classes=["Dog", "cow", "Big Bird", "cat"])
    matched, notes = match_classes([model], subset)
    assert labels_of(matched) == {"dog": 0, "big_bird": 2, "cat": 3}
    assert matched.class_names == ("Dog", "cow", "Big Bird", "cat")
    assert matched.num_classes == 4
    assert matched.ids == subset.ids
    assert matched.manifest_id != subset.manifest_id
    assert "matched by name with those of net: big_bird 2, cat 3, dog 0." in notes[0]
    assert matched.calibration() is None or matched.calibration().num_classes == 4


def test_equal_counts_in_another_order_are_matched(tmp_path: Path) -> None:
    subset = folders(tmp_path / "set", ["cat", "dog", "elk"])
    model = network(3)
    model.net.config = SimpleNamespace(id2label={0: "elk, moose", 1: "dog", 2: "cat"})
    matched, notes = match_classes([model], subset)
    assert labels_of(matched) == {"cat": 2, "dog": 1, "elk": 0}
    assert len(notes) == 1
    model.net.config = SimpleNamespace(id2label={0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"})
    assert match_classes([model], subset) == (subset, ())
    model.net.config = SimpleNamespace(id2label={0: "dog", 1: "cat", 2: "other"})
    with pytest.raises(BenchError, match=r"same names in another order, and 'elk' does not stand"):
        match_classes([model], subset)


def test_names_of_imagenet_are_matched(tmp_path: Path) -> None:
    names = imagenet_names()
    chosen = [names[i].replace(" ", "_") for i in (1, 388, 805)]
    subset = folders(tmp_path / "set", chosen)
    matched, notes = match_classes([network(1000)], subset)
    assert labels_of(matched) == dict(zip(chosen, (1, 388, 805), strict=True))
    assert notes
    twice = next(name for name in names if names.count(name) > 1)
    unclear = folders(tmp_path / "unclear", [*chosen, twice])
    with pytest.raises(BenchError, match="does not stand for one class"):
        match_classes([network(1000)], unclear)


def test_wnids_fit_imagenet_and_networks_of_just_these(tmp_path: Path) -> None:
    wnids = [imagenet_wnids()[i] for i in (3, 30, 300)]
    subset = folders(tmp_path / "set", wnids)
    assert match_classes([network(1000)], subset) == (subset, ())
    matched, notes = match_classes([network(3)], subset)
    assert labels_of(matched) == {wnid: i for i, wnid in enumerate(wnids)}
    assert matched.class_names == tuple(wnids)
    assert "its labels are 0 to 2, in the order of the wnids" in notes[0]
    with pytest.raises(BenchError, match=r"net has 7 classes and the subset set 1000"):
        match_classes([network(7)], subset)
    with pytest.raises(BenchError, match="count the classes of the subset set differently"):
        match_classes([network(1000), network(3, "small")], subset)


def test_a_misfit_is_said_with_its_cause(tmp_path: Path) -> None:
    subset = folders(tmp_path / "set", ["ant", "bee", "cow"])
    with pytest.raises(BenchError) as caught:
        match_classes([network(20)], subset)
    assert str(caught.value) == (
        "The model net has 20 classes and the subset set 3 (ant, bee, cow), whose names the model "
        "does not state; choose the network that was trained on these classes, or give labels as "
        "its class numbers."
    )


def test_a_run_scores_the_matched_labels(tmp_path: Path) -> None:
    subset = folders(tmp_path / "set", ["cat", "dog"], 6)
    model = network(3, classes=["dog", "none", "cat"])
    records = bench.evaluate(subset, model, "random", "average_drop", out=tmp_path / "run")
    want = {item: {"cat": 2, "dog": 0}[item.split("/")[0]] for item in subset.ids}
    assert dict(zip(records.frame["item"], records.frame["label"], strict=True)) == want
    facts = records.provenance["subsets"]["set"]
    assert any("matched by name" in note for note in records.provenance["notes"])
    assert facts["found"] == list(subset.found)
    assert np.isin(records.frame["label"], [0, 2]).all()
