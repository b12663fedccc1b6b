from __future__ import annotations

import gzip
import warnings
from dataclasses import replace

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse

from scivae.datasets import DamagedFileError, DownloadError, colon, registry

QUIET = {"progress": False, "timeout": 2.0}


def check_slots(adata):
    """What holds for every cohort and source."""
    counts = adata.layers["counts"]
    assert isinstance(counts, sparse.csr_matrix)
    assert isinstance(adata.X, sparse.csr_matrix)
    assert (counts.data == np.rint(counts.data)).all()
    assert counts.data.min() >= 1
    tissue = adata.obs["tissue"].cat
    assert list(tissue.categories) == ["normal", "border", "tumor"]
    assert tissue.ordered
    assert all(adata.obs[column].dtype == "category" for column in adata.obs)
    assert adata.var_names.is_unique
    assert adata.obs_names.is_unique
    expected = ad.AnnData(counts.copy())
    sc.pp.normalize_total(expected, target_sum=1e4)
    sc.pp.log1p(expected)
    np.testing.assert_allclose(adata.X.toarray(), expected.X.toarray(), rtol=1e-5)


def test_atlas_brings_the_annotated_cells(colon_served, atlas, folder):
    adata = colon(**QUIET)
    check_slots(adata)
    ontology = "Factor Value[inferred cell type - ontology labels]"
    kept = (atlas.design[ontology] != "").to_numpy()
    assert 0 < kept.sum() < len(kept)
    design = atlas.design[kept]
    assert list(adata.obs_names) == list(design["Assay"])
    np.testing.assert_array_equal(adata.layers["counts"].toarray(), atlas.counts[kept])
    assert list(adata.obs["cell_type"]) == list(design[ontology])
    assert list(adata.obs["cell_state"]) == list(
        design["Factor Value[inferred cell type - authors labels]"]
    )
    assert list(adata.obs["donor"]) == list(design["Sample Characteristic[individual]"])
    assert list(adata.obs["sex"]) == list(design["Sample Characteristic[sex]"])
    assert set(adata.obs["organism_part"]) == {"colon"}
    sites = {"normal": "normal tissue adjacent to neoplasm"}
    sites |= {"border": "tumour border", "tumor": "tumour core"}
    assert [sites[tissue] for tissue in adata.obs["tissue"]] == list(
        design["Sample Characteristic[sampling site]"]
    )
    assert adata.uns["colon"]["source"] == "atlas"
    assert "s41588-020-0636-z" in adata.uns["colon"]["citation"]


def test_genes_have_symbols_where_known_and_free(colon_served, atlas, folder):
    adata = colon(**QUIET)
    expected = list(atlas.symbols)
    expected[3] = atlas.gene_ids[3]  # unknown
    expected[5] = atlas.gene_ids[5]  # its symbol belongs to gene 4 already
    assert list(adata.var_names) == expected
    assert list(adata.var["gene_ids"]) == atlas.gene_ids


def test_symbols_can_be_given_or_left_out(colon_served, atlas, folder):
    adata = colon(symbols={atlas.gene_ids[0]: "FIRST"}, **QUIET)
    assert list(adata.var_names[:2]) == ["FIRST", atlas.gene_ids[1]]
    assert list(colon(symbols=False, **QUIET).var_names) == atlas.gene_ids
    assert colon_served.requests["hgnc_complete_set.txt"] == 0


def test_without_hgnc_the_data_come_with_a_warning(colon_served, atlas, folder):
    del colon_served.files["hgnc_complete_set.txt"]
    with pytest.warns(UserWarning, match="genes keep the names of their source.*symbols=False"):
        adata = colon(**QUIET)
    assert list(adata.var_names) == atlas.gene_ids


def test_unannotated_cells_stay_on_request(colon_served, atlas, folder):
    adata = colon(keep_unannotated=True, **QUIET)
    assert list(adata.obs_names) == atlas.cells
    assert adata.obs["cell_type"].isna().sum() == 5


def test_fractions_are_rounded_and_counted(colon_served, atlas, folder, helpers):
    atlas.counts = atlas.counts + np.where(atlas.counts > 0, 0.25, 0) - (atlas.counts == 1) * 0.85
    colon_served.files["expression_archive.zip"] = helpers.atlas_zip(atlas)
    adata = colon(keep_unannotated=True, **QUIET)
    np.testing.assert_array_equal(adata.layers["counts"].toarray(), np.rint(atlas.counts))
    assert adata.uns["colon"]["n_rounded"] == np.count_nonzero(atlas.counts)
    assert adata.layers["counts"].data.min() > 0  # what became zero is gone


@pytest.mark.parametrize(("cohort", "source"), [("KUL3", "geo"), ("SMC", None)])
def test_geo(geo, folder, cohort, source):
    adata = colon(cohort, source, **QUIET)
    check_slots(adata)
    np.testing.assert_array_equal(adata.layers["counts"].toarray(), geo.counts)
    assert list(adata.obs_names) == geo.cells
    assert list(adata.var_names) == geo.symbols
    for column, name in registry.GEO_COLUMNS.items():
        expected = geo.design[column].str.lower() if name == "tissue" else geo.design[column]
        assert list(adata.obs[name]) == list(expected)
    # HGNC knows the ids of these symbols; GENE3 has none there.
    assert adata.var.loc["GENE2", "gene_ids"] == "ENSG00000000002"
    assert adata.var.loc["GENE3", "gene_ids"] == ""
    assert adata.uns["colon"]["source"] == "geo"


def test_names_that_r_has_dotted_are_joined(geo, folder, helpers, colon_served):
    geo.cells = [cell.replace("-", ".") for cell in geo.cells]
    name = registry.COLON["KUL3", "geo"].files["matrix"].filename
    colon_served.files[name] = gzip.compress(helpers.geo_text(geo))
    adata = colon("KUL3", "geo", **QUIET)
    assert list(adata.obs["donor"]) == list(geo.design["Patient"])


def test_second_load_reads_the_cache(colon_served, folder, monkeypatch):
    first = colon(**QUIET)
    requests = colon_served.requests.copy()
    monkeypatch.setattr("scivae.datasets._colon.read_archive", None)
    second = colon(**QUIET)
    assert colon_served.requests == requests
    assert (first.X != second.X).nnz == 0
    assert first.obs.equals(second.obs)
    assert first.var.equals(second.var)


def test_damaged_cache_is_read_anew(colon_served, folder, helpers):
    first = colon(**QUIET)
    (cached,) = (folder / "scivae").glob("*.h5ad")
    cached.write_bytes(cached.read_bytes()[:1000])
    assert (colon(**QUIET).X != first.X).nnz == 0
    assert cached.stat().st_size > 1000
    assert not [name for name in helpers.visible(folder) if name.endswith(".part")]


def test_new_files_are_not_answered_from_the_old_cache(colon_served, atlas, folder, helpers):
    colon(**QUIET)
    atlas.counts = atlas.counts + 1
    for path in (folder / "E-MTAB-8410").glob("expression_archive.zip*"):
        path.unlink()
    colon_served.files["expression_archive.zip"] = helpers.atlas_zip(atlas)
    assert colon(**QUIET).layers["counts"].min() == 1


def test_no_cache_on_request(colon_served, folder):
    colon(cache=False, **QUIET)
    assert not (folder / "scivae").exists()


def test_files_in_a_folder_need_no_network(colon_served, folder, tmp_path):
    first = colon(**QUIET)
    colon_served.files.clear()
    flat = tmp_path / "flat"
    flat.mkdir()
    for name in ("E-MTAB-8410/expression_archive.zip", "E-MTAB-8410/experimental_design.tsv"):
        (folder / name).rename(flat / name.split("/")[1])
    adata = colon(path=flat, symbols=False)
    assert (adata.X != first.X).nnz == 0
    with pytest.raises(
        FileNotFoundError, match="path must contain GSE144735.*, got none in .*flat"
    ):
        colon("KUL3", "geo", path=flat)


def test_without_a_network_it_says_which_file_to_put_where(colon_served, folder, helpers):
    colon_served.files.clear()
    with pytest.raises(DownloadError) as caught:
        colon(**QUIET)
    assert str(caught.value).endswith(f"save it as {folder}/E-MTAB-8410/expression_archive.zip")
    assert helpers.visible(folder) == set()


def test_other_sizes_than_published_are_told(colon_served, folder, monkeypatch):
    table = dict(registry.COLON)
    table["KUL3", "atlas"] = replace(table["KUL3", "atlas"], n_annotated=25_480)
    monkeypatch.setattr(registry, "COLON", table)
    with pytest.warns(UserWarning, match="must have 25480 annotated cells as published, got 25"):
        colon(**QUIET)


def test_unknown_names(folder):
    with pytest.raises(ValueError, match="cohort must be one of 'KUL3', 'SMC', got 'X'"):
        colon("X")
    with pytest.raises(ValueError, match="source of cohort SMC must be one of 'geo', got 'atlas'"):
        colon("SMC", "atlas")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d.assign(Assay=[f"x{i}" for i in range(len(d))]), "got none in common"),
        (lambda d: d.assign(Assay="x"), "must be unique, got 'x' twice"),
        (
            lambda d: d.assign(**{"Sample Characteristic[sampling site]": "liver"}),
            "must be normal, border or tumor, got 'liver'",
        ),
        (
            lambda d: d.assign(**{"Factor Value[inferred cell type - ontology labels]": ""}),
            "must have a cell type for some cells",
        ),
    ],
)
def test_annotation_that_does_not_fit(colon_served, atlas, folder, change, told):
    design = change(atlas.design).to_csv(sep="\t", index=False).encode()
    colon_served.files["experimental_design.tsv"] = design
    with pytest.raises(DamagedFileError, match=told):
        colon(**QUIET)


def test_result_round_trips_and_suits_scvi(colon_served, geo, folder, tmp_path):
    import scvi

    from scivae.model import CIVAE

    for source in ("atlas", "geo"):
        adata = colon("KUL3", source, **QUIET)
        adata.write_h5ad(tmp_path / "x.h5ad")
        back = ad.read_h5ad(tmp_path / "x.h5ad")
        assert back.obs.equals(adata.obs)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            scvi.model.SCVI.setup_anndata(adata, layer="counts", labels_key="cell_type")
            CIVAE.setup_anndata(adata)  # with no further argument
        assert CIVAE(adata).setup.layer == "counts"


@pytest.mark.parametrize("name", ["colon_crc.h5ad", "colon_lee_epithelial.h5ad"])
def test_real_counts_survive_both_formats(real_data, helpers, tmp_path, name):
    """Real cells, written in the publishers' formats, come back as they were."""
    from scivae.datasets._atlas import read_matrix_market
    from scivae.datasets._geo import read_counts

    real = ad.read_h5ad(real_data / name)[:150]
    counts = real.layers["counts"].toarray()
    path = tmp_path / "x"
    path.write_bytes(helpers.matrix_market(counts))
    with path.open("rb") as stream:
        found = read_matrix_market(stream, size=path.stat().st_size)
    np.testing.assert_array_equal(found.toarray(), counts)
    lines = ["\t".join(["Index", *real.obs_names])]
    for gene, row in zip(real.var_names, counts.T.astype(int), strict=True):
        lines.append("\t".join([gene, *map(str, row)]))
    path.write_text("\n".join(lines) + "\n")
    found, cells, genes = read_counts(path)
    np.testing.assert_array_equal(found.toarray(), counts)
    assert list(cells) == list(real.obs_names)
    assert list(genes) == list(real.var_names)
