from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scivae import tl


def trends(mean, half=0.1, *, genes=None, scale="units of the data"):
    mean = np.asarray(mean, dtype=float)
    return AnnData(
        mean,
        obs=pd.DataFrame({"civae_t": np.linspace(0, 1, len(mean))}),
        var=pd.DataFrame(index=genes or [f"gene_{i}" for i in range(mean.shape[1])]),
        layers={"mean": mean, "q05": mean - half, "q95": mean + half},
        uns={"civae": {"kind": "trends", "scale": scale}},
    )


T = np.linspace(0, 1, 201)
A = np.stack([T, np.zeros(201), np.sin(np.pi * T)], axis=1)
B = np.stack([1 - T, np.full(201, 0.05), np.zeros(201)], axis=1)


@pytest.fixture
def table():
    return tl.compare_trends(trends(A), trends(B)).loc[["gene_0", "gene_1", "gene_2"]]


def test_closed_forms(table):
    np.testing.assert_allclose(table["area"], [0.5, 0.05, 2 / np.pi], atol=1e-4)
    np.testing.assert_allclose(table["difference"], [0, 0.05, -2 / np.pi], atol=1e-4)
    np.testing.assert_allclose(table["max_difference"], [1, 0.05, -1], atol=1e-6)
    np.testing.assert_allclose(table["t_max"], [0, 0, 0.5])
    np.testing.assert_allclose(table["start"], [1, 0.05, 0], atol=1e-12)
    np.testing.assert_allclose(table["end"], [-1, 0.05, 0], atol=1e-12)
    np.testing.assert_allclose(table["correlation"], [-1, np.nan, np.nan])


def test_bands(table):
    # |1 − 2t| > 0.2; never; sin(πt) > 0.2
    expected = [0.8, 0, 1 - 2 * np.arcsin(0.2) / np.pi]
    np.testing.assert_allclose(table["separated"], expected, atol=0.01)
    first = [0, np.nan, np.arcsin(0.2) / np.pi]
    np.testing.assert_allclose(table["t_separated"], first, atol=0.01)


def test_order_and_log2():
    table = tl.compare_trends(*(trends(m, scale="log1p of mean counts per 10,000") for m in (A, B)))
    assert table.index.tolist() == ["gene_2", "gene_0", "gene_1"]
    assert table["area"].iloc[0] == pytest.approx(2 / np.pi / np.log(2), abs=1e-4)


def test_changes_from_the_start():
    table = tl.compare_trends(trends(A), trends(A + [1, 2, 3]), center=True)
    np.testing.assert_allclose(table["area"], 0, atol=1e-12)
    assert not table["separated"].any()


def test_other_steps_and_genes():
    line = trends(np.stack([5 * T, T], axis=1)[::50], genes=["x", "gene_0"])
    table = tl.compare_trends(trends(A), line)
    assert table.index.tolist() == ["gene_0"]
    assert table["area"].iloc[0] == pytest.approx(0, abs=1e-12)


def test_bad_input():
    with pytest.raises(TypeError, match="b must be an AnnData"):
        tl.compare_trends(trends(A), A)
    with pytest.raises(ValueError, match="a must be made by scivae.tl.gene_trends"):
        tl.compare_trends(AnnData(A), trends(A))
    with pytest.raises(ValueError, match="the same scale.*units of the data and b in log1p"):
        tl.compare_trends(trends(A), trends(A, scale="log1p of mean counts per 10,000"))
    with pytest.raises(ValueError, match="must share genes"):
        tl.compare_trends(trends(A), trends(A, genes=["x", "y", "z"]))


def test_the_start_is_uncertain_too():
    """Curves that differ by noise alone are rarely apart, from the start on or not."""
    rng, n_genes, sd = np.random.default_rng(0), 400, 0.1
    found = []
    for _ in range(2):
        knots = rng.normal(0, sd, (6, n_genes))
        mean = np.stack([np.interp(np.linspace(0, 5, 51), range(6), g) for g in knots.T], axis=1)
        found.append(trends(mean, half=1.645 * sd))
    for center in (False, True):
        assert tl.compare_trends(*found, center=center)["separated"].mean() < 0.05
