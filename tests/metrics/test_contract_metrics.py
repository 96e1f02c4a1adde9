"""What every registered metric must keep; the list of metrics and their facts are read from the
registry.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bench
from bench.engine.background import Background
from bench.engine.case import Case
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.errors import BenchError, NotApplicable
from bench.metrics import METRICS
from bench.metrics.robustness import ATTACKS, MEASURES
from bench.models.network_guard import guard_network
from bench.protocol import PROTOCOLS, Protocol, get_protocol
from bench.run.in_memory import apply
from tests.support.nets import MEAN, STD, FailsLater, make_images, make_net
from tests.support.sister_nets import add_sister

SIDE = 32
COUNT = 4
# Costs are measured while a method runs (forwards, seconds), so there is nothing to score in a
# finished map.
NAMES = [m.name for m in METRICS if m.family != "cost"]
TARGETS = torch.tensor([0, 1, 2, 4])
IDS = [f"image-{i}" for i in range(COUNT)]
LENGTHS = {
    "deletion_curve": 29,
    "insertion_curve": 29,
    "box_iou": 101,
    "box_set_iou": 400,
    "pixel_histogram": 2 * 1001,
    "threshold_p": 10,
    "threshold_area": 10,
    "threshold_log_odds": 10,
    "road_morf_curve": 9,
    "road_lerf_curve": 9,
    "masked_deletion_curve": 11,
    "masked_insertion_curve": 11,
    "sanity_ssim_curve": 5,
    "sanity_spearman_curve": 5,
    **{f"{attack}_{measure}_curve": 4 for attack in ATTACKS for measure in MEASURES},
}
TRUTHS = {"boxes", "masks", "truth", "others"}
# for metrics that run a method again; it has a reference, so every metric applies to it
METHOD = "a_fmi"


def make_maps() -> torch.Tensor:
    """Return maps with the troubles of real ones: dense and signed, mostly zero, constant, without
    positive part.
    """
    rng = torch.Generator().manual_seed(0)
    maps = torch.randn(COUNT, 1, 6, 6, generator=rng)
    maps = torch.nn.functional.interpolate(
        maps, size=(SIDE, SIDE), mode="bilinear", align_corners=False
    )[:, 0]
    maps[1] = (maps[1] - 0.3).clamp(min=0)
    maps[2] = 0.5
    maps[3] = -maps[3].abs() - 0.1
    return maps.contiguous()


def make_truth() -> bench.Truth:
    masks = torch.zeros(COUNT, SIDE, SIDE, dtype=torch.bool)
    boxes = []
    for i in range(COUNT):
        x0, y0, x1, y1 = 3 + i, 5, 12 + 4 * i, 17
        masks[i, y0:y1, x0:x1] = True
        boxes.append(torch.tensor([[x0, y0, x1, y1]], dtype=torch.float32))
    others = torch.zeros(COUNT, SIDE, SIDE, dtype=torch.bool)
    others[:, 20:28, 3:20] = True
    return bench.Truth(
        boxes=tuple(boxes),
        masks=masks,
        others=others,
        other_labels=torch.tensor([1, 2, 3, 0], dtype=torch.int64),
    )


def explainee(net: torch.nn.Module | None = None) -> bench.Explainee:
    model = bench.Explainee(
        net or make_net("norm"), mean=MEAN, std=STD, size=SIDE, layer="features"
    )
    return add_sister(model)


def score(
    name: str, model: bench.Explainee | None = None, **kwargs: object
) -> dict[str, np.ndarray]:
    """Score four maps by name; any argument can be replaced."""
    given = {
        "images": make_images(0, COUNT, SIDE),
        "targets": TARGETS,
        "maps": make_maps(),
        "truth": make_truth(),
        "ids": IDS,
        "curves": True,
        "method": METHOD,
    } | kwargs
    images, targets, maps = (given.pop(key) for key in ("images", "targets", "maps"))
    out = bench.score(model or explainee(), images, targets, maps, name, **given)
    return {key: np.asarray(values, dtype=np.float64) for key, values in out.items()}


@pytest.mark.parametrize("name", NAMES)
def test_values_are_the_declared_ones_with_one_row_per_image(name):
    out = score(name)
    assert set(out) == set(METRICS.get(name).values)
    for key, values in out.items():
        assert values.shape == ((COUNT, LENGTHS[key]) if key in LENGTHS else (COUNT,)), key


@pytest.mark.parametrize("name", NAMES)
def test_without_curves_there_are_scalars_only(name):
    scalars = score(name, curves=False)
    everything = score(name)
    for key, values in scalars.items():
        assert values.shape == (COUNT,)
        np.testing.assert_array_equal(values, everything[key])
    assert set(scalars) == {key for key, values in everything.items() if values.ndim == 1}


@pytest.mark.parametrize("name", NAMES)
def test_values_lie_within_their_declared_bounds(name):
    for key, values in score(name).items():
        facts = METRICS.get(name).values[key]
        values = values[np.isfinite(values)]
        if facts.lower is not None:
            assert (values >= facts.lower - 1e-6).all(), key
        if facts.upper is not None:
            assert (values <= facts.upper + 1e-6).all(), key


@pytest.mark.parametrize("name", NAMES)
def test_an_ordinary_map_has_a_score(name):
    for key, values in score(name).items():
        assert not np.isnan(values[:2]).any(), key


@pytest.mark.parametrize("name", NAMES)
def test_the_same_call_gives_the_same_bytes(name):
    torch.manual_seed(1)
    first = score(name)
    torch.manual_seed(2)
    np.random.seed(3)  # noqa: NPY002 - the point is that no global state is read
    second = score(name)
    assert all(first[key].tobytes() == second[key].tobytes() for key in first)


@pytest.mark.parametrize("name", NAMES)
def test_no_global_random_state_moves(name):
    model = explainee()
    torch_state = torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    score(name, model)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_not_written(name):
    images, maps, targets, truth = (
        make_images(0, COUNT, SIDE),
        make_maps(),
        TARGETS.clone(),
        make_truth(),
    )
    score(name, images=images, maps=maps, targets=targets, truth=truth)
    fresh = make_truth()
    assert torch.equal(images, make_images(0, COUNT, SIDE))
    assert torch.equal(maps, make_maps())
    assert torch.equal(targets, TARGETS)
    assert torch.equal(truth.masks, fresh.masks)
    assert all(torch.equal(a, b) for a, b in zip(truth.boxes, fresh.boxes, strict=True))


def state(net: torch.nn.Module) -> tuple:
    return (
        [m.training for m in net.modules()],
        [
            len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
            for m in net.modules()
        ],
        ["forward" in vars(m) for m in net.modules()],
        [p.requires_grad for p in net.parameters()],
        [None if p.grad is None else p.grad.sum().item() for p in net.parameters()],
        [t.sum().item() for t in net.state_dict().values()],
    )


def make_messy_net() -> FailsLater:
    net = FailsLater(make_net("norm"))
    net.train()
    net.features.eval()
    for i, p in enumerate(net.parameters()):
        p.requires_grad_(i % 2 == 0)
    next(net.parameters()).grad = torch.ones_like(next(net.parameters()))
    return net


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_left_as_it_was(name):
    net = make_messy_net()
    before = state(net)
    out = score(name, explainee(net))
    assert state(net) == before
    quiet = score(name)  # in eval mode: dropout must not have been at work
    for key in out:
        np.testing.assert_allclose(out[key], quiet[key], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_left_as_it_was_when_a_forward_fails(name):
    net = make_messy_net()
    model = explainee(net)
    score(name, model)
    net.calls = 0
    score(name, model)
    total = net.calls
    for allowed in sorted({0, total - 1} - {-1}):
        net.calls, net.allowed = 0, allowed
        before = state(net)
        with pytest.raises(RuntimeError, match="planted failure"):
            score(name, model)
        assert state(net) == before
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    net.allowed = None
    assert score(name, model)


@pytest.mark.parametrize("name", [m.name for m in METRICS if TRUTHS & set(m.needs)])
def test_metrics_that_need_truth_say_so(name):
    with pytest.raises(BenchError, match="these images do not have") as caught:
        score(name, truth=None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [m.name for m in METRICS if "method" in m.needs])
def test_metrics_that_need_the_method_say_so(name):
    with pytest.raises(NotApplicable, match=r"runs the method again.*method=\.\.\.") as caught:
        score(name, method=None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [m.name for m in METRICS if m.parameter])
def test_metrics_about_a_parameter_are_not_for_methods_without_it(name):
    with pytest.raises(NotApplicable, match="which this method does not have"):
        score(name, method="grad_cam")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "wrong",
    [
        {"targets": torch.tensor([0, 1, 2, 5])},
        {"targets": torch.tensor([0, 1, 2])},
        {"maps": torch.zeros(COUNT, SIDE, SIDE - 1)},
        {"maps": torch.zeros(COUNT - 1, SIDE, SIDE)},
        {"ids": ["a"]},
    ],
    ids=[
        "class above all",
        "too few targets",
        "map of another size",
        "too few maps",
        "too few ids",
    ],
)
def test_wrong_input_is_one_sentence(name, wrong):
    with pytest.raises(BenchError) as caught:
        score(name, **wrong)
    assert "\n" not in str(caught.value)


def test_unknown_names_are_errors_with_suggestions():
    with pytest.raises(BenchError, match="deletion"):
        score("deletoin")
    with pytest.raises(BenchError, match="cambench-1"):
        score("deletion", protocol="cambench")


@pytest.mark.parametrize("name", NAMES)
def test_maps_of_other_kinds_are_read_as_float32(name):
    plain = score(name)
    double = score(name, maps=make_maps().double())
    grad = score(name, maps=make_maps().requires_grad_())
    strided = score(name, maps=make_maps().transpose(1, 2).contiguous().transpose(1, 2))
    for other in (double, grad, strided):
        for key in plain:
            np.testing.assert_allclose(other[key], plain[key], atol=1e-7)


def test_metrics_of_one_case_do_not_disturb_each_other():
    model = explainee()
    forwards, backwards = score(NAMES, model), score(NAMES[::-1], model)
    assert forwards.keys() == backwards.keys()
    alone = {key: values for name in NAMES for key, values in score(name, model).items()}
    for key, values in forwards.items():
        # Another order packs forwards into other batches: the last digits may move, no more.
        np.testing.assert_allclose(backwards[key], values, atol=1e-6, err_msg=key)
        np.testing.assert_allclose(alone[key], values, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_many_images_are_scored_as_few(name):
    # 150 images: more than any packed batch of forwards, and equal ones must come out equal.
    copies = torch.arange(150) % COUNT
    out = score(
        name,
        images=make_images(0, COUNT, SIDE)[copies],
        targets=TARGETS[copies],
        maps=make_maps()[copies],
        truth=make_truth().select(copies),
        ids=[IDS[i] for i in copies.tolist()],
    )
    few = score(name)
    for key, values in out.items():
        np.testing.assert_allclose(values, few[key][copies.numpy()], atol=1e-4, err_msg=key)


def test_targets_may_be_a_plain_list_or_left_to_the_prediction():
    model = explainee()
    plain = score("average_drop", model)
    np.testing.assert_array_equal(
        score("average_drop", model, targets=[0, 1, 2, 4])["average_drop"], plain["average_drop"]
    )
    with torch.no_grad():
        predicted = model.net(make_images(0, COUNT, SIDE)).argmax(dim=1)
    unsaid, said = (
        score("deletion", model, targets=None),
        score("deletion", model, targets=predicted),
    )
    np.testing.assert_array_equal(unsaid["deletion"], said["deletion"])


# One feature at a time is 3,072 forwards per map here; the step changes nothing that a contract
# says.
PROTOCOLS_SHORT = [name if name != "quantus" else "quantus[step_features=96]" for name in PROTOCOLS]


@pytest.mark.parametrize("protocol", PROTOCOLS_SHORT[1:])
@pytest.mark.parametrize("name", NAMES)
def test_every_metric_runs_under_every_named_protocol(name, protocol):
    facts = METRICS.get(name).facts(get_protocol(protocol))
    out = score(name, protocol=protocol)
    assert set(out) == set(facts)
    for key, values in out.items():
        assert len(values) == COUNT
        assert not np.isnan(values[:2]).any(), key
        seen = values[np.isfinite(values)]
        assert facts[key].lower is None or (seen >= facts[key].lower - 1e-6).all(), key
        assert facts[key].upper is None or (seen <= facts[key].upper + 1e-6).all(), key


@pytest.mark.parametrize("protocol", PROTOCOLS_SHORT)
@pytest.mark.parametrize(
    "name",
    [
        *("deletion", "insertion", "average_drop", "threshold_quality", "road"),
        *METRICS.select("masked"),
    ],
)
def test_the_declared_forwards_are_those_of_one_more_map(name, protocol):
    rules, metric = get_protocol(protocol), METRICS.get(name)
    prober = Prober(explainee())
    trace = Trace(prober, make_images(0, COUNT, SIDE), TARGETS, ids=IDS)
    background = Background(trace)
    dense = torch.rand(COUNT, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) + 0.01
    spent = []
    for maps in (make_maps(), dense):  # the first also pays what all maps of a batch share
        before = prober.counts.forwards
        with guard_network(prober.model.net):
            apply(metric, Case(trace, maps, rules.view(()), background=background), rules)
        spent.append(prober.counts.forwards - before)
    assert spent[1] == COUNT * metric.forwards(rules, SIDE * SIDE)


def test_a_metric_without_the_fields_of_other_libraries_keeps_its_numbers():
    plain, other = score("complexity"), score("complexity", protocol="xplique")
    np.testing.assert_array_equal(plain["gini"], other["gini"])
    assert METRICS.get("complexity").id(get_protocol("torchcam")) == METRICS.get("complexity").id(
        Protocol()
    )


def test_ranked_values_have_a_direction():
    for metric in METRICS:
        for key, facts in metric.values.items():
            assert not facts.ranked or facts.better in {"lower", "higher"}, key
            assert facts.title
    # Average drop, increase and gain are reported, never ranked: Fake-CAM wins them.
    assert not any(facts.ranked for facts in METRICS.get("average_drop").values.values())
