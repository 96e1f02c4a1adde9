"""What every registered method must keep, whoever wrote it; the list of methods is read from the
registry.
"""

from __future__ import annotations

import contextlib
import copy

import numpy as np
import pytest
import timm
import torch

import bench
from bench.engine.counts import Counts
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.errors import BenchError, NotApplicable
from bench.methods import METHODS
from tests.support.fewer import FEWER
from tests.support.nets import (
    MEAN,
    NETS,
    STD,
    FailsLater,
    GapLinear,
    make_images,
    make_net,
    randomise,
)

SIDE = 32
SMALL = {**FEWER, "extremal_perturbation": "extremal_perturbation[areas=0.1,iterations=3]"}
"""Methods whose defaults take too many forwards for this file, with fewer."""
NAMES = [
    *(SMALL.get(name, name) for name in METHODS.names),
    *METHODS.unlisted,
    "power(random)",
    "ranked(fused(layer_cam))",
    "top(saliency)[share=0.5]",
]
TARGETS = torch.tensor([1, 3])


def make_truth() -> bench.Truth:
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    masks[:, 5:14, 6:20] = True
    return bench.Truth(boxes=(torch.tensor([[6.0, 5.0, 20.0, 14.0]]),) * 2, masks=masks)


def explain(model: bench.Explainee, name: str, **kwargs: object) -> torch.Tensor:
    """Explain two images by name, with truth and ids at hand."""
    given = {"targets": TARGETS, "truth": make_truth(), "ids": ["a", "b"]} | kwargs
    return bench.explain(model, make_images(0, 2, SIDE), method=name, **given)


def explainee(net: torch.nn.Module) -> bench.Explainee:
    return bench.Explainee(net, mean=MEAN, std=STD, size=SIDE, layer="features")


class State:
    """Everything of a network that a visitor could leave changed."""

    def __init__(self, net: torch.nn.Module) -> None:
        self.modes = {name: module.training for name, module in net.named_modules()}
        self.hooks = {
            name: {
                key: len(value)
                for key, value in vars(module).items()
                if key.endswith("_hooks") and value
            }
            for name, module in net.named_modules()
        }
        self.fused = {
            name: module.fused_attn
            for name, module in net.named_modules()
            if "fused_attn" in vars(module)
        }
        self.forwards = [name for name, module in net.named_modules() if "forward" in vars(module)]
        self.classes = {name: type(module) for name, module in net.named_modules()}
        self.values = {
            name: (id(t), t.detach().clone()) for name, t in net.state_dict(keep_vars=True).items()
        }
        self.flags = {name: p.requires_grad for name, p in net.named_parameters()}
        self.grads = {
            name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()
        }

    def assert_same(self, net: torch.nn.Module) -> None:
        now = State(net)
        for part in ("modes", "hooks", "fused", "forwards", "classes", "flags"):
            assert getattr(now, part) == getattr(self, part), part
        assert now.values.keys() == self.values.keys()
        for name, (identity, value) in self.values.items():
            assert now.values[name][0] == identity, f"{name} is another tensor"
            assert torch.equal(now.values[name][1], value), name
        for name, grad in self.grads.items():
            assert (now.grads[name] is None) == (grad is None), name
            if grad is not None:
                assert torch.equal(now.grads[name], grad), name


def make_messy_net(kind: str = "norm") -> torch.nn.Module:
    """Return a net in a state a tidy-up would lose: mixed modes, frozen parameters, a stored
    gradient, a hook.
    """
    net = make_net(kind)
    net.train()
    for i, module in enumerate(net.modules()):
        if i % 3 == 0:
            module.training = False
    for i, p in enumerate(net.parameters()):
        p.requires_grad_(i % 2 == 0)
        if i == 0:
            p.grad = torch.full_like(p, 0.25)
    net.features.register_forward_hook(lambda *_: None)
    return net


NEEDS = {"attention_branch": "abn", "sa_cam_trained": "attentive"}
"""Methods of trained parts, and the net that has one."""


def kind_for(name: str, usual: str = "norm") -> str:
    """Return the kind of net that a method is tested on: `usual`, where it applies to that."""
    if name in NEEDS:
        return NEEDS[name]
    if METHODS.get(name).group == "attention":
        return "vit"
    # On the net "norm" Grad-CAM of an image has no positive part, and its threshold fine-tuning is
    # NaN as it should be.
    return "gap" if name in ("cam", "tft(grad_cam)") else usual


def applies(model: bench.Explainee, name: str) -> bool:
    """Return whether a method explains this model (one that refuses is tested for its sentence
    elsewhere).
    """
    try:
        explain(model, name)
    except NotApplicable:
        return False
    return True


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_float32_finite_and_of_the_images_shape(name):
    images = make_images(0, 2, SIDE)
    before = images.clone()
    maps = bench.explain(
        explainee(make_net(kind_for(name, "gap"))),
        images,
        targets=TARGETS,
        method=name,
        truth=make_truth(),
        ids=["a", "b"],
    )
    assert isinstance(maps, torch.Tensor)
    assert maps.shape == (2, SIDE, SIDE)
    assert maps.dtype == torch.float32
    assert not maps.requires_grad
    assert torch.isfinite(maps).all()
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_call_gives_the_same_bytes(name):
    model = explainee(make_net(kind_for(name)))
    torch.manual_seed(1)
    first = explain(model, name)
    torch.manual_seed(2)
    np.random.seed(3)  # noqa: NPY002 - the point is that no global state is read
    second = explain(model, name)
    assert first.numpy().tobytes() == second.numpy().tobytes()
    assert (
        explain(explainee(make_net(kind_for(name))), name).numpy().tobytes()
        == first.numpy().tobytes()
    )


@pytest.mark.parametrize("name", NAMES)
def test_no_global_random_state_moves(name):
    model = explainee(make_net(kind_for(name)))
    torch_state = torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    explain(model, name)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_left_as_it_was(name):
    net = make_messy_net(kind_for(name))
    model = explainee(net)
    before = State(net)
    maps = explain(model, name)
    before.assert_same(net)
    # It ran in eval mode all the same: dropout and batch statistics would have moved the map.
    quiet = explain(explainee(make_net(kind_for(name))), name)
    torch.testing.assert_close(maps, quiet, atol=1e-5 * quiet.abs().max().item() + 1e-7, rtol=0)
    # And outside, gradients still flow.
    net.zero_grad()
    net(make_images(0, 2, SIDE)).sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_left_as_it_was_when_a_forward_fails(name):
    # First see how many forwards there are, then fail in the first and in the last of them.
    counting = FailsLater(make_messy_net(kind_for(name)))
    model = explainee(counting)
    explain(model, name)
    counting.calls = 0
    explain(model, name)  # the second time, nothing is left to be found out about the model
    total = counting.calls
    for allowed in sorted({0, total - 1}):
        if allowed < 0:
            continue  # it never runs the network
        net = FailsLater(make_messy_net(kind_for(name)))
        model = explainee(net)
        explain(model, name)
        net.calls, net.allowed = 0, allowed
        before = State(net)
        with pytest.raises(RuntimeError, match="planted failure"):
            explain(model, name)
        before.assert_same(net)
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
        net.allowed = None
        assert torch.isfinite(explain(model, name)).all()  # and it works again


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "targets",
    [[0, 5], [-1, 0], [0], [0, 1, 2]],
    ids=["above the classes", "negative", "too few", "too many"],
)
def test_wrong_targets_are_one_sentence(name, targets):
    net = make_messy_net(kind_for(name))
    model = explainee(net)
    before = State(net)
    with pytest.raises(BenchError) as caught:
        explain(model, name, targets=torch.tensor(targets))
    before.assert_same(net)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_one_image_is_enough(name):
    truth = make_truth().select(torch.tensor([1]))
    model = explainee(make_net(kind_for(name)))
    maps = bench.explain(
        model, make_images(0, 2, SIDE)[1:], targets=TARGETS[1:], method=name, truth=truth, ids=["b"]
    )
    together = explain(model, name)
    torch.testing.assert_close(
        maps[0], together[1], atol=1e-4 * together[1].abs().max().item() + 1e-7, rtol=0
    )


@pytest.mark.parametrize("name", NAMES)
def test_order_of_images_does_not_matter(name):
    model = explainee(make_net(kind_for(name)))
    turned = bench.explain(
        model,
        make_images(0, 2, SIDE).flip(0),
        targets=TARGETS.flip(0),
        method=name,
        truth=make_truth().select(torch.tensor([1, 0])),
        ids=["b", "a"],
    )
    straight = explain(model, name)
    torch.testing.assert_close(
        turned.flip(0), straight, atol=1e-4 * straight.abs().max().item() + 1e-7, rtol=0
    )


@pytest.mark.parametrize("name", [name for name in NAMES if METHODS.get(name).class_agnostic])
def test_class_agnostic_methods_ignore_the_class(name):
    model = explainee(make_net(kind_for(name)))
    assert torch.equal(explain(model, name), explain(model, name, targets=torch.tensor([4, 0])))


@pytest.mark.parametrize("name", [m.name for m in METHODS if "truth" in m.needs])
def test_methods_that_need_truth_say_so(name):
    with pytest.raises(BenchError):
        explain(explainee(make_net("norm")), name, truth=None)


@pytest.mark.parametrize("kind", ["mlp", "norm", "signed"])
def test_cam_refuses_heads_that_are_not_gap_and_linear(kind):
    with pytest.raises(NotApplicable):
        explain(explainee(make_net(kind)), "cam")


def test_cam_refuses_a_head_that_is_homogeneous_but_not_linear():
    # GAP, linear, ReLU, linear, without biases: G is equal at all positions and S(2A) = 2 S(A), yet
    # it has no w_ck.
    net = randomise(GapLinear(), 0)
    net.fc = torch.nn.Sequential(
        torch.nn.Linear(8, 12, bias=False), torch.nn.ReLU(), torch.nn.Linear(12, 5, bias=False)
    )
    with pytest.raises(NotApplicable):
        explain(explainee(randomise(net, 1)), "cam")


@pytest.mark.parametrize("name", NAMES)
def test_every_net_is_explained_or_refused(name):
    for kind in NETS:
        with contextlib.suppress(
            NotApplicable
        ):  # any other error, or a map that is not finite, fails
            finite = torch.isfinite(explain(explainee(make_net(kind)), name)).flatten(1)
            missing = (
                ~finite.any(1) if METHODS.get(name).inner else False
            )  # a wrapper may find nothing to refine
            assert (finite.all(1) | missing).all()


@pytest.mark.parametrize("kind", ["gap", "vit"])
def test_methods_of_one_trace_do_not_disturb_each_other(kind):
    model = explainee(make_net(kind))
    images, given = (
        make_images(0, 2, SIDE),
        {"targets": TARGETS, "truth": make_truth(), "ids": ["a", "b"]},
    )
    names = [name for name in NAMES if kind_for(name, kind) == kind and applies(model, name)]
    assert len(names) > 20
    forwards = bench.explain(model, images, method=names, **given)
    backwards = bench.explain(model, images, method=names[::-1], **given)
    assert list(backwards) == names[::-1]
    for name in names:
        assert torch.equal(forwards[name], backwards[name]), name
        alone = bench.explain(model, images, method=name, **given)
        torch.testing.assert_close(alone, forwards[name], atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("ids", [["a"], ["a", "b", "c"]], ids=["too few", "too many"])
@pytest.mark.parametrize("name", ["random", "grad_cam"])
def test_ids_are_one_per_image(name, ids):
    with pytest.raises(BenchError):
        explain(explainee(make_net("gap")), name, ids=ids)


def test_targets_may_be_a_plain_list():
    model = explainee(make_net("gap"))
    assert torch.equal(explain(model, "grad_cam", targets=[1, 3]), explain(model, "grad_cam"))


@pytest.mark.parametrize("name", ["test_vit", "test_vit2"])
def test_a_map_of_a_class_token_net_is_never_empty(name):
    # The class token is pooled, so the gradient of the last patches is 0: an error or another
    # layer, never a map of 0.
    torch_state = torch.get_rng_state()
    net = timm.create_model(name, num_classes=5).eval()
    torch.set_rng_state(torch_state)
    model = bench.Explainee(net, mean=MEAN, std=STD, size=160)
    with contextlib.suppress(BenchError):
        maps = bench.explain(model, make_images(0, 2, 160), targets=TARGETS, method="layer_cam")
        assert (maps.flatten(1).std(dim=1) > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_counts_what_a_method_runs(name):
    # Beyond the pass, which all methods share.
    method, model = METHODS.get(name), explainee(make_net(kind_for(name)))
    trace = Trace(
        Prober(model), make_images(0, 2, SIDE), TARGETS, ids=["a", "b"], truth=make_truth()
    )
    counts = method.explain_counted(trace)[1].counts - trace.parts["pass"].counts
    planned = Counts(*(2 * count for count in method.plan_work(model).tuple))
    if method.why_varies:
        assert all(m <= p for m, p in zip(counts.tuple, planned.tuple, strict=True)), (
            method.why_varies
        )
        assert any(counts.tuple)
    else:
        assert counts == planned


@pytest.mark.parametrize(
    "name", [*NAMES, "sa_cam[base=score_cam]", "abs_cam[form=activations]", "a_fmi[replace=zero]"]
)
def test_a_method_declares_the_shared_parts_that_it_reads(name):
    method, model = METHODS.get(name), explainee(make_net(kind_for(name)))
    trace = Trace(
        Prober(model), make_images(0, 2, SIDE), TARGETS, ids=["a", "b"], truth=make_truth()
    )
    method.explain_counted(trace)
    made = {
        part: work.counts
        for part, work in trace.parts.items()
        if any(work.counts.tuple) and part != "pass"
    }
    _, declared = method.list_work(model)
    assert {part.name for part in declared} == set(made)
    for part in declared:
        assert (
            method.why_varies
            or part.varies
            or Counts(*(2 * count for count in part.counts.tuple)) == made[part.name]
        )
        assert trace.sizes.get(part.name, 0) <= 2 * 4 * part.numbers or part.name.startswith("taps")


def test_an_unknown_method_is_an_error_with_suggestions():
    with pytest.raises(BenchError, match="grad_cam"):
        explain(explainee(make_net("gap")), "gradcam")


def test_images_of_the_wrong_shape_are_one_sentence():
    model = explainee(make_net("gap"))
    for images in (torch.zeros(3, SIDE, SIDE), torch.zeros(2, 1, SIDE, SIDE)):
        with pytest.raises(BenchError):
            bench.explain(model, images, targets=torch.tensor([0, 1]), method="grad_cam")


def test_a_missing_layer_is_an_error_with_suggestions():
    model = bench.Explainee(make_net("gap"), mean=MEAN, std=STD, size=SIDE, layer="feature")
    with pytest.raises(BenchError, match="features"):
        bench.explain(model, make_images(0, 1, SIDE), targets=torch.tensor([0]), method="grad_cam")


def test_the_facts_of_methods_are_complete():
    for method in METHODS:
        assert method.fidelity in {"official", "paper", "reconstruction", "control"}
        assert method.group
        assert method.id.startswith(f"{method.name}@")
        if not method.control:
            assert method.citation, method.name


def test_a_copied_model_gives_the_same_map():
    net = make_net("norm")
    assert torch.equal(
        explain(explainee(net), "grad_cam"), explain(explainee(copy.deepcopy(net)), "grad_cam")
    )
