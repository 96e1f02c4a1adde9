"""Probes are named by what their images are made of: equal ones are run once, and others are not
mixed up.
"""

from __future__ import annotations

import pytest
import torch

import bench
from bench.engine.background import Background
from bench.engine.case import Case
from bench.engine.prober import Job, Mode, Prober
from bench.engine.probes import Pending, Probes
from bench.engine.trace import Trace
from bench.methods import METHODS
from bench.metrics import METRICS
from bench.models.network_guard import guard_network
from bench.protocol import Protocol
from bench.run.in_memory import apply
from tests.support.nets import make_images, make_net

SIDE = 32
STEPS = Protocol().steps - 1


@pytest.fixture
def trace() -> Trace:
    model = bench.Explainee(make_net("gap").eval(), size=SIDE, layer="features.3")
    return Trace(Prober(model, 8), make_images(1, 2, SIDE))


def score(case, *names, protocol=None):
    """The scores of metrics, and the forwards that they ran."""
    before = case.prober.counts.forwards
    found = {}
    with guard_network(case.trace.model.net):
        for name in names:
            found |= apply(METRICS.get(name), case, protocol or Protocol())
    return found, case.prober.counts.forwards - before


def case_of(trace, maps, background, reuses=True, protocol=None):
    view = (protocol or Protocol()).view(())
    return Case(trace, maps, view, background=background, reuses=reuses)


def test_maps_that_rank_alike_share_their_probes_and_others_do_not(trace):
    background = Background(trace)
    maps = torch.rand(2, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) + 0.1
    first, run = score(case_of(trace, maps, background), "deletion", "insertion", "road")
    assert run == 2 * (STEPS + STEPS + 18) + 1 + 2  # the empty image, once; the blurred ones
    same, run = score(case_of(trace, maps**3, background), "deletion", "insertion", "road")
    assert run == 0
    for name, values in first.items():
        assert torch.equal(values, same[name])
    half = torch.stack(
        [maps[0], maps[1].flip(0)]
    )  # one image's ranking is known, the other's is not
    other, run = score(case_of(trace, half, background), "deletion")
    assert run == STEPS
    assert other["deletion"][0] == first["deletion"][0]
    assert other["deletion"][1] != first["deletion"][1]


def test_another_class_another_score_and_another_tie_rule_are_other_probes(trace):
    background = Background(trace)
    maps = torch.zeros(2, SIDE, SIDE)
    maps[:, :3] = 1.0
    _, run = score(case_of(trace, maps, background), "deletion")
    assert run == 2 * STEPS + 1
    elsewhere = trace.retarget((trace.targets + 1) % 5)
    _, run = score(case_of(elsewhere, maps, background), "deletion")
    assert run == 2 * STEPS
    for change in ({"score": "logit"}, {"tie_rule": "first_index"}, {"baseline": (0.0, 0.0, 0.0)}):
        protocol = Protocol(**change)
        _, run = score(
            case_of(trace, maps, background, protocol=protocol), "deletion", protocol=protocol
        )
        assert run >= 2 * STEPS, change


@pytest.mark.parametrize(
    "metric", ["deletion", "insertion", "road", "threshold_quality", "average_drop"]
)
def test_probes_shared_or_deferred_give_what_a_case_alone_gives(trace, metric):
    maps = torch.rand(2, SIDE, SIDE, generator=torch.Generator().manual_seed(3)) - 0.3
    alone, _ = score(case_of(trace, maps, None, reuses=False), metric)
    background = Background(trace)
    case = case_of(trace, maps, background)
    with guard_network(trace.model.net):
        rounds = 0
        while True:
            try:
                with background.probes.defer():
                    together = apply(METRICS.get(metric), case, Protocol())
                break
            except Pending:
                rounds += 1
                background.probes.start()()
    assert rounds == 1
    for name, values in alone.items():
        torch.testing.assert_close(together[name], values, rtol=0, atol=1e-5, equal_nan=True)


def test_masks_of_a_search_serve_the_threshold_metrics_but_the_search_pays_in_full(trace):
    with guard_network(trace.model.net):
        background = trace.share("background", lambda: Background(trace))
        maps = METHODS.get("grad_cam")(trace)
        _, before = score(case_of(trace, maps, background), "average_drop")
        assert before == 2
        counts = trace.prober.counts.copy()
        METHODS.get("tft(grad_cam)")(trace)
        assert (trace.prober.counts - counts).forwards >= 2 * 2  # at least t = 9, whatever is known
        searched = trace.prober.counts.forwards
        METHODS.get("tft(grad_cam)")(trace)
        assert (
            trace.prober.counts.forwards - searched == (trace.prober.counts - counts).forwards // 2
        )
        _, after = score(case_of(trace, maps, background), "threshold_quality")
        assert after == 0  # t = 0 from average_drop, t = 1..9 from the search


def test_what_a_metric_asked_for_does_not_depend_on_what_was_known(trace):
    background = Background(trace)
    maps = torch.rand(2, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) + 0.1
    for _ in range(2):
        case = case_of(trace, maps, background)
        score(case, "insertion")
        assert (case.asked, case.probed) == (2 * (STEPS + 2), 2 * STEPS)
        score(case, "threshold_quality")
        assert (case.asked, case.probed) == (2 * 10, 2 * 10)
        score(case, "infidelity")
        assert (case.asked, case.probed) == (2 * 10, 0)
        score(case, "complexity")
        assert case.asked == 0


def test_a_mask_that_cuts_nothing_needs_no_order_and_is_the_one_of_those_that_do(trace):
    maps = torch.rand(2, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) + 0.1
    case = case_of(trace, maps, Background(trace))
    steps = case.set_view(Protocol().view(("thresholds", "baseline", "removed")))
    alone = steps.probe_masks(steps.removed, [0], 10)
    assert not case._orders
    fresh = case_of(trace, maps, Background(trace)).set_view(
        Protocol().view(("thresholds", "baseline", "removed"))
    )
    cut = fresh.probe_masks(fresh.removed, range(10), 10)
    assert fresh._orders
    torch.testing.assert_close(
        alone[:, 0], cut[:, 0], rtol=0, atol=1e-6
    )  # in batches of another size
    assert (cut[:, 9] - cut[:, 0]).abs().min() > 1e-3


def test_what_waits_is_run_once_and_packed(trace):
    probes = Probes(trace.prober, trace.size)
    images = make_images(2, 3, SIDE)
    seen = []

    def job(places):
        def fill(out, index):
            seen.append(len(out))
            out.copy_(images[[places[i] for i in index.tolist()]])

        return Job(torch.zeros(len(places), dtype=torch.int64), fill)

    keys = [("a", 0), ("a", 1), ("b", 0)]
    for wanted in (keys[:2], keys[1:], keys[:2]):
        places = [keys.index(key) for key in wanted]
        with pytest.raises(Pending), probes.defer():
            probes.values(
                wanted, lambda found, places=places: job([places[i] for i in found]), Mode(raw=True)
            )
    forwards = trace.prober.counts.forwards
    finish = probes.start()
    finish()
    assert trace.prober.counts.forwards - forwards == probes.run == 3
    assert seen == [2, 1]  # two jobs in one batch, the probe that both wanted once
    with torch.no_grad():
        expected = trace.model.net(images)[:, 0].double()
    found = probes.values(keys, job, Mode(raw=True))
    torch.testing.assert_close(
        torch.tensor(found, dtype=torch.float64), expected, rtol=0, atol=1e-5
    )
