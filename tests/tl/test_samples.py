"""Which cells and donors a comparison rests on."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from tests.conftest import assert_unchanged, make_adata, make_model, snapshot

from scivae import tl
from scivae.tl._donors import donor_column, warn_of_batches
from scivae.tl._samples import cells_of


@pytest.fixture(scope="module")
def model():
    return make_model(make_adata(), epochs=5)


@pytest.fixture
def adata(model):
    """Three donors with both stages; a fourth has the second alone."""
    adata = make_adata()
    rng = np.random.default_rng(0)
    adata.obs["stage"] = pd.Categorical(rng.choice(["a", "b", "c"], adata.n_obs), ordered=True)
    adata.obs["who"] = rng.choice(["p1", "p2", "p3"], adata.n_obs)
    late = np.flatnonzero(adata.obs["stage"] == "c")[:5]
    adata.obs.iloc[late, adata.obs.columns.get_loc("who")] = "p4"
    adata.obsm["X_civae"] = model.get_latent_representation(adata)
    return adata


def test_cells_left_out_of_the_pairs_alone_are_told(model, adata):
    some = adata[adata.obs["who"] != "p1"].copy()
    asked = {"groupby": "stage", "source": "a", "target": "c", "n_pairs": 5}
    pairs = tl.pair_cells(some, **asked)
    with pytest.warns(
        UserWarning, match="cells of the groups are used, but pairs were chosen among"
    ):
        tl.gene_trends(model, pairs, adata=adata, n_steps=5, donor_key="who")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*pairs were chosen among")
        tl.gene_trends(model, pairs, adata=some, n_steps=5, donor_key="who")
        pairs = tl.pair_cells(adata, **asked, donor_key="who")  # p4 has one group
        tl.gene_trends(model, pairs, adata=adata, n_steps=5)


def samples_of(trends):
    said = trends.uns["civae"]["samples"]
    return said, trends.varm["civae_samples"]


class TestSums:
    @pytest.mark.parametrize("pairs_donor", [None, "who"])
    def test_every_cell_of_the_groups_counts_not_the_paired_alone(self, model, adata, pairs_donor):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            pairs = tl.pair_cells(adata, "stage", "a", "c", n_pairs=6, donor_key=pairs_donor)
            trends = tl.gene_trends(
                model, pairs, n_steps=3, adata=adata, donor_key=None if pairs_donor else "who"
            )
        said, sums = samples_of(trends)
        counts = adata.layers["counts"].toarray()
        known = {"p1", "p2", "p3"} if pairs_donor else {"p1", "p2", "p3", "p4"}
        assert set(said["donor"]) == known
        for i, row in enumerate(said.itertuples()):
            level = {"source": "a", "between": "b", "target": "c"}[row.group]
            cells = (adata.obs["who"] == row.donor) & (adata.obs["stage"] == level)
            np.testing.assert_allclose(sums[:, i], counts[cells].sum(axis=0))
            assert (row.n_cells, row.total) == (cells.sum(), counts[cells].sum())
        assert len(said) == (9 if pairs_donor else 10)

    def test_some_genes_keep_the_totals_of_all(self, model, adata):
        del adata.obs["who"]
        pairs = tl.pair_cells(adata, "stage", "a", "c")
        trends = tl.gene_trends(model, pairs, n_steps=3, adata=adata, genes=["gene_3"])
        said, sums = samples_of(trends)
        assert sums.shape == (1, 3)
        whole = adata.layers["counts"].sum(axis=1).A1[(adata.obs["stage"] == "a").to_numpy()].sum()
        assert said["total"].iloc[0] == whole
        assert said["donor"].tolist() == ["", "", ""]

    def test_label(self, model, adata):
        pairs = tl.pair_cells(adata, "stage", "a", "c", label="alpha")
        said, _ = samples_of(tl.gene_trends(model, pairs, n_steps=3, adata=adata, donor_key="who"))
        of_label = adata.obs["cell_type"] == "alpha"
        assert said["n_cells"].sum() == of_label.sum()

    def test_pairs_of_ones_own(self, model, adata):
        pairs = pd.DataFrame({"source": adata.obs_names[:4], "target": adata.obs_names[4:8]})
        said, _ = samples_of(tl.gene_trends(model, pairs, n_steps=3, adata=adata))
        assert said["n_cells"].tolist() == [4, 4]
        # attrs of other groups than those that the pairs join are not believed
        pairs.attrs = {"groupby": "stage", "source": "a", "target": "c"}
        said, _ = samples_of(tl.gene_trends(model, pairs, n_steps=3, adata=adata, between=[]))
        assert said["n_cells"].tolist() == [4, 4]

    def test_values_that_are_no_counts_are_averaged(self):
        adata = make_adata()
        model = make_model(adata, setup={"layer": "X"}, likelihood="normal", epochs=2)
        adata.obsm["X_civae"] = model.get_latent_representation()
        pairs = tl.pair_cells(adata, "cell_type", "alpha", "beta")
        said, means = samples_of(tl.gene_trends(model, pairs, n_steps=3))
        for i, label in enumerate(("alpha", "beta")):
            expected = adata.X[(adata.obs["cell_type"] == label).to_numpy()].mean(axis=0)
            np.testing.assert_allclose(means[:, i], expected, rtol=1e-5)

    def test_cells_without_a_donor_are_left_out(self, model, adata):
        adata.obs.iloc[:30, adata.obs.columns.get_loc("who")] = np.nan
        pairs = tl.pair_cells(adata, "stage", "a", "c")
        trends = tl.gene_trends(model, pairs, n_steps=3, adata=adata, donor_key="who")
        assert samples_of(trends)[0]["n_cells"].sum() == adata.n_obs - 30

    @pytest.mark.parametrize("names", [["a/b", "c|d", "x" * 60], ["1", "2", "mean"], [1, 2, 3]])
    def test_any_names_of_donors(self, model, adata, names, tmp_path):
        import anndata

        adata.obs["who"] = np.array(names, dtype=object)[np.arange(adata.n_obs) % 3]
        pairs = tl.pair_cells(adata, "stage", "a", "c", donor_key="who")
        trends = tl.gene_trends(model, pairs, n_steps=3, adata=adata)
        trends.write_h5ad(tmp_path / "trends.h5ad")
        back = anndata.read_h5ad(tmp_path / "trends.h5ad")
        assert set(samples_of(back)[0]["donor"]) == {str(name) for name in names}


class TestDonors:
    def test_donors_that_differ_between_groups_are_no_error(self, model, adata):
        adata.obs["sample"] = adata.obs["who"].astype(str) + adata.obs["stage"].astype(str)
        pairs = tl.pair_cells(adata, "stage", "a", "c")
        trends = tl.gene_trends(model, pairs, n_steps=3, adata=adata, donor_key="sample")
        assert len(samples_of(trends)[0]) == 10

    @pytest.mark.parametrize("key", ["stage", "copy"])
    def test_the_groups_themselves(self, model, adata, key):
        adata.obs["copy"] = adata.obs["stage"].map({"a": "x", "b": "y", "c": "z"}).astype(str)
        pairs = tl.pair_cells(adata, "stage", "a", "c")
        before = snapshot(adata)
        with pytest.raises(
            ValueError, match="must name donors.*cannot be distinguished from 'stage'"
        ) as e:
            tl.gene_trends(model, pairs, adata=adata, donor_key=key)
        assert "\n" not in str(e.value)
        assert_unchanged(adata, before)

    def test_a_donor_of_each_cell(self, model, adata):
        adata.obs["barcode"] = adata.obs_names
        pairs = tl.pair_cells(adata, "stage", "a", "c")
        with pytest.raises(ValueError, match="donors must have several cells.*obs.'barcode'"):
            tl.gene_trends(model, pairs, adata=adata, donor_key="barcode")

    def test_missing_donors(self, model, adata):
        pairs = tl.pair_cells(adata, "stage", "a", "c")
        adata.obs["nobody"] = pd.Series(np.nan, index=adata.obs_names, dtype=object)
        with pytest.raises(ValueError, match=r"obs\['nobody'\] is missing for every cell"):
            tl.gene_trends(model, pairs, adata=adata, donor_key="nobody")
        adata.obs["half"] = adata.obs["who"].where(adata.obs["stage"] != "a")
        with pytest.raises(ValueError, match="missing for every cell of source"):
            tl.gene_trends(model, pairs, adata=adata, donor_key="half")

    def test_a_donor_written_in_two_ways(self, model, adata):
        adata.obs["who"] = pd.Series([1, "1", 2] * 40, index=adata.obs_names, dtype=object)
        pairs = tl.pair_cells(adata, "stage", "a", "c")
        with pytest.raises(ValueError, match="'1' occurs as text and as a number"):
            tl.gene_trends(model, pairs, adata=adata, donor_key="who")


def test_cells_without_a_donor_are_left_out_and_said_so(model, adata):
    cells = adata.obs_names[(adata.obs["stage"] == "a").to_numpy()][:3]
    adata.obs["who"] = adata.obs["who"].astype(object)
    adata.obs.loc[cells, "who"] = np.nan
    pairs = tl.pair_cells(adata, "stage", "a", "c")
    with pytest.warns(UserWarning, match="3 cells of the groups are left out, because their donor"):
        tl.gene_trends(model, pairs, n_steps=3, adata=adata, donor_key="who")


@pytest.mark.parametrize(
    ("batch", "donor", "warns"),
    [
        ("aabb", [0, 0, 0, 0], True),
        ("aabb", [-1, -1, -1, -1], True),
        ("abab", [0, 0, 0, 0], False),  # both batches have both groups
        ("aabb", [0, 0, 1, 1], False),  # a batch is a donor: the unit of the test
        ("aabb", [0, 1, 0, 1], True),
        (["a", "a", None, None], [0, 1, 0, 1], False),
    ],
)
def test_a_batch_that_is_the_condition(batch, donor, warns):
    source, column = np.array([1, 1, 0, 0], bool), pd.Series(list(batch), dtype=object)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_batches(column, "run", source, ~source, np.array(donor))
    assert [("no batch in common" in str(w.message)) for w in caught] == [True] * warns


class TestCandidate:
    """One warning where a column looks like donors, and none is used."""

    @pytest.mark.parametrize(
        "name",
        ["donor", "Donor", "donor_id", "patient", "patientID", "PatientId", "sample", "Sample_ID",
         "individual", "subject", "mouse.id", "orig.ident", "biosample_id", "donor1"],
    )  # fmt: skip
    def test_names(self, model, adata, name):
        adata.obs[name] = adata.obs.pop("who")
        pairs = tl.pair_cells(adata, "stage", "a", "c")
        with pytest.warns(UserWarning, match="looks like donors") as caught:
            trends = tl.gene_trends(model, pairs, n_steps=3, adata=adata)
        (said,) = (w for w in caught if "looks like donors" in str(w.message))
        text = str(said.message)
        assert f"donor_key={name!r}" in text
        assert "\n" not in text
        assert said.filename == __file__
        assert trends.uns["civae"]["donor_candidate"] == name

    @pytest.mark.parametrize(
        "name",
        ["donor_sex", "sample_type", "cell_state", "phase", "patient age", "n_samples", "batch"],
    )
    def test_other_names(self, model, adata, name):
        adata.obs[name] = adata.obs.pop("who")
        adata.obs[name] = adata.obs[name].where(adata.obs["cell_type"] == "alpha", "p1")
        pairs = tl.pair_cells(adata, "stage", "a", "c")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            trends = tl.gene_trends(model, pairs, n_steps=3, adata=adata)
        assert trends.uns["civae"].get("donor_candidate") is None

    def test_no_warning_where_donors_are_given(self, model, adata):
        adata.obs["donor"] = adata.obs["who"]
        pairs = tl.pair_cells(adata, "stage", "a", "c")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            tl.gene_trends(model, pairs, n_steps=3, adata=adata, donor_key="who")

    def obs(self, **columns):
        rng = np.random.default_rng(0)
        n = 600
        obs = pd.DataFrame(
            {"cell_type": rng.choice(list("TBMN"), n), "condition": rng.choice(["ctrl", "stim"], n)}
        )
        for name, make in columns.items():
            obs[name] = make(obs, rng)
        return obs

    def found(self, obs, **kwargs):
        return donor_column(
            obs,
            np.ones(len(obs), dtype=bool),
            (obs["condition"] == "stim").to_numpy(),
            exclude=["condition", "cell_type"],
            labels="cell_type",
            **kwargs,
        )

    def test_structure(self):
        """Unknown names: each of six levels has cells of all types, in one or both conditions."""
        nested = self.obs(id7=lambda o, r: o["condition"] + r.integers(0, 3, len(o)).astype(str))
        assert self.found(nested) == "id7"
        crossed = self.obs(id7=lambda o, r: np.array(list("uvwxyz"))[r.integers(0, 6, len(o))])
        assert self.found(crossed) == "id7"

    def test_states_are_no_donors(self):
        """Nested in types, or in types and conditions, or clusters: none is a donor."""
        obs = self.obs(
            state=lambda o, r: o["cell_type"] + r.integers(0, 3, len(o)).astype(str),
            subtype=lambda o, r: o["cell_type"] + o["condition"],
            phase=lambda o, r: r.choice(["G1", "G2M"], len(o)),
            cell=lambda o, r: np.arange(len(o)).astype(str),
            score=lambda o, r: r.normal(size=len(o)),
            condition_again=lambda o, r: o["condition"].str.upper(),
            constant=lambda o, r: "x",
            quality=lambda o, r: r.random(len(o)) < 0.5,
        )
        assert self.found(obs) is None

    def test_a_name_of_donors_comes_before_one_of_samples(self):
        obs = self.obs(
            sample=lambda o, r: o["condition"] + r.integers(0, 3, len(o)).astype(str),
            patient=lambda o, r: r.choice(["a", "b", "c"], len(o)),
        )
        assert self.found(obs) == "patient"


def test_cells_between_are_of_the_label(model, adata):
    pairs = tl.pair_cells(adata, "stage", "a", "c", label="beta")
    ends = [adata.obs_names.get_indexer(pairs[end]) for end in ("source", "target")]
    cells = cells_of(adata, pairs, donor_key="who", between=None, first=ends[0], second=ends[1])
    assert cells.between == ["b"]
    expected = (adata.obs["stage"] == "b") & (adata.obs["cell_type"] == "beta")
    np.testing.assert_array_equal(cells.group == 1, expected)
    np.testing.assert_array_equal(cells.label, adata.obs["cell_type"] == "beta")
