"""Attributions: complete, independent of how they are computed, and known markers come first."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata
from tests.conftest import assert_unchanged, make_adata, make_model, snapshot

import scivae
from scivae.tl import attribute

# Well known markers that are among the genes of scanpy's pbmc68k_reduced.
MARKERS = {
    "CD19+ B": ["CD79A", "CD79B", "MS4A1", "IGLL5", "CD74"],
    "CD56+ NK": ["GNLY", "NKG7", "GZMB", "CST7", "CTSW"],
    "CD14+ Monocyte": ["FCER1G", "AIF1", "TYROBP", "FCN1", "LST1"],
}


def margins(model, label: str, z: np.ndarray) -> np.ndarray:
    """Logit of a class minus the mean of the others, from the geometry of the model."""
    logits = model.linear_classes.logits(z)
    own = model.classes == label
    return logits[:, own].mean(axis=1) - logits[:, ~own].mean(axis=1)


def test_attributions_add_up_to_the_difference_of_logits(trained):
    genes = attribute(trained, "alpha", n_steps=200)
    assert genes.attrs["error"] < 0.01
    # The baseline as a cell of its own: two cells, of both classes, and their logits by other code.
    counts = trained.adata.layers["counts"].toarray()
    label = trained.adata.obs["cell_type"].to_numpy()
    means = [np.log1p(counts[label == k]).mean(axis=0) for k in ("beta", "gamma")]
    profile = np.mean(means, axis=0)
    baseline = scivae.module.encode_values(
        trained.module,
        np.expm1(profile)[None].astype(np.float32),
        trained.codec.encode(trained.adata, np.array([0])).covariates,
    )
    cells = trained.get_latent_representation()[label == "alpha"]
    expected = margins(trained, "alpha", cells).mean() - margins(trained, "alpha", baseline)[0]
    assert genes.attrs["difference"] == pytest.approx(expected, rel=1e-4)
    assert genes["attribution"].sum() == pytest.approx(expected, rel=0.01)
    order = genes.loc[trained.adata.var_names]
    np.testing.assert_allclose(order["baseline"], profile, rtol=1e-5)
    np.testing.assert_allclose(order["value"], np.log1p(counts[label == "alpha"]).mean(0), 1e-5)


def test_a_boundary_is_seen_alike_from_both_sides(trained):
    """From no expression, what speaks for one class speaks against the other."""
    first = attribute(trained, "alpha", "beta", baseline="zero")
    assert first.attrs["error"] < 0.05
    # Genes 0, 3, … are markers of alpha, genes 1, 4, … of beta.
    number = first.index.str.removeprefix("gene_").astype(int)
    of_alpha, of_beta = (first["attribution"][number % 3 == k].mean() for k in (0, 1))
    assert of_alpha > 0 > of_beta
    assert of_alpha - of_beta > 3 * abs(first["attribution"][number % 3 == 2].mean())
    second = attribute(trained, "beta", "alpha").loc[first.index, "attribution"]
    assert second[number % 3 == 1].mean() > 0


def test_batches_and_subsets(trained, monkeypatch):
    whole = attribute(trained, "beta")
    monkeypatch.setattr("scivae.tl._attribution.BATCH_SIZE", 7)
    pd.testing.assert_frame_equal(attribute(trained, "beta").loc[whole.index], whole, atol=1e-5)
    some = attribute(trained, "beta", max_cells=5)
    assert some.attrs["n_cells"] == 5
    assert some.equals(attribute(trained, "beta", max_cells=5))
    assert not some.equals(attribute(trained, "beta", max_cells=5, seed=1))


def test_leaves_the_cells_alone_and_predicts_missing_labels(trained):
    before = snapshot(trained.adata)
    expected = attribute(trained, "gamma")
    assert_unchanged(trained.adata, before)
    other = make_adata()
    del other.obs["cell_type"]
    predicted = attribute(trained, "gamma", adata=other)
    assert predicted.attrs["n_cells"] == int((trained.predict() == "gamma").sum())
    assert (
        np.corrcoef(predicted["attribution"], expected.loc[predicted.index, "attribution"])[0, 1]
        > 0.9
    )


def test_continuous_values_and_covariates_of_the_encoder():
    adata = make_adata()
    setup = {"layer": "X", "batch_key": "batch", "continuous_covariate_keys": ["age"]}
    model = make_model(adata, epochs=5, setup=setup, likelihood="normal", encode_covariates=True)
    genes = attribute(model, "alpha")
    assert genes.attrs["error"] < 0.02
    own = (adata.obs["cell_type"] == "alpha").to_numpy()
    np.testing.assert_allclose(genes["value"], adata[own, genes.index].X.mean(axis=0), rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (
            {"label": "delta"},
            KeyError,
            "label must be a class that the model was trained on, got 'delta'",
        ),
        ({"other": "alpha"}, ValueError, "label and other must be two classes, got 'alpha' twice"),
        ({"baseline": "median"}, ValueError, "baseline must be one of 'mean', 'zero'"),
        ({"n_steps": 0}, ValueError, "n_steps must be at least 1"),
        ({"max_cells": 1.5}, TypeError, "max_cells must be an integer"),
    ],
)
def test_bad_arguments(trained, change, kind, message):
    with pytest.raises(kind, match=message):
        attribute(trained, **{"label": "alpha", **change})


def test_classes_without_cells(trained):
    beta = trained.adata[trained.adata.obs["cell_type"] == "beta"].copy()
    with pytest.raises(ValueError, match="label must be a class with cells, got 'alpha'"):
        attribute(trained, "alpha", adata=beta)
    with pytest.raises(ValueError, match="baseline='mean' needs cells of the other classes"):
        attribute(trained, "beta", adata=beta)
    assert len(attribute(trained, "beta", adata=beta, baseline="zero")) == beta.n_vars


def test_few_steps_are_told(trained):
    with pytest.warns(UserWarning, match="pass n_steps=4"):
        attribute(trained, "alpha", baseline="zero", n_steps=1)


def places(model, markers: dict[str, list[str]]) -> dict[str, float]:
    """Mean rank of the markers of each class among all genes: 1 is the first, 0.5 is chance."""
    found = {}
    for label, genes in markers.items():
        table = attribute(model, label, n_steps=20)
        rank = pd.Series(rankdata(table["attribution"]) / len(table), index=table.index)
        found[label] = float(rank[genes].mean())
    return found


@pytest.mark.filterwarnings("ignore:.*fewer than 10 cells")
def test_markers_of_blood_cells_come_first():
    adata = scivae.datasets.pbmc()
    model = make_model(adata, epochs=6)
    found = places(model, MARKERS)
    assert min(found.values()) > 0.97, found
    # Controls: genes at random, and the same model on labels that mean nothing.
    rng = np.random.default_rng(0)
    chance = {k: list(rng.choice(adata.var_names, 5, replace=False)) for k in MARKERS}
    assert max(places(model, chance).values()) < 0.8
    adata = scivae.datasets.pbmc()
    adata.obs["cell_type"] = rng.permutation(adata.obs["cell_type"].to_numpy())
    null = places(make_model(adata, epochs=6), MARKERS)
    assert np.mean(list(null.values())) < 0.8, null
