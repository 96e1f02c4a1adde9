"""Score the conformance vectors with this project's own metrics and methods.

    python tests/conformance/run_bench.py MY_SCORES.json [--wrong
    no-end-points|four-connected|any-tied-maximum|own-network]

--wrong plants a mistake that was seen in other implementations, to show that `compare.py` finds it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

import bench
from bench.board.set_thresholds import apply_cuts
from bench.protocol import Protocol

FOLDER = Path(__file__).parent / "v2"


class Regions(nn.Module):
    """Means over rectangles and channels, then `planted` probabilities or `linear` logits."""

    def __init__(self, facts: dict[str, Any]) -> None:
        super().__init__()
        self.facts, self.features, self.one = facts, nn.Identity(), nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x * self.one)
        if self.facts["type"] == "constant":
            return (
                torch.tensor(self.facts["logits"], dtype=torch.float32).expand(len(x), -1)
                + 0 * x.mean((1, 2, 3))[:, None]
            )
        places = [(slice(*r["rows"]), slice(*r["columns"])) for r in self.facts["regions"]]
        means = torch.stack(
            [x[:, :, rows, columns].mean((1, 2, 3)) for rows, columns in places], dim=1
        )
        if self.facts["type"] == "linear":
            return means @ torch.tensor(self.facts["weights"]).float().T + torch.tensor(
                self.facts["bias"]
            )
        u = self.facts["floor"] + means @ torch.tensor(self.facts["gains"])
        return torch.stack([u.log(), (1 - u).log()], dim=1)


class ConvGap(nn.Module):
    """Average pooling, 1x1 convolution, ReLU, global average pooling, linear."""

    def __init__(self, facts: dict[str, Any], pool: int) -> None:
        super().__init__()
        conv = nn.Conv2d(3, len(facts["conv"]), 1)
        conv.weight = nn.Parameter(torch.tensor(facts["conv"]).float()[:, :, None, None])
        conv.bias = nn.Parameter(torch.tensor(facts["conv_bias"]).float())
        self.features = nn.Sequential(nn.AvgPool2d(pool), conv, nn.ReLU())
        self.fc = nn.Linear(len(facts["conv"]), len(facts["fc"]), bias=False)
        self.fc.weight = nn.Parameter(torch.tensor(facts["fc"]).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x).mean((2, 3)))


def grid(values: Any) -> torch.Tensor:
    """Return nested lists as float32; "NaN" is NaN."""
    return torch.from_numpy(np.array(values).astype(np.float32))


def explainee(facts: dict[str, Any], item: dict[str, Any], side: int) -> bench.Explainee:
    net = ConvGap(facts, item["pool"]) if facts["type"] == "conv_gap" else Regions(facts)
    return bench.Explainee(
        net.eval(), mean=facts["mean"], std=facts["std"], size=side, layer="features"
    )


def truth_of(item: dict[str, Any]) -> bench.Truth:
    given = item.get("truth", {})
    masks = {
        key: grid(given[key]).bool()[None] for key in ("mask", "ignore", "others") if key in given
    }
    boxes = (
        torch.tensor(given["boxes"], dtype=torch.float32).reshape(-1, 4)
        if "boxes" in given
        else None
    )
    return bench.Truth(
        boxes=None if boxes is None else (boxes,),
        masks=masks.get("mask"),
        ignore=masks.get("ignore"),
        others=masks.get("others"),
    )


def protocol_of(case: dict[str, Any]) -> Protocol:
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in case["protocol"].items()
    }
    return dataclasses.replace(Protocol(), **given)


def score_case(case: dict[str, Any], fields: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return {item: {value name: number, "NaN", "outside" or a list of them}}."""
    return {
        key: (maps if "methods" in case else scores)(case, item, fields)
        for key, item in case["items"].items()
    }


def maps(case: dict[str, Any], item: dict[str, Any], _fields: dict[str, Any]) -> dict[str, Any]:
    images = grid(item["image"])[None]
    model = explainee(case["model"], item, images.shape[-1])
    found = {m: bench.explain(model, images, [item["target"]], m)[0] for m in case["methods"]}
    return {f"map:{name}": one.tolist() for name, one in found.items()}


def scores(case: dict[str, Any], item: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    one = grid(item["map"])[None]
    images = grid(item["image"])[None] if "image" in item else torch.zeros(1, 3, *one.shape[1:])
    side = min(one.shape[1:])
    model = explainee(case["model"], item, side)
    if "sister" in case:
        model.sister = explainee(case["sister"], item, side)
        model.sister.card = {"recipe": {"patch": case["patch"]}}
    protocol = protocol_of(case)
    found = bench.score(
        model,
        images,
        [item["target"]],
        one,
        case["metrics"],
        truth=truth_of(item),
        protocol=protocol,
        ids=[fields[item["tie_field"]]["id"]],
        curves=True,
    )
    if "box_set_iou" in found:
        vector = found.pop("box_set_iou").double().numpy()
        hits = [
            float(apply_cuts(vector, [tau] * len(protocol.box_ious), protocol.box_ious).sum())
            for tau in item["taus"]
        ]
        found["box_set_hits"] = torch.tensor([hits])
    return {name: said(values[0]) for name, values in found.items()}


def said(value: torch.Tensor) -> Any:
    if value.ndim:
        return [said(v) for v in value]
    number = float(value)
    return "NaN" if np.isnan(number) else "outside" if np.isinf(number) else number


def all_scores() -> dict[str, Any]:
    fields = json.loads((FOLDER / "tie_fields.json").read_text())
    cases = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("cases/*/input.json"))]
    return {case["case"]: score_case(case, fields) for case in cases}


# --------------------------------------------------------------------------------- planted mistakes


@contextlib.contextmanager
def no_end_points() -> Iterator[None]:
    """The mean of the curve's inner points instead of the area under all of it."""
    with mock.patch(
        "bench.metrics.faithfulness.area_under", lambda curve, *_: curve[:, 1:-1].double().mean(1)
    ):
        yield


@contextlib.contextmanager
def four_connected() -> Iterator[None]:
    """Components that touch at a corner are two."""
    import cv2

    right = cv2.connectedComponentsWithStats
    with mock.patch(
        "cv2.connectedComponentsWithStats",
        lambda image, **given: right(image, **{**given, "connectivity": 4}),
    ):
        yield


@contextlib.contextmanager
def any_tied_maximum() -> Iterator[None]:
    """The pointing game looks at whichever of several equal maxima lies on the truth."""
    from bench.engine.case import Case

    def order(case: Case) -> torch.Tensor:
        found = case.order_features(1).clone()
        assert case.truth_pixels is not None
        for row, values, truth in zip(
            found, case.maps.flatten(1), case.truth_pixels.flatten(1), strict=True
        ):
            tied = torch.nonzero((values == values.max()) & truth)
            if len(tied):
                row[0] = tied[0, 0]
        return found

    from bench.metrics import METRICS

    pointing = METRICS.get("pointing_game")
    with mock.patch.dict(
        METRICS._entries,
        {"pointing_game": dataclasses.replace(pointing, function=_with(order, pointing))},
    ):
        yield


def _with(order: Any, metric: Any) -> Any:
    def function(case: Any) -> Any:
        case._orders[case.tie_rule, 1] = order(case)
        try:
            return metric.function(case)
        finally:
            case._orders.clear()

    return function


@contextlib.contextmanager
def own_network() -> Iterator[None]:
    """The network that the map is of answers on masked images, not its sister."""
    right = score_case

    def without_sister(case: dict[str, Any], fields: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return right({**case, "sister": case["model"]} if "sister" in case else case, fields)

    with mock.patch.dict(globals(), {"score_case": without_sister}):
        yield


WRONG = {
    "no-end-points": no_end_points,
    "four-connected": four_connected,
    "any-tied-maximum": any_tied_maximum,
    "own-network": own_network,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--wrong", choices=WRONG)
    given = parser.parse_args()
    with WRONG[given.wrong]() if given.wrong else contextlib.nullcontext():
        found = all_scores()
    given.out.write_text(
        json.dumps(
            {"schema": 1, "implementation": f"cambench {bench.__version__}", "scores": found}
        )
    )


if __name__ == "__main__":
    main()
