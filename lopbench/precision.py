"""The precision of matrix products and convolutions: float32, or on a GPU with tensor cores less, and much faster.

    float32    as it is
    tf32       factors are rounded to 10 bits after the point, sums are kept in float32
    bfloat16   the network computes in bfloat16, 7 bits, where torch's autocast holds that to be safe

In all of them parameters, gradients, the loss, optimizers, strategies and metrics stay in the run's dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from lopbench.errors import require

PRECISIONS = ("float32", "tf32", "bfloat16")


def check_precision(precision: str, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a precision that is none, or that would change nothing."""
    require(precision in PRECISIONS, f"run.precision is {precision!r}: it must be one of {', '.join(PRECISIONS)}.")
    require(
        precision == "float32" or dtype == torch.float32,
        f"run.precision is {precision!r} with run.dtype 'float64': leave one of them at 'float32'.",
    )
    require(
        precision != "tf32" or device.type == "cuda",
        f"run.precision is 'tf32', which GPUs have and this device ({device}) has not: leave it at 'float32'.",
    )


@contextmanager
def multiplying(precision: str) -> Iterator[None]:
    """Within this context torch multiplies float32 matrices as `precision` says; convolutions too.

    torch's own default rounds the factors of convolutions to TF32; "float32" does not.
    """
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def computing(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """The context in which a network is called; traced by the compiler.

    Casts are not cached: the cache would outlive the functional parameters that it holds copies of.
    """
    if precision != "bfloat16":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
