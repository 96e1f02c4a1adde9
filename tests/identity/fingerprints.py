"""Fingerprints: short numbers that every change of a method's maps or of a metric's values moves.

python -m tests.identity.fingerprints    # writes them anew, after versions were raised
"""

from __future__ import annotations

import inspect
import json
import math
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import bench
from bench.errors import BenchError, NotApplicable
from bench.methods import METHODS
from bench.metrics import METRICS
from tests.support.fewer import FEWER
from tests.support.nets import MEAN, STD, make_images, make_net
from tests.support.sister_nets import add_sister

STORED = Path(__file__).with_name("fingerprints.json")
SIDE = 32
TARGETS = torch.tensor([1, 3])
NUMBERS = 8
"""Numbers of a fingerprint."""
KINDS = ("norm", "vit", "abn", "attentive")
"""The networks: a convolutional one, a transformer, and two with trained parts."""
TRAINED = {"attention_branch": "abn", "sa_cam_trained": "attentive"}
BRIEF = {
    **FEWER,
    "extremal_perturbation": "extremal_perturbation[iterations=4]",
    "integrated_gradients": "integrated_gradients[steps=8]",
    "idgi": "idgi[steps=8]",
}
WRAPPED = (
    *("tft(layer_cam)", "fused(layer_cam)", "tft(fused(layer_cam))", "sa_cam[base=score_cam]"),
    *("power(layer_cam)[p=16]", "ranked(layer_cam)", "top(layer_cam)"),
)
SINGLE_ONLY = (BRIEF["extremal_perturbation"],)
"""What takes a float64 network and computes in float32 all the same; a transformer's parts do,
too.
"""
METHOD_OF_METRICS = "a_fmi"


def small_net(kind: str, *, double: bool) -> bench.Explainee:
    """Return a small network with seeded weights; a double one computes in float64 from its first
    convolution on.
    """
    net = make_net(kind, 0, SIDE)
    model = bench.Explainee(net, mean=MEAN, std=STD, size=SIDE, layer="features", name=kind)
    if double:
        net.double()
        first = next(module for module in net.modules() if isinstance(module, torch.nn.Conv2d))
        first.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    return model


def variants_of(name: str) -> Iterator[str]:
    """Yield a method's address and one for each other choice of its Literal parameters."""
    base = METHODS.get(BRIEF.get(name, name))
    yield base.name
    hints = typing.get_type_hints(base.function, include_extras=True)
    for parameter in inspect.signature(base.function).parameters.values():
        hint = hints.get(parameter.name)
        if typing.get_origin(hint) is typing.Literal:
            for value in typing.get_args(hint):
                if value != parameter.default:
                    yield base.variant(**{parameter.name.rstrip("_"): value}).name


def addresses() -> list[str]:
    """Return what has a fingerprint: every method, every Literal option, and wrappers around
    others.
    """
    listed = [
        METHODS.get(name)
        for name in METHODS.names
        if METHODS.get(name).function.__module__.startswith("bench.")
    ]
    found = [address for method in listed for address in variants_of(method.name)]
    return list(dict.fromkeys([*found, *(METHODS.get(name).name for name in WRAPPED)]))


def kinds_for(address: str) -> tuple[str, ...]:
    """Return the networks that a method is run on."""
    base = METHODS.get(address).base
    if (
        address in WRAPPED
    ):  # a cut-off that is searched may turn with the last digit of a transformer's map
        return ("norm",)
    return (TRAINED[base],) if base in TRAINED else ("norm", "vit")


def make_truth(count: int) -> bench.Truth:
    masks = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    others = torch.zeros_like(masks)
    boxes = []
    for i in range(count):
        x0, y0, x1, y1 = 3 + i, 5, 12 + 4 * i, 17
        masks[i, y0:y1, x0:x1] = True
        boxes.append(torch.tensor([[x0, y0, x1, y1]], dtype=torch.float32))
    others[:, 20:28, 3:20] = True
    other_labels = torch.tensor([(i + 2) % 5 for i in range(count)], dtype=torch.int64)
    return bench.Truth(boxes=tuple(boxes), masks=masks, others=others, other_labels=other_labels)


def fingerprint(values: torch.Tensor) -> list[float]:
    """Return sums of the values with random signs, over the root of their number: a change of one
    value moves all.

    Not-a-number counts as such: its place has a sum of its own.
    """
    flat = values.detach().double().cpu().flatten()
    rng = torch.Generator().manual_seed(len(flat))
    signs = torch.randint(0, 2, (NUMBERS, len(flat)), generator=rng).double() * 2 - 1
    missing = torch.isnan(flat)
    finite = torch.where(missing | torch.isinf(flat), 0.0, flat)
    scale = math.sqrt(len(flat))
    sums = (signs @ finite / scale).tolist()
    return [
        float(f"{x:.9g}")
        for x in (*sums, float(missing.double() @ signs[0]), float(finite.abs().max()))
    ]


def method_fingerprint(kind: str, address: str, *, double: bool) -> list[float] | str:
    """Return the fingerprint of a method's maps of two images, or "n/a"."""
    given = {"targets": TARGETS, "truth": make_truth(2), "ids": ["a", "b"]}
    model = small_net(kind, double=double)
    try:
        return fingerprint(bench.explain(model, make_images(0, 2, SIDE), method=address, **given))
    except NotApplicable:
        return "n/a"


def make_maps() -> torch.Tensor:
    """Return maps [4,H,W] with the troubles of real ones: signed, sparse, constant, without
    positive part.
    """
    rng = torch.Generator().manual_seed(0)
    maps = torch.randn(4, 1, 6, 6, generator=rng)
    maps = torch.nn.functional.interpolate(
        maps, size=(SIDE, SIDE), mode="bilinear", align_corners=False
    )[:, 0]
    maps[1] = (maps[1] - 0.3).clamp(min=0)
    maps[2] = 0.5
    maps[3] = -maps[3].abs() - 0.1
    return maps.contiguous()


def metric_names() -> list[str]:
    """Return the metrics that score finished maps; a cost is measured while a method runs."""
    return [m.name for m in METRICS if m.family != "cost" and m.builtin]


def metric_fingerprint(kind: str, name: str, *, double: bool) -> dict[str, list[float]] | str:
    """Return {value: fingerprint} of a metric of four maps, or "n/a"."""
    given = {
        "truth": make_truth(4),
        "ids": list("abcd"),
        "curves": True,
        "method": METHOD_OF_METRICS,
    }
    model, targets = small_net(kind, double=double), torch.tensor([0, 1, 2, 4])
    if "sister" in METRICS.get(name).needs:
        add_sister(model)
    try:
        values = bench.score(model, make_images(0, 4, SIDE), targets, make_maps(), name, **given)
    except NotApplicable:
        return "n/a"
    return {key: fingerprint(torch.as_tensor(one)) for key, one in values.items()}


def difference(stored: object, now: object) -> float:
    """Return how far two fingerprints are apart, as a share of the largest value; infinite where
    their form differs.
    """
    if isinstance(stored, dict) and isinstance(now, dict) and stored.keys() == now.keys():
        return max(difference(stored[key], now[key]) for key in stored)
    if not (isinstance(stored, list) and isinstance(now, list)):
        return 0.0 if stored == now else math.inf
    scale = max(stored[-1], now[-1], 1e-30)
    return max(abs(a - b) for a, b in zip(stored, now, strict=True)) / scale


def read_stored() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(STORED.read_text())
    return found


def entry(take: Callable[..., object], kind: str, name: str, version: int) -> dict[str, object]:
    """Return what is stored of a method or metric: in float64 where its code takes that, else in
    float32.
    """
    if kind != "vit" and name not in SINGLE_ONLY:
        try:
            return {"version": version, "double": True, "numbers": take(kind, name, double=True)}
        except (RuntimeError, BenchError):  # what runs perturbed images runs them in float32
            pass
    return {"version": version, "double": False, "numbers": take(kind, name, double=False)}


def renew(
    stored: dict[str, Any], take: Callable[..., object], kind: str, name: str, version: int
) -> dict[str, object]:
    """Return the stored entry of a name where it is of this version, else a new one: a processor's
    rounding must not rewrite what did not change.
    """
    kept = stored.get(f"{kind} {name}")
    return kept if kept and kept["version"] == version else entry(take, kind, name, version)


def main() -> None:
    torch.set_num_threads(1)
    stored = read_stored() if STORED.exists() else {"methods": {}, "metrics": {}}
    methods = [(one, kind) for one in addresses() for kind in kinds_for(one)]
    metrics = [(one, kind) for one in metric_names() for kind in ("norm", "vit")]
    content = {
        "methods": {
            f"{k} {one}": renew(
                stored["methods"], method_fingerprint, k, one, METHODS.get(one).version
            )
            for one, k in methods
        },
        "metrics": {
            f"{k} {one}": renew(
                stored["metrics"], metric_fingerprint, k, one, METRICS.get(one).version
            )
            for one, k in metrics
        },
    }
    lines = [
        f' "{part}": {{\n'
        + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in entries.items())
        + "\n }"
        for part, entries in content.items()
    ]
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
