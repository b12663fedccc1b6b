"""The tiny model that tests share, and the real data where it is there."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

try:
    ctypes.CDLL("libcuda.so.1")
except OSError:  # no GPU: Triton interprets its kernels, if told so before torch imports it
    os.environ.setdefault("TRITON_INTERPRET", "1")

import filelock
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from anndata import AnnData
from scipy import sparse

from scivae.model import CIVAE

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None
    or not (torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"),
    reason="there is no Triton, or a driver without a GPU",
)
N_CELLS, N_GENES = 120, 40
CLASSES = ("alpha", "beta", "gamma")
NARROW = 390  # pixels, a telephone


def make_adata(seed: int = 0, n_cells: int = N_CELLS, n_genes: int = N_GENES) -> AnnData:
    """Counts of three classes with markers of their own, in two batches."""
    rng = np.random.default_rng(seed)
    code = np.arange(n_cells) % 3
    rate = rng.gamma(2.0, 1.0, size=n_genes) * np.ones((n_cells, 1))
    for k in range(3):
        rate[np.ix_(code == k, np.arange(n_genes) % 3 == k)] *= 4
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    adata = AnnData(
        X=np.log1p(counts.toarray()),
        layers={"counts": counts},
        obs=pd.DataFrame(
            {
                "cell_type": pd.Categorical(np.array(CLASSES)[code]),
                "batch": pd.Categorical(np.array(["one", "two"])[(np.arange(n_cells) // 3) % 2]),
                "site": pd.Categorical(np.array(["left", "right"])[rng.integers(2, size=n_cells)]),
                "age": rng.uniform(20, 80, size=n_cells),
                "size": rng.uniform(0.5, 2, size=n_cells),
            },
            index=[f"cell_{i}" for i in range(n_cells)],
        ),
    )
    adata.var_names = [f"gene_{i}" for i in range(n_genes)]
    return adata


def make_model(adata: AnnData, *, epochs: int = 2, setup: dict | None = None, **kwargs) -> CIVAE:
    """Set up, build and train a tiny model, in large steps."""
    CIVAE.setup_anndata(adata, **(setup or {}))
    model = CIVAE(adata, **{"n_latent": 4, "n_hidden": 16, **kwargs})
    model.train(
        max_epochs=epochs, batch_size=32, enable_progress_bar=False, plan_kwargs={"lr": 0.01}
    )
    return model


def snapshot(adata: AnnData) -> dict:
    """Every byte of an AnnData and how it is stored, to be compared with what it was."""
    slots = ("obs", "var", "layers", "obsm", "varm", "obsp", "varp", "uns")
    return {"X": _bytes(adata.X), **{slot: _bytes(getattr(adata, slot)) for slot in slots}}


def assert_unchanged(adata: AnnData, before: dict) -> None:
    """Raise unless an AnnData is what it was at :func:`snapshot`."""
    now = snapshot(adata)
    for slot, was in before.items():
        assert now[slot] == was, f"adata.{slot} was changed"


def _bytes(x):
    """Something comparable that tells apart any two things that differ in value, type or layout."""
    if isinstance(x, pd.DataFrame):
        columns = [(name, _bytes(x.iloc[:, i])) for i, name in enumerate(x.columns)]
        return [_bytes(x.index), columns]
    if isinstance(x, pd.Series | pd.Index):
        extra = list(x.cat.categories) if isinstance(x, pd.Series) and x.dtype == "category" else []
        return [str(x.dtype), x.name, [repr(v) for v in x], extra]
    if sparse.issparse(x):
        return [type(x).__name__, x.shape, *(_bytes(a) for a in (x.data, x.indices, x.indptr))]
    if isinstance(x, Mapping):
        return {str(k): _bytes(v) for k, v in x.items()}
    if hasattr(x, "shape"):
        array = np.asarray(x)
        values = [repr(v) for v in array.flat] if array.dtype == object else array.tobytes()
        return [type(x).__name__, str(array.dtype), array.shape, values]
    return repr(x)


def data_file(name: str) -> Path:
    """A file of the real data, or a skip that says which is missing."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("SCIVAE_DATA_DIR", default)) / name
    if not path.exists():
        pytest.skip(f"{name} is not there; SCIVAE_DATA_DIR can name its folder")
    return path


@pytest.fixture(autouse=True, scope="session")
def quiet():
    """Say nothing about every transfer of a setup."""
    scvi.settings.verbosity = 40


@pytest.fixture(autouse=True)
def no_figure_left_open():
    """Close what a test has drawn."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def adata() -> AnnData:
    """A fresh copy of the tiny data."""
    return make_adata()


@pytest.fixture(scope="session")
def trained() -> CIVAE:
    """A trained tiny model; tests must leave its AnnData alone (``key_added=None``)."""
    return make_model(make_adata(), epochs=30)


def draw_fast(patch: pytest.MonkeyPatch) -> None:
    """Reports with maps of two dimensions as they are, and small PNG files.

    UMAP compiles itself in every process, which takes longer than all else that a command does. The
    example of the README, which a test runs, and ``scivae demo`` in ``.ci/run`` use it.
    """
    for module in ("scivae.pl.embedding", "scivae.pl._latent", "scivae.report._map"):
        patch.setattr(f"{module}.embed_points", lambda x, method, n, seed: x[:, :n])
    patch.setattr("scivae.report._figures.DPI", 50)


@pytest.fixture(scope="session")
def results(tmp_path_factory) -> Path:
    """What ``scivae run`` writes of tiny cells whose names are hard to show; made once for all workers."""
    from scivae.cli import main

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "results é"
    with filelock.FileLock(shared / "results.lock"):
        if not folder.exists():
            make_hard_cells().write_h5ad(shared / "hard.h5ad")
            sets = "odd\tof odd genes\t" + "\t".join(f"gene_{i}" for i in range(1, 40, 2))
            (shared / "sets.gmt").write_text(sets, encoding="utf-8")
            words = ["run", str(shared / "hard.h5ad"), "--label", HARD, "--groupby", "stage"]
            words += ["--source", "early", "--target", "late", "--donor-key", "donor", "--quiet"]
            words += ["--epochs", "30", "--n-synthetic", "8"]
            words += ["--gene-sets", str(shared / "sets.gmt")]
            with pytest.MonkeyPatch.context() as patch:
                draw_fast(patch)
                assert main([*words, "--out", str(folder)]) == 0
    return folder


# A name with what HTML, scripts, mathematics in figures and consoles take for their own.
HARD = "</script><b>&\"'$\\frac γδ 🧬"


def make_hard_cells() -> AnnData:
    """The tiny cells with a class of a hard name, two groups and four donors."""
    adata = make_adata()
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories({"alpha": HARD})
    number = np.arange(adata.n_obs)
    adata.obs["stage"] = np.array(["early", "late"])[number // 3 % 2]
    adata.obs["donor"] = np.array(["d1", "d2", "d3", "d4"])[number // 6 % 4]
    adata.obs_names = [f"<i>cell</i> {i}" for i in number]
    adata.var_names = ["<img src=x onerror=alert(1)>", "$\\bad", *adata.var_names[2:]]
    return adata


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Chromium without a screen, which reaches this machine only."""
    selenium = pytest.importorskip("selenium.webdriver", reason="there is no selenium")
    names = ("chromium", "chromium-browser", "google-chrome")
    binary = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("there is no Chromium, or no chromedriver; on Debian: chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = binary
    for option in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
        f"--user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = selenium.ChromeService(driver)
    chrome = selenium.Chrome(options=options, service=service)
    yield chrome
    chrome.quit()


def resize(browser, width: int) -> None:
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
