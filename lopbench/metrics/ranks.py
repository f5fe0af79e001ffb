"""Ranks of the features: how many directions a layer's activations span, by four definitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import lopbench
from lopbench.checks import check_choice, check_number, check_probe
from lopbench.protocols import Metric, Probe

#: Below this tolerance singular values are taken from the matrix itself: its Gram matrix squares them, so that float64
#: can't tell one of 1e-6 times the largest from 0.
GRAM_TOLERANCE = 1e-5


@lopbench.register("metrics")
@dataclass(frozen=True)
class Ranks(Metric):
    """Ranks of each layer's features on the probe: rank, effective, approximate_0.99, srank_0.01.

    With sigma_1 >= sigma_2 >= ... the singular values of the matrix [examples, features] (not centred):

        ranks/rank              the number of sigma_k > rank_tolerance * sigma_1
        ranks/effective         exp(-sum_k p_k ln p_k) with p_k = sigma_k / sum_j sigma_j     (Roy and Vetterli 2007)
        ranks/approximate_0.99  the least k with sum_{j<=k} sigma_j^2 >= 0.99 sum_j sigma_j^2  (Yang et al. 2020)
        ranks/srank_0.01        the least k with sum_{j<=k} sigma_j >= 0.99 sum_j sigma_j      (Kumar et al. 2021)

    srank_0.01 is what Dohare et al. 2024 and Hernandez-Garcia et al. 2025 call "stable rank"; it is not
    |A|_F^2 / |A|_2^2, and the released code of Kumar et al. 2023 gives one less than this. Tags: `ranks/NAME.LAYER`
    for every feature, and `ranks/NAME`, the mean over the layers (divided by their width, where all have the same,
    this is the published percentage). Range: from 1 (rank: 0) to the smaller side of the matrix. An all-zero matrix
    has rank 0 and 1 of the others, a replica with non-finite features NaN.
    All grow with the size of the probe while that is not many times the width: compare only values of the same
    `probe_size`. At initialisation (three ReLU layers of 100, Kaiming normal, 1,000 images of MNIST; in brackets 100):
    rank 100 (98), effective 58 (46), approximate_0.99 66 (46), srank_0.01 92 (81).

    layers: "all", or "last" for the last feature alone (cheap where early layers are wide).
    token: of features [tokens, width] the ranks are those of one token; 0 is the class token.
    rank_tolerance: float32's rounding is well below the default. Below 1e-5 a slower method is taken; 0.0 counts the
        singular values that are not exactly 0, as the released codes did.
    batch_statistics: batch norms normalise with the statistics of the probe rather than with their running ones, as
        Dohare et al. 2024 did in their analysis of incremental CIFAR-100.
    """

    every: str | int = "task_start"
    probe_size: int | None = 1000
    probe_split: str | Sequence[str] = "train"
    layers: str = "all"
    token: int = 0
    rank_tolerance: float = 1e-4
    batch_statistics: bool = False

    def __post_init__(self) -> None:
        check_probe(self)
        check_choice(self, "layers", self.layers, ("all", "last"))
        check_number(self, "token", self.token, integer=True)
        check_number(self, "rank_tolerance", self.rank_tolerance, at_least=0, below=1)

    def measure(self, probe: Probe) -> dict[str, Tensor]:
        chosen = list(probe.features)[-1:] if self.layers == "last" else list(probe.features)
        by_layer = {layer: self._ranks(_matrices(probe.features[layer], self.token)) for layer in chosen}
        results: dict[str, Tensor] = {}
        for name in NAMES if by_layer else ():
            results[f"ranks/{name}"] = torch.stack([ranks[name] for ranks in by_layer.values()]).mean(dim=0)
            results |= {f"ranks/{name}.{layer}": ranks[name] for layer, ranks in by_layer.items()}
        return results

    def _ranks(self, matrices: Tensor) -> dict[str, Tensor]:
        sigma = relative_singular_values(matrices, exact=self.rank_tolerance < GRAM_TOLERANCE)
        values = (
            rank(sigma, self.rank_tolerance),
            effective_rank(sigma),
            approximate_rank(sigma.square(), 0.99),
            approximate_rank(sigma, 0.99),
        )
        undefined = sigma.isnan().any(dim=1)
        return {name: torch.where(undefined, torch.nan, value) for name, value in zip(NAMES, values, strict=True)}


NAMES = ("rank", "effective", "approximate_0.99", "srank_0.01")


def rank(sigma: Tensor, tolerance: float) -> Tensor:
    """How many singular values `[R, k]` (descending) exceed `tolerance` times the largest: `[R]`."""
    return (sigma > tolerance * sigma[:, :1]).sum(dim=1).double()


def effective_rank(sigma: Tensor) -> Tensor:
    """exp of the entropy of sigma / sum(sigma): `[R]`; 1 if all are 0."""
    total = sigma.sum(dim=1, keepdim=True)
    p = sigma / torch.where(total > 0, total, 1.0)
    return torch.exp(-torch.xlogy(p, p).sum(dim=1))


def approximate_rank(values: Tensor, fraction: float) -> Tensor:
    """The least k whose first k values `[R, n]` (descending) make up `fraction` of their sum: `[R]`; 1 if all are 0."""
    sums = values.cumsum(dim=1)
    enough = (fraction - 1e-9) * sums[:, -1:]  # rounding decides no tie, as 99 of 100 equal values are one
    return 1 + (sums < enough).sum(dim=1).double()


def relative_singular_values(matrices: Tensor, exact: bool = False) -> Tensor:
    """Singular values of `[R, rows, columns]` over the largest entry, descending, float64 `[R, smaller side]`.

    The scale is of no matter to a rank, and without it squares neither overflow nor vanish. A non-finite matrix gives
    NaN. They come from the eigenvalues of A^T A or A A^T, whichever is smaller, which costs a fraction of the
    decomposition of A and is right to some 1e-7 of the largest (those below are 0); `exact`: from A itself.
    """
    matrices = matrices.double()
    finite = torch.isfinite(matrices).all(dim=(1, 2), keepdim=True)
    matrices = torch.where(finite, matrices, 0.0)
    largest = matrices.abs().amax(dim=(1, 2), keepdim=True)
    matrices = matrices / torch.where(largest > 0, largest, 1.0)
    if exact:
        sigma = torch.linalg.svdvals(matrices)
    else:
        rows, columns = matrices.shape[1:]
        squares = torch.linalg.eigvalsh(matrices.mT @ matrices if columns <= rows else matrices @ matrices.mT).flip(-1)
        noise = torch.finfo(torch.float64).eps * max(rows, columns) * squares[:, :1]
        sigma = torch.where(squares > noise, squares, 0.0).sqrt()
    return torch.where(finite[:, :, 0], sigma, torch.nan)


def _matrices(feature: Tensor, token: int) -> Tensor:
    """`[R, N, columns]` of features `[R, N, F]`, maps `[R, N, C, H, W]` (flattened) or tokens `[R, N, T, F]` (one)."""
    return feature[:, :, token] if feature.dim() == 4 else feature.flatten(2)
