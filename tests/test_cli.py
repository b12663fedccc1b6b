import shlex

import anndata
import numpy as np
import pandas as pd
import pytest
from tests.conftest import make_adata

from scivae.cli import EXAMPLES, main

FILES = {"cells.h5ad", "path.h5ad", "synthetic.h5ad", "report.txt", "training.png", "path.png", "margin.png"}  # fmt: skip


@pytest.fixture
def cells(tmp_path):
    adata = make_adata()
    adata.obs["stage"] = np.array(["early", "late"])[(np.arange(len(adata)) // 3) % 2]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def demo(cells, out, *more):
    return main(
        [
            "demo",
            "--data",
            str(cells),
            "--out",
            str(out),
            "--epochs",
            "20",
            "--n-synthetic",
            "5",
            *more,
        ]
    )


def test_walk_between_groups(cells, tmp_path, capsys):
    groups = ["--groupby", "stage", "--source", "early", "--target", "late", "--label", "alpha"]
    assert demo(cells, tmp_path / "out", *groups) == 0
    out = tmp_path / "out"
    assert {f.name for f in out.iterdir()} == FILES | {"genes.csv", "genes.png", "heatmap.png"}
    report = (out / "report.txt").read_text()
    assert report in capsys.readouterr().out
    for phrase in ("held out", "linear separability", "right class", "in class alpha"):
        assert phrase in report
    path = anndata.read_h5ad(out / "path.h5ad")
    adata = anndata.read_h5ad(out / "cells.h5ad")
    assert adata.obs.loc[path.obs["civae_source"].iloc[0], "stage"] == "early"
    assert adata.obs.loc[path.obs["civae_target"].iloc[0], "stage"] == "late"
    assert {"X_civae", "X_umap"} <= set(adata.obsm)
    assert anndata.read_h5ad(out / "synthetic.h5ad").n_obs == 15
    assert set(pd.read_csv(out / "genes.csv", index_col=0).index) == set(adata.var_names)


def test_walk_without_groups(cells, tmp_path):
    assert demo(cells, tmp_path / "out", "--label", "beta") == 0
    assert {f.name for f in (tmp_path / "out").iterdir()} == FILES


def test_images(tmp_path, monkeypatch):
    import scivae

    digits = scivae.datasets.digits()
    monkeypatch.setattr(scivae.datasets, "digits", lambda: digits[:300].copy())
    arguments = ["--dataset", "digits", "--epochs", "60", "--n-synthetic", "2"]
    assert main(["demo", *arguments, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "images.png").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--labels-key", "celltype"], "--labels-key must be a column of obs.*'cell_type'"),
        (["--label", "alfa"], "--label must be a value of obs.*Did you mean 'alpha'"),
        (["--groupby", "stage"], "--groupby, --source and --target go together"),
        (
            ["--groupby", "stage", "--source", "erly", "--target", "late"],
            "--source must be a value of obs.*'early'",
        ),
        (["--layer", "raw"], "layer must be a key of adata.layers"),
    ],
)
def test_mistakes_end_in_one_line(cells, tmp_path, capsys, more, message):
    import re

    assert demo(cells, tmp_path / "out", *more) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("scivae: error: ")
    assert re.search(message, error)
    assert not (tmp_path / "out").exists()


def test_no_such_file(tmp_path, capsys):
    assert main(["demo", "--data", str(tmp_path / "none.h5ad")]) == 2
    assert "none.h5ad is not there" in capsys.readouterr().err


def examples() -> list[list[str]]:
    """Arguments of every command that the help shows."""
    lines = EXAMPLES.replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.strip().startswith("scivae ")]


@pytest.mark.parametrize("command", [["--help"], ["demo", "--help"]])
def test_help_shows_examples_and_fits_a_terminal(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert EXAMPLES.strip() in text
    assert max(map(len, text.splitlines())) <= 100


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("scivae 0.")


@pytest.mark.parametrize("arguments", examples(), ids=" ".join)
def test_examples_of_the_help_run(arguments, tmp_path, monkeypatch):
    if "colon" in arguments:  # is fetched; that it is understood has to do
        seen = []
        monkeypatch.setattr("scivae._demo.run", seen.append)
        assert main(arguments) == 0
        assert seen[0].dataset == "colon"
        return
    monkeypatch.chdir(tmp_path)
    adata = make_adata()
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories(
        {"alpha": "Epithelial", "beta": "Goblet"}
    )
    adata.obs["tissue"] = np.array(["normal", "tumor"])[(np.arange(len(adata)) // 3) % 2]
    adata.write_h5ad("mine.h5ad")
    assert main([*arguments, "--epochs", "10", "--n-synthetic", "3"]) == 0
    assert len(list(tmp_path.glob("*/report.txt"))) == 1
