"""Keyed, counter-based random numbers: Philox 4x32-10 in integer tensor operations.

Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). A number is a
function of (replica seed, purpose, step, element) and of nothing else: neither the replica's index nor
how many replicas there are enters, so that a replica draws the same alone and among others.

The layout of the counter, version 1 (a change of it changes every number: raise the version):

    key      = (seed & 0xffffffff, seed >> 32)                      64-bit replica seed
    counter  = (element // 4, step & 0xffffffff, step >> 32, crc32(purpose))
    word     = output[element % 4]                                  32 random bits

Derived values: a uniform is the word's upper 24 bits plus one half, over 2^24 (so never 0 or 1; exact
in float32); normals come in pairs by Box and Muller from words (0, 1) and (2, 3); a 62-bit integer
takes two words. Integers, uniforms and masks agree to the bit on any executor and device; normals to 1e-6.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

LAYOUT_VERSION = 1

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
_purposes: dict[int, str] = {}


def philox(counter: tuple[Tensor, ...], key: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Philox 4x32-10: four words of 32 random bits (in int64 tensors) from a counter of four and a key of two."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for round_ in range(10):
        if round_:
            k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
    return c0, c1, c2, c3


def _multiply(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of the 64-bit product of 32-bit `a` and `b`.

    The product wraps in int64; its bits are right, and the mask undoes the sign that the shift extends.
    """
    product = a * b
    return (product >> 32) & _MASK, product & _MASK


@torch.compiler.assume_constant_result  # a name's number is a constant of the traced step
def purpose_id(purpose: str) -> int:
    """The 32-bit number of a named purpose; two names that collide are refused."""
    number = zlib.crc32(purpose.encode())
    known = _purposes.setdefault(number, purpose)
    if known != purpose:
        raise ValueError(f"purposes {known!r} and {purpose!r} have the same number {number}: rename one")
    return number


def words(seeds: Tensor, purpose: str, step: Tensor, count: int) -> Tensor:
    """Random words, int64 in [0, 2^32): shape `[*step.shape, R, count]` for seeds `[R]` and steps of any shape."""
    device = seeds.device
    blocks = torch.arange(-(-count // 4), device=device)
    step = step.to(device)[..., None, None]
    seeds = seeds[:, None]
    zero = torch.zeros((), dtype=torch.int64, device=device)
    counter = (
        blocks + zero * step,
        (step & _MASK) + zero * blocks,
        (step >> 32) + zero * blocks,
        zero + purpose_id(purpose),
    )
    out = torch.stack(torch.broadcast_tensors(*philox(counter, (seeds & _MASK, (seeds >> 32) & _MASK))), dim=-1)
    return out.flatten(-2)[..., :count]


def uniforms(seeds: Tensor, purpose: str, step: Tensor, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniforms on (0, 1), `[*step.shape, R, count]`."""
    return _unit(words(seeds, purpose, step, count), dtype)


def _unit(word: Tensor, dtype: torch.dtype) -> Tensor:
    return ((word >> 8).to(dtype) + 0.5) * 2.0**-24


def normals(seeds: Tensor, purpose: str, step: Tensor, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normals, `[*step.shape, R, count]`: r cos(a), r sin(a) with r = sqrt(-2 ln u), a = 2 pi v."""
    pairs = _unit(words(seeds, purpose, step, 2 * (-(-count // 2))), dtype).unflatten(-1, (-1, 2))
    radius = torch.sqrt(-2 * torch.log(pairs[..., 0]))
    angle = 2 * math.pi * pairs[..., 1]
    return torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1).flatten(-2)[..., :count]


def integers(seeds: Tensor, purpose: str, step: Tensor, count: int, below: int) -> Tensor:
    """Integers on [0, below), below < 2^31, `[*step.shape, R, count]`: floor(word * below / 2^32)."""
    return (words(seeds, purpose, step, count) * below) >> 32


def permutations(seeds: Tensor, purpose: str, step: Tensor, size: int) -> Tensor:
    """A random order of 0..size-1 for each replica, int64 `[*step.shape, R, size]`.

    Sorts 62-bit keys; a tie among them (probability below 1e-9 for a million) falls to the lower index.
    """
    pair = words(seeds, purpose, step, 2 * size).unflatten(-1, (-1, 2))
    keys = ((pair[..., 0] >> 1) << 31) | (pair[..., 1] >> 1)
    return torch.argsort(keys, dim=-1, stable=True)


@dataclass(frozen=True)
class Random:
    """The random numbers of one owner at one time: seeds `[R]`, a step, and a prefix for its purposes.

    `purpose` distinguishes what is drawn; the same (purpose, step) draws the same numbers again.
    Every method returns `[R, *shape]`, or `[n, R, *shape]` when given `steps=n`, for n steps on from this one.
    """

    seeds: Tensor
    step: Tensor
    prefix: str
    dtype: torch.dtype = torch.float32

    def _steps(self, steps: int | None) -> Tensor:
        return self.step if steps is None else self.step + torch.arange(steps, device=self.seeds.device)

    def normals(self, purpose: str, shape: tuple[int, ...], steps: int | None = None) -> Tensor:
        """Standard normals."""
        drawn = normals(self.seeds, self.prefix + purpose, self._steps(steps), math.prod(shape), self.dtype)
        return drawn.reshape(*drawn.shape[:-1], *shape)

    def uniforms(self, purpose: str, shape: tuple[int, ...], steps: int | None = None) -> Tensor:
        """Uniforms on (0, 1)."""
        drawn = uniforms(self.seeds, self.prefix + purpose, self._steps(steps), math.prod(shape), self.dtype)
        return drawn.reshape(*drawn.shape[:-1], *shape)
