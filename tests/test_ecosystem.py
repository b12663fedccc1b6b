"""CIVAE among its neighbors: what they take from it, and what it takes from them.

Packages that are no dependency are skipped where they are not installed. decoupler is tested with
``tl.enrich``, scanpy nearly everywhere.
"""

from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc

import scivae
from scivae.model import CIVAE

# mudata tells everyone of what its next version will do.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:mudata")


@pytest.fixture(scope="module")
def cells():
    """Three types that are easy to tell apart, in two batches."""
    adata = scivae.datasets.synthetic(240, 60, 3, layout="across", n_batches=2)
    adata.layers["counts"] = adata.layers["counts"].toarray()
    CIVAE.setup_anndata(adata, batch_key="batch")
    model = CIVAE(adata, n_latent=4)
    model.train(20, batch_size=32, enable_progress_bar=False)
    adata.obsm["X_civae"] = model.get_latent_representation()
    return adata, model


def test_scanpy_takes_real_and_generated_cells_alike(cells):
    adata, model = cells
    made = model.augment("class_0", 30, adata=adata.copy())
    both = sc.concat({"real": adata, "made": made}, label="origin", index_unique="-")
    sc.pp.pca(both, n_comps=5)
    sc.tl.dendrogram(both, "cell_type", use_rep="X_civae")
    sc.tl.rank_genes_groups(both, "cell_type", groups=["class_0"], method="wilcoxon")
    best = sc.get.rank_genes_groups_df(both, "class_0")["names"].head(3)
    assert set(best) <= set(adata.var_names[adata.var["marker_of"] == "class_0"])


# ---- scvi-tools' own tools -------------------------------------------------------------------


def test_posterior_predictive_checks(cells):
    """scvi.criticism, against the counts themselves and beside scVI.

    scvi-tools 1.4.2 stops at sparse counts of type float, for SCVI too; so they are dense here.
    """
    from scvi.criticism import PosteriorPredictiveCheck
    from scvi.model import SCVI

    adata, model = cells
    other = adata.copy()
    SCVI.setup_anndata(other, layer="counts", batch_key="batch")
    scvi_model = SCVI(other, n_latent=4)
    scvi_model.train(20, batch_size=32, enable_progress_bar=False)
    check = PosteriorPredictiveCheck(
        adata, {"CIVAE": model, "SCVI": scvi_model}, count_layer_key="counts", n_samples=4
    )
    check.zero_fraction()
    zeros = check.metrics["zero_fraction"]
    # Of each gene, the share of zeros among samples is near that among the cells.
    errors = (zeros.drop(columns="Raw").sub(zeros["Raw"], axis=0)).abs().mean()
    assert errors["CIVAE"] < 0.1
    assert errors["CIVAE"] < 1.5 * errors["SCVI"] + 0.01


@pytest.mark.slow
def test_autotune(tmp_path):
    """scvi.autotune looks for the parameters of a CIVAE as for those of any model."""
    tune = pytest.importorskip("ray.tune")
    from scvi.autotune import run_autotune

    adata = scivae.datasets.synthetic(200, 40, 3, layout="across")
    CIVAE.setup_anndata(adata)
    experiment = run_autotune(
        CIVAE,
        adata,
        metrics=["validation_loss"],
        mode="min",
        search_space={
            "model_params": {"n_latent": tune.choice([3, 5]), "discriminator_weight": 10.0},
            "train_params": {"max_epochs": 2},
        },
        num_samples=2,
        searcher="random",
        scheduler="fifo",
        seed=0,
        resources={"cpu": 1},
        logging_dir=str(tmp_path),
    )
    assert experiment.result_grid.num_errors == 0
    assert np.isfinite(experiment.result_grid.get_dataframe()["validation_loss"]).all()


# ---- MuData ----------------------------------------------------------------------------------


@pytest.fixture
def mudata(cells):
    adata, _ = cells
    counts = adata.copy()
    for slot in [c for c in counts.obs if c.startswith("_scvi")]:
        del counts.obs[slot]
    counts.uns.clear()
    protein = sc.AnnData(np.ones((counts.n_obs, 3), dtype=np.float32))
    protein.obs_names = counts.obs_names
    return pytest.importorskip("mudata").MuData({"rna": counts, "protein": protein})


@pytest.mark.filterwarnings("ignore:a path stays in its class")  # after one epoch
def test_a_modality_of_mudata_is_an_anndata_like_any_other(mudata):
    CIVAE.setup_anndata(mudata["rna"], batch_key="batch")
    model = CIVAE(mudata["rna"], n_latent=4)
    model.train(max_epochs=1, enable_progress_bar=False)
    mudata["rna"].obsm["X_civae"] = model.get_latent_representation()
    # What is written into the modality is in the MuData.
    assert mudata.mod["rna"].obsm["X_civae"].shape == (mudata.n_obs, 4)
    model.interpolate(0, 1, n_steps=3)
    assert "civae_t" in mudata.mod["rna"].obs


@pytest.mark.parametrize("call", ["setup", "make", "predict", "latent", "augment"])
def test_mudata_itself_is_told_to_name_its_modality(call, mudata, cells):
    _, model = cells
    calls = {
        "setup": lambda: CIVAE.setup_anndata(mudata),
        "make": lambda: CIVAE(mudata),
        "predict": lambda: model.predict(mudata),
        "latent": lambda: model.get_latent_representation(mudata),
        "augment": lambda: model.augment("class_0", 1, adata=mudata),
    }
    with pytest.raises(TypeError, match=r"got MuData; pass .* adata\['rna'\] \(available: 'rna', "):
        calls[call]()


# ---- packages that build on a latent space -----------------------------------------------------


@pytest.mark.slow
def test_scib_metrics_benchmarks_the_latent_space(cells):
    pytest.importorskip("scib_metrics")
    from scib_metrics.benchmark import BatchCorrection, Benchmarker, BioConservation

    adata = cells[0].copy()
    noise = np.random.default_rng(0).normal(size=(adata.n_obs, 4))
    adata.obsm["noise"] = noise.astype(np.float32)
    benchmark = Benchmarker(
        adata,
        batch_key="batch",
        label_key="cell_type",
        embedding_obsm_keys=["X_civae", "noise"],
        bio_conservation_metrics=BioConservation(False, False, False, True, False),
        batch_correction_metrics=BatchCorrection(False, False, False, True, False),
        n_jobs=1,
        progress_bar=False,
    )
    benchmark.benchmark()
    results = benchmark.get_results(min_max_scale=False)
    assert float(results.loc["X_civae", "Silhouette label"]) > 0.6
    assert float(results.loc["X_civae", "Total"]) > float(results.loc["noise", "Total"])


@pytest.mark.slow
def test_moscot_moves_cells_through_the_latent_space(cells):
    """Optimal transport from early to middle cells keeps their type."""
    time = pytest.importorskip("moscot.problems.time")
    adata = cells[0].copy()
    adata.obs["time"] = adata.obs["stage"].cat.codes.astype(float).astype("category")
    problem = time.TemporalProblem(adata).prepare(time_key="time", joint_attr="X_civae")
    problem = problem.solve(epsilon=0.05)
    moved = problem.cell_transition(0.0, 1.0, "cell_type", "cell_type")
    moved = moved.loc[moved.columns]
    assert (np.diag(moved) > 0.7).all()


@pytest.mark.slow
def test_cellrank_takes_the_latent_space(cells):
    pytest.importorskip("cellrank", minversion="2")
    from cellrank.kernels import PseudotimeKernel

    adata = cells[0].copy()
    sc.pp.neighbors(adata, use_rep="X_civae")
    kernel = PseudotimeKernel(adata, time_key="position").compute_transition_matrix()
    rows = kernel.transition_matrix.sum(axis=1)
    np.testing.assert_allclose(np.asarray(rows).ravel(), 1.0, rtol=1e-6)


def test_the_hub_of_scvi_tools(cells, tmp_path):
    """A model is packed with its metadata and a card, read back from the folder, and is the same.

    The card is written by hand: scvi-tools writes those of its own models only.
    """
    hub = pytest.importorskip("huggingface_hub", reason="there is no huggingface_hub")
    from importlib.metadata import version

    from scvi.hub import HubMetadata, HubModel

    adata, model = cells
    folder = str(tmp_path / "model")
    model.save(folder, save_anndata=True)
    metadata = HubMetadata.from_dir(
        folder, anndata_version=version("anndata"), model_parent_module="scivae.model"
    )
    assert metadata.model_cls_name == "CIVAE"
    card = hub.ModelCard("---\nlicense: bsd-3-clause\n---\nThree synthetic types.\n")
    HubModel(folder, metadata=metadata, model_card=card).save(overwrite=True)
    loaded = HubModel(folder).model
    assert type(loaded) is CIVAE
    np.testing.assert_array_equal(loaded.predict(), model.predict())
    np.testing.assert_allclose(loaded.get_latent_representation(), adata.obsm["X_civae"], atol=1e-5)
