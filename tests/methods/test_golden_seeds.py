"""The seed methods on nets whose maps a reader can redo by hand."""

from __future__ import annotations

import math

import numpy as np
import PIL.Image
import pytest
import torch

import bench
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.errors import BenchError
from bench.methods import METHODS
from tests.support.nets import BASELINE, PlantedEvidence, PooledLinear

ONES = (1.0, 1.0, 1.0)

# As in test_golden_methods.py: three channels on a 2x2 grid, weights (1,-1,2); the baseline colour
# is 0 here.
A = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 2.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 3.0]]])
W = [[1.0, -1.0, 2.0], [1.0, 0.0, -1.0]]


def corners(method: str) -> list[list[float]]:
    """Return the map's four corners, which Up leaves at the 2x2 cells' own values; class 0."""
    model = bench.Explainee(
        PooledLinear(W).eval(), mean=BASELINE, std=ONES, size=4, layer="features"
    )
    images = A.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)[None]
    maps = bench.explain(model, images, targets=torch.tensor([0]), method=method)
    return maps[0][[0, 0, 3, 3], [0, 3, 0, 3]].reshape(2, 2).tolist()


# FMI against the baseline (A' = 0): w_k mean(A_k) = (.25, -.75, 1.5). Against black (pixels 0, so
# A' = -(.485, .456, .406)): w_k (mean(A_k) + b_k) = (.735, -1.206, 2.312).
E5, ES = math.exp(5), math.exp(5 / math.sqrt(10))
# Grad-CAM before its ReLU is (.25, -.5, 0, 1.25). Cosines between the cells (1,0,0), (0,2,0), 0,
# (0,1,3) are 1 with themselves (0 for the third) and 1/sqrt 10 between the second and the fourth;
# over tau = .2, exponentiated:
SPREAD = [
    (0.25 * E5 - 0.5 + 0 + 1.25) / (E5 + 3),
    (0.25 - 0.5 * E5 + 0 + 1.25 * ES) / (E5 + 2 + ES),
    (0.25 - 0.5 + 0 + 1.25) / 4,
    (0.25 - 0.5 * ES + 0 + 1.25 * E5) / (E5 + 2 + ES),
]
MAPS = {
    # w = |w_k| / 4 = (.25, .25, .5): .25; 2 * .25; 0; .25 + 3 * .5
    "abs_cam_init": [[0.25, 0.5], [0.0, 1.75]],
    # D = A: (.25; -.75 * 2 -> 0; 0; -.75 + 1.5 * 3)
    "a_fmi": [[0.25, 0.0], [0.0, 3.75]],
    "a_fmi[form=absdiff]": [[0.25, 0.0], [0.0, 3.75]],
    "a_fmi[positive_only=true]": [[0.25, 0.0], [0.0, 4.5]],
    # m_k = FMI_k / sum D_k = w_k / 4, signed: gradient * (A - A'), whose sum is S_c(x) - S_c(b) = 1
    "a_fmi[form=complete]": [[0.25, -0.5], [0.0, 1.25]],
    # D = A + b: cell 0: .735 * 1.485 - 1.206 * .456 + 2.312 * .406; cell 1: .735 * .485 - 1.206 *
    # 2.456 + 2.312 * .406 < 0; cell 2: .735 * .485 - 1.206 * .456 + 2.312 * .406; cell 3: .735 *
    # .485 - 1.206 * 1.456 + 2.312 * 3.406
    "a_fmi[reference=black]": [[1.480211, 0.0], [0.745211, 6.475211]],
    # The same D, with FMI of channels set to 0.
    "a_fmi[reference=black,replace=zero]": [
        [0.25 * 1.485 - 0.75 * 0.456 + 1.5 * 0.406, 0.0],
        [0.25 * 0.485 - 0.75 * 0.456 + 1.5 * 0.406, 0.25 * 0.485 - 0.75 * 1.456 + 1.5 * 3.406],
    ],
    # cam + lambda * P cam, then ReLU
    "sa_cam": [[0.25 + SPREAD[0], max(0, -0.5 + SPREAD[1])], [SPREAD[2], 1.25 + SPREAD[3]]],
    "sa_cam[lambda=0.5]": [
        [0.25 + SPREAD[0] / 2, max(0, -0.5 + SPREAD[1] / 2)],
        [SPREAD[2] / 2, 1.25 + SPREAD[3] / 2],
    ],
    "sa_cam[lambda=0]": [[0.25, 0.0], [0.0, 1.25]],
}


@pytest.mark.parametrize("method", MAPS)
def test_seeds_on_a_gap_net(method):
    np.testing.assert_allclose(corners(method), MAPS[method], atol=1e-5)


def test_multiplicative_sa_cam_only_scales_what_is_there():
    # A_k (1 + mm(P a_k)): cell 2 holds nothing and stays 0. Channel 1's P a is largest at cell 1
    # and smallest at cell 0, channel 2's largest at cell 3, channel 0's at cell 0; so cell 0
    # doubles, and cell 3 gets .5 * 3 * 2 from channel 2 and -.25 * (1 + mm) from channel 1.
    spread = [
        (2 + 1) / (E5 + 3),
        (2 * E5 + ES) / (E5 + 2 + ES),
        3 / 4,
        (2 * ES + E5) / (E5 + 2 + ES),
    ]
    share = (spread[3] - spread[0]) / (spread[1] - spread[0])
    expected = [[0.5, 0.0], [0.0, 3.0 - 0.25 * (1 + share)]]
    np.testing.assert_allclose(corners("sa_cam[form=multiplicative]"), expected, atol=1e-5)


def test_a_reference_can_be_an_image_of_ones_own(tmp_path):
    model = bench.Explainee(
        PooledLinear(W).eval(), mean=BASELINE, std=ONES, size=4, layer="features"
    )
    images = A.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)[None]
    black = model.colour((0.0, 0.0, 0.0)).expand(3, 4, 4)
    expected = bench.explain(model, images, torch.tensor([0]), "a_fmi[reference=black]")
    trace = Trace(Prober(model), images, torch.tensor([0]))
    torch.testing.assert_close(METHODS.get("a_fmi").variant(reference=black)(trace), expected)
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "black.png")
    named = METHODS.get(f"a_fmi[reference={tmp_path / 'black.png'}]")
    torch.testing.assert_close(named(trace), expected, atol=1e-5, rtol=0)
    before = named.id
    PIL.Image.new("RGB", (8, 8), "white").save(tmp_path / "black.png")
    assert (
        METHODS.get(named.name).id != before
    )  # another picture under the same name is another method
    with pytest.raises(
        BenchError, match=r"reference of shape \(3, 5, 5\) does not fit the images \(1, 3, 4, 4\)"
    ):
        METHODS.get("a_fmi").variant(reference=torch.zeros(3, 5, 5))(trace)
    with pytest.raises(
        BenchError, match="it can be baseline, black, white, blur, noise, or the path of an image"
    ):
        METHODS.get("a_fmi[reference=blak]")


# ------------------------------------------------------------------------------------------ Abs-CAM


def first_pixel(weight_of_second: float) -> tuple[bench.Explainee, torch.Tensor]:
    """Return a net whose p rests on pixel (0,0), plus a little on pixel (2,3), and an image that
    lights both.
    """
    weight = torch.zeros(3, 4, 4)
    weight[:, 0, 0], weight[:, 2, 3] = 1 / 3, weight_of_second / 3
    x = torch.zeros(1, 3, 4, 4)
    x[0, 0, 0, 0] = x[0, 1, 2, 3] = 1.0
    model = bench.Explainee(
        PlantedEvidence(weight).eval(), mean=BASELINE, std=ONES, size=4, layer="features"
    )
    return model, x


def test_abs_cam_weighs_score_cam_by_absolute_gradients():
    # A = x: channel 0 is pixel (0,0), channel 1 pixel (2,3), channel 2 empty (skipped). S_0 = .1 +
    # .8/3, S_1 = .1 - .8 * .25/3 (each mask keeps its own pixel). dS/dA is the same for both
    # channels: proportional to 1 at (0,0) and -.25 at (2,3), so w_0 = w_1 = c * 1.25/16.
    model, x = first_pixel(-0.25)
    maps = bench.explain(
        model,
        x,
        torch.tensor([0]),
        ["abs_cam[form=activations]", "abs_cam", "score_cam", "abs_cam_init"],
    )
    s0, s1 = 0.1 + 0.8 / 3, 0.1 - 0.2 / 3
    weighed = maps["abs_cam[form=activations]"]
    assert weighed[0, 2, 3] / weighed[0, 0, 0] == pytest.approx(s1 / s0, abs=1e-5)
    assert maps["score_cam"][0, 0, 0] == pytest.approx(s0, abs=1e-5)
    # H_k is A_k here, already in [0,1]: the sum of normalised maps is Score-CAM, and w cancels.
    torch.testing.assert_close(maps["abs_cam"], maps["score_cam"], atol=1e-6, rtol=0)
    assert maps["abs_cam_init"][0, 0, 0] == pytest.approx(
        maps["abs_cam_init"][0, 2, 3].item(), rel=1e-5
    )


def test_elementwise_abs_cam_looks_where_the_gradient_is():
    # E_0 = |G| A_0 is g at (0,0), E_1 = |G| A_1 is g/4 at (2,3); normalised, the masks are as
    # above: .1 + .8/3 and .1 + .8 * .25/3, so the map's two pixels stand as 1 * S_0 to 1/4 * S_1.
    model, x = first_pixel(0.25)
    maps = bench.explain(model, x, torch.tensor([0]), "abs_cam_elementwise")
    ratio = (0.1 + 0.2 / 3) / 4 / (0.1 + 0.8 / 3)
    assert maps[0, 2, 3] / maps[0, 0, 0] == pytest.approx(ratio, abs=1e-5)
    assert (maps > 0).sum() == 2


def test_abs_cam_and_score_cam_share_their_forwards():
    model, x = first_pixel(0.25)
    trace = Trace(Prober(model), x, torch.tensor([0]))
    spent = {
        name: METHODS.get(name).explain_counted(trace)[1].counts
        for name in ("score_cam", "abs_cam", "abs_cam[form=activations]")
    }
    assert (
        trace.prober.counts.forwards == 1 + 2
    )  # the pass, and one forward for each of the two channels that vary
    assert {counts.forwards for counts in spent.values()} == {3}  # each would have cost that alone
    paid: set[str] = set()
    assert [METHODS.get(name).plan_work(model, paid).forwards for name in spent] == [
        3,
        0,
        0,
    ]  # a plan counts it once


# ---------------------------------------------------------------------------------------------- TFT


@pytest.fixture
def drawn():
    """Let a test say what the wrapped method's map is."""
    maps = {}

    @bench.register_method("drawn")
    def method(trace):
        return maps["map"].expand(len(trace), -1, -1)

    yield maps
    METHODS.remove("drawn")


def tft(weight: torch.Tensor, address: str = "tft(drawn)") -> torch.Tensor:
    model = bench.Explainee(
        PlantedEvidence(weight).eval(), mean=BASELINE, std=ONES, size=10, layer="features"
    )
    return bench.explain(model, torch.ones(1, 3, 10, 10), torch.tensor([0]), address)[0]


def row_weights(**rows: float) -> torch.Tensor:
    """Return the weight [3,10,10] that adds `value` times the mean of row r for each `rR=value`."""
    weight = torch.zeros(3, 10, 10)
    for name, value in rows.items():
        weight[:, int(name[1:])] = value / 30
    return weight


RAMP = torch.arange(10.0).view(1, 10, 1).expand(1, 10, 10) * 3


def test_tft_cuts_what_stands_against_the_class(drawn):
    # Whole: .1 + .8 * (1 - .9) = .18. t = 1..4 keep row 4 at 4/9: .58; t = 5..9 drop it: .9. The
    # first best is t = 5.
    drawn["map"] = RAMP
    expected = RAMP[0] / 27
    expected = torch.where(expected >= 5 / 9, expected, 0.0)
    torch.testing.assert_close(tft(row_weights(r9=1.0, r4=-0.9)), expected)


def test_tft_leaves_the_map_where_no_cut_helps(drawn):
    # Whole .9; every mask shrinks row 8, so q = 0 for all t and the map stays as it is, scaled to
    # [0,1].
    drawn["map"] = RAMP
    torch.testing.assert_close(tft(row_weights(r9=0.5, r8=0.5)), RAMP[0] / 27)


def test_no_cut_at_all_is_a_candidate_only_when_asked_for(drawn):
    # Row 0 is at .5, but for pixel (0,0) at 0, which is 1.1 against; the rest of row 0 is 1 for,
    # row 1 another .2. Whole .1 + .8 * (1 - 1.1 + .2) = .18. M_0: .1 + .8 * (.5 + .2) = .66. M_1
    # drops row 0: .1 + .8 * .2 = .26.
    drawn["map"] = torch.ones(1, 10, 10)
    drawn["map"][0, 0], drawn["map"][0, 0, 0] = 0.5, 0.0
    weight = torch.zeros(3, 10, 10)
    weight[:, 0, 1:], weight[:, 0, 0], weight[:, 1] = 1 / 27, -1.1 / 3, 0.2 / 30
    official, zero = tft(weight), tft(weight, "tft(drawn)[include_zero=true]")
    assert official[0].sum() == 0
    assert official[1:].min() == 1
    torch.testing.assert_close(zero, drawn["map"][0])


def test_tft_of_a_map_without_positive_part_is_missing(drawn):
    drawn["map"] = -RAMP - 1
    assert torch.isnan(tft(row_weights(r9=1.0))).all()


def test_tft_pays_for_nine_masks_and_for_what_it_wraps(drawn):
    drawn["map"] = RAMP + 1  # no zeros: every cut takes something away
    model = bench.Explainee(
        PlantedEvidence(row_weights(r9=1.0)).eval(),
        mean=BASELINE,
        std=ONES,
        size=10,
        layer="features",
    )
    for address, masks in (("tft(drawn)", 9), ("tft(drawn)[include_zero=true]", 10)):
        assert METHODS.get(address).plan_work(model).forwards == masks
    assert METHODS.get("tft(score_cam)").plan_work(model).forwards == 9 + 3
