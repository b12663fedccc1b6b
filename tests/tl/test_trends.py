from __future__ import annotations

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
from tests.conftest import assert_unchanged, make_adata, make_model, snapshot

from scivae import tl
from scivae.geometry.methods import PATH_METHODS
from scivae.model import CIVAE
from scivae.module import CONTINUOUS_LIKELIHOODS, COUNT_LIKELIHOODS

SETUPS = {
    "plain": {},
    "covariates": {
        "batch_key": "batch",
        "categorical_covariate_keys": ["site"],
        "continuous_covariate_keys": ["age"],
    },
    "size factor": {"size_factor_key": "size"},
}


@pytest.fixture(scope="module")
def model():
    return make_model(make_adata(), epochs=10)


@pytest.fixture(scope="module")
def pairs(model):
    return some_pairs(model.adata, 30)


def some_pairs(adata, n, seed=0):
    rng = np.random.default_rng(seed)
    alpha, beta = (np.flatnonzero(adata.obs["cell_type"] == c) for c in ("alpha", "beta"))
    return pd.DataFrame(
        {
            "source": adata.obs_names[rng.choice(alpha, n)],
            "target": adata.obs_names[rng.choice(beta, n)],
        }
    )


def plain(model, pairs, n_steps, *, counts=True, **kwargs):
    """Every value of every path, shape (n_pairs, n_steps, n_genes), by ``interpolate``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        path = model.interpolate(
            pairs["source"].tolist(),
            pairs["target"].tolist(),
            n_steps=n_steps,
            key_added=None,
            **kwargs,
        )
    if not counts:
        values = np.asarray(path.X, dtype=float)
    else:
        expected = path.layers["counts"].astype(float)
        values = np.log1p(1e4 * expected / expected.sum(axis=1, keepdims=True))
    return values.reshape(len(pairs), n_steps, -1)


def decoded(model, pairs, **kwargs):
    return tl.gene_trends(model, pairs, evidence="decoded", **kwargs)


def agree(trends, values, atol=1e-5, *, counts=True):
    np.testing.assert_allclose(trends.layers["mean"], values.mean(axis=0), atol=atol)
    np.testing.assert_allclose(trends.layers["sd"], values.std(axis=0), atol=atol)
    for name, q in (("q05", 0.05), ("q95", 0.95)):
        np.testing.assert_allclose(trends.layers[name], np.quantile(values, q, axis=0), atol=atol)
    expected = np.log1p(np.expm1(values).mean(axis=0)) if counts else values.mean(axis=0)
    np.testing.assert_allclose(trends.layers["decoded"], expected, atol=atol)
    np.testing.assert_array_equal(trends.X, trends.layers["decoded"])


class TestAgainstInterpolate:
    @pytest.mark.parametrize("setup", SETUPS)
    @pytest.mark.parametrize("likelihood", COUNT_LIKELIHOODS)
    def test_counts(self, setup, likelihood):
        model = make_model(
            make_adata(), setup=SETUPS[setup], likelihood=likelihood, n_layers=2, epochs=3
        )
        pairs = some_pairs(model.adata, 12)
        trends = decoded(model, pairs, n_steps=5)
        agree(trends, plain(model, pairs, 5))

    @pytest.mark.parametrize("likelihood", CONTINUOUS_LIKELIHOODS)
    def test_continuous(self, likelihood):
        adata = make_adata()
        adata.X = adata.X / adata.X.max()
        model = make_model(
            adata, setup={"layer": "X", "batch_key": "batch"}, likelihood=likelihood, epochs=3
        )
        pairs = some_pairs(adata, 12)
        trends = decoded(model, pairs, n_steps=5)
        agree(trends, plain(model, pairs, 5, counts=False), counts=False)
        assert trends.uns["civae"]["scale"] == "units of the data"

    @pytest.mark.parametrize("method", PATH_METHODS)
    def test_methods(self, model, pairs, method):
        few = pairs[:3]
        trends = decoded(model, few, n_steps=6, method=method)
        agree(trends, plain(model, few, 6, method=method))

    def test_transform_batch_and_embedded_batches(self):
        model = make_model(
            make_adata(),
            setup={"batch_key": "batch"},
            batch_representation="embedding",
            epochs=3,
        )
        pairs = some_pairs(model.adata, 10)
        agree(decoded(model, pairs, n_steps=4), plain(model, pairs, 4))
        trends = decoded(model, pairs, n_steps=4, transform_batch="two")
        agree(trends, plain(model, pairs, 4, transform_batch="two"))

    def test_many_blocks(self, model, pairs, monkeypatch):
        from scivae.model import paths

        monkeypatch.setattr(paths, "VALUES_PER_BLOCK", 1)
        pairs = some_pairs(model.adata, 300)
        agree(decoded(model, pairs, n_steps=3), plain(model, pairs, 3))

    def test_other_cells(self, model):
        query = make_adata(seed=1)
        query.obs_names = [f"query_{i}" for i in range(query.n_obs)]
        pairs = some_pairs(query, 10)
        trends = decoded(model, pairs, n_steps=4, adata=query)
        agree(trends, plain(model, pairs, 4, adata=query))

    def test_some_genes(self, model, pairs):
        genes = ["gene_7", "gene_3", "gene_30"]
        trends = decoded(model, pairs, n_steps=4, genes=genes)
        assert trends.var_names.tolist() == genes
        agree(trends, plain(model, pairs, 4)[:, :, [7, 3, 30]])
        whole = decoded(model, pairs, n_steps=4)
        np.testing.assert_array_equal(
            trends.varm["civae_null"].toarray(), whole[:, genes].varm["civae_null"].toarray()
        )


def test_quantiles_of_a_draw_of_paths(model):
    pairs = some_pairs(model.adata, 600)
    values = plain(model, pairs, 3)
    trends = decoded(model, pairs, n_steps=3, quantile_pairs=200)
    assert trends.uns["civae"]["quantile_pairs"] == 200
    for name, q in (("q05", 0.05), ("q95", 0.95)):
        # At which share of all paths does the estimate lie? Four standard errors.
        share = (values <= trends.layers[name]).mean(axis=0)
        assert np.abs(share - q).max() < 4 * np.sqrt(q * (1 - q) / 200)
    np.testing.assert_allclose(trends.layers["mean"], values.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(trends.layers["sd"], values.std(axis=0), atol=1e-5)


def test_one_pair(model, pairs):
    trends = decoded(model, pairs[:1], n_steps=4)
    np.testing.assert_allclose(trends.layers["sd"], 0, atol=1e-5)
    np.testing.assert_allclose(trends.layers["q05"], trends.layers["mean"], atol=1e-6)
    agree(trends, plain(model, pairs[:1], 4))


class TestDonors:
    def test_donors_that_are_the_groups(self, model, pairs):
        query = make_adata()
        query.obs["donor"] = query.obs["cell_type"].astype(str)
        with pytest.raises(
            ValueError, match="cannot be distinguished from the groups; name the column"
        ):
            tl.gene_trends(model, pairs, adata=query, donor_key="donor")


class TestNull:
    def test_measured_values_of_the_ends(self, model, pairs):
        trends = tl.gene_trends(model, pairs, n_steps=3)
        null = trends.uns["civae"]["null"]
        n_ends = [pairs[end].nunique() for end in ("source", "target")]
        assert np.bincount(null["group"]).tolist() == [n_ends[0], 0, n_ends[1]]
        sources = np.sort(model.adata.obs_names.get_indexer(pairs["source"].unique()))
        counts = model.adata.layers["counts"][sources].toarray()
        expected = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)).T
        measured = trends.varm["civae_null"].toarray()[:, null["group"] == 0]
        np.testing.assert_allclose(measured, expected, rtol=1e-5)

    @pytest.mark.parametrize(("between", "n"), [(None, 40), ([], 0), (["beta"], 40), ("beta", 40)])
    def test_groups_between(self, model, between, n):
        query = make_adata()
        query.obs["stage"] = query.obs["cell_type"].cat.as_ordered()
        query.obsm["X_civae"] = model.get_latent_representation(query)
        pairs = tl.pair_cells(query, "stage", "gamma", "alpha")
        trends = tl.gene_trends(model, pairs, n_steps=3, adata=query, between=between)
        assert np.bincount(trends.uns["civae"]["null"]["group"], minlength=3)[1] == n
        if between is None:
            assert trends.uns["civae"]["between"].tolist() == ["beta"]

    def test_pairs_of_ones_own_are_those_of_their_labels(self, model):
        adata = model.adata.copy()
        trends = tl.gene_trends(model, some_pairs(adata, 3), n_steps=3, adata=adata)
        expected = adata.obs_names[adata.obs["cell_type"].isin(["alpha", "beta"])]
        assert set(trends.uns["civae"]["cells"].index) == set(expected)

    def test_cells_of_other_groups_have_no_part_in_a_curve(self, model):
        """Without a label, too: what lies near a path need not be on the way."""
        adata = model.adata.copy()
        adata.obsm["X_civae"] = model.get_latent_representation()
        pairs = tl.pair_cells(adata, "cell_type", "alpha", "beta", n_pairs=30)
        ends = adata.obs["cell_type"].isin(["alpha", "beta"]).to_numpy()
        trends = tl.gene_trends(model, pairs, n_steps=3, adata=adata)
        placed = trends.uns["civae"]["cells"]
        assert set(placed.index) == set(adata.obs_names[ends])
        alone = tl.gene_trends(model, pairs, n_steps=3, adata=adata[ends].copy())
        np.testing.assert_array_equal(trends.layers["fit"], alone.layers["fit"])

    def test_without_order_nothing_is_between(self, model):
        query = make_adata()
        query.obsm["X_civae"] = model.get_latent_representation(query)
        pairs = tl.pair_cells(query, "cell_type", "alpha", "gamma")
        trends = tl.gene_trends(model, pairs, n_steps=3, adata=query)
        assert set(trends.uns["civae"]["null"]["group"]) == {0, 2}

    @pytest.mark.parametrize(
        ("between", "message"),
        [(["delta"], "between must be a value .*'delta'"), (["alpha"], "other than source")],
    )
    def test_bad_groups_between(self, model, between, message):
        query = make_adata()
        query.obsm["X_civae"] = model.get_latent_representation(query)
        pairs = tl.pair_cells(query, "cell_type", "alpha", "gamma")
        with pytest.raises(ValueError, match=message):
            tl.gene_trends(model, pairs, adata=query, between=between)
        pairs.attrs = {}
        with pytest.raises(ValueError, match="pairs.attrs has no 'groupby'"):
            tl.gene_trends(model, pairs, adata=query, between=["beta"])


def test_what_uns_says(model):
    adata = make_adata()
    adata.obsm["X_civae"] = model.get_latent_representation(adata)
    pairs = tl.pair_cells(adata, "site", "left", "right", label="beta", n_pairs=9)
    said = tl.gene_trends(model, pairs, n_steps=3, adata=adata).uns["civae"]
    assert said["kind"] == "trends"
    assert said["scale"] == "log1p of mean counts per 10,000"
    assert (said["source"], said["target"], said["label"]) == ("left", "right", "beta")
    assert (said["groupby"], said["pairing"], said["method"]) == ("site", "ot", "linear")
    assert (said["n_pairs"], said["n_steps"]) == (9, 3)
    assert 0 <= said["share_in_class"] <= 1
    assert {"model", "versions", "seed"} <= said.keys()


@pytest.mark.parametrize("write", ["h5ad", "zarr"])
def test_round_trip(model, pairs, tmp_path, write):
    if write == "zarr":
        pytest.importorskip("zarr")
    pairs = pairs.assign(donor=["a", "b"] * 15)
    trends = decoded(model, pairs, n_steps=4)
    getattr(trends, f"write_{write}")(tmp_path / "trends")
    back = getattr(anndata, f"read_{write}")(tmp_path / "trends")
    assert back.layers.keys() == trends.layers.keys()
    np.testing.assert_array_equal(back.layers["q05"], trends.layers["q05"])
    pd.testing.assert_frame_equal(
        tl.rank_genes(back, n_permutations=200),
        tl.rank_genes(trends, n_permutations=200),
        check_names=False,
    )


def test_nothing_is_changed(model, pairs):
    import torch

    adata = model.adata
    before, threads = snapshot(adata), torch.get_num_threads()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    model.module.train()
    first = tl.gene_trends(model, pairs, n_steps=3, key_added=None)
    assert model.module.training
    model.module.eval()
    second = tl.gene_trends(model, pairs, n_steps=3, key_added=None)
    np.testing.assert_array_equal(first.X, second.X)
    assert_unchanged(adata, before)
    assert torch.get_num_threads() == threads
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"genes": ["gene_1", "gene_1"]}, ValueError, "each gene once, got 'gene_1' twice"),
        ({"genes": []}, ValueError, "at least one gene"),
        ({"transform_batch": "three"}, KeyError, "transform_batch must be a batch"),
        ({"pairs": pd.DataFrame({"source": ["a"]})}, KeyError, "'target' is missing"),
        ({"pairs": pd.DataFrame({"source": [], "target": []})}, ValueError, "at least one pair"),
        (
            {"pairs": pd.DataFrame({"source": ["cell_0"], "target": ["cel_1"]})},
            KeyError,
            "'cel_1' is not one; pass adata=.*Did you mean 'cell_1",
        ),
    ],
)
def test_bad_input(model, pairs, change, error, message):
    before = snapshot(model.adata)
    with pytest.raises(error, match=message) as caught:
        tl.gene_trends(model, **{"pairs": pairs, **change})
    assert "\n" not in str(caught.value)
    assert_unchanged(model.adata, before)


def test_an_untrained_model(pairs):
    adata = make_adata()
    CIVAE.setup_anndata(adata)
    with pytest.raises(RuntimeError, match="not trained yet"):
        tl.gene_trends(CIVAE(adata), pairs)
