"""Small data with known contents, one for each kind of thing that is drawn."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData


def make_trends(n_steps: int = 11, *, evidence: str = "measured") -> AnnData:
    """Four genes that switch early, late, never and in the middle; three donors."""
    t = np.linspace(0, 1, n_steps)

    def step(at: float, when=t) -> np.ndarray:
        return 1 / (1 + np.exp(-20 * (when - at)))

    def curves(when: np.ndarray) -> np.ndarray:
        return np.stack(
            [3 * step(0.8, when), 2 - step(0.2, when), np.ones_like(when), 5 * step(0.5, when)],
            axis=1,
        )

    mean = curves(t)
    decoded = 0.8 * mean + 0.3
    bands = {"fit_low": mean - 0.3, "fit_high": mean + 0.4}
    said = {
        "kind": "trends",
        "evidence": evidence,
        "scale": "log1p of mean counts per 10,000",
        "donors": np.array(["d1", "d2", "d3"]),
        "source": "normal",
        "target": "tumor",
        "groupby": "tissue",
    }
    var = pd.DataFrame(
        {
            "change": (mean[-1] - mean[0]) / np.log(2),
            "switch": [0.8, 0.2, np.nan, 0.5],
            "switch_low": [0.7, 0.1, np.nan, 0.2],
            "switch_high": [0.85, 0.3, np.nan, 0.8],
            "resolved": [True, True, False, False],
        },
        index=["late", "early", "flat", "middle"],
    )
    varm = {}
    layers = {"fit": mean, **bands, "decoded": decoded}
    if evidence == "decoded":
        layers = {"decoded": decoded, "q05": decoded - 0.3, "q95": decoded + 0.4}
    else:
        at, donor = np.repeat(np.linspace(0.05, 0.95, 10), 3), np.tile([0, 1, 2], 10)
        said["bins"] = pd.DataFrame(
            {"t": at, "bin": np.repeat(np.arange(10), 3), "donor": donor, "n_cells": 20},
            index=pd.RangeIndex(30).astype(str),
        )
        values = np.expm1(curves(at) + 0.1 * (donor[:, None] - 1)).clip(0).T
        varm = {"civae_bins": values, "civae_bins_se": 0.1 * values}
        shift = np.random.default_rng(0).normal(0, 0.04, (4, 50))
        varm["civae_switch"] = np.clip(var["switch"].fillna(0.5).to_numpy()[:, None] + shift, 0, 1)
    return AnnData(
        next(iter(layers.values())).copy(),
        obs=pd.DataFrame({"civae_t": t}, index=[f"step_{i}" for i in range(n_steps)]),
        var=var,
        layers=layers,
        varm=varm,
        uns={"civae": said},
    )


def make_joint(seed: int = 0) -> AnnData:
    """Real cells in two classes, two paths between them, and five augmented cells."""
    rng = np.random.default_rng(seed)
    center = np.repeat([[0.0, 0.0], [4.0, 2.0]], 30, axis=0)
    t = np.linspace(0, 1, 9)
    walks = [np.stack([4 * t, 2 * t + 1.5 * k * np.sin(np.pi * t)], axis=1) for k in (0, 1)]
    points = np.concatenate(
        [center + rng.normal(0, 0.4, center.shape), *walks, rng.normal(0, 0.3, (5, 2)) + [4, 2]]
    )
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(
                ["A"] * 30
                + ["B"] * 30
                + ["A", "A", "A", "A", "B", "B", "B", "B", "B"] * 2
                + ["B"] * 5
            ),
            "civae_kind": ["real"] * 60 + ["interpolated"] * 18 + ["augmented"] * 5,
            "civae_path": [np.nan] * 60 + ["a → b"] * 9 + ["c → d"] * 9 + ["e → f"] * 5,
            "civae_t": np.concatenate([np.full(60, np.nan), t, t, rng.random(5)]),
        },
        index=[f"row_{i}" for i in range(83)],
    )
    return AnnData(
        rng.random((83, 3)).astype(np.float32),
        obs=obs,
        var=pd.DataFrame(index=["G1", "G2", "G3"]),
        obsm={"X_umap": points, "X_civae": points[:, ::-1].copy()},
    )


def make_path() -> AnnData:
    """Two walks: one from A into B at t = 0.4, one that stays in A."""
    t = np.linspace(0, 1, 6)
    margin = np.concatenate([2 - 5 * t, 1 + t])
    predicted = np.where(margin > 0, "A", "B")
    obs = pd.DataFrame(
        {
            "civae_kind": "interpolated",
            "civae_path": ["a → b"] * 6 + ["c → d"] * 6,
            "civae_t": np.tile(t, 2),
            "civae_predicted": predicted,
            "civae_margin": margin,
        },
        index=[f"step_{i}" for i in range(12)],
    )
    return AnnData(np.zeros((12, 1), dtype=np.float32), obs=obs)


def make_written_back() -> AnnData:
    """Real cells with one walk noted in ``uns``: it leaves A at t = 0.4 exactly."""
    t = np.linspace(0, 1, 6)
    adata = AnnData(np.zeros((3, 1), dtype=np.float32))
    adata.uns["civae"] = {
        "paths": {
            "a → b": {
                "pairs": pd.DataFrame({"source": ["a"], "target": ["b"], "label": ["A"]}),
                "points": pd.DataFrame({"path": 0, "t": t, "margin": 2 - 5 * t}),
                "crossings": pd.DataFrame({"path": [0], "t": 0.4, "before": "A", "after": "B"}),
            }
        }
    }
    return adata


def make_images(n_steps: int = 5) -> AnnData:
    """Two walks of 2 × 3 images; each pixel of a step has the value of t."""
    t = np.tile(np.linspace(0, 1, n_steps), 2)
    obs = pd.DataFrame(
        {
            "civae_kind": "interpolated",
            "civae_path": np.repeat(["a → b", "c → d"], n_steps),
            "civae_t": t,
            "civae_predicted": ["3"] * n_steps + ["3"] + ["8"] * (n_steps - 1),
        },
        index=[f"step_{i}" for i in range(2 * n_steps)],
    )
    x = np.repeat(t[:, None], 6, axis=1).astype(np.float32)
    names = [f"pixel_{r}_{c}" for r in range(2) for c in range(3)]
    return AnnData(x, obs=obs, var=pd.DataFrame(index=names))


def make_cells(n: int = 40, *, seed: int = 0, kind: str | None = None) -> AnnData:
    """Counts of two classes, as real cells or as sampled ones."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 2
    rate = np.where((np.arange(12) < 6) == label[:, None].astype(bool), 8.0, 1.0)
    counts = rng.poisson(rate).astype(np.float32)
    adata = AnnData(
        np.log1p(counts),
        obs=pd.DataFrame(
            {"cell_type": pd.Categorical(np.array(["A", "B"])[label])},
            index=[f"{kind}_{i}" for i in range(n)],
        ),
        layers={"counts": counts},
        obsm={"X_civae": rng.normal(size=(n, 4)) + 3 * label[:, None]},
    )
    if kind is not None:
        adata.uns["civae"] = {"kind": "augmented", "values": kind}
    return adata


def make_history(n: int = 6) -> dict[str, pd.DataFrame]:
    """Terms that fall by epoch, validation at every second one."""
    epochs = pd.RangeIndex(n, name="epoch")
    names = ("reconstruction_loss", "kl_local", "classification_loss", "accuracy")
    logged = {"train_loss": pd.DataFrame({"train_loss": 10.0 / (1 + epochs)}, index=epochs)}
    for k, name in enumerate(names):
        logged[f"{name}_train"] = pd.DataFrame({"x": (k + 1) / (2.0 + epochs)}, index=epochs)
        logged[f"{name}_validation"] = pd.DataFrame(
            {"x": (k + 2) / (2.0 + epochs[::2])}, index=epochs[::2]
        )
    return logged


def make_table() -> pd.DataFrame:
    """Two seeds at each of four weights."""
    weight = np.repeat([0.0, 1.0, 10.0, 100.0], 2)
    return pd.DataFrame(
        {
            "discriminator_weight": weight,
            "seed": [0, 1] * 4,
            "mae": 3 + 0.1 * np.log1p(weight) + np.tile([-0.1, 0.1], 4),
            "purity": 1 - 0.3 / (1 + weight),
        }
    )


@pytest.fixture(autouse=True)
def _plain_figures():
    """No window, matplotlib's own style, and no figure left behind."""
    from matplotlib import pyplot as plt

    plt.switch_backend("agg")
    with mpl.rc_context():
        mpl.rcdefaults()
        yield
    plt.close("all")


@pytest.fixture
def trends() -> AnnData:
    return make_trends()


@pytest.fixture
def joint() -> AnnData:
    return make_joint()


@pytest.fixture
def images() -> AnnData:
    return make_images()


def make_sets() -> pd.DataFrame:
    """Sets of genes as tl.enrich returns them."""
    z = np.array([5.0, -4.0, 2.5, -0.5])
    names = ["HALLMARK_INTERFERON_ALPHA_RESPONSE", "odd $\\frac set", "a set", "another"]
    return pd.DataFrame(
        {"score": z, "z": z, "fdr": [1e-4, 1e-3, 0.04, 0.6], "switch": [0.2, 0.7, np.nan, 0.5],
         "n_genes": [97, 12, 8, 5]},
        index=names,
    )  # fmt: skip


def make_attribution() -> pd.DataFrame:
    """Genes as tl.attribute returns them: two speak for the class, by being there and by not being there."""
    genes = pd.DataFrame(
        {"attribution": [1.5, 0.4, 0.0, -0.8], "sd": [0.5, 0.1, 0.0, 0.3], "agreement": 1.0,
         "value": [2.0, 0.1, 1.0, 1.5], "baseline": [0.1, 1.0, 1.0, 0.5]},
        index=["CD79A", "CD3D", "ACTB", "NKG7"],
    )  # fmt: skip
    genes.attrs = {"label": "CD19+ B", "other": None}
    return genes
