import numpy as np
import pandas as pd
import pytest
from tests.conftest import CLASSES, assert_unchanged, make_adata, make_model, snapshot

from scivae.model import CIVAE


def test_a_classifier_without_weight_says_that_it_knows_nothing(tmp_path):
    adata = make_adata()
    model = make_model(adata, discriminator_weight=0)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    for ask in (model.predict, model.novelty, lambda: model.annotate(tmp_path / "cells.h5ad")):
        with pytest.warns(UserWarning, match="classifier was not trained"):
            ask()


def test_predict_agrees_with_the_discriminator(trained):
    z = trained.get_latent_representation()
    layer = trained.module.discriminator
    logits = z @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    assert (trained.predict() == np.array(CLASSES)[logits.argmax(1)]).all()
    assert (trained.predict() == trained.adata.obs["cell_type"]).mean() > 0.9


def test_soft_predictions_are_probabilities(trained):
    soft = trained.predict(indices=[4, 0], soft=True)
    assert soft.index.tolist() == ["cell_4", "cell_0"]
    assert soft.columns.tolist() == list(CLASSES)
    np.testing.assert_allclose(soft.sum(axis=1), 1)
    assert (soft.idxmax(axis=1).to_numpy() == trained.predict(indices=[4, 0])).all()


def test_calibration_lowers_the_held_out_cross_entropy(trained):
    index = trained.validation_indices
    codes = trained.adata.obs["_scvi_labels"].to_numpy()[index]
    soft = trained.predict(indices=index, soft=True).to_numpy()
    logits = trained.linear_classes.logits(trained.get_latent_representation(indices=index))
    plain = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    rows = np.arange(len(index))
    assert -np.log(soft[rows, codes]).mean() <= -np.log(plain[rows, codes]).mean() + 1e-6


def test_query_needs_no_labels(trained):
    query = make_adata(seed=3)
    expected = trained.predict(query)
    unlabeled = make_adata(seed=3)
    del unlabeled.obs["cell_type"]
    np.testing.assert_array_equal(trained.predict(unlabeled), expected)
    missing = make_adata(seed=3)
    missing.obs["cell_type"] = missing.obs["cell_type"].where(np.arange(len(missing)) > 9)
    np.testing.assert_array_equal(trained.predict(missing), expected)


def test_order_and_batch_size_do_not_matter(trained):
    soft = trained.predict(soft=True)
    shuffled = np.random.default_rng(0).permutation(len(soft))
    pd.testing.assert_frame_equal(
        trained.predict(indices=shuffled, soft=True, batch_size=7), soft.iloc[shuffled], atol=1e-5
    )


def query(change):
    adata = make_adata(seed=3)
    return change(adata) or adata


def unseen(adata):
    adata.obs["cell_type"] = "delta"


def negative(adata):
    adata.layers["counts"] = adata.layers["counts"].toarray() - 1


def empty_cell(adata):
    adata.layers["counts"][7] = 0


def no_layer(adata):
    del adata.layers["counts"]


BAD_QUERIES = {
    "genes missing": (lambda a: a[:, 3:].copy(), ValueError, "3 are missing .'gene_0'.*prepare_query_anndata"),
    "genes reordered": (lambda a: a[:, ::-1].copy(), ValueError, "in another order; use adata"),
    "unseen label": (unseen, ValueError, "'delta'; set them to NaN, or drop the column"),
    "negative": (negative, ValueError, "holds negative values"),
    "empty cell": (empty_cell, ValueError, "all zero .'cell_7'"),
    "no layer": (no_layer, KeyError, "layer must be a key of adata.layers or 'X', got 'counts'"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Changing the sparsity")
@pytest.mark.parametrize("case", BAD_QUERIES)
def test_bad_query_says_why_and_changes_nothing(trained, case):
    change, error, message = BAD_QUERIES[case]
    adata = query(change)
    before = snapshot(adata)
    with pytest.raises(error, match=message):
        trained.predict(adata)
    assert_unchanged(adata, before)


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.predict(),
        lambda m: m.decode(np.zeros((1, 20))),
        lambda m: m.interpolate(0, 1),
        lambda m: m.augment("alpha", 2),
    ],
)
def test_untrained_model_says_so(adata, call):
    CIVAE.setup_anndata(adata)
    with pytest.raises(RuntimeError, match=r"not trained yet; call model.train\(\) first"):
        call(CIVAE(adata))


def test_training_mode_is_put_back(adata):
    model = make_model(adata)
    model.module.train()
    model.predict()
    assert model.module.training
