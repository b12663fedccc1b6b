from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scivae import tl


def line(a, b, seed=0, **obs) -> AnnData:
    """Cells on a line: group "a" at the places ``a``, group "b" at ``b``."""
    places = np.r_[a, b].astype(np.float32)
    adata = AnnData(
        np.zeros((len(places), 1), np.float32),
        obs=pd.DataFrame(
            {"group": pd.Categorical(["a"] * len(a) + ["b"] * len(b)), **obs},
            index=[f"cell_{i}" for i in range(len(places))],
        ),
    )
    adata.obsm["X_civae"] = places[:, None]
    return adata


def place(adata, names):
    return adata[list(names)].obsm["X_civae"][:, 0]


@pytest.fixture
def cloud() -> AnnData:
    rng = np.random.default_rng(0)
    adata = line(rng.normal(size=60), rng.normal(size=40) + 5)
    adata.obsm["X_civae"] = rng.normal(size=(100, 4)).astype(np.float32)
    adata.obs["cell_type"] = pd.Categorical(rng.choice(["x", "y"], 100))
    adata.obs["donor"] = pd.Categorical(rng.choice(["d0", "d1", "d2"], 100))
    return adata


def test_on_a_line_the_plan_joins_equal_ranks():
    rng = np.random.default_rng(1)
    adata = line(rng.normal(size=50), rng.normal(size=50) + 3)
    pairs = tl.pair_cells(adata, "group", "a", "b")
    first, second = place(adata, pairs["source"]), place(adata, pairs["target"])
    order = np.argsort(first)
    np.testing.assert_array_equal(second[order], np.sort(second))
    np.testing.assert_allclose(pairs["cost"], np.abs(first - second), rtol=1e-6)


def test_cost_of_the_plan_is_that_of_pot(cloud):
    import ot

    groups = [cloud[cloud.obs["group"] == g].obsm["X_civae"].astype(float) for g in "ab"]
    groups[0] = groups[0][:40]
    kept = cloud[np.r_[:40, 60:100]].copy()
    pairs = tl.pair_cells(kept, "group", "a", "b")
    assert pairs["source"].is_unique
    assert pairs["target"].is_unique
    exact = ot.emd2([], [], ot.dist(*groups))
    np.testing.assert_allclose((pairs["cost"] ** 2).mean(), exact, rtol=1e-5)


def test_every_cell_of_the_larger_group_is_paired_once(cloud):
    pairs = tl.pair_cells(cloud, "group", "a", "b")
    assert len(pairs) == pairs["source"].nunique() == 60
    assert pairs["target"].nunique() == 40
    assert pairs["target"].value_counts().max() <= 3


def test_large_groups_are_joined_in_parts(cloud):
    few = tl.pair_cells(cloud, "group", "a", "b", max_cells=15)
    assert len(few) == 15
    many = tl.pair_cells(cloud, "group", "a", "b", max_cells=15, n_pairs=60)
    assert many["source"].nunique() == 60


def test_nearest_is_the_nearest(cloud):
    pairs = tl.pair_cells(cloud, "group", "a", "b", method="nearest")
    a, b = (cloud[cloud.obs["group"] == g] for g in "ab")
    distance = np.linalg.norm(a.obsm["X_civae"][:, None] - b.obsm["X_civae"][None], axis=2)
    assert pairs["source"].tolist() == a.obs_names.tolist()
    assert pairs["target"].tolist() == b.obs_names[distance.argmin(axis=1)].tolist()
    np.testing.assert_allclose(pairs["cost"], distance.min(axis=1), rtol=1e-5)


@pytest.mark.parametrize(("method", "n"), [("all", 2400), ("random", 60)])
def test_pairs_are_drawn_without_repetition(cloud, method, n):
    pairs = tl.pair_cells(cloud, "group", "a", "b", method=method)
    assert len(pairs) == n
    assert not pairs.duplicated(["source", "target"]).any()
    assert set(cloud.obs.loc[pairs["source"], "group"]) == {"a"}
    assert set(cloud.obs.loc[pairs["target"], "group"]) == {"b"}


@pytest.mark.parametrize("method", ["ot", "random", "all", "nearest"])
def test_number_of_pairs_label_and_seed(cloud, method):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    kwargs = {"method": method, "n_pairs": 7, "label": "x", "seed": 3}
    pairs = tl.pair_cells(cloud, "group", "a", "b", **kwargs)
    assert len(pairs) == 7
    assert (pairs["label"] == "x").all()
    assert (cloud.obs.loc[pairs["target"], "cell_type"] == "x").all()
    pd.testing.assert_frame_equal(pairs, tl.pair_cells(cloud, "group", "a", "b", **kwargs))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert pairs.attrs["method"] == method
    assert pairs.attrs["groupby"] == "group"


@pytest.mark.parametrize("method", ["ot", "random", "all", "nearest"])
@pytest.mark.parametrize("n_pairs", [None, 10])
def test_pairs_stay_within_a_donor(cloud, method, n_pairs):
    pairs = tl.pair_cells(
        cloud, "group", "a", "b", donor_key="donor", method=method, n_pairs=n_pairs
    )
    for end in ("source", "target"):
        assert (cloud.obs.loc[pairs[end], "donor"].to_numpy() == pairs["donor"]).all()
    assert set(pairs["donor"]) == {"d0", "d1", "d2"}
    assert n_pairs is None or len(pairs) == n_pairs


def test_donors_with_one_group_are_left_out_and_said_so(cloud):
    donor = cloud.obs["donor"].astype(str).to_numpy()
    donor[(donor == "d2") & (cloud.obs["group"] == "b")] = "d1"
    cloud.obs["donor"] = donor
    with pytest.warns(UserWarning, match=r"cells are not paired .*'d2'\) have no 'a' .*'d0', 'd1'"):
        pairs = tl.pair_cells(cloud, "group", "a", "b", donor_key="donor")
    assert set(pairs["donor"]) == {"d0", "d1"}


def test_one_end_may_be_a_single_cell():
    adata = line([0.0], [1.0, 2.0, 3.0])
    assert len(tl.pair_cells(adata, "group", "a", "b")) == 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"groupby": "gruop"}, KeyError, "groupby must be a column.*Did you mean 'group'"),
        ({"source": "A"}, ValueError, "source must be a value that occurs in .*got 'A'"),
        ({"target": "c"}, ValueError, "target must be a value that occurs in .*got 'c'"),
        ({"label": "xx"}, ValueError, "label must be a value that occurs in .*got 'xx'"),
        ({"label": "only_a"}, ValueError, "label must be present in both groups.*target='b'"),
        ({"label": "x", "labels_key": "type"}, KeyError, "labels_key must be a column"),
        ({"n_pairs": 2.5}, TypeError, "n_pairs must be an integer"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"donor_key": "person"}, KeyError, "donor_key must be a column"),
        ({"donor_key": "group"}, ValueError, "at least one donor must have both groups.*None"),
    ],
)
def test_bad_input(cloud, change, error, message):
    types = cloud.obs["cell_type"].astype(str).to_numpy()
    types[0] = "only_a"
    cloud.obs["cell_type"] = types
    arguments = {"groupby": "group", "source": "a", "target": "b", **change}
    with pytest.raises(error, match=message) as caught:
        tl.pair_cells(cloud, **arguments)
    assert "\n" not in str(caught.value)


def test_bad_cells(cloud):
    with pytest.raises(TypeError, match="adata must be an AnnData"):
        tl.pair_cells(cloud.obs, "group", "a", "b")
    cloud.obsm["X_civae"][3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity for cell 'cell_3'"):
        tl.pair_cells(cloud, "group", "a", "b")
    del cloud.obsm["X_civae"]
    with pytest.raises(KeyError, match="get_latent_representation"):
        tl.pair_cells(cloud, "group", "a", "b")
    cloud.obs_names = ["cell"] * 100
    with pytest.raises(ValueError, match="obs_names must be unique.*obs_names_make_unique"):
        tl.pair_cells(cloud, "group", "a", "b")


def test_a_table_of_too_many_pairs_is_refused():
    adata = line(np.arange(2000), np.arange(1500))
    with pytest.raises(ValueError, match="make 3000000; pass n_pairs="):
        tl.pair_cells(adata, "group", "a", "b", method="all")
    assert len(tl.pair_cells(adata, "group", "a", "b", method="all", n_pairs=10)) == 10


@pytest.mark.slow
def test_groups_of_20000(monkeypatch):
    import time

    rng = np.random.default_rng(0)
    adata = line(rng.normal(size=20_000), rng.normal(size=20_000))
    adata.obsm["X_civae"] = rng.normal(size=(40_000, 20)).astype(np.float32)
    start = time.process_time()
    assert len(tl.pair_cells(adata, "group", "a", "b")) == 2000
    assert time.process_time() - start < 30


def test_pairs_that_join_two_labels_are_told(cloud):
    def pairs_of(match):
        with pytest.warns(UserWarning, match=match):
            pairs = tl.pair_cells(cloud, "group", "a", "b")
        ends = (cloud.obs.loc[pairs[end], "cell_type"].to_numpy() for end in ("source", "target"))
        return np.mean(np.not_equal(*ends))

    said = "of the pairs join cells of two labels .*label= .*'x', 'y'"
    share = pairs_of(said)
    assert pairs_of(f"{share:.0%} {said}") == share
    # if few of them could be avoided, all are counted
    apart = cloud.obs["group"].astype(str).to_numpy(object)
    apart[::3] = "both"
    cloud.obs["cell_type"] = apart
    share = pairs_of("the pairs join cells of two labels .*label= .*'both'")
    assert pairs_of(f"{share:.0%} of the pairs") == share > 0.5


def test_groups_that_are_labels_or_differ_in_all_labels_are_joined_without_a_word(cloud, recwarn):
    tl.pair_cells(cloud, "group", "a", "b", label="x")
    tl.pair_cells(cloud, "cell_type", "x", "y")
    cloud.obs["cell_type"] = cloud.obs["group"]
    tl.pair_cells(cloud, "group", "a", "b")
    assert not recwarn.list


def test_why_cells_are_not_paired(cloud):
    donor = cloud.obs["donor"].astype(object)
    donor.iloc[:3] = None
    donor[(cloud.obs["group"] == "b") & (donor == "d2")] = "d0"
    cloud.obs["donor"] = donor
    alone = int((donor == "d2").sum())
    with pytest.warns(
        UserWarning,
        match=rf"{alone + 3} cells .*the donor of 3 is missing; the donors of {alone} \('d2'\) have no",
    ):
        tl.pair_cells(cloud, "group", "a", "b", donor_key="donor")
