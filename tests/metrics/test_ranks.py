"""Ranks of matrices whose singular values are known."""

import dataclasses
import math

import pytest
import torch

from lopbench.metrics import Ranks
from lopbench.metrics.ranks import NAMES, approximate_rank, effective_rank, relative_singular_values
from tests.metrics.by_hand import probe_of


def ranks(*matrices: torch.Tensor, **options) -> list[list[float]]:
    """Rank, effective, approximate_0.99 and srank_0.01 of each matrix (a replica's one feature)."""
    values = Ranks(**options).measure(probe_of({"a": torch.stack(matrices)}))
    return torch.stack([values[f"ranks/{name}.a"] for name in NAMES], dim=1).tolist()


def with_singular_values(sigma: list[float], rows: int, columns: int) -> torch.Tensor:
    """A float64 matrix [rows, columns] of these singular values, in directions of no particular kind."""
    generator = torch.Generator().manual_seed(3)
    left, right = (
        torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q[:, : len(sigma)]
        for size in (rows, columns)
    )
    return left @ torch.diag(torch.tensor(sigma, dtype=torch.float64)) @ right.T


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tolerance", [1e-4, 0.0])
def test_closed_forms(dtype, tolerance):
    matrices = torch.diag(torch.tensor([10, 5, 1, 0.05], dtype=dtype)), torch.eye(4, dtype=dtype)
    diagonal, identity = ranks(*matrices, rank_tolerance=tolerance)
    assert diagonal == [4, pytest.approx(2.3374, abs=5e-5), 2, 3]
    assert identity == [4, pytest.approx(4), 4, 4]


@pytest.mark.parametrize(("rows", "columns"), [(30, 12), (12, 30)])
def test_tall_and_wide_matrices_have_the_same_ranks(rows, columns):
    [values] = ranks(with_singular_values([10, 5, 1, 0.05], rows, columns).float())
    assert values == [4, pytest.approx(2.3374, abs=5e-5), 2, 3]


@pytest.mark.parametrize("size", [1, 10, 100, 150, 200, 300])
def test_of_n_equal_singular_values_99_percent_count(size):
    [values] = ranks(with_singular_values([3.0] * size, size + 5, size))
    assert values == [size, pytest.approx(size), math.ceil(0.99 * size), math.ceil(0.99 * size)]


def test_rounding_decides_no_tie():
    for value in (0.1, 0.3):
        for size in range(100, 1001, 100):
            equal = torch.full((1, size), value, dtype=torch.float64)
            assert approximate_rank(equal, 0.99).tolist() == [99 * size // 100]


def test_an_all_zero_matrix_has_rank_0_and_one_of_the_others():
    assert ranks(torch.zeros(6, 3), torch.eye(6, 3)) == [[0, 1, 1, 1], [3, pytest.approx(3), 3, 3]]


def test_rank_tolerance_is_relative_to_the_largest():
    matrix = 1e5 * with_singular_values([1, 1e-3, 1e-7], 20, 10)
    assert [ranks(matrix, rank_tolerance=tolerance)[0][0] for tolerance in (1e-2, 1e-4, 1e-8)] == [1, 2, 3]


def test_the_gram_matrix_is_as_good_as_the_full_decomposition():
    generator = torch.Generator().manual_seed(0)
    features = torch.relu(torch.randn(3, 400, 20, generator=generator) @ torch.randn(3, 20, 64, generator=generator))
    features[1, :, :40] = 0  # dead units
    features[2] *= 1e-25  # whose squares float32 does not hold
    sigma, exact = relative_singular_values(features), relative_singular_values(features, exact=True)
    expected = torch.linalg.svdvals(features.double()) / features.double().abs().amax(dim=(1, 2))[:, None]
    torch.testing.assert_close(exact, expected)
    torch.testing.assert_close(sigma, expected, rtol=1e-9, atol=1e-7 * expected[:, 0].min().item())
    torch.testing.assert_close(effective_rank(sigma), effective_rank(exact), rtol=1e-9, atol=0)


def test_a_replica_with_non_finite_features_is_nan_and_harms_no_other():
    broken = torch.eye(4)
    broken[2, 1] = torch.nan
    for tolerance in (1e-4, 0.0):
        first, second, third = ranks(torch.eye(4), broken, torch.full((4, 4), torch.inf), rank_tolerance=tolerance)
        assert first == [4, pytest.approx(4), 4, 4]
        assert all(math.isnan(value) for value in (*second, *third))


def test_huge_values_do_not_overflow():
    matrix = with_singular_values([10, 5, 1, 0.05], 8, 6) * 1e200
    assert ranks(matrix)[0] == [4, pytest.approx(2.3374, abs=5e-5), 2, 3]


def test_the_value_without_layer_is_the_mean_over_layers():
    features = {"a": torch.eye(6)[None], "b": torch.eye(6, 2)[None]}
    values = Ranks().measure(probe_of(features))
    assert values["ranks/srank_0.01"].tolist() == [4]
    assert values["ranks/effective"].item() == pytest.approx(4)
    last = Ranks(layers="last").measure(probe_of(features))
    assert last["ranks/rank"].tolist() == last["ranks/rank.b"].tolist() == [2]
    assert not any(tag.endswith(".a") for tag in last)


def test_maps_are_flattened_and_of_tokens_one_is_taken():
    maps = torch.eye(5, 12).reshape(1, 5, 3, 2, 2)
    tokens = torch.stack((torch.eye(5, 4), torch.zeros(5, 4)), dim=1)[None]
    values = Ranks().measure(probe_of({"maps": maps, "tokens": tokens}))
    assert values["ranks/rank.maps"].tolist() == [5]
    assert values["ranks/rank.tokens"].tolist() == [4]
    assert Ranks(token=1).measure(probe_of({"tokens": tokens}))["ranks/rank.tokens"].tolist() == [0]


def test_a_network_without_features_has_no_ranks():
    seen = dataclasses.replace(probe_of({"a": torch.eye(2)[None]}), features={})
    assert Ranks().measure(seen) == {}
