"""The prober: what it writes into its buffer, how it packs, and what it does when memory is
short.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bench
from bench.engine.fills import ranks_of, replace_by_choice, replace_in_place, replace_ranked
from bench.engine.memory import is_out_of_memory, memory_of
from bench.engine.prober import Job, Mode, Piece, Prober, default_batch_size, halves
from bench.run.plan import default_shard_size
from tests.support.nets import Cramped, make_images, make_net

LAYOUTS = (torch.channels_last, torch.contiguous_format)


def chosen(first, second, order, rows, cuts, size):
    """`replace_ranked` in one line per image: every pixel by its rank."""
    ranks = ranks_of(order).view(len(order), -1, *size)

    def at(images, row):
        return images[row if len(images) > 1 else 0]

    pairs = zip(rows.tolist(), cuts.tolist(), strict=True)
    return torch.stack(
        [torch.where(ranks[row] < cut, at(first, row), at(second, row)) for row, cut in pairs]
    )


def written(fill, count, size, layout, split):
    """What a fill writes in two batches, as the prober would call it."""
    out = torch.full((count, 3, *size), 9.0).contiguous(memory_format=layout)
    for start, stop in ((0, split), (split, count)):
        if stop > start:
            fill(out[start:stop], torch.arange(start, stop))
    return out


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    channels=st.sampled_from([1, 3]),
    first=st.sampled_from(["images", "colour", "colours"]),
    second=st.sampled_from(["images", "colour", "colours"]),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    rising=st.booleans(),
)
def test_pixels_are_replaced_in_place_as_if_each_were_chosen(
    seed, channels, first, second, layouts, rising
):
    draw = torch.Generator().manual_seed(seed)
    batch, size, steps = 3, (5, 4), 4
    kinds = {"images": (batch, 3, *size), "colour": (1, 3, 1, 1), "colours": (batch, 3, 1, 1)}
    if "images" not in (first, second):
        second = "images"
    one, two = (
        torch.randn(kinds[kind], generator=draw).contiguous(memory_format=layouts[0])
        for kind in (first, second)
    )
    features = channels * size[0] * size[1]
    order = torch.stack([torch.randperm(features, generator=draw) for _ in range(batch)])
    rows = torch.arange(batch).repeat_interleave(steps)
    cuts = torch.randint(0, features + 1, (batch, steps), generator=draw)
    cuts = (cuts.sort(1).values if rising else cuts).flatten()
    split = int(torch.randint(0, batch * steps, (), generator=draw))
    expected = chosen(one, two, order, rows, cuts, size)
    for write in (replace_in_place, replace_by_choice):  # as on a CPU, and as on a GPU
        fill = write(one, two, order, rows, cuts, size)
        assert torch.equal(written(fill, batch * steps, size, layouts[1], split), expected)
    fill = replace_ranked(one, two, order, rows, cuts)
    assert torch.equal(written(fill, batch * steps, size, layouts[1], split), expected)


def test_halves_lose_no_image_and_keep_the_order():
    jobs = [Job(torch.zeros(n, dtype=torch.int64), lambda *_: None) for n in (3, 1, 4)]
    pieces = [Piece(job, torch.arange(len(job))) for job in jobs]
    first, second = halves(pieces, 8)
    number = {id(job): i for i, job in enumerate(jobs)}
    assert [(number[id(p.job)], p.index.tolist()) for p in first] == [(0, [0, 1, 2]), (1, [0])]
    assert [(number[id(p.job)], p.index.tolist()) for p in second] == [(2, [0, 1, 2, 3])]
    first, second = halves(pieces[:1], 3)
    assert [p.index.tolist() for p in first] == [[0]]
    assert [p.index.tolist() for p in second] == [[1, 2]]


def copying(images):
    def fill(out, index):
        out.copy_(images[index])

    return fill


@pytest.mark.parametrize("room", [1, 3, 5])
def test_a_batch_that_memory_is_too_short_for_is_run_in_halves_and_later_ones_are_smaller(room):
    images = make_images(0, 20, 32)
    net = make_net("gap").eval()
    targets = torch.arange(20) % 5
    jobs = [Job(targets[:7], copying(images[:7])), Job(targets[7:], copying(images[7:]))]
    wide = Prober(bench.Explainee(net, size=32, layer="features.3"), 8)
    small = Cramped(net, room)
    prober = Prober(bench.Explainee(small, size=32, layer="net.features.3"), 8)
    small.batches.clear()
    for found, expected in zip(
        prober.log_odds(jobs, (32, 32)), wide.log_odds(jobs, (32, 32)), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert prober.reduced_to == prober.batch_size == {1: 1, 3: 2, 5: 4}[room]
    assert sum(small.batches) == 20
    assert max(small.batches) <= room


def test_memory_too_short_for_one_image_and_other_errors_come_out():
    prober = Prober(bench.Explainee(make_net("gap").eval(), size=32, layer="features.3"), 4)
    job = Job(torch.zeros(4, dtype=torch.int64), copying(make_images(0, 4, 32)))
    prober.model.net.forward = lambda x: (_ for _ in ()).throw(
        torch.cuda.OutOfMemoryError("out of memory")
    )
    with pytest.raises(torch.cuda.OutOfMemoryError):
        prober.log_odds([job], (32, 32))
    prober = Prober(bench.Explainee(make_net("gap").eval(), size=32, layer="features.3"), 4)
    prober.model.net.forward = lambda x: (_ for _ in ()).throw(RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        prober.log_odds([job], (32, 32))
    assert prober.reduced_to is None


def test_a_shortage_of_memory_is_known_by_its_words():
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ...")
    )
    assert is_out_of_memory(RuntimeError("MPS backend out of memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_jobs_started_are_values_when_they_are_read():
    prober = Prober(bench.Explainee(make_net("gap").eval(), size=32, layer="features.3"), 4)
    images = make_images(0, 5, 32)
    job = Job(torch.arange(5), copying(images))
    assert prober.start([], (32, 32)).values() == []
    (raw,) = prober.start([job], (32, 32), Mode(raw=True)).values()
    with torch.no_grad():
        logits = prober.model.net(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(raw, logits.diagonal().double(), rtol=0, atol=1e-5)


def test_default_batches_grow_with_a_gpus_memory_and_shrink_with_the_image():
    gib = 2**30
    assert [default_batch_size(side) for side in (32, 64, 224, 384)] == [256, 192, 16, 8]
    assert [default_batch_size(224, "cuda", memory * gib) for memory in (16, 24, 40, 80)] == [
        64,
        64,
        128,
        256,
    ]
    assert default_batch_size(32, "cuda", 80 * gib) == 1024
    assert memory_of(torch.device("cpu")) == 0
    assert default_shard_size(224, "cuda") == 4 * default_shard_size(224) == 40
