"""Law 1's foundation: numbers that depend on (seed, purpose, step, element) and nothing else."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lopbench.keyed_random import Random, integers, normals, permutations, philox, purpose_id, uniforms, words

SEEDS = torch.tensor([0, 1, 2**40 + 7, 123456789, -1])
STEP = torch.tensor(5)

KNOWN_ANSWERS = [  # published with Random123 (Salmon et al. 2011), kat_vectors: philox4x32 10
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize("counter, key, expected", KNOWN_ANSWERS)
def test_philox_gives_the_published_known_answers(counter, key, expected):
    out = philox(tuple(map(torch.tensor, counter)), tuple(map(torch.tensor, key)))
    assert [int(word) for word in out] == expected


def test_the_counter_layout_is_the_documented_one():
    """Element e of step s: word e % 4 of the counter (e // 4, s low, s high, crc32(purpose)), the key the seed."""
    seed, step = 2**40 + 7, 2**33 + 9
    drawn = words(torch.tensor([seed]), "noise", torch.tensor(step), 11)[0]
    for element in range(11):
        counter = (element // 4, step & 0xFFFFFFFF, step >> 32, purpose_id("noise"))
        out = philox(tuple(map(torch.tensor, counter)), (torch.tensor(seed & 0xFFFFFFFF), torch.tensor(seed >> 32)))
        assert int(out[element % 4]) == int(drawn[element])


@settings(max_examples=25, deadline=None)
@given(
    seeds=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6, unique=True),
    count=st.integers(1, 9),
    step=st.integers(0, 2**40),
)
def test_a_replica_draws_the_same_alone_and_among_others(seeds, count, step):
    together = words(torch.tensor(seeds), "purpose", torch.tensor(step), count)
    for row, seed in enumerate(seeds):
        assert torch.equal(together[row], words(torch.tensor([seed]), "purpose", torch.tensor(step), count)[0])


def test_a_longer_draw_begins_with_the_shorter_one():
    assert torch.equal(words(SEEDS, "p", STEP, 10)[:, :7], words(SEEDS, "p", STEP, 7))


def test_many_steps_at_once_are_the_steps_one_by_one():
    random = Random(SEEDS, STEP, "owner/")
    block = random.normals("noise", (3, 2), steps=4)
    for i in range(4):
        assert torch.equal(block[i], Random(SEEDS, STEP + i, "owner/").normals("noise", (3, 2)))


def test_purpose_seed_and_step_each_change_every_draw():
    base = words(SEEDS[:1], "a", STEP, 64)
    for other in (
        words(SEEDS[:1], "b", STEP, 64),
        words(SEEDS[1:2], "a", STEP, 64),
        words(SEEDS[:1], "a", STEP + 1, 64),
    ):
        assert (base == other).float().mean() < 0.05


def test_two_purposes_with_one_number_are_refused():
    first, second = "plumless", "buckeroo"  # the best-known pair of equal crc32
    purpose_id(first)
    with pytest.raises(ValueError, match=r"plumless.*buckeroo"):
        purpose_id(second)


def test_distributions_have_the_moments_of_their_definition():
    n = 200_000
    uniform = uniforms(SEEDS[:1], "u", STEP, n, torch.float64)[0]
    normal = normals(SEEDS[:1], "n", STEP, n, torch.float64)[0]
    assert uniform.min() > 0 and uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 4 * math.sqrt(1 / 12 / n)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((normal**power).mean() - moment) < 4 * math.sqrt(variance / n)
    assert abs((normal[0::2] * normal[1::2]).mean()) < 4 / math.sqrt(n / 2)  # the two of a pair are independent


def test_integers_are_even_and_permutations_are_permutations():
    drawn = integers(SEEDS[:1], "i", STEP, 60_000, below=6)[0]
    counts = np.bincount(drawn.numpy(), minlength=6)
    assert len(counts) == 6 and np.abs(counts - 10_000).max() < 400
    orders = permutations(SEEDS, "p", torch.tensor([1, 2]), 1000)
    assert orders.shape == (2, len(SEEDS), 1000)
    assert torch.equal(orders.sort(dim=-1).values, torch.arange(1000).expand_as(orders))
    assert not torch.equal(orders[0], orders[1])


def test_compiled_and_eager_agree():
    """Words to the bit; normals to 1e-6."""

    def draw(seeds, step):
        return words(seeds, "c", step, 37), normals(seeds, "c", step, 37)

    compiled = torch.compile(draw, fullgraph=True, dynamic=False)(SEEDS, STEP)
    eager = draw(SEEDS, STEP)
    assert torch.equal(compiled[0], eager[0])
    torch.testing.assert_close(compiled[1], eager[1], rtol=0, atol=1e-6)
