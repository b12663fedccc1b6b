"""Controls of paths: each passes where it should, and fails where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score
from tests.conftest import assert_unchanged, make_model, snapshot

from scivae import tl
from scivae.datasets import synthetic
from scivae.tl import _controls


@pytest.fixture(scope="module")
def model():
    """Cells of two types along a known path, in three donors; labels do not tell the stage."""
    adata = synthetic(600, 40, 2, layout="across", n_donors=3, seed=1)
    return make_model(adata, epochs=15)


def checked(model, groupby="stage", source="early", target="late", **options):
    adata = model.adata
    if "X_civae" not in adata.obsm:
        adata.obsm["X_civae"] = model.get_latent_representation()
    pairs = tl.pair_cells(adata, groupby, source, target, donor_key=options.pop("pair_in", "donor"))
    return tl.check_paths(model, pairs, n_permutations=60, **options)


def with_groups(model, values):
    """The stages, some of them replaced."""
    model.adata.obs["groups"] = values
    return {"groupby": "groups"}


def test_a_true_path_passes(model):
    adata = model.adata
    adata.obsm["X_civae"] = model.get_latent_representation()
    before = snapshot(adata)
    table = checked(model)
    assert_unchanged(adata, before)
    assert table["passed"].tolist() == [True] * 3
    assert (table.loc[["permuted_ends", "left_out_donors"], "value"] > 0.9).all()
    assert 0.5 < table.loc["permuted_ends", "reference"] < 0.7
    middle = table.loc["held_out_middle"]
    assert middle["value"] < middle["reference"]
    assert middle["n_cells"] == (adata.obs["stage"] == "middle").sum()
    assert "'middle' lies at 0." in middle["verdict"]
    assert table.attrs["between"] == ["middle"]


def test_shuffled_groups_fail(model):
    stage = model.adata.obs["stage"].astype(str).to_numpy()
    table = checked(model, **with_groups(model, np.random.default_rng(0).permutation(stage)))
    assert not table.loc["permuted_ends", "passed"]
    assert abs(table.loc["permuted_ends", "value"] - 0.5) < 0.1
    assert table.loc["left_out_donors", "passed"] is not True
    assert "Failed" in table.loc["permuted_ends", "verdict"]


def test_a_middle_that_is_the_target_fails(model):
    stage = model.adata.obs["stage"].astype(str).to_numpy()
    late = np.flatnonzero(stage == "late")
    stage[late[::2]] = "more of it"
    groups = with_groups(model, stage)
    middle = checked(model, **groups, between=["more of it"]).loc["held_out_middle"]
    assert not middle["passed"]
    assert "does not lie between" in middle["verdict"]


def test_a_donor_that_goes_the_other_way_is_named(model):
    obs = model.adata.obs
    stage = obs["stage"].astype(str).to_numpy()
    swapped = np.select([stage == "early", stage == "late"], ["late", "early"], stage)
    table = checked(
        model, **with_groups(model, np.where(obs["donor"] == "donor_1", swapped, stage))
    )
    donors = table.loc["left_out_donors"]
    assert donors["passed"] is not True
    assert donors["value"] < 0.2
    assert "donor_1" in donors["verdict"]


def test_donors_of_one_group_each_are_left_out_in_twos(model):
    obs = model.adata.obs
    stage = obs["stage"].astype(str).to_numpy()
    donor = np.array([f"{s}{i % 3}" for i, s in enumerate(stage)])
    obs["one_each"] = donor
    donors = checked(model, pair_in=None, donor_key="one_each").loc["left_out_donors"]
    assert donors["passed"]
    assert "in 9 of 9 pairs of donors" in donors["verdict"]


def test_what_cannot_be_tested_is_said(model):
    with pytest.warns(UserWarning, match="looks like donors"):
        table = checked(model, pair_in=None, between=[])
    assert table.loc[["held_out_middle", "left_out_donors"], "passed"].isna().all()
    assert table.loc["left_out_donors", "verdict"].startswith("Not tested: no donors")
    assert table.loc["held_out_middle", "verdict"].startswith("Not tested: no groups between")


def test_cells_that_were_trained_on_with_the_groups_as_labels_are_not_scored():
    """A model that learned labels without meaning separates its training cells, and must not pass."""
    adata = synthetic(300, 40, 1, effect=0.0, seed=1)
    del adata.obs["stage"]  # three values would look like donors
    adata.obs["coin"] = np.random.default_rng(0).choice(["heads", "tails"], adata.n_obs)
    model = make_model(adata, epochs=40, setup={"labels_key": "coin"}, n_hidden=64)
    adata.obsm["X_civae"] = model.get_latent_representation()
    pairs = tl.pair_cells(adata, "coin", "heads", "tails", labels_key="coin")
    table = tl.check_paths(model, pairs, n_permutations=60)
    ends = table.loc["permuted_ends"]
    assert ends["n_cells"] == len(model.validation_indices)
    assert not ends["passed"]
    target = (adata.obs["coin"] == "tails").to_numpy()
    memorized = _controls._auc(
        _controls._position(adata.obsm["X_civae"].astype(float), target, target >= 0), target
    )
    assert memorized > ends["value"] + 0.1


def test_positions_and_auc_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    target = np.repeat([False, True], 400)
    z = rng.normal(size=(800, 3)) @ np.diag([3.0, 1.0, 0.5]) + target[:, None] * [1.0, 1.0, 0.0]
    t = _controls._position(z, target, np.ones(800, dtype=bool))
    np.testing.assert_allclose([t[~target].mean(), t[target].mean()], [0, 1], atol=1e-9)
    fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(z, target)
    assert np.corrcoef(t, fitted.decision_function(z))[0, 1] > 0.999
    assert _controls._auc(t, target) == pytest.approx(roc_auc_score(target, t))
