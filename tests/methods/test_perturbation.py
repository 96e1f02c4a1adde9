"""Perturbation methods by hand and by their laws, on nets whose probability is linear in the
image.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.transform import resize

import bench
from bench.errors import BenchError
from bench.methods.perturbation import coalitions, resizing, rise_masks, segments
from tests.support.nets import (
    BASELINE,
    MEAN,
    STD,
    PlainLinear,
    PlantedEvidence,
    make_images,
    make_net,
    region_mean,
)

ONES = (1.0, 1.0, 1.0)
SIDE = 16
ROWS, COLUMNS = slice(4, 8), slice(8, 12)


def planted() -> tuple[bench.Explainee, torch.Tensor]:
    """Return a net with p = .1 + .8 * (mean of a 4x4 region), b = 0, and two white images; class 0
    is explained.
    """
    net = PlantedEvidence(region_mean(SIDE, ROWS, COLUMNS)).eval()
    return bench.Explainee(net, mean=BASELINE, std=ONES, size=SIDE, layer="features"), torch.ones(
        2, 3, SIDE, SIDE
    )


def explain(method: str, **kwargs: object) -> torch.Tensor:
    model, images = planted()
    return bench.explain(model, images, torch.tensor([0, 0]), method, ids=["a", "b"], **kwargs)


# ---------------------------------------------------------------------------------------- occlusion


def test_occlusion_by_hand():
    # Windows of 4 pixels side by side: the one on the region takes .8 off p, all others nothing.
    maps = explain("occlusion[window=0.25,stride=0.25]")
    expected = torch.zeros(SIDE, SIDE)
    expected[ROWS, COLUMNS] = 0.8
    for L in maps:
        np.testing.assert_allclose(L.numpy(), expected.numpy(), atol=1e-6)


def test_occlusion_is_a_mean_over_the_windows_that_cover_a_pixel():
    # Windows of 8 at 0, 4 and 8 in both axes; the region (rows 4-8, columns 8-12) lies in rows 0
    # and 4, columns 4 and 8. Pixel (0, 8) is under row 0 and columns 4 and 8: both hide the region.
    # Pixel (8, 8) is under rows 4 and 8, columns 4 and 8: half of them hide it. Pixel (0, 0): one
    # window, without the region.
    L = explain("occlusion[window=0.5,stride=0.25]")[0]
    np.testing.assert_allclose([L[0, 8], L[8, 8], L[0, 0]], [0.8, 0.4, 0.0], atol=1e-6)


# --------------------------------------------------------------------------------------------- RISE


@pytest.mark.parametrize(("cells", "length"), [(7, 40), (7, 256), (3, 16), (2, 3)])
def test_rise_stretches_grids_as_skimage_does(cells, length):
    grid = np.random.default_rng(0).random((cells, cells)).astype(np.float32)
    theirs = resize(grid, (length, length), order=1, mode="reflect", anti_aliasing=False)
    ours = resizing(cells, length).numpy()
    np.testing.assert_allclose(ours @ grid @ ours.T, theirs, atol=1e-6)


def test_rise_masks_are_shifted_cuts_of_their_grids():
    masks = rise_masks(0, 300, 7, 0.5, (SIDE, SIDE))
    both = masks(torch.arange(300))
    assert both.shape == (300, SIDE, SIDE)
    assert both.min() >= 0
    assert both.max() <= 1 + 1e-6
    assert float(both.mean()) == pytest.approx(0.5, abs=0.03)
    assert torch.equal(
        masks(torch.tensor([7, 3])), both[[7, 3]]
    )  # the same whatever batch asks for them
    assert not torch.equal(rise_masks(1, 300, 7, 0.5, (SIDE, SIDE))(torch.arange(300)), both)


def test_rise_is_the_weighted_mean_of_its_masks():
    masks = rise_masks(0, 50, 7, 0.5, (SIDE, SIDE))(torch.arange(50)).double()
    p = 0.1 + 0.8 * masks[:, ROWS, COLUMNS].mean((1, 2))
    expected = (p[:, None, None] * masks).sum(0) / (50 * 0.5)
    maps = explain("rise[masks=50]")
    np.testing.assert_allclose(maps[0].numpy(), expected.numpy(), atol=1e-5)
    assert torch.equal(
        maps[0], maps[1]
    )  # one set of masks for all images, whatever they are called


def test_rise_finds_the_planted_region():
    L = explain("rise[masks=2000]")[0]
    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inside[ROWS, COLUMNS] = True
    assert inside.view(-1)[L.argmax()]
    assert L[inside].min() > L[~inside].mean() + 2 * L[~inside].std()


# --------------------------------------------------------------------------------------- surrogates


@pytest.mark.parametrize(
    "method", ["kernel_shap[cells=4,samples=60]", "lime[cells=4,samples=3000]"]
)
def test_surrogates_recover_a_linear_function(method):
    # The region is one of 4x4 segments: p = .1 + .8 z with z whether it is shown.
    L = explain(method)[0]
    expected = torch.zeros(SIDE, SIDE)
    expected[ROWS, COLUMNS] = 0.8
    # Ridge shrinks LIME's slope a little: 3,000 samples of weight ~ .5 against a strength of 1.
    np.testing.assert_allclose(
        L.numpy(), expected.numpy(), atol=1e-6 if method.startswith("kernel") else 0.01
    )


def test_kernel_shap_sums_up_over_segments():
    model = bench.Explainee(make_net("gap"), mean=MEAN, std=STD, size=32, layer="features")
    images = make_images(0, 2, 32)
    L = bench.explain(
        model, images, torch.tensor([1, 3]), "kernel_shap[cells=4,samples=20]"
    )  # fewer than players
    p = model.net(images).softmax(1)[[0, 1], [1, 3]]
    low = model.net(model.colour(BASELINE).expand_as(images)).softmax(1)[[0, 1], [1, 3]]
    torch.testing.assert_close(L.sum((1, 2)) / 64, (p - low).detach(), atol=1e-5, rtol=1e-3)


def test_kernel_shap_of_an_interaction_by_hand():
    # Two players' product: with 2x2 segments, v = z0 z1 is shared as 1/2 and 1/2; all sizes and
    # coalitions appear.
    from bench.methods.perturbation import shapley_regression

    z = torch.tensor(
        [[a, b, c, d] for a in (0, 1) for b in (0, 1) for c in (0, 1) for d in (0, 1)][1:-1]
    ).double()
    # Every coalition as often as the kernel weighs it: 1 / (k (4-k) C(4,k)) is 1/12, 1/24, 1/12.
    z = torch.cat([z, z[(z.sum(1) != 2)]])[None]
    values = shapley_regression(
        z, z[..., 0] * z[..., 1], torch.zeros(1).double(), torch.ones(1).double()
    )
    np.testing.assert_allclose(values[0].numpy(), [0.5, 0.5, 0.0, 0.0], atol=1e-9)


def test_coalitions_have_the_kernels_sizes():
    drawn = coalitions(torch.Generator().manual_seed(0), 20000, 6)
    share = torch.bincount(drawn.sum(1), minlength=7)[1:6].double() / 20000
    odds = torch.tensor([1 / (k * (6 - k)) for k in range(1, 6)], dtype=torch.float64)
    np.testing.assert_allclose(share, odds / odds.sum(), atol=0.015)
    np.testing.assert_allclose(drawn.double().mean(0), 0.5, atol=0.015)


def test_lime_equals_captums_regression():
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import Lime

    model = bench.Explainee(make_net("gap"), mean=MEAN, std=STD, size=32, layer="features")
    image = make_images(0, 1, 32)
    ours = bench.explain(model, image, torch.tensor([1]), "lime[cells=3,samples=60]", ids=["a"])
    z = torch.randint(0, 2, (60, 9), generator=bench.randomness.generator(0, "lime", "a"))
    z[0] = 1

    def distance(_original, _changed, shown, **_):
        cosine = 1 - (shown.double().mean()).sqrt()
        return float(torch.exp(-(cosine**2) / (2 * 0.25**2)))

    def draws(_original, **_):
        yield from z[:, None]

    theirs = Lime(
        lambda x: model.net(x).softmax(1), SkLearnRidge(alpha=1.0), distance, draws
    ).attribute(
        image,
        baselines=model.colour(BASELINE).expand_as(image),
        target=1,
        feature_mask=segments((32, 32), 3).expand(1, 3, 32, 32),
        n_samples=60,
    )
    torch.testing.assert_close(ours[0], theirs[0, 0], atol=1e-4 * float(theirs.abs().max()), rtol=0)


@pytest.mark.parametrize("method", ["lime[cells=3,samples=30]", "kernel_shap[cells=3,samples=30]"])
def test_draws_come_from_seed_and_id(method):
    model = bench.Explainee(make_net("gap"), mean=MEAN, std=STD, size=32, layer="features")
    images, targets = make_images(0, 2, 32), torch.tensor([1, 3])
    first = bench.explain(model, images, targets, method, ids=["a", "b"])
    alone = bench.explain(model, images[1:], targets[1:], method, ids=["b"])
    torch.testing.assert_close(first[1:], alone, atol=1e-6, rtol=1e-4)
    assert not torch.equal(
        first, bench.explain(model, images, targets, method, ids=["a", "b"], seed=1)
    )
    assert not torch.equal(
        first[0], bench.explain(model, images, targets, method, ids=["c", "b"])[0]
    )


# ----------------------------------------------------------------------------------------- extremal


def test_extremal_perturbation_of_a_planted_region():
    # White on black, and the class's logit is 100 times the mean of the region: a mask of 7 % of
    # the frame must lie on it. (A logit of size 1 is too weak against the authors' area term of
    # 300.)
    weight = 100 * region_mean(32, slice(4, 12), slice(16, 24))
    net = PlainLinear(torch.stack([weight, -weight])).eval()
    model = bench.Explainee(net, mean=BASELINE, std=ONES, size=32, layer="features")
    images = torch.zeros(1, 3, 32, 32)
    images[..., 4:12, 16:24] = 1.0
    L = bench.explain(
        model, images, torch.tensor([0]), "extremal_perturbation[areas=0.07,iterations=200]"
    )[0]
    y, x = divmod(int(L.argmax()), 32)
    assert 4 <= y < 12
    assert 16 <= x < 24
    assert float(L[4:12, 16:24].mean()) > 2 * float(L.mean())


def test_extremal_perturbations_add_up_over_areas():
    model = bench.Explainee(make_net("gap"), mean=MEAN, std=STD, size=32, layer="features")
    images, targets = make_images(0, 2, 32), torch.tensor([1, 3])
    both, *single = (
        bench.explain(model, images, targets, f"extremal_perturbation[areas={areas},iterations=4]")
        for areas in ("0.1+0.3", "0.1", "0.3")
    )
    torch.testing.assert_close(both, single[0] + single[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("areas", ["x", "0", "0.1+1.5", "+"])
def test_extremal_areas_are_shares(areas):
    with pytest.raises(BenchError, match="shares"):
        explain(f"extremal_perturbation[areas={areas},iterations=1]")


# ------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize(
    "method",
    [
        "occlusion",
        "occlusion[stride=0.3,window=0.4]",
        "rise[masks=33]",
        "lime[cells=3,samples=20]",
        "kernel_shap[cells=3,samples=20]",
        "extremal_perturbation[areas=0.1+0.2,iterations=3]",
    ],
)
def test_the_plan_is_what_is_run_in_full_batches(method):
    model, images = planted()
    prober = bench.engine.prober.Prober(model, batch_size=16)
    trace = bench.engine.trace.Trace(prober, images, torch.tensor([0, 0]), ids=["a", "b"])
    entry = bench.methods.METHODS.get(method)
    before, sizes = prober.counts.copy(), []
    handle = model.net.register_forward_hook(lambda _m, args, _o: sizes.append(len(args[0])))
    entry(trace)
    handle.remove()
    spent, planned = prober.counts - before, entry.plan_work(model)
    assert (spent.forwards, spent.backwards) == (2 * planned.forwards, 2 * planned.backwards)
    if not planned.backwards:
        assert all(size == 16 for size in sizes[:-1])


@pytest.mark.parametrize(
    "method", ["rise[masks=0]", "lime[samples=1]", "kernel_shap[samples=2]", "idgi[steps=0]"]
)
def test_too_few_samples_are_one_sentence(method):
    with pytest.raises(BenchError, match="it must be"):
        explain(method)
