from __future__ import annotations

import anndata
import numpy as np
import pytest
from scipy import sparse
from tests.conftest import assert_unchanged, make_adata, make_model, snapshot

from scivae import tl


@pytest.fixture(scope="session")
def model():
    return make_model(make_adata(), epochs=15)


@pytest.fixture
def cells(model):
    """A copy of the training cells with their latent representation and a made-up UMAP."""
    adata = make_adata()
    adata.obsm["X_civae"] = model.get_latent_representation()
    rng = np.random.default_rng(0)
    adata.obsm["X_umap"] = rng.normal(size=(adata.n_obs, 2)).astype(np.float32)
    return adata


@pytest.fixture(scope="session")
def path(model):
    return model.interpolate([0, 3, 0], [6, 9, 6], n_steps=7, key_added=None)


def foot(x, points):
    """The nearest place on a polyline, by a plain loop."""
    best = (np.inf, 0.0)
    for i, (a, b) in enumerate(zip(points[:-1], points[1:], strict=True)):
        d = b - a
        s = np.clip((x - a) @ d / (d @ d), 0, 1)
        gap = np.linalg.norm(x - a - s * d)
        best = min(best, (gap, (i + s) / (len(points) - 1)))
    return best


class TestProject:
    def test_places_are_those_of_a_plain_loop(self, cells, path):
        places = tl.project(cells, path[:7], n_neighbors=4)
        z = path[:7].obsm["X_civae"].astype(float)
        for i in range(0, cells.n_obs, 11):
            gap, t = foot(cells.obsm["X_civae"][i].astype(float), z)
            assert places["civae_distance"].iloc[i] == pytest.approx(gap, abs=1e-5)
            assert places["civae_t"].iloc[i] == pytest.approx(t, abs=1e-4)

    def test_share_is_that_of_a_plain_sort(self, cells, path):
        inner = path[1:6]  # the ends are as near to a cell as the cell itself
        places = tl.project(cells, inner, n_neighbors=4)
        both = np.concatenate([cells.obsm["X_civae"], inner.obsm["X_civae"]]).astype(float)
        for i in range(0, cells.n_obs, 7):
            distance = np.linalg.norm(both - both[i], axis=1)
            distance[i] = np.inf
            near = np.argsort(distance, kind="stable")[:4]
            assert places["civae_share"].iloc[i] == (near >= cells.n_obs).mean()

    def test_ends_lie_at_0_and_1(self, cells, path):
        places = tl.project(cells, path)
        np.testing.assert_allclose(places["civae_t"].iloc[[0, 6]], [0, 1], atol=1e-4)
        np.testing.assert_allclose(places["civae_distance"].iloc[[0, 6]], 0, atol=1e-4)

    def test_positions_are_those_of_the_rows_that_are_left(self, cells, path):
        whole = tl.project(cells, path[:7])
        thinned = tl.project(cells, path[[0, 1, 3, 6]])  # the same straight line
        np.testing.assert_allclose(thinned["civae_t"], whole["civae_t"], atol=1e-4)

    def test_walks_of_several_lengths(self, cells, path):
        both = tl.project(cells, path[[*range(7), 7, 13]])
        apart = [tl.project(cells, path[:7]), tl.project(cells, path[[7, 13]])]
        distance = np.minimum(*(p["civae_distance"] for p in apart))
        np.testing.assert_allclose(both["civae_distance"], distance, atol=1e-6)

    def test_writes_columns_or_nothing(self, cells, path, model):
        before = snapshot(cells)
        places = tl.project(cells, path, key_added=None)
        assert_unchanged(cells, before)
        tl.project(cells, path, key_added="walk")
        for name in ("t", "distance", "share"):
            np.testing.assert_array_equal(cells.obs[f"walk_{name}"], places[f"civae_{name}"])

    def test_a_model_in_place_of_a_representation(self, cells, path, model):
        expected = tl.project(cells, path, key_added=None)
        del cells.obsm["X_civae"]
        found = tl.project(cells, path, model=model, key_added=None)
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_synthetic_cells_have_no_position(self, cells, model):
        synthetic = model.augment("alpha", 5, key_added=None)
        del synthetic.obs["civae_t"]
        with pytest.raises(ValueError, match=r"path needs 'civae_t'.*interpolate"):
            tl.project(cells, synthetic)

    def test_a_position_that_is_missing(self, cells, path):
        broken = path.copy()
        broken.obs.loc[broken.obs_names[3], "civae_t"] = np.nan
        with pytest.raises(ValueError, match="must be finite, but 1 of 21 rows are NaN"):
            tl.project(cells, broken)

    def test_no_row_is_left(self, cells, path):
        with pytest.raises(ValueError, match="path must hold at least one cell, got none"):
            tl.project(cells, path[:0].copy())


class TestEmbed:
    def test_cells_without_x_and_of_no_kind(self, cells, path):
        made = path.copy()
        del made.obs["civae_kind"]
        cells.X = None
        joint = tl.embed(cells, made)
        assert joint.X is None
        assert joint.obs["civae_kind"].tolist()[cells.n_obs :] == ["augmented"] * made.n_obs

    def test_real_cells_stay_where_they_are(self, cells, path):
        before = snapshot(cells)
        joint = tl.embed(cells, path)
        assert_unchanged(cells, before)
        n = cells.n_obs
        assert joint.shape == (n + path.n_obs, cells.n_vars)
        assert joint.obsm["X_umap"][:n].tobytes() == cells.obsm["X_umap"].tobytes()
        assert joint.obsm["X_civae"][:n].tobytes() == cells.obsm["X_civae"].tobytes()
        assert joint.obs_names[:n].equals(cells.obs_names)
        assert joint.obs["civae_kind"].tolist() == ["real"] * n + ["interpolated"] * path.n_obs
        np.testing.assert_array_equal(joint.obs["civae_t"][n:], path.obs["civae_t"])
        assert joint.obs["civae_t"][:n].isna().all()

    def test_values_of_both(self, cells, path):
        joint = tl.embed(cells, path)
        n = cells.n_obs
        np.testing.assert_array_equal(joint.X[:n], cells.X)
        np.testing.assert_array_equal(joint.X[n:], path.X)
        assert sparse.issparse(joint.layers["counts"])
        expected = cells.layers["counts"].toarray()
        np.testing.assert_array_equal(joint.layers["counts"][:n].toarray(), expected)
        assert joint.obs["cell_type"].cat.categories.tolist() == ["alpha", "beta", "gamma"]

    def test_generated_cells_go_to_the_mean_of_their_neighbors(self, cells, path):
        joint = tl.embed(cells, path, n_neighbors=3)
        z, umap = cells.obsm["X_civae"].astype(float), cells.obsm["X_umap"].astype(float)
        for i in range(1, 6):  # the ends are real cells
            distance = np.linalg.norm(z - path.obsm["X_civae"][i], axis=1)
            near = np.argsort(distance)[:3]
            expected = np.average(umap[near], axis=0, weights=1 / distance[near])
            np.testing.assert_allclose(
                joint.obsm["X_umap"][cells.n_obs + i], expected, rtol=1e-3, atol=1e-4
            )

    def test_a_generated_cell_on_a_real_one_goes_where_that_is(self, cells, path):
        joint = tl.embed(cells, path)
        placed = joint.obsm["X_umap"][cells.n_obs :]
        np.testing.assert_allclose(placed[[0, 6]], cells.obsm["X_umap"][[0, 6]], atol=1e-2)

    def test_a_kept_umap_places_by_its_own_transform(self, cells, path):
        class Reducer:
            def transform(self, z):
                return 10 * z[:, :2]

        joint = tl.embed(cells, path, reducer=Reducer())
        np.testing.assert_allclose(
            joint.obsm["X_umap"][cells.n_obs :], 10 * path.obsm["X_civae"][:, :2], rtol=1e-6
        )

    @pytest.mark.slow
    def test_a_fitted_umap(self, cells, path):
        umap = pytest.importorskip("umap")
        reducer = umap.UMAP(n_epochs=20, n_neighbors=10, random_state=0, init="random", n_jobs=1)
        cells.obsm["X_umap"] = reducer.fit_transform(cells.obsm["X_civae"])
        joint = tl.embed(cells, path, reducer=reducer)
        assert joint.obsm["X_umap"].shape == (cells.n_obs + path.n_obs, 2)
        assert np.isfinite(joint.obsm["X_umap"]).all()

    def test_scanpy_draws_it(self, cells, path):
        import matplotlib.pyplot as plt
        import scanpy as sc

        axes = sc.pl.umap(
            tl.embed(cells, path), color=["cell_type", "civae_t", "civae_kind"], show=False
        )
        assert len(axes) == 3
        plt.close("all")

    @pytest.mark.parametrize("kind", ["path", "augmented"])
    def test_round_trip(self, cells, path, model, kind, tmp_path):
        cells.obs["flag"] = np.arange(cells.n_obs) % 2 == 0
        cells.obs["note"] = [f"n{i}" for i in range(cells.n_obs)]
        cells.uns["cell_type_colors"] = ["#000000", "#111111", "#222222"]
        generated = path if kind == "path" else model.augment("beta", 4, key_added=None)
        joint = tl.embed(cells, generated)
        joint.write_h5ad(tmp_path / "joint.h5ad")
        back = anndata.read_h5ad(tmp_path / "joint.h5ad")
        assert back.obs["flag"][: cells.n_obs].tolist() == cells.obs["flag"].tolist()
        assert back.uns["cell_type_colors"].tolist() == cells.uns["cell_type_colors"]
        np.testing.assert_array_equal(back.obsm["X_umap"], joint.obsm["X_umap"])

    def test_genes_in_another_order(self, cells, path):
        joint = tl.embed(cells[:, ::-1].copy(), path)
        np.testing.assert_array_equal(joint.X[: cells.n_obs], cells.X)

    def test_twice(self, cells, path):
        joint = tl.embed(tl.embed(cells, path), path)
        assert joint.obs_names.is_unique
        assert joint.n_obs == cells.n_obs + 2 * path.n_obs

    def test_no_embedding(self, cells, path):
        with pytest.raises(KeyError, match=r"'X_tsne' is not among.*scanpy.pp.neighbors"):
            tl.embed(cells, path, basis="tsne")

    def test_a_reducer_of_another_embedding(self, cells, path):
        class Reducer:
            def transform(self, z):
                return z[:, :3]

        with pytest.raises(ValueError, match="reducer must place 21 cells in 2 dimensions"):
            tl.embed(cells, path, reducer=Reducer())


@pytest.mark.parametrize("verb", [tl.project, tl.embed])
class TestAnotherModel:
    def test_dimensions(self, cells, path, verb):
        cells.obsm["X_civae"] = cells.obsm["X_civae"][:, :3]
        self.refused(cells, path, verb, "another model.*4 latent dimensions, adata has 3")

    def test_genes(self, cells, path, verb):
        self.refused(cells[:, 2:].copy(), path, verb, "2 of its 40 genes are not in adata")

    def test_weights(self, cells, path, verb):
        cells.obsm["X_civae"] = cells.obsm["X_civae"] + 1
        self.refused(cells, path, verb, "another model.*the end at cell .* away")

    def test_not_generated(self, cells, path, verb):
        other = path.copy()
        del other.obsm["X_civae"]
        self.refused(cells, other, verb, "must be generated cells")

    @staticmethod
    def refused(cells, path, verb, message):
        before = snapshot(cells)
        with pytest.raises(ValueError, match=message) as caught:
            verb(cells, path)
        assert "\n" not in str(caught.value)
        assert_unchanged(cells, before)
