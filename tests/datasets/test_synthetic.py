from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pytest
from scipy import sparse, stats

from scivae.datasets import synthetic, synthetic_blocks


def equal(a, b):
    return (
        (a.X != b.X).nnz == 0
        and (a.layers["counts"] != b.layers["counts"]).nnz == 0
        and a.obs.equals(b.obs)
        and a.var.equals(b.var)
    )


def test_seed_decides_and_the_global_state_does_not():
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = synthetic(200, 30, seed=3)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.random.seed(99)  # noqa: NPY002
    assert equal(first, synthetic(200, 30, seed=3))
    assert not equal(first, synthetic(200, 30, seed=4))


def test_slots(tmp_path):
    adata = synthetic(300, 40, 4, n_donors=3, n_batches=2, seed=1)
    counts = adata.layers["counts"]
    assert isinstance(counts, sparse.csr_matrix)
    assert (counts.data == np.rint(counts.data)).all()
    assert counts.data.min() == 1
    assert list(adata.obs["cell_type"].cat.categories) == [f"class_{k}" for k in range(4)]
    assert adata.obs["donor"].nunique() == 3
    assert adata.obs["batch"].nunique() == 2
    position = adata.obs["position"].to_numpy()
    assert ((position >= 0) & (position < 1)).all()
    np.testing.assert_array_equal(adata.obs["cell_type"].cat.codes, np.floor(position * 4))
    np.testing.assert_array_equal(adata.obs["stage"].cat.codes, np.floor(position * 3))
    assert adata.obs["stage"].cat.ordered
    np.testing.assert_allclose(np.linalg.norm(adata.obsm["X_true"], axis=1), 1)
    angle = np.arctan2(adata.obsm["X_true"][:, 1], -adata.obsm["X_true"][:, 0])
    np.testing.assert_allclose(angle / np.pi, position)
    for suffix, read in (("h5ad", ad.read_h5ad), ("zarr", ad.read_zarr)):
        path = tmp_path / f"x.{suffix}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of anndata, on the default version of zarr
            (adata.write_h5ad if suffix == "h5ad" else adata.write_zarr)(path)
        back = read(path)
        assert equal(adata, back)
        np.testing.assert_array_equal(
            back.uns["synthetic"]["curves"], adata.uns["synthetic"]["curves"]
        )


def test_true_curves_have_the_shape_that_var_states():
    adata = synthetic(10, 200, seed=2)
    grid = adata.uns["synthetic"]["position"]
    logs = np.log(adata.uns["synthetic"]["curves"][0])  # (101, n_genes)
    kind = adata.var["kind"].to_numpy()
    change = adata.var["log_fold_change"].to_numpy()
    ends = logs[-1] - logs[0]
    assert set(kind) == {"up", "down", "transient", "flat"}
    assert (np.diff(logs[:, kind == "up"], axis=0) > 0).all()
    assert (np.diff(logs[:, kind == "down"], axis=0) < 0).all()
    assert (np.ptp(logs[:, kind == "flat"], axis=0) == 0).all()
    monotone = np.isin(kind, ["up", "down"])
    np.testing.assert_allclose(ends[monotone], change[monotone], atol=0.35)
    assert (np.sign(ends[monotone]) == np.sign(change[monotone])).all()
    # A switch is where half of the change is done; a transient peaks there.
    for gene in np.flatnonzero(kind != "flat"):
        at = adata.var["switch"].iloc[gene]
        if kind[gene] == "transient":
            assert abs(grid[logs[:, gene].argmax()] - at) <= 0.01
        else:
            middle = logs[0, gene] + ends[gene] / 2
            assert abs(np.interp(at, grid, logs[:, gene]) - middle) < 0.2
    assert np.isnan(adata.var["switch"][kind == "flat"]).all()


@pytest.mark.parametrize("layout", ["along", "across"])
def test_counts_are_negative_binomial_about_the_curves(layout):
    theta = 3.0
    adata = synthetic(
        20_000, 24, 2, layout=layout, size_spread=0, dispersion=theta, class_effect=1.0, seed=5
    )
    truth = adata.uns["synthetic"]
    counts = adata.layers["counts"].toarray().astype(np.float64)
    label = adata.obs["cell_type"].cat.codes.to_numpy() if layout == "across" else 0
    place = np.rint(adata.obs["position"].to_numpy() * 100).astype(int)
    mean = truth["curves"][label, place]
    n = len(counts)
    # The mean of the standardised residuals is 0 and their mean square 1.
    residual = (counts - mean) / np.sqrt(mean + mean**2 / theta)
    assert (np.abs(residual.mean(0)) < 5 / np.sqrt(n)).all()
    assert (np.abs((residual**2).mean(0) - 1) < 0.12).all()
    # And the whole distribution is that of scipy.
    gene = int(np.argmax(adata.var["kind"] == "flat"))
    mu = mean[0, gene]
    top = int(stats.nbinom.ppf(0.99, theta, theta / (theta + mu)))
    expected = stats.nbinom.pmf(np.arange(top), theta, theta / (theta + mu)) * n
    found = np.bincount(counts[:, gene].astype(int), minlength=top)[:top]
    keep = expected > 5
    statistic = ((found - expected)[keep] ** 2 / expected[keep]).sum()
    assert stats.chi2.sf(statistic, keep.sum() - 1) > 1e-4


def test_size_factors_scale_the_counts():
    adata = synthetic(8000, 20, effect=0, size_spread=0.5, seed=6)
    size = adata.obs["size_factor"].to_numpy()
    assert size.mean() == pytest.approx(1, abs=0.03)
    assert np.log(size).std() == pytest.approx(0.5, abs=0.02)
    total = np.asarray(adata.layers["counts"].sum(1)).ravel()
    slope = (total * size).sum() / (size**2).sum()
    assert slope == pytest.approx(adata.uns["synthetic"]["mean_counts"], rel=0.02)


@pytest.mark.parametrize("layout", ["along", "across"])
def test_no_effect_means_no_difference(layout):
    adata = synthetic(6000, 40, 2, effect=0, layout=layout, size_spread=0, seed=7)
    assert set(adata.var["kind"]) == {"flat"}
    curves = adata.uns["synthetic"]["curves"]
    assert (curves == curves[0, 0]).all()
    counts = adata.layers["counts"].toarray()
    position = adata.obs["position"].to_numpy()
    label = adata.obs["cell_type"].cat.codes.to_numpy()
    p = [stats.spearmanr(position, gene).pvalue for gene in counts.T]
    q = [stats.mannwhitneyu(gene[label == 0], gene[label == 1]).pvalue for gene in counts.T]
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    assert stats.kstest(q, "uniform").pvalue > 1e-3
    # The same test does see the default effect.
    seen = synthetic(6000, 40, 2, layout="along", size_spread=0, seed=7)
    moves = (seen.var["kind"].isin(["up", "down"])).to_numpy()
    counts = seen.layers["counts"].toarray()[:, moves].T
    p = [stats.spearmanr(seen.obs["position"], gene).pvalue for gene in counts]
    assert max(p) < 1e-6


def test_across_has_markers_of_each_class_and_position_apart_from_class():
    adata = synthetic(6000, 80, 3, layout="across", seed=8)
    markers = adata.var[adata.var["kind"] == "marker"]
    assert set(markers["marker_of"]) == {"class_0", "class_1", "class_2"}
    label = adata.obs["cell_type"]
    groups = [adata.obs["position"][label == name] for name in label.cat.categories]
    assert stats.kruskal(*groups).pvalue > 1e-3
    for gene, row in markers.iterrows():
        counts = adata[:, gene].layers["counts"].toarray().ravel()
        inside = (label == row["marker_of"]).to_numpy()
        assert np.log(counts[inside].mean() / counts[~inside].mean()) == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("slot", ["donor", "batch"])
def test_donors_and_batches_differ_when_asked_to(slot):
    options = {f"n_{slot}s" if slot == "donor" else "n_batches": 2, f"{slot}_effect": 1.0}
    adata = synthetic(4000, 30, effect=0, size_spread=0, seed=9, **options)
    counts = adata.layers["counts"].toarray()
    first = (adata.obs[slot] == f"{slot}_0").to_numpy()
    p = [stats.mannwhitneyu(gene[first], gene[~first]).pvalue for gene in counts.T]
    assert np.median(p) < 1e-6


def test_blocks_are_the_same_cells():
    whole = synthetic(9000, 12, seed=10)
    for block_size in (4096, 8192):
        blocks = list(synthetic_blocks(9000, 12, block_size=block_size, seed=10))
        assert [block.n_obs for block in blocks] == (
            [4096, 4096, 808] if block_size == 4096 else [8192, 808]
        )
        joined = sparse.vstack([block.X for block in blocks])
        assert (joined != whole.X).nnz == 0
        assert [name for block in blocks for name in block.obs_names] == list(whole.obs_names)
        assert all(block.var.equals(whole.var) for block in blocks)
    assert equal(whole[:4096].copy(), synthetic(4096, 12, seed=10))


def test_counts_alone_on_request():
    both, alone = synthetic(100, 10), synthetic(100, 10, normalize=False)
    assert "counts" not in alone.layers
    assert (both.layers["counts"] != alone.X).nnz == 0


def test_a_block_of_many_is_made_in_little_memory(helpers):
    out = helpers.light_run("""
        from scivae.datasets import synthetic_blocks
        import anndata
        n = 0
        for block in synthetic_blocks(10**6, 2000, mean_counts=1000):
            n += block.n_obs
            if n > 4096:
                break
        print(n, peak())
        """)
    n, peak = map(int, out.split())
    assert n == 2 * 4096
    assert peak < 1.5e9  # the cells would take 8e9


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"n_cells": 0}, "n_cells must be at least 1, got 0"),
        ({"n_classes": 0}, "n_classes must be at least 1"),
        ({"layout": "around"}, "layout must be 'along' or 'across', got 'around'"),
        ({"dispersion": 0}, "dispersion must be finite and positive, got 0"),
        ({"mean_counts": -1}, "mean_counts must be finite and positive"),
        ({"effect": float("nan")}, "effects must be finite"),
        ({"size_spread": -1}, "size_spread must be finite and not negative"),
        ({"fraction_flat": 2}, r"fraction_flat must lie in \[0, 1\], got 2"),
    ],
)
def test_errors(options, told):
    with pytest.raises(ValueError, match=told):
        synthetic(**options)


def test_block_size_must_be_whole_draws():
    with pytest.raises(ValueError, match="block_size must be a multiple of 4096, .* got 100"):
        synthetic_blocks(10, block_size=100)
