"""The tutorials run from top to bottom, and what is committed is what a reader should see.

At reduced size, unless ``SCIVAE_TUTORIAL_SIZE=full``. Their assertions on their findings are the test.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from tests.conftest import data_file

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

FOLDER = Path(__file__).resolve().parents[1] / "tutorials"


def load_runner():
    spec = importlib.util.spec_from_file_location("tutorials_run", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run = load_runner()
EXPECTED = (
    "1_quickstart",
    "2_mnist",
    "3_colon",
    "4_rare_cells",
    "5_few_labels",
    "6_large_data",
    "7_interferon",
    "8_your_own_data",
)
# Data that a tutorial cannot do without.
DATA = dict.fromkeys(["5_few_labels", "7_interferon", "8_your_own_data"], "pbmc_kang.h5ad")
DATA["3_colon"] = "colon_lee_epithelial.h5ad"
# Folders that exist on some machines only.
MACHINE = re.compile(r"(?<![\w:/.])/(home|root|work|tmp|usr|opt|var|Users|private)/")


@pytest.fixture(scope="module")
def kernel():
    """One kernel for all, so that torch, scvi-tools and UMAP are imported once."""
    from jupyter_client import AsyncKernelManager

    manager = AsyncKernelManager(kernel_name="python3")
    yield manager
    from jupyter_core.utils import run_sync

    run_sync(manager.shutdown_kernel)(now=True)


def outputs(notebook):
    return [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]


def texts(notebook):
    """Everything that a reader can read."""
    for cell in notebook.cells:
        yield cell.source
        for output in cell.get("outputs", ()):
            yield output.get("text", "")
            yield from (v for k, v in output.get("data", {}).items() if k.startswith("text/"))


def test_the_tutorials_are_there():
    assert run.NAMES == EXPECTED


@pytest.mark.parametrize("name", run.NAMES)
def test_a_tutorial_runs(name, tmp_path, kernel, monkeypatch):
    if name in DATA:  # tutorials look where they run, unless SCIVAE_DATA_DIR names a folder
        (tmp_path / DATA[name]).symlink_to(data_file(DATA[name]).resolve())
    monkeypatch.delenv("SCIVAE_DATA_DIR", raising=False)
    done = run.execute(name, tmp_path, small=run.size("small") == "small", kernel=kernel)
    assert any("image/png" in output.get("data", {}) for output in outputs(done))


@pytest.mark.parametrize("name", run.NAMES)
def test_what_is_committed_is_fit_to_be_read(name):
    notebook = run.read(name)
    kinds = [output.output_type for output in outputs(notebook)]
    assert kinds, "run tutorials/run.py"
    assert "error" not in kinds
    assert not any(o.get("name") == "stderr" for o in outputs(notebook))
    assert sum("image/png" in output.get("data", {}) for output in outputs(notebook)) >= 2
    for text in texts(notebook):
        assert not MACHINE.search(text), text
        assert not run.ADDRESS.search(text), text
    assert (run.FOLDER / f"{name}.ipynb").stat().st_size < 1_500_000


@pytest.mark.parametrize("name", run.NAMES)
def test_a_tutorial_says_what_it_teaches_and_how_long_it_takes(name):
    notebook = run.read(name)
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert "In this tutorial you" in first.source
    assert "**You need**" in first.source
    seconds = notebook.metadata.scivae.seconds
    assert f"**Time:** {run.spoken(seconds)} on " in first.source


@pytest.mark.parametrize("name", run.NAMES)
def test_a_tutorial_asserts_its_findings(name):
    notebook = run.read(name)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert sum(len(re.findall(r"^assert ", text, flags=re.MULTILINE)) for text in code) >= 3
    ids = [cell.id for cell in notebook.cells]
    # Names, not random numbers: a change of one cell is a change of one cell.
    assert all(re.fullmatch(r"[a-z0-9-]+", i) and not re.fullmatch(r"[0-9a-f]{8}", i) for i in ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", run.NAMES)
def test_links_between_tutorials_lead_somewhere(name):
    for text in texts(run.read(name)):
        for target in re.findall(r"\]\(([^)#:]+\.ipynb)\)", text):
            assert (run.FOLDER / target).exists(), target


@pytest.mark.parametrize("name", run.NAMES)
def test_the_reduced_size_changes_variables_that_there_are(name):
    source = run.parameters_cell(run.read(name)).source
    for variable in run.SMALL[name]:
        assert re.search(rf"^{variable} = ", source, flags=re.MULTILINE), variable


def test_the_size_is_small_or_full(monkeypatch):
    monkeypatch.setenv(run.SIZE, "tiny")
    with pytest.raises(
        ValueError, match="SCIVAE_TUTORIAL_SIZE must be 'small' or 'full', got 'tiny'"
    ):
        run.size()


def test_outputs_are_kept_as_they_are_but_for_this_machine(tmp_path):
    from nbformat.v4 import new_output

    path = new_output("stream", name="stdout", text=f"first\nwrote {tmp_path}/x.h5ad\n")
    line = new_output("display_data", data={"text/plain": "Training: 15/15 epochs"})
    kept = run.tidy([path, line], tmp_path)
    assert kept[0].text == "first\nwrote x.h5ad\n"
    assert kept[1].data == {"text/plain": "Training: 15/15 epochs"}
    for text in ("UserWarning: no such gene\n", "GPU available: False, used: False\n"):
        said = new_output("stream", name="stderr", text=text)
        with pytest.raises(ValueError, match=f"must not warn, but one does:\n{text.strip()}"):
            run.tidy([said], tmp_path)
    address = new_output("stream", name="stdout", text="<object at 0x7f00deadbeef>\n")
    with pytest.raises(ValueError, match="must be the same each time"):
        run.tidy([address], tmp_path)
