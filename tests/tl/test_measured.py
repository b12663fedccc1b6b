"""Trends of measured cells."""

from __future__ import annotations

from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.stats import spearmanr
from tests.conftest import assert_unchanged, make_adata, make_model, snapshot

from scivae import tl
from scivae._names import layer_names
from scivae.datasets import synthetic
from scivae.stats import roughness_penalty, spline_basis
from scivae.tl._measured import Measured
from scivae.tl._placing import Axis


def make_along(n_cells=700, n_genes=80, n_donors=1, seed=0, **settings):
    """Cells along a known path, a model of them, and pairs from the first to the last class."""
    adata = synthetic(n_cells, n_genes, 5, n_donors=n_donors, seed=seed, **settings)
    model = make_model(adata, epochs=15, n_latent=6)
    adata.obsm["X_civae"] = model.get_latent_representation()
    donor_key = "donor" if n_donors > 1 else None
    pairs = tl.pair_cells(adata, "cell_type", "class_0", "class_4", n_pairs=80, donor_key=donor_key)
    return adata, model, pairs


@pytest.fixture(scope="module")
def along():
    return make_along()


@pytest.fixture(scope="module")
def middle():
    return ["class_1", "class_2", "class_3"]


@pytest.fixture(scope="module")
def trends(along, middle):
    _, model, pairs = along
    return tl.gene_trends(model, pairs, n_steps=51, between=middle, key_added=None)


class TestAxis:
    def test_straight_paths_give_the_line_between_the_means(self):
        rng = np.random.default_rng(0)
        start, end = rng.normal(size=(200, 3)), rng.normal(size=(200, 3)) + [4.0, 0, 0]
        axis = Axis.through(np.stack([start, end], axis=1))
        np.testing.assert_allclose(axis.points, [start.mean(axis=0), end.mean(axis=0)])
        for share in (0, 0.25, 1):
            t, distance = axis.place((1 - share) * axis.points[:1] + share * axis.points[1:])
            assert t[0] == pytest.approx(share)
            assert distance[0] == pytest.approx(0, abs=1e-6)
        t, _ = axis.place(axis.points + [[-9, 0, 0], [9, 0, 0]])
        np.testing.assert_allclose(t, [0, 1])  # beyond the ends

    def test_noisy_directions_count_less(self):
        """The direction is that of scikit-learn's discriminant."""
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        rng = np.random.default_rng(1)
        noise = np.array([[0.5, 0.0], [2.0, 1.0]])
        start, end = (rng.normal(size=(4000, 2)) @ noise + m for m in ([0, 0], [1, 1]))
        axis = Axis.through(np.stack([start, end], axis=1))
        z = rng.uniform(0, 1, size=(300, 2)) @ np.diag([1.0, 1.0])
        t, _ = axis.place(z)
        fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(
            np.concatenate([start, end]), np.repeat([0, 1], 4000)
        )
        inside = (t > 0) & (t < 1)
        assert inside.sum() > 50
        score = fitted.decision_function(z)
        assert np.corrcoef(t[inside], score[inside])[0, 1] > 0.995

    def test_far_cells_weigh_nothing(self):
        rng = np.random.default_rng(0)
        ends = np.stack([rng.normal(size=(300, 2)), rng.normal(size=(300, 2)) + [8, 0]], axis=1)
        axis = Axis.through(ends)
        distance = axis.place(np.array([[4.0, 0], [4.0, 6.0], [4.0, 50.0]]))[1]
        weight = axis.weight(distance)
        assert weight[0] == 1
        assert 0 < weight[1] < 1
        assert weight[2] == 0
        assert (axis.weight(axis.place(ends[:, 0])[1]) == 1).mean() >= 0.95

    def test_one_pair_has_no_scale(self):
        axis = Axis.through(np.array([[[0.0, 0], [2.0, 0]]]))
        t, distance = axis.place(np.array([[1.0, 5.0]]))
        assert (t[0], distance[0]) == (0.5, 5)
        np.testing.assert_array_equal(axis.weight(distance), 1)


class TestTrends:
    def test_slots(self, trends, along):
        adata, _, pairs = along
        assert set(layer_names(trends)) == {"fit", "fit_low", "fit_high", "decoded"}
        np.testing.assert_array_equal(trends.X, trends.layers["fit"])
        assert (trends.layers["fit_low"] <= trends.layers["fit"] + 1e-6).all()
        assert (trends.layers["fit"] <= trends.layers["fit_high"] + 1e-6).all()
        said = trends.uns["civae"]
        assert (said["evidence"], said["unit"]) == ("measured", "cell")
        assert said["scale"] == "log1p of mean counts per 10,000"
        cells = said["cells"]
        assert said["n_cells"] == len(cells) == adata.n_obs
        assert said["n_used"] == (cells["weight"] > 0).sum()
        groups = adata.obs["cell_type"].loc[cells.index].to_numpy()
        assert (cells["t"][groups == "class_0"] == 0).all()
        assert (cells["t"][groups == "class_4"] == 1).all()
        assert set(cells.index) >= set(pairs["source"])

    def test_positions_and_switches_follow_the_truth(self, trends, along):
        adata, _, _ = along
        cells = trends.uns["civae"]["cells"]
        between = (cells["t"] > 0) & (cells["t"] < 1)
        position = adata.obs["position"].loc[cells.index[between]]
        assert spearmanr(cells["t"][between], position)[0] > 0.9
        for kind in ("up", "down"):
            genes = adata.var_names[adata.var["kind"] == kind]
            sign = 1 if kind == "up" else -1
            assert (sign * trends.var.loc[genes, "change"] > 0).all()
            truth = adata.var.loc[genes, "switch"]
            assert spearmanr(trends.var.loc[genes, "switch"], truth)[0] > 0.9
        assert trends.var.loc[genes, "resolved"].mean() > 0.5

    def test_the_fit_is_the_penalized_glm_of_these_cells(self, trends, along):
        """statsmodels, with the penalty as pseudo-observations: their score at the fit is zero."""
        adata, model, _ = along
        said = trends.uns["civae"]
        cells = said["cells"][said["cells"]["weight"] > 0]
        rows = adata.obs_names.get_indexer(cells.index)
        counts = adata.layers["counts"][rows].toarray()
        library = counts.sum(axis=1)

        def design(t):
            t = np.asarray(t, dtype=float)
            return np.column_stack([spline_basis(t, 10), t == 0, t == 1])

        basis, grid = design(cells["t"]), design(trends.obs["civae_t"])
        penalty = np.eye(12)
        penalty[:10, :10] = said["penalty"] * roughness_penalty(10)
        penalty[:10, :10] += 0.01 * roughness_penalty(10, order=1)
        for gene in (0, 5, 11):
            share = np.expm1(trends.layers["fit"][:, gene].astype(float)) / 1e4
            b = np.linalg.lstsq(grid, np.log(share), rcond=None)[0]
            family = sm.families.NegativeBinomial(alpha=trends.var["dispersion"].iloc[gene])
            glm = sm.GLM(
                counts[:, gene], basis, family=family, offset=np.log(library),
                freq_weights=cells["weight"],
            )  # fmt: skip
            score = glm.score(b) - penalty @ b
            step = np.linalg.solve(-glm.hessian(b) + penalty, score)
            np.testing.assert_allclose(grid @ step, 0, atol=2e-3)

    def test_bins_are_means_of_cells(self, trends, along):
        adata, _, _ = along
        said = trends.uns["civae"]
        bins, cells = said["bins"], said["cells"]
        assert (bins["donor"] == -1).all()
        used = cells[cells["weight"] > 0]
        assert bins["n_cells"].sum() == len(used)
        own = used[(used["t"] * 10).astype(int).clip(upper=9) == bins["bin"].iloc[3]]
        counts = adata[own.index].layers["counts"].toarray()
        weight = own["weight"].to_numpy()
        expected = 1e4 * (weight @ counts) / (weight @ counts.sum(axis=1))
        np.testing.assert_allclose(trends.varm["civae_bins"][:, 3], expected, rtol=1e-5)
        assert (trends.varm["civae_bins_se"][:, 3] > 0).any()

    def test_round_trip(self, trends, tmp_path):
        trends.write_h5ad(tmp_path / "t.h5ad")
        back = anndata.read_h5ad(tmp_path / "t.h5ad")
        pd.testing.assert_frame_equal(
            back.uns["civae"]["cells"], trends.uns["civae"]["cells"], check_names=False,
            check_index_type=False, check_column_type=False,
        )  # fmt: skip
        np.testing.assert_array_equal(back.varm["civae_switch"], trends.varm["civae_switch"])

    def test_some_genes_are_normalized_over_all(self, trends, along, middle):
        _, model, pairs = along
        few = tl.gene_trends(
            model, pairs, n_steps=51, between=middle, key_added=None, n_bootstraps=0,
            genes=["gene_7", "gene_3"],
        )  # fmt: skip
        np.testing.assert_allclose(few.X, trends[:, ["gene_7", "gene_3"]].X, atol=0.3)
        assert np.isnan(few.layers["fit_low"]).all()
        assert few.varm["civae_switch"].shape == (2, 0)
        assert few.var["switch"].notna().all()
        assert not few.var["resolved"].any()

    def test_continuous_values(self):
        adata = make_adata()
        adata.X = np.log1p(adata.layers["counts"].toarray())
        model = make_model(adata, setup={"layer": "X"}, likelihood="normal", epochs=5)
        adata.obsm["X_civae"] = model.get_latent_representation()
        pairs = tl.pair_cells(adata, "cell_type", "alpha", "beta")
        trends = tl.gene_trends(model, pairs, n_steps=5, between=["gamma"], n_bootstraps=20)
        assert trends.uns["civae"]["scale"] == "units of the data"
        # cells of the source lie at 0: the fit there is nearly their mean
        at_start = adata.X[(adata.obs["cell_type"] == "alpha").to_numpy()].mean(axis=0)
        assert np.abs(trends.X[0] - at_start).max() < 0.35
        change = trends.X[-1] - trends.X[0]
        np.testing.assert_allclose(trends.var["change"], change, atol=1e-5)


def test_other_cells_are_placed_on_the_same_axis(trends, along):
    adata, model, _ = along
    cells = trends.uns["civae"]["cells"]
    held_out = adata.copy()
    places = tl.project(held_out, trends, model=model, key_added="new")
    between = ((cells["t"] > 0) & (cells["t"] < 1)).to_numpy()
    found = places.loc[cells.index]
    np.testing.assert_allclose(found["new_t"][between], cells["t"][between], atol=1e-5)
    np.testing.assert_allclose(found["new_distance"], cells["distance"], rtol=1e-4)
    np.testing.assert_array_equal(held_out.obs["new_t"], places["new_t"])
    held_out.obsm["X_civae"] = np.zeros((held_out.n_obs, 3))
    with pytest.raises(ValueError, match="trends and adata must be from the same model"):
        tl.project(held_out, trends, key_added=None)


class TestCells:
    def test_cells_of_the_groups_or_of_the_label_are_placed(self, along):
        adata, model, pairs = along
        trends = tl.gene_trends(model, pairs, n_steps=5, n_bootstraps=0, key_added=None)
        of_groups = adata.obs["cell_type"].isin(["class_0", "class_4"])
        assert set(trends.uns["civae"]["cells"].index) == set(adata.obs_names[of_groups])
        of_label = tl.pair_cells(adata, "stage", "early", "late", n_pairs=40)
        of_label.attrs["label"], of_label.attrs["labels_key"] = "class_1", "cell_type"
        with_label = tl.gene_trends(model, of_label, n_steps=5, n_bootstraps=0, key_added=None)
        own = set(adata.obs_names[adata.obs["cell_type"] == "class_1"])
        ends = {*of_label["source"], *of_label["target"]}
        assert set(with_label.uns["civae"]["cells"].index) == own | ends

    def test_written_back_only_when_asked(self, along, middle):
        adata, model, pairs = along
        before = snapshot(adata)
        tl.gene_trends(model, pairs, n_steps=3, n_bootstraps=0, key_added=None)
        tl.gene_trends(model, pairs, n_steps=3, evidence="decoded")
        assert_unchanged(adata, before)
        trends = tl.gene_trends(model, pairs, n_steps=3, n_bootstraps=0, key_added="walk")
        cells = trends.uns["civae"]["cells"]
        np.testing.assert_array_equal(adata.obs["walk_t"].loc[cells.index], cells["t"])
        np.testing.assert_array_equal(
            adata.obs["walk_distance"].loc[cells.index], cells["distance"]
        )
        adata.obs.drop(columns=["walk_t", "walk_distance"], inplace=True)
        adata.obs["mine_t"] = 1.0
        with_mine = snapshot(adata)
        with pytest.raises(
            ValueError, match=r"adata.obs\['mine_t'\] already exists and was not written by scivae"
        ):
            tl.gene_trends(model, pairs, n_steps=3, n_bootstraps=0, key_added="mine")
        assert_unchanged(adata, with_mine)
        del adata.obs["mine_t"]

    def test_no_more_cells_than_asked_for(self, along):
        _, model, pairs = along
        trends = tl.gene_trends(
            model, pairs, n_steps=3, n_bootstraps=0, key_added=None, max_cells=200
        )
        assert trends.uns["civae"]["n_cells"] == 200

    def test_too_few_cells(self, along):
        adata, _, _ = along
        few = adata[adata.obs["cell_type"].isin(["class_0", "class_4"])][:40].copy()
        model = make_model(few, epochs=2)
        few.obsm["X_civae"] = model.get_latent_representation()
        pairs = tl.pair_cells(few, "cell_type", "class_0", "class_4", n_pairs=5)
        pairs.attrs = {}
        third = few[:12].copy()
        pairs = pairs[pairs["source"].isin(third.obs_names) & pairs["target"].isin(third.obs_names)]
        if not len(pairs):
            pairs = pd.DataFrame({"source": [third.obs_names[0]], "target": [third.obs_names[1]]})
        with pytest.raises(
            ValueError, match="at least 20 measured cells near the paths, but there"
        ):
            tl.gene_trends(model, pairs, adata=third)


class TestDonors:
    def test_donors_are_resampled_and_names_are_data(self):
        adata, _, _ = make_along(n_donors=4, n_genes=30)
        adata.obs["who"] = adata.obs["donor"].map(
            dict(zip(adata.obs["donor"].cat.categories, ["a/b", "a|b", "fit", "1"], strict=True))
        )
        model = make_model(adata, epochs=5)
        adata.obsm["X_civae"] = model.get_latent_representation()
        pairs = tl.pair_cells(adata, "cell_type", "class_0", "class_4", donor_key="who", n_pairs=60)
        trends = tl.gene_trends(model, pairs, n_steps=5, n_bootstraps=30)
        said = trends.uns["civae"]
        assert said["unit"] == "donor"
        assert said["donors"].tolist() == ["1", "a/b", "a|b", "fit"]
        assert set(layer_names(trends)) == {"fit", "fit_low", "fit_high", "decoded"}
        cells = said["cells"]
        names = said["donors"][cells["donor"]]
        assert (names == adata.obs["who"].loc[cells.index].astype(str)).all()
        assert set(said["bins"]["donor"]) == {0, 1, 2, 3}

    def test_two_donors_are_too_few_to_resample(self):
        adata, model, pairs = make_along(n_donors=2, n_genes=30)
        trends = tl.gene_trends(model, pairs, n_steps=5, n_bootstraps=10, key_added=None)
        assert trends.uns["civae"]["unit"] == "cell"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"evidence": "both"}, ValueError, "evidence must be one of 'measured', 'decoded'"),
        ({"n_bootstraps": -1}, ValueError, "n_bootstraps must be at least 0"),
        ({"max_cells": 3}, ValueError, "max_cells must be at least 20, got 3"),
        (
            {"key_added": "a/b"},
            ValueError,
            "key_added must be a name of at most 200 bytes, without slashes",
        ),
    ],
)
def test_bad_input(along, change, error, message):
    adata, model, pairs = along
    before = snapshot(adata)
    with pytest.raises(error, match=message) as caught:
        tl.gene_trends(model, pairs, **change)
    assert "\n" not in str(caught.value)
    assert_unchanged(adata, before)


@pytest.mark.parametrize(("n_between", "resolved"), [(0, False), (19, False), (20, True)])
def test_no_position_is_known_without_cells_in_between(n_between, resolved):
    """A change between two groups does not say where between them it happens."""
    names = [f"{n}{e}" for n in ("change", "switch") for e in ("", "_low", "_high")]
    curves = SimpleNamespace(
        **{name: np.full(4, 0.5) for name in names},
        resolved=np.ones(4, bool),
        dispersion=np.ones(4),
    )
    t = np.r_[np.full(30, 0.1), np.full(n_between, 0.5), np.full(9, 0.4)]
    weight = np.r_[np.ones(30 + n_between), np.zeros(9)]  # the last are far from the path
    table = pd.DataFrame({"t": t, "weight": weight})
    measured = Measured(curves, np.arange(len(t)), table, {}, pd.DataFrame(), None, True)
    assert measured.var(1.0)["resolved"].tolist() == [resolved] * 4
