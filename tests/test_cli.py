"""The commands: what each writes, and how each ends when something is wrong."""

from __future__ import annotations

import html
import re
import runpy
import shlex
import tomllib

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import sparse
from tests.conftest import HARD, draw_fast, make_adata, make_hard_cells

import scivae
from scivae.cli import main
from scivae.commands.options import EXAMPLES

FILES = {
    "cells.h5ad", "path.h5ad", "report.txt", "report.html", "config.yaml", "log.txt", "model",
    "synthetic.h5ad", "attribution.png", "training.png", "confusion.png", "path.png", "margin.png",
}  # fmt: skip
SYNTHETIC = {"synthetic.h5ad", "synthetic.png"}
GENES = {
    "genes.csv",
    "genes.png",
    "heatmap.png",
    "paths.h5ad",
    "trends.h5ad",
    "synthetic.png",
    "path_checks.csv",
}


@pytest.fixture
def cells(tmp_path):
    adata = make_adata()
    adata.obs["stage"] = np.array(["early", "late"])[(np.arange(len(adata)) // 3) % 2]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def last_error(capsys) -> str:
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("scivae: error: ")
    return line


def test_run_between_groups(results):
    names = {f.name for f in results.iterdir()}
    assert names - {"order.png"} == FILES | GENES | {"gene_sets.csv", "enrichment.png", "sets.png"}
    text = (results / "report.txt").read_text(encoding="utf-8")
    for phrase in ("held out", "linear separability", "right class", f"in class {HARD}"):
        assert phrase in text
    adata, path = (anndata.read_h5ad(results / f"{name}.h5ad") for name in ("cells", "path"))
    assert adata.obs.loc[path.obs["civae_source"].iloc[0], "stage"] == "early"
    assert adata.obs.loc[path.obs["civae_target"].iloc[0], "stage"] == "late"
    assert {"X_civae", "X_umap"} <= set(adata.obsm)
    assert anndata.read_h5ad(results / "synthetic.h5ad").n_obs == 24
    genes = pd.read_csv(results / "genes.csv", index_col=0)
    assert set(genes.index) == set(adata.var_names)
    assert "p_value" in genes  # between the four donors
    assert "Training on 120 cells" in (results / "log.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("layer", ["X", "counts"])
def test_warnings_about_normalized_values_reach_the_report(cells, capsys, monkeypatch, layer):
    adata, out = anndata.read_h5ad(cells), cells.parent / "out"
    del adata.layers["counts"]
    if layer == "counts":
        adata.layers["counts"] = adata.X
    adata.write_h5ad(cells)
    monkeypatch.setattr("scivae.report._figures.Drawer.__call__", lambda *a: None)
    words = ["--epochs", "2", "--n-synthetic", "0", "--quiet", "--out", str(out)]
    assert main(["run", str(cells), *words]) == 0
    told = re.search(r"because (.*) holds (.*), not counts\. (.*\.)", capsys.readouterr().err)
    values, what, cure = told.groups()
    assert ("--layer" in cure, what) == (True, "log-normalized values")
    note = f"The model was trained on {values}, which holds {what}, not counts (likelihood normal). {cure}"
    assert f"  - {note}\n" in (out / "report.txt").read_text(encoding="utf-8")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert note in html.unescape(page)


def test_the_demo_makes_images(tmp_path, monkeypatch):
    digits = scivae.datasets.digits()
    monkeypatch.setattr(scivae.datasets, "digits", lambda: digits[:300].copy())
    draw_fast(monkeypatch)
    arguments = ["--dataset", "digits", "--epochs", "60", "--n-synthetic", "0", "--quiet"]
    assert main(["demo", *arguments, "--out", str(tmp_path / "out")]) == 0
    assert {f.name for f in (tmp_path / "out").iterdir()} == (
        FILES - SYNTHETIC - {"attribution.png"} | {"images.png"}
    )


def test_the_demo_needs_no_file(tmp_path, capsys, monkeypatch):
    cells = scivae.datasets.pbmc()[::2, :100].copy()
    monkeypatch.setattr(scivae.datasets, "pbmc", cells.copy)
    draw_fast(monkeypatch)
    words = ["demo", "--epochs", "10", "--n-synthetic", "0", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert "report.html" in capsys.readouterr().out
    assert {f.name for f in (tmp_path / "out").iterdir()} - {"order.png"} == (
        FILES | GENES
    ) - SYNTHETIC


def test_predict(results, tmp_path, capsys):
    """The table is what the model says in Python, for cells with more genes in another order."""
    adata = make_hard_cells()[:50]
    adata = adata[:, ::-1].copy()
    adata = anndata.concat([adata, adata[:, :1].copy()], axis=1, index_unique="-", merge="same")
    adata.var_names = [*make_hard_cells().var_names[::-1], "another"]
    adata.obs_names = make_hard_cells().obs_names[:50]
    adata.write_h5ad(tmp_path / "new.h5ad")
    out = tmp_path / "made" / "classes.tsv"
    assert main(["predict", str(results), str(tmp_path / "new.h5ad"), "--out", str(out)]) == 0
    table = pd.read_csv(out, sep="\t", index_col=0)
    model = scivae.model.CIVAE.load(results / "model", anndata.read_h5ad(results / "cells.h5ad"))
    assert table.index.tolist() == adata.obs_names.tolist()
    assert table["predicted"].tolist() == model.predict()[:50].tolist()
    np.testing.assert_allclose(
        table["confidence"], model.predict(soft=True)[:50].max(axis=1), rtol=1e-5
    )
    np.testing.assert_allclose(table["novelty"], model.novelty()[:50], atol=1e-5)
    assert "have the predicted class in obs['cell_type']" in capsys.readouterr().out
    config = yaml.safe_load((tmp_path / "made" / "classes.config.yaml").read_text(encoding="utf-8"))
    assert config["level"] == 0.9


def test_augment(results, tmp_path):
    out = tmp_path / "made.h5ad"
    assert (
        main(["augment", str(results), "--label", HARD, "--n", "5", "--out", str(out), "--quiet"])
        == 0
    )
    made = anndata.read_h5ad(out)
    assert made.obs["cell_type"].tolist() == [HARD] * 5
    assert (made.layers["counts"].toarray() == np.round(made.layers["counts"].toarray())).all()


def test_annotate(results, tmp_path):
    """Into a copy, also of cells with other genes; the file that was named stays as it was."""
    adata = make_hard_cells()
    data, out = tmp_path / "new.h5ad", tmp_path / "annotated.h5ad"
    model = scivae.model.CIVAE.load(results / "model", anndata.read_h5ad(results / "cells.h5ad"))
    z = model.get_latent_representation()
    for written in (adata, adata[:, ::-1].copy()):
        written.write_h5ad(data)
        before = data.read_bytes()
        assert main(["annotate", str(results), str(data), "--out", str(out), "--quiet"]) == 0
        assert data.read_bytes() == before
        found = anndata.read_h5ad(out)
        assert found.var_names.tolist() == written.var_names.tolist()
        np.testing.assert_allclose(found.obsm["X_civae"], z, atol=1e-5)
        assert found.obs["civae_predicted"].astype(str).tolist() == model.predict().tolist()


def test_train_with_genes_of_the_training_cells(cells, tmp_path, capsys):
    """Genes that vary in held-out cells only are not chosen; the split is the model's."""
    adata = anndata.read_h5ad(cells)
    out = tmp_path / "model"
    words = ["train", str(cells), "--epochs", "3", "--n-top-genes", "30", "--quiet", "--out"]
    assert main([*words, str(out)]) == 0
    held_out = scivae.model.CIVAE.load(out / "model", adata=False).validation_indices_
    counts = adata.layers["counts"].toarray()
    counts[held_out, 7] = 10_000
    adata.layers["counts"] = sparse.csr_matrix(counts)
    adata.write_h5ad(cells)
    capsys.readouterr()
    assert main([*words, str(tmp_path / "again")]) == 0
    assert "resampl" not in (told := capsys.readouterr().err)
    assert "encoding" not in told  # quiet, although scvi-tools sets its level when it is imported
    with pytest.warns(UserWarning, match="has a model of an earlier run, which is replaced"):
        scivae.commands.cells.warn_of_results(tmp_path / "again")
    genes = [
        scivae.model.CIVAE.load(f / "model", adata=False).get_var_names().tolist()
        for f in (out, tmp_path / "again")
    ]
    assert genes[0] == genes[1]
    assert len(genes[0]) == 30
    history = pd.read_csv(out / "history.csv", index_col=0)
    assert len(history) == 3


def test_cells_without_a_label_are_left_out_aloud(cells, tmp_path, capsys):
    adata = anndata.read_h5ad(cells)
    adata.obs.loc[adata.obs_names[:7], "cell_type"] = np.nan
    adata.write_h5ad(cells)
    words = ["train", str(cells), "--epochs", "1", "--quiet", "--out", str(tmp_path / "model")]
    assert main(words) == 0
    assert f"7 of {adata.n_obs} cells are left out" in capsys.readouterr().err.replace("\n", " ")


def test_a_configuration_is_read_and_written(cells, tmp_path):
    (tmp_path / "a.toml").write_text(
        'labels-key = "cell_type"\nepochs = 9\nseed = 3\n', encoding="utf-8"
    )
    words = ["train", str(cells), "--quiet", "--config", str(tmp_path / "a.toml"), "--epochs", "2"]
    assert main([*words, "--out", str(tmp_path / "first")]) == 0
    written = tmp_path / "first" / "config.yaml"
    options = yaml.safe_load(written.read_text(encoding="utf-8"))
    assert (options["epochs"], options["seed"], options["labels_key"]) == (2, 3, "cell_type")
    assert options["data"] == str(cells)
    assert "scvi-tools" in written.read_text(encoding="utf-8").splitlines()[1]
    again = ["train", "--config", str(written), "--out", str(tmp_path / "second"), "--quiet"]
    assert main(again) == 0
    weights = [
        scivae.model.CIVAE.load(tmp_path / name / "model", adata=False).discriminator_weights
        for name in ("first", "second")
    ]
    pd.testing.assert_frame_equal(*weights)


GROUPS = ["--groupby", "stage", "--source", "early", "--target", "late"]


@pytest.mark.parametrize(
    ("command", "more", "message"),
    [
        ("run", ["--labels-key", "celltype"], "--labels-key must be a column of obs.*'cell_type'"),
        ("run", ["--label", "alfa"], "--label must be a value of obs.*Did you mean 'alpha'"),
        ("run", ["--groupby", "stage"], "--groupby, --source and --target must be passed together"),
        ("run", [*GROUPS[:3], "erly", *GROUPS[4:]], "--source must be a value of obs.*'early'"),
        ("run", [*GROUPS[:5], "early"], "--source and --target must be two groups, got 'early' twice"),
        ("run", [*GROUPS, "--donor-key", "patient"], "--donor-key must be a column of obs"),
        ("run", [*GROUPS, "--donor-key", "stage"], "cannot be distinguished from the groups"),
        ("run", [*GROUPS, "--genes", "gene_1", "gene_X1"], "--genes must be among.*'gene_X1' is not"),
        ("run", ["--gene-sets", "none.gmt"], "--gene-sets must be a file, got none.gmt, which does not exist."),
        ("run", ["--between", "late"], "--between needs --groupby"),
        ("run", ["--gene-sets", "{tmp}/odd.gmt"], "--gene-sets must have a set with at least 5 genes of the data"),
        ("run", ["--gene-symbols", "symbol"], "--gene-symbols must be a column of var, got 'symbol'"),
        ("run", ["--groupby", "stage", "--source", "early", "--target", "late", "--between", "late"], "--between must name groups other than source and target, got 'late'"),
        ("run", ["--layer", "raw"], "--layer must be a layer of the data, or X, got 'raw'; available: 'counts'"),
        ("train", ["--labels-key", "celltype"], "--labels-key must be a column of obs"),
        ("train", ["--batch-key", "Batch"], "--batch-key must be a column of obs.*Did you mean 'batch'"),
        ("train", ["--layer", "count"], "--layer must be a layer of the data.*Did you mean 'counts'"),
        ("train", ["--epochs", "0"], "--epochs: must be a whole number of at least 1, got '0'"),
        ("train", ["--epoch", "5"], "no option '--epoch'. Did you mean '--epochs'"),
        ("train", ["--devices", "none"], "--devices: must be a whole number"),
        ("train", ["--n-top-genes", "many"], "--n-top-genes: must be a whole number"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_before_training(cells, tmp_path, capsys, command, more, message):
    (tmp_path / "odd.gmt").write_text("odd\tof no genes\tA\tB\tgene_1", encoding="utf-8")
    more = [word.replace("{tmp}", str(tmp_path)) for word in more]
    assert main([command, str(cells), "--out", str(tmp_path / "out"), *more]) == 2
    assert re.search(message, last_error(capsys))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "{cells}", "{results}"], "got .*, a file of cells; name MODEL first, then FILE"),
        (["predict", "{tmp}", "{cells}"], "MODEL must be a folder .* holds no model.pt"),
        (["predict", "{results}", "{tmp}/none.h5ad"], "FILE must be a file, got .*, which does not exist"),
        (["predict", "{results}", "{cells}"], "FILE must have the 40 genes .* 2 are missing"),
        (["predict", "{results}", "--out", "{tmp}/a.xlsx"], "--out must end in .csv or .tsv, got 'a.xlsx'"),
        (["predict", "{results}", "--level", "90"], "--level: must be a number between 0 and 1"),
        (["augment", "{results}", "--label", "bta"], "--label must be a class.*Did you mean 'beta'"),
        (["augment", "{results}", "--n", "-3"], "--n: must be a whole number of at least 1"),
        (["augment", "{tmp}"], "MODEL must be a folder"),
        (["annotate", "{results}", "{cells}", "--out", "{tmp}/a.csv"], "--out must end in .h5ad"),
        (["annotate", "{results}", "{tmp}/log.txt"], "FILE must be a file"),
        (["annotate", "{results}", "{cells}", "--out", "{tmp}/b.h5ad"], "2 are missing"),
        (["report", "{tmp}/none"], "RESULTS must be a folder that scivae run wrote"),
        (["report", "{results}", "--genes", "gene_X", "--out", "{tmp}/r"], "--genes must be among.*'gene_X' is not"),
        (["report", "{results}", "--gene-symbols", "name", "--out", "{tmp}/r"], "--gene-symbols must be a column of var"),
        (["report", "{results}", "--out", "{cells}"], "--out must be a folder, but .* is a file"),
        (["run"], "scivae run needs FILE"),
        (["run", "{tmp}/none.h5ad"], "FILE must be a file, got .*none.h5ad, which does not exist"),
        (["run", "{tmp}/bad.toml"], "FILE must be an h5ad file, got .*bad.toml: it is not in HDF5 format"),
        (["demo", "--data", "{tmp}/none.h5ad"], "none.h5ad, which does not exist"),
        (["demo", "--dataset", "pmbc"], "invalid choice: 'pmbc'"),
        (["trian"], "invalid choice: 'trian'"),
        (["train", "{cells}", "--config", "{tmp}/none.toml"], "--config must be a file"),
        (["train", "{cells}", "--config", "{tmp}/bad.toml"], "--config must be a file of TOML"),
        (["train", "{cells}", "--config", "{tmp}/odd.yaml"], "got 'epoch'.*Did you mean 'epochs'"),
        (["train", "{cells}", "--config", "{tmp}/text.yaml"], "--config must hold options by name"),
        (["train", "{cells}", "--config", "{tmp}/type.yaml"], "type.yaml: argument --epochs"),
    ],
)  # fmt: skip
def test_mistakes_of_each_command(words, message, cells, results, tmp_path, capsys):
    for name, text in (("bad.toml", "a = "), ("odd.yaml", "epoch: 3"), ("text.yaml", "epochs"),
                       ("type.yaml", "epochs: many")):  # fmt: skip
        (tmp_path / name).write_text(text, encoding="utf-8")
    before = {f for f in tmp_path.rglob("*") if f.suffix not in (".log", ".yaml")}
    names = {"tmp": tmp_path, "cells": cells, "results": results}
    assert main([word.format(**names) for word in words]) == 2
    assert re.search(message, last_error(capsys))
    assert {f for f in tmp_path.rglob("*") if f.suffix not in (".log", ".yaml")} == before


def test_what_stops_after_training_leaves_the_model(cells, tmp_path, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise RuntimeError("the disk is full.")

    monkeypatch.setattr("scivae.commands.run.add_umap", full)
    out = tmp_path / "out"
    assert main(["run", str(cells), "--epochs", "2", "--out", str(out), "--quiet"]) == 1
    assert f"the disk is full. The trained model is kept in {out / 'model'}." in last_error(capsys)
    assert scivae.model.CIVAE.load(out / "model", adata=False).is_trained
    assert "the disk is full" in (out / "log.txt").read_text(encoding="utf-8")


def test_interrupted(cells, tmp_path, capsys, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("scivae.commands.run.train", stop)
    assert main(["run", str(cells), "--out", str(tmp_path / "out"), "--quiet"]) == 130
    assert last_error(capsys) == "scivae: error: interrupted."


def test_warnings_are_a_line_each(cells, tmp_path, capsys, monkeypatch):
    import warnings

    monkeypatch.setattr(
        "scivae.commands.run.train", lambda *a, **k: warnings.warn("odd\ncells.", stacklevel=2)
    )
    monkeypatch.setattr("scivae.model.CIVAE.save", lambda *a, **k: None)
    monkeypatch.setattr("scivae.commands.run._after_training", lambda *a, **k: {})
    assert main(["run", str(cells), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    told = capsys.readouterr()
    assert told.err.splitlines() == ["scivae: warning: odd cells."]
    assert told.out == ""
    assert "warning: odd cells." in (tmp_path / "out" / "log.txt").read_text(encoding="utf-8")


def examples() -> list[list[str]]:
    """Arguments of every command that the help shows."""
    lines = EXAMPLES.replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.strip().startswith("scivae ")]


COMMANDS = ("demo", "run", "train", "predict", "augment", "annotate", "report")


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=" ".join)
def test_help_fits_a_terminal(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert (EXAMPLES.strip() in text) == (command in ([], ["demo"], ["run"]))
    assert max(map(len, text.splitlines())) <= 100


def test_the_package_is_run_as_a_module(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["scivae", "--version"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("scivae", run_name="__main__")
    assert left.value.code in (0, None)
    assert scivae.__version__ in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("scivae 0.")


@pytest.mark.parametrize("arguments", examples(), ids=" ".join)
def test_examples_of_the_help_are_understood(arguments, monkeypatch):
    """What they do is tested above; here, that they come as far as that."""
    seen = []
    for name in ("run.run", "steps.predict", "steps.augment"):
        monkeypatch.setattr(f"scivae.commands.{name}", lambda request, *more: seen.append(request))
    assert main(arguments) == 0
    assert len(seen) == 1


def test_a_configuration_of_toml_is_that_of_yaml(tmp_path):
    from scivae.commands.log import read_config, write_config

    options = {"genes": ["A", "γ: ☃"], "epochs": 3, "quiet": True, "label": "no", "seed": None}
    write_config(tmp_path / "a.yaml", "run", options)
    toml = 'genes = ["A", "γ: ☃"]\nepochs = 3\nquiet = true\nlabel = "no"\n'
    (tmp_path / "a.toml").write_text(toml, encoding="utf-8")
    assert (
        read_config(tmp_path / "a.yaml") == read_config(tmp_path / "a.toml") == tomllib.loads(toml)
    )


def test_maps_of_commands_and_of_reports_are_those_of_figures(monkeypatch):
    """One calculation, which needs no neighbors of scanpy: 1.11.5 fails with new pynndescent on many cells."""
    from scivae.commands.analysis import add_umap
    from scivae.report import _map

    calls = []

    def embed(x, method, n_components, seed):
        calls.append((method, n_components, seed))
        return x[:, :2] + 1

    for module in ("scivae.pl.embedding", "scivae.report._map"):
        monkeypatch.setattr(f"{module}.embed_points", embed)
    z = np.random.default_rng(0).normal(size=(60, 4))
    adata = anndata.AnnData(np.zeros((60, 1), dtype=np.float32))

    class Model:
        def get_latent_representation(self, indices=slice(None)):
            return z[indices]

    add_umap(adata, Model(), 3)
    np.testing.assert_array_equal(adata.obsm["X_umap"], z[:, :2] + 1)
    del adata.obsm["X_umap"]
    small, basis = _map.on_map(Model(), adata, 60, 3)
    np.testing.assert_array_equal(small.obsm[basis], z[:, :2] + 1)
    assert calls == [("umap", 2, 3)] * 2
