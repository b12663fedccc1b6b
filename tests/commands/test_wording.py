"""Messages of Python functions name the options of the command, not arguments."""

import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import make_adata

from scivae.cli import main
from scivae.commands import cells
from scivae.commands.request import Request
from scivae.commands.training import warn_of_chance
from scivae.commands.wording import of_command

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs"))
import error_texts

OPTIONS = {*Request._fields, "n", "level", "method", "key_added"} - {"data", "argument"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "adata.X holds negative values, not counts. Pass layer='umi' to setup_anndata, which holds counts.",
            "X holds negative values, not counts. Pass --layer umi, which holds counts.",
        ),
        (
            "adata.obs['my donor_key'] looks like donors, but donor_key is None; pass donor_key='my donor' to pair_cells.",
            "obs['my donor_key'] looks like donors, but --donor-key is not given; pass --donor-key 'my donor'.",
        ),
        ("train longer or raise discriminator_weight.", "train longer, with --epochs."),
        ("it is missing; fill it in, or pass donor_key=None.", "it is missing; fill it in, or leave --donor-key out."),
        ("layer must be a key of adata.layers or 'X', got 'umi'", "--layer must be a key of layers or 'X', got 'umi'"),
        ("source and target must be two groups", "--source and --target must be two groups"),
        ("Pass max_epochs=30 or early_stopping=True, or train on more", "Pass --epochs 30, or train on more"),
        ("--genes must be among the genes, but 'n' is not.", "--genes must be among the genes, but 'n' is not."),
        ("the label of a cell, its source and n cells", "the label of a cell, its source and n cells"),
        ("call adata.var_names_make_unique().", "call adata.var_names_make_unique()."),
    ],
)  # fmt: skip
def test_options_replace_arguments(text, said):
    assert of_command(text, OPTIONS) == said
    assert of_command(said, OPTIONS) == said


TEXTS = [t for t in error_texts.texts() if t.file.parts[0] not in ("commands", "cli.py")]


def test_no_text_names_an_option_as_python_does():
    """Neither ``layer=``, nor ``donor_key``, nor ``layer must``."""
    names, long = (
        "|".join(name for name in OPTIONS if "_" in name or not only_long)
        for only_long in (False, True)
    )
    python = re.compile(
        rf"(?<![\w.\-/\[(<])({names})=|(?<![\w.-])({long}|max_epochs)(?!\w)|^({names}) must"
    )

    def found(text: str) -> bool:
        return bool(python.search(re.sub(r"'[^']*'", "''", text)))

    assert sum(found(t.text) for t in TEXTS) > 50
    left = [f"{t.file}:{t.line} {t.text}" for t in TEXTS if found(of_command(t.text, OPTIONS))]
    assert not left


def test_a_warning_and_an_error_of_a_command(tmp_path, capsys):
    adata = make_adata()
    adata.layers["umi"] = adata.layers.pop("counts")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    out = ["--out", str(tmp_path / "out"), "--quiet"]
    assert main(["train", str(tmp_path / "cells.h5ad"), "--epochs", "1", *out]) == 0
    assert "Pass --layer umi, which holds counts." in capsys.readouterr().err
    adata.obs["cell_type"] = "one"
    adata.write_h5ad(tmp_path / "cells.h5ad")
    assert main(["train", str(tmp_path / "cells.h5ad"), *out]) == 2
    assert "holds only 'one'; choose another --labels-key." in capsys.readouterr().err


@pytest.mark.filterwarnings("error")
def test_columns_of_classes_and_donors_that_are_swapped():
    obs = pd.DataFrame(
        {
            "Cell Type": np.repeat(["a", "b", "c"], 4),
            "Sample ID": np.tile(["s1", "s2", "s3", "s4"], 3),
            "column": np.repeat(["x", "y", "z"], 4),
        }
    )
    with pytest.warns(
        UserWarning, match="--labels-key 'Sample ID' looks like donors.* swap it with"
    ):
        cells.warn_of_roles(obs, "Sample ID", "Cell Type")
    with pytest.warns(
        UserWarning, match="--labels-key 'Sample ID' .*; name the column of the cell types"
    ):
        cells.warn_of_roles(obs, "Sample ID", None)
    with pytest.warns(UserWarning, match="--donor-key 'Cell Type' looks like classes"):
        cells.warn_of_roles(obs.assign(own=obs["Sample ID"]), "own", "Cell Type")
    with pytest.warns(
        UserWarning, match="--donor-key 'column' has cells of one class in each of 3"
    ):
        cells.warn_of_roles(obs, "Cell Type", "column")
    for donor_key in ("Sample ID", None):
        cells.warn_of_roles(obs, "Cell Type", donor_key)  # a warning would be an error


class Guessing:
    """A model that names the second class at random."""

    def __init__(self, right: float, names=("large", "small"), sizes=(60, 40)):
        labels = np.repeat(names, sizes)
        rng = np.random.default_rng(0)
        self.said = np.where(rng.random(len(labels)) < right, labels, names[1])
        self.adata = make_adata(n_cells=len(labels))
        self.adata.obs["cell_type"] = labels
        self.setup = type("Setup", (), {"labels_key": "cell_type"})
        self.classes = np.array(names)
        self.validation_indices = np.arange(len(labels))

    def predict(self, indices):
        return self.said[indices]


@pytest.mark.filterwarnings("error")
def test_a_model_at_chance_is_told_once():
    with pytest.warns(
        UserWarning, match="calling all of them 'large' would 60.0%; train longer"
    ) as told:
        warn_of_chance(Guessing(0.1))
    assert len(told) == 1
    warn_of_chance(Guessing(0.9))
    # Right less often than the name of the largest class, but far better than chance.
    warn_of_chance(Guessing(0.9, sizes=(960, 40)))
