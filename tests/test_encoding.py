"""Text is UTF-8 in every file, whatever the locale; a console that cannot show a sign shows another."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import make_adata, make_model

import scivae
from scivae.cli import main

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(
    file for folder in ("src", "benchmarks", "tutorials", "docs") for file in (ROOT / folder).rglob("*.py")
)  # fmt: skip
WRITERS = {"read_text", "write_text", "to_csv", "to_html", "to_json", "to_markdown", "to_latex"}


def names_no_encoding(call: ast.Call) -> bool:
    """Whether a call reads or writes text of a file in the encoding of the locale."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in given:
        return False
    if name in ("open", "fdopen"):
        if (owner == "os" and name == "open") or owner.endswith("adata.file"):
            return False  # of a descriptor; of the h5ad file behind a backed AnnData
        modes = [given["mode"]] if "mode" in given else call.args
        modes = [m.value for m in modes if isinstance(m, ast.Constant) and isinstance(m.value, str)]
        if owner and call.args and not modes:
            return False  # a member of an archive, a file of h5py
        return not any("b" in mode for mode in modes)
    if name in WRITERS:  # tables return text where no file is named
        return name.endswith("_text") or bool(call.args)
    if name in ("run", "Popen", "check_output"):
        return "text" in given or "universal_newlines" in given
    return name == "TextIOWrapper"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_text_file_names_its_encoding(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            assert not names_no_encoding(node), f"line {node.lineno} names no encoding"


@pytest.mark.parametrize(
    ("code", "is_one"),
    [
        ("open(path)", True),
        ("open(path, 'w')", True),
        ("path.open()", True),
        ("path.open('a', newline='')", True),
        ("path.read_text()", True),
        ("table.to_csv(path)", True),
        ("os.fdopen(descriptor, 'w')", True),
        ("subprocess.run(words, text=True)", True),
        ("open(path, encoding='utf-8')", False),
        ("open(path, 'rb')", False),
        ("path.open('wb')", False),
        ("open(path, mode='rb')", False),
        ("table.to_csv(index=False)", False),
        ("archive.open(name)", False),
        ("adata.file.open()", False),
        ("subprocess.run(words)", False),
    ],
)
def test_the_rule_finds_what_names_none(code, is_one):
    assert names_no_encoding(ast.parse(code).body[0].value) == is_one


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_what_is_printed_can_be_shown(trained, encoding, monkeypatch):
    path = trained.interpolate(0, 3, n_steps=3, key_added=None)
    adata = make_adata()
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories({"alpha": "γδ T 🧬"})
    other = make_model(adata, epochs=1)
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    for thing in (trained, scivae.tl.describe(path), other, other.labels):
        print(thing)
        sys.stdout.flush()
    text = raw.getvalue().decode(encoding)
    assert "CIVAE of 3 classes" in text
    assert ("γδ T 🧬" in text) == (encoding == "utf-8")
    assert ("120 cells × 40" in text) == (encoding != "ascii")


def cells_with_signs(folder: Path) -> Path:
    adata = make_adata()
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories(
        {"alpha": "γδ T 🧬", "beta": "T/NK | cells"}
    )
    adata.obs_names = [f"Zelle_ß_{i}" for i in range(adata.n_obs)]
    target = folder / "my cells é.h5ad"
    adata.write_h5ad(target)
    return target


def test_the_command_line_ends_well_in_any_locale(tmp_path):
    data = cells_with_signs(tmp_path)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("LC_", "PYTHON"))},
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "MPLBACKEND": "Agg",
    }
    words = ["demo", "--data", data, "--epochs", "5", "--n-synthetic", "3", "--label", "γδ T 🧬"]
    done = subprocess.run(
        [sys.executable, "-m", "scivae.cli", *words, "--out", tmp_path / "out é"],
        capture_output=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    report = (tmp_path / "out é" / "report.txt").read_text(encoding="utf-8")
    assert "in class γδ T 🧬" in report
    assert "×" in report
    assert b"?" in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_errors_of_the_command_line_can_be_shown(encoding, monkeypatch, tmp_path):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding=encoding, errors="strict"))
    assert main(["demo", "--data", str(tmp_path / "γδ 🧬.h5ad")]) == 2
    sys.stderr.flush()
    assert sys.stderr.errors == "strict"  # as it was
    assert b"scivae: error: --data must be a file, got" in raw.getvalue()


@pytest.mark.parametrize("out", ["file", "file/deeper", "file/deeper/still"])
def test_a_file_as_folder_of_results_is_told_before_anything_is_done(out, tmp_path, capsys):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    data = cells_with_signs(tmp_path)
    assert main(["demo", "--data", str(data), "--out", str(tmp_path / out)]) == 2
    told = capsys.readouterr()
    assert "--out must be a folder, but" in told.err
    assert "file" in told.err
    assert "Training" not in told.out
    assert np.array_equal((tmp_path / "file").read_bytes(), b"mine")
