import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from scipy import sparse
from tests.conftest import make_adata, make_model

from scivae.model import CIVAE
from scivae.train import dispersion
from scivae.train.dispersion import UNEXPLAINED, cells_of_moments, log_theta_by_moments

THETA = np.array([0.5, 1.0, 4.0, 10.0])


def cells_of_two_groups(n=6000, seed=0):
    """Counts of known dispersion: in each group the same genes at other levels; library sizes differ."""
    rng = np.random.default_rng(seed)
    groups = np.arange(n) % 2
    library = rng.lognormal(0, 0.3, n)
    mean = library[:, None] * np.where(groups[:, None] == 0, 3.0, 12.0)
    counts = rng.poisson(rng.gamma(THETA, mean / THETA))
    return sparse.csr_matrix(counts.astype(float)), library, groups


def overdispersion(*args):
    """What is found before a part of it is left to the network."""
    return np.exp(-log_theta_by_moments(*args)) / UNEXPLAINED


class Starts(Callback):
    """Dispersions when training starts."""

    def on_train_epoch_start(self, trainer, plan):
        self.log_theta = plan.module.px_r.detach().cpu().numpy().copy()


def start_of(model, **kwargs):
    seen = Starts()
    model.train(1, callbacks=[seen], enable_progress_bar=False, **kwargs)
    return seen.log_theta


def untrained(adata, setup=None, **kwargs):
    CIVAE.setup_anndata(adata, **(setup or {}))
    return CIVAE(adata, n_latent=4, n_hidden=16, **kwargs)


def test_true_dispersions_are_found():
    x, library, groups = cells_of_two_groups()
    same = np.zeros_like(groups)
    found = overdispersion(x, library, groups, same, 1)
    np.testing.assert_allclose(found[0], 1 / THETA, rtol=0.12)
    # if both groups were one, their difference would be taken for noise, and so would library sizes
    assert (overdispersion(x, library, same, same, 1) > found + 0.2).all()
    assert (overdispersion(x, np.ones_like(library), groups, same, 1) > found + 0.05).all()


def test_each_set_has_its_own():
    x, library, groups = cells_of_two_groups()
    x[groups == 1] = sparse.csr_matrix(np.full((3000, 4), 7.0))
    found = log_theta_by_moments(x, np.ones_like(library), groups, groups, 3)
    assert found.shape == (3, 4)
    assert (found[1] == dispersion.MAX_LOG_THETA).all()  # no noise at all
    assert (found[0] < found[1] - 0.5).all()
    assert np.ptp(found[2]) == 0  # without cells: what genes have in common


def test_genes_with_few_counts_follow_the_others():
    x, library, groups = cells_of_two_groups()
    rare = sparse.csr_matrix(([1.0], ([5], [0])), shape=(x.shape[0], 1))
    found = overdispersion(
        sparse.hstack([x, rare], format="csr"), library, groups, np.zeros_like(groups), 1
    )[0]
    assert found[:4].min() < found[4] < found[:4].max()


def test_single_cells_tell_nothing():
    x = sparse.csr_matrix(np.ones((2, 3)))
    found = log_theta_by_moments(x, np.ones(2), np.array([0, 1]), np.zeros(2, dtype=int), 1)
    np.testing.assert_allclose(found, -np.log(UNEXPLAINED))


def test_cells_with_labels_where_there_are_enough():
    labeled = np.arange(1000) % 4 == 0
    train = np.random.default_rng(0).permutation(1000)[:900]
    cells = cells_of_moments(train, labeled)
    np.testing.assert_array_equal(cells, np.sort(train[labeled[train]]))
    few = cells_of_moments(train[:100], labeled)
    np.testing.assert_array_equal(few, np.sort(train[:100]))


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_training_starts_at_the_moments_of_training_cells(likelihood):
    adata = make_adata()
    counts = adata.layers["counts"].toarray()
    train = np.arange(0, 120, 2)
    split = {"external_indexing": [train, np.arange(1, 120, 2), np.array([], dtype=int)]}
    model = untrained(adata, likelihood=likelihood)
    start = start_of(model, datasplitter_kwargs=split)
    codes = adata.obs["cell_type"].cat.codes.to_numpy()[train].astype(int)
    expected = log_theta_by_moments(
        sparse.csr_matrix(counts[train].astype(float)),
        counts[train].sum(axis=1).astype(float),
        codes,
        np.zeros_like(codes),
        1,
    )[0]
    np.testing.assert_allclose(start, expected, rtol=1e-5)


def test_each_batch_has_its_own():
    adata = make_adata()
    counts = adata.layers["counts"].toarray()
    second = adata.obs["batch"] == "two"
    counts[second] *= np.random.default_rng(0).gamma(0.5, 2, (second.sum(), 40)).round()
    adata.layers["counts"] = sparse.csr_matrix(counts + (counts.sum(axis=1, keepdims=True) == 0))
    model = untrained(adata, {"batch_key": "batch"}, dispersion="gene-batch")
    start = start_of(model)
    assert start.shape == (40, 2)
    assert np.median(start[:, 0]) > np.median(start[:, 1]) + 1


def test_size_factors_are_the_library():
    adata = make_adata()
    start = start_of(untrained(adata.copy()))
    adata.obs["size"] = np.asarray(adata.layers["counts"].sum(axis=1)).ravel()
    same = start_of(untrained(adata.copy(), {"size_factor_key": "size"}))
    np.testing.assert_allclose(start, same, rtol=1e-5)
    adata.obs["size"] = adata.obs["size"].to_numpy()[::-1] ** 2
    assert not np.allclose(start, start_of(untrained(adata, {"size_factor_key": "size"})))


def test_only_new_models_start(tmp_path):
    model = make_model(make_adata())
    trained = model.module.px_r.detach().numpy().copy()
    model.save(tmp_path / "model", save_anndata=True)
    np.testing.assert_array_equal(start_of(CIVAE.load(tmp_path / "model")), trained)
    query = make_adata(seed=1)
    mapped = CIVAE.load_query_data(query, model)
    np.testing.assert_array_equal(start_of(mapped), trained)
    np.testing.assert_array_equal(start_of(model), trained)


@pytest.mark.parametrize("settings", [{"dispersion": "gene-cell"}, {"likelihood": "poisson"}])
def test_networks_without_dispersions(settings):
    model = untrained(make_adata(), **settings)
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    assert not dispersion.has_dispersions(model.module)
    model.train(1, enable_progress_bar=False, plan_kwargs={"lr": 1e-12, "weight_decay": 0.0})
    if "px_r" in before:
        torch.testing.assert_close(model.module.px_r.detach(), before["px_r"])
