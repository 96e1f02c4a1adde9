"""The names of a network's classes."""

from __future__ import annotations

import bench
from bench.data.scene_drawing import CLASS_NAMES
from bench.models.network_classes import find_class_names
from tests.support.nets import GapLinear, randomise


def network(outputs: int, **card) -> bench.Explainee:
    model = bench.Explainee(randomise(GapLinear(classes=outputs), 0), size=32, layer="features")
    model.card.update(card)
    return model


def test_names_come_from_the_card_its_subset_or_imagenet():
    assert find_class_names(network(3, classes=["cat", "dog", "a$b"])) == ("cat", "dog", "a$b")
    assert find_class_names(bench.load_model("resnet-scenes")) == CLASS_NAMES
    assert find_class_names(network(1000))[:2] == ("tench", "goldfish")


def test_names_that_do_not_fit_the_network_are_not_used():
    assert find_class_names(network(3, classes=["cat", "dog"])) == ()
    assert find_class_names(network(3, data="scenes-train@8c97f062c610")) == ()
    assert find_class_names(network(10, data="imagenet-val-500")) == ()
