import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from scipy.stats import kstest
from sklearn.covariance import EmpiricalCovariance
from sklearn.metrics import roc_auc_score
from tests.conftest import CLASSES, assert_unchanged, make_adata, make_model, snapshot
from tests.model.make_saved_model import SAVED

import scivae
from scivae.metrics import set_coverage
from scivae.model import CIVAE, BlockDataModule
from scivae.train.calibration import (
    ClassGaussians,
    ResidualScale,
    calibrated_rank,
    larger_of,
    log_odds_against,
    useful_temperature,
)


def simulated(seed=0, n_cells=900, **options):
    """Classes that are told apart most of the time."""
    options = {"class_effect": 0.5, "mean_counts": 100, **options}
    return scivae.datasets.synthetic(n_cells, 60, 3, seed=seed, **options)


@pytest.fixture(scope="module")
def halves():
    """A model that holds half of its cells out, and as many cells that it never saw."""
    everything = simulated(n_cells=2400)
    order = np.random.default_rng(0).permutation(2400)
    train, new = everything[order[:1200]].copy(), everything[order[1200:]].copy()
    CIVAE.setup_anndata(train)
    model = CIVAE(train, n_latent=5)
    model.train(max_epochs=10, train_size=0.5, enable_progress_bar=False)
    return model, new


def test_cells_that_were_trained_on_are_told(halves):
    model, new = halves
    learned = model.adata[model.train_indices[:300]].copy()
    saved = model.calibration_, model.temperature_
    try:
        for adata, indices, n in (
            (learned, None, 300),
            (None, np.arange(len(model.adata)), len(model.train_indices)),
        ):
            with pytest.warns(UserWarning, match=f"it was trained on {n} of these"):
                model.calibrate(adata, indices)
        new = new.copy()
        new.obs_names = model.adata.obs_names[
            : new.n_obs
        ]  # barcodes of two samples can be the same
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.calibrate(new)
            model.calibrate()
    finally:
        model.calibration_, model.temperature_ = saved


def test_sets_cover_at_the_level(halves):
    model, new = halves
    y = new.obs["cell_type"].astype(str)
    assert 0.6 < (model.predict(new).astype(str) == y).mean() < 0.97  # sets have something to do
    sizes = []
    for level in (0.6, 0.8, 0.95):
        sets = model.predict(new, return_sets=True, level=level)
        assert sets.index.equals(new.obs_names)
        assert sets.columns.tolist() == list(model.classes)
        assert all(dtype.kind == "b" for dtype in sets.dtypes)
        found = set_coverage(sets, y, classes=sets.columns.astype(str))
        # Calibrated on 600 cells and scored on 1,200: three standard errors of both together.
        error = 3 * np.sqrt(level * (1 - level) * (1 / 600 + 1 / 1200))
        assert found.coverage == pytest.approx(level, abs=error)
        for name, coverage in found.per_class.items():
            n = (y == name).sum()
            assert coverage == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) * 2 / n))
        sizes.append(found.mean_size)
    assert sizes == sorted(sizes)


def test_sets_hold_the_first_choice_or_none(halves):
    model, new = halves
    sets, first = model.predict(new, return_sets=True, level=0.9), model.predict(new)
    # Of one threshold for all classes, only the classes' own thresholds can leave the first one out.
    some = sets.any(axis=1).to_numpy()
    held = sets.to_numpy()[np.arange(len(sets)), sets.columns.get_indexer(first)]
    assert held[some].mean() > 0.9


def test_novelty_of_known_cells_is_uniform(halves):
    model, new = halves
    known = model.novelty(new)
    assert known.name == "civae_novelty"
    assert known.index.equals(new.obs_names)
    assert kstest(known, "uniform").statistic < 0.08  # calibrated on 600, 1,200 new


def test_cells_of_a_class_that_was_left_out_are_found():
    adata = simulated(class_effect=2.0, mean_counts=1000, n_cells=1200)
    left_out = (adata.obs["cell_type"] == "class_2").to_numpy()
    known = np.flatnonzero(~left_out)
    train = adata[known[::2]].copy()
    train.obs["cell_type"] = train.obs["cell_type"].cat.remove_unused_categories()
    CIVAE.setup_anndata(train)
    model = CIVAE(train, n_latent=8)
    model.train(max_epochs=20, enable_progress_bar=False)
    del adata.obs["cell_type"]
    found = model.novelty(adata[np.concatenate([known[1::2], np.flatnonzero(left_out)])].copy())
    unknown = np.repeat([0, 1], [len(known[1::2]), left_out.sum()])
    assert roc_auc_score(unknown, found) > 0.9
    assert (found[unknown == 0] > 0.95).mean() < 0.15


def test_nothing_is_written_but_by_annotate(halves):
    model, new = halves
    new = new.copy()
    model.predict(new)  # registers it
    before = snapshot(new)
    model.novelty(new)
    model.predict(new, return_sets=True)
    assert_unchanged(new, before)
    model.annotate(new)
    np.testing.assert_allclose(new.obs["civae_novelty"], model.novelty(new), atol=1e-5)
    assert (new.obs["civae_predicted"] == model.predict(new)).all()
    model.annotate(new, key_added="mine")
    assert "mine_novelty" in new.obs


@pytest.mark.parametrize("store", ["h5ad", "zarr"])
def test_annotate_writes_novelty_into_a_file(halves, tmp_path, store):
    import anndata

    model, new = halves
    path = tmp_path / f"new.{store}"
    getattr(new, f"write_{store}")(path)
    model.annotate(path, batch_size=100)
    read = anndata.read_h5ad(path) if store == "h5ad" else anndata.read_zarr(path)
    np.testing.assert_allclose(read.obs["civae_novelty"], model.novelty(new), atol=1e-5)


def test_calibration_is_saved_and_loaded(halves, tmp_path):
    model, new = halves
    model.save(tmp_path / "model")
    loaded = CIVAE.load(tmp_path / "model", adata=False)
    pd.testing.assert_frame_equal(
        loaded.predict(new, return_sets=True), model.predict(new, return_sets=True)
    )
    pd.testing.assert_series_equal(loaded.novelty(new), model.novelty(new), rtol=1e-5)


def test_minified_data_are_ranked_by_their_place_in_latent_space(halves):
    model, _ = halves
    mean, variance = model.get_latent_representation(return_dist=True)
    expected = model.novelty(model.adata)
    cells = model.adata.copy()
    CIVAE.setup_anndata(cells)
    small = CIVAE(cells, n_latent=5)
    small.module.load_state_dict(model.module.state_dict())
    small.is_trained_, small.calibration_ = True, model.calibration_
    cells.obsm["qzm"], cells.obsm["qzv"] = mean, variance
    small.minify_adata(use_latent_qzm_key="qzm", use_latent_qzv_key="qzv")
    with pytest.warns(UserWarning, match="minified cells compares their latent points alone"):
        found = small.novelty()
    assert found.between(0, 1).all()
    assert 0.3 < np.corrcoef(found, expected)[0, 1] < 0.999  # one of two scores is left


def test_a_dataloader_gives_the_same(halves):
    model, new = halves
    data = BlockDataModule(new, registry=model.registry_)
    sets = model.predict(dataloader=data.inference_dataloader(), return_sets=True)
    np.testing.assert_array_equal(sets, model.predict(new, return_sets=True))
    np.testing.assert_allclose(
        model.novelty(dataloader=data.inference_dataloader()), model.novelty(new), atol=1e-5
    )
    with pytest.raises(ValueError, match="replaces adata and indices"):
        model.novelty(new, dataloader=data.inference_dataloader())


def test_training_from_a_datamodule_calibrates_alike(adata):
    data = BlockDataModule(adata, batch_size=32)
    model = CIVAE(registry=data.registry, n_latent=4)
    model.train(datamodule=data, max_epochs=2, enable_progress_bar=False)
    assert len(model.calibration_["scores"]) == data.n_val
    assert model.predict(adata, return_sets=True).shape == (adata.n_obs, 3)
    assert model.novelty(adata).between(0, 1).all()


def query_of(setup=None):
    everything = make_adata(n_cells=600)
    query = everything[480:].copy()
    reference = make_model(
        everything[:480].copy(),
        epochs=10,
        setup={"batch_key": "batch", **(setup or {})},
        encode_covariates=True,
    )
    query.obs["batch"] = pd.Categorical(["three"] * len(query))
    return reference, query


def test_a_mapped_model_keeps_what_its_reference_learned():
    reference, query = query_of()
    truth = query.obs["cell_type"].to_numpy().copy()
    del query.obs["cell_type"]
    mapped = CIVAE.load_query_data(query, reference)
    mapped.train(max_epochs=2, enable_progress_bar=False, plan_kwargs={"weight_decay": 0.0})
    assert mapped.temperature_ == reference.temperature_
    np.testing.assert_array_equal(mapped.calibration_["scores"], reference.calibration_["scores"])
    sets = mapped.predict(return_sets=True, level=0.95)
    assert set_coverage(sets, truth, classes=sets.columns).coverage > 0.8
    assert mapped.novelty().between(0, 1).all()


def test_a_mapped_model_with_enough_labels_is_calibrated_on_its_own():
    reference, query = query_of()
    mapped = CIVAE.load_query_data(query, reference)
    mapped.train(
        max_epochs=2, train_size=0.6, enable_progress_bar=False, plan_kwargs={"weight_decay": 0.0}
    )
    assert len(mapped.calibration_["scores"]) == len(mapped.validation_indices)
    # Of the classes' places in latent space the reference knows more.
    np.testing.assert_array_equal(mapped.calibration_["means"], reference.calibration_["means"])


def test_without_held_out_cells_the_error_says_what_to_do(adata):
    CIVAE.setup_anndata(adata)
    model = CIVAE(adata, n_latent=4)
    model.train(max_epochs=2, train_size=1.0, enable_progress_bar=False)
    for call in (lambda: model.predict(return_sets=True), model.novelty):
        with pytest.raises(ValueError, match=r"no scores of held-out cells.*call model.calibrate"):
            call()
    with pytest.raises(ValueError, match="but training held out none; pass adata="):
        model.calibrate()
    model.calibrate(make_adata(seed=4))
    assert len(model.calibration_["scores"]) == adata.n_obs
    assert model.novelty().between(0, 1).all()
    unlabeled = make_adata(seed=4)
    del unlabeled.obs["cell_type"]
    with pytest.raises(ValueError, match="calibration needs labels, but none of the 120"):
        model.calibrate(unlabeled)
    # annotate goes without it
    other = CIVAE(adata, n_latent=4)
    other.train(max_epochs=2, train_size=1.0, enable_progress_bar=False)
    other.annotate(new := make_adata(seed=5))
    assert "civae_novelty" not in new.obs
    assert "civae_predicted" in new.obs


def test_a_model_saved_before_is_calibrated_by_one_call(tmp_path):
    model = make_model(make_adata())
    expected = model.predict(return_sets=True)
    model.calibration_ = None  # as in a file of an earlier version, which has no such entry
    model.save(tmp_path / "old")
    loaded = CIVAE.load(tmp_path / "old", make_adata())
    with pytest.raises(ValueError, match="saved by an earlier version; call model.calibrate"):
        loaded.predict(return_sets=True)
    loaded.calibrate()
    pd.testing.assert_frame_equal(loaded.predict(return_sets=True), expected)


def test_a_file_of_the_first_version_is_calibrated_by_one_call():
    loaded = CIVAE.load(SAVED / "0.1.0", make_adata())
    with pytest.raises(ValueError, match="saved by an earlier version; call model.calibrate"):
        loaded.novelty()
    loaded.calibrate()
    assert loaded.novelty().between(0, 1).all()
    assert loaded.predict(return_sets=True).shape == (120, 2)


def test_a_model_without_its_training_cells_has_sets_and_no_novelty(tmp_path):
    model = make_model(make_adata())
    model.calibration_ = None
    model.save(tmp_path / "old")
    loaded = CIVAE.load(tmp_path / "old", adata=False)
    loaded.calibrate(make_adata(seed=2))
    assert loaded.predict(make_adata(seed=3), return_sets=True).shape == (120, 3)
    with pytest.raises(ValueError, match="load the model with its training AnnData"):
        loaded.novelty(make_adata(seed=3))


def test_arguments_of_sets_are_checked(trained):
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\), got 1"):
        trained.predict(return_sets=True, level=1)
    with pytest.raises(TypeError, match="level must be a number"):
        trained.predict(return_sets=True, level="high")
    with pytest.raises(ValueError, match="return different tables; pass only one"):
        trained.predict(return_sets=True, soft=True)
    with pytest.raises(TypeError, match="return_sets must be True or False"):
        trained.predict(return_sets="yes")


# --- the parts, in arrays -----------------------------------------------------------------------


def test_odds_are_those_of_the_probabilities():
    logits = np.random.default_rng(0).normal(size=(50, 4))
    p = softmax(logits, axis=1)
    np.testing.assert_allclose(log_odds_against(logits), np.log((1 - p) / p))
    far = log_odds_against(np.array([[1000.0, 0.0], [1001.0, 0.0]]))
    assert far[1, 0] < far[0, 0] < 0  # where both probabilities are 1
    assert log_odds_against(np.ones((2, 1))).tolist() == [[0.0], [0.0]]


def test_distance_is_that_of_scikit_learn_for_many_cells():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 40_000)
    spread = np.array([[1.0, 0.4], [0.0, 0.5]])
    z = rng.normal(size=(40_000, 2)) @ spread * (1 + labels[:, None]) + 9 * labels[:, None]
    found = ClassGaussians.fit(z, labels, 3)
    theirs = [EmpiricalCovariance().fit(z[labels == k]).mahalanobis(z) for k in (0, 1)]
    np.testing.assert_allclose(found.distance(z), np.sqrt(np.min(theirs, axis=0)), rtol=0.01)
    assert np.isnan(found.means[2]).all()


def test_a_class_of_one_cell_takes_the_covariance_of_all():
    rng = np.random.default_rng(1)
    z = np.concatenate([rng.normal(size=(500, 3)), [[20.0, 0, 0]]])
    found = ClassGaussians.fit(z, np.repeat([0, 1], [500, 1]), 2)
    assert found.distance(z)[-1] == 0
    assert found.distance(np.array([[21.0, 0, 0]]))[0] == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_fewer_cells_than_dimensions_are_no_error(n):
    z = np.random.default_rng(0).normal(size=(n, 5))
    distance = ClassGaussians.fit(z, np.arange(n) % 2, 2).distance(z + 1)
    assert np.isfinite(distance).all()
    assert (distance > 0).all()


def test_rank_counts_held_out_cells_and_goes_on_beyond_them():
    held_out = np.array([1.0, 2.0, 2.0, 4.0])
    found = calibrated_rank(np.array([-5.0, 0.0, 1.0, 2.0, 3.0, 4.0, 8.0, 1e9]), held_out)
    np.testing.assert_allclose(found[[2, 3, 4, 5]], [0.2, 0.6, 0.7, 0.8])
    assert (np.diff(found) > 0).all()
    assert found[0] > 0
    assert found[-1] < 1
    scores = np.random.default_rng(0).normal(size=2000)
    assert kstest(calibrated_rank(scores[1000:], scores[:1000]), "uniform").statistic < 0.06


def test_the_larger_of_two_scores_is_taken_in_their_own_units():
    known = [np.array([0.0, 1, 2, 3, 4]), np.array([0.0, 100, 200, 300, 400])]
    found = larger_of([np.array([4.0, 2.0]), np.array([200.0, 600.0])], known)
    np.testing.assert_allclose(found, [2 / 1.4826, 4 / 1.4826])
    same = np.ones(5)  # no spread to go by
    assert larger_of([np.array([3.0])], [same])[0] == 2.0


def test_misfit_finds_genes_that_a_cell_should_not_express():
    rng = np.random.default_rng(0)
    library = rng.uniform(3, 8, 4000)
    usual = rng.normal(size=(4000, 50)) * np.linspace(0.5, 2, 50) * library[:, None] ** 0.5 + 1
    blocks = [(usual[i : i + 500], library[i : i + 500]) for i in range(0, 4000, 500)]
    scale = ResidualScale.fit((blocks, blocks), degree=2)
    np.testing.assert_allclose(scale.mean, usual.mean(axis=0))
    np.testing.assert_allclose(scale.variance, usual.var(axis=0))
    misfit = scale.misfit(usual, library)
    assert abs(np.corrcoef(misfit, library)[0, 1]) < 0.05  # though residuals grow with the library
    odd = usual.copy()
    odd[:, :3] += 10
    assert (
        roc_auc_score(np.repeat([0, 1], 4000), np.append(misfit, scale.misfit(odd, library))) > 0.95
    )
    constant = ResidualScale.fit((blocks, blocks), degree=0)
    assert constant.trend.shape == (1,)


def logits_of(n, scale, seed=0, n_classes=4):
    """Logits, and labels drawn from the softmax of them times ``scale``."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, size=(n, n_classes))
    chances = softmax(scale * logits, axis=1).cumsum(axis=1)
    return logits, (rng.random((n, 1)) > chances).sum(axis=1)


def test_a_temperature_is_used_where_it_helps():
    logits, labels = logits_of(2000, 0.4)
    assert useful_temperature(logits, labels) == pytest.approx(2.5, rel=0.1)


def test_a_temperature_is_left_out_where_held_out_cells_do_not_ask_for_it():
    assert all(
        useful_temperature(*logits_of(n, 0.2, seed)) == 1.0 for n in (1, 19) for seed in (0, 1)
    )
    found = [useful_temperature(*logits_of(n, 1.0, seed)) for n in (20, 80) for seed in range(20)]
    assert np.mean(np.array(found) == 1.0) > 0.7


def test_temperature_with_few_cells_does_not_make_calibration_worse():
    """Cross-entropy of many other cells, with a temperature by few, against without."""
    for scale in (1.0, 0.7):
        change = []
        for seed in range(60):
            temperature = useful_temperature(*logits_of(25, scale, seed))
            logits, labels = logits_of(3000, scale, 1000 + seed)
            rows = np.arange(len(labels))
            change.append(
                np.log(softmax(logits, axis=1)[rows, labels]).mean()
                - np.log(softmax(logits / temperature, axis=1)[rows, labels]).mean()
            )
        assert np.mean(change) < 0.01


def test_classes_are_those_of_the_model(trained):
    assert trained.predict(return_sets=True).columns.tolist() == list(CLASSES)
