"""The AnnData of generated cells, and what is written back into the one they came from."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from .. import _keys
from ..geometry import Crossings
from ._checks import X_LAYER

TARGET_SUM = 1e4


def log_normalize(counts: Any) -> Any:
    """``log1p`` of counts per 10,000, as scanpy does it; dense or CSR, float32."""
    total = np.asarray(counts.sum(axis=1)).reshape(-1, 1)
    factor = TARGET_SUM / np.maximum(total, np.finfo(np.float32).tiny)
    if sparse.issparse(counts):
        out = sparse.csr_matrix(counts, dtype=np.float32, copy=True)
        out.data *= np.repeat(factor.ravel(), np.diff(out.indptr))
        return out.log1p()
    out = counts * factor.astype(np.float32)
    torch.from_numpy(out).log1p_()  # in place, on every core, several times faster than numpy
    return out


def assemble(
    values: Any,
    *,
    obs: pd.DataFrame,
    var: pd.DataFrame,
    latent: np.ndarray,
    layer: str,
    counts: bool,
    uns: dict[str, Any],
    layers: dict[str, Any] | None = None,
) -> AnnData:
    """AnnData of generated cells, with the values where the model looks for them.

    Parameters
    ----------
    values
        Shape ``(n, n_vars)``, dense or CSR.
    obs, var
        Annotations.
    latent
        Latent points, shape ``(n, n_latent)``.
    layer
        Layer of the values, or ``"X"``.
    counts
        Whether they are counts; then X beside a layer is log-normalised.
    uns
        What to say about how they were made.
    layers
        Further layers.
    """
    if layer == X_LAYER:
        x, own = values, {}
    else:
        x, own = (log_normalize(values) if counts else values), {layer: values}
    return AnnData(
        X=x,
        obs=obs,
        var=var,
        layers={**own, **(layers or {})},
        obsm={_keys.LATENT: np.asarray(latent, dtype=np.float32)},
        uns={_keys.UNS: uns},
    )


def provenance(model_parameters: dict[str, Any], **details: Any) -> dict[str, Any]:
    """What ``uns["civae"]`` says: how cells were made, by which model and which versions.

    ``None`` is left out: not every version of the file formats can hold it.
    """
    return {
        **{k: storable(v) for k, v in details.items() if v is not None},
        "model": {
            k: storable(v) if isinstance(v, int | float | str) else str(v)
            for k, v in model_parameters.items()
            if v is not None
        },
        "versions": {
            package: version(package)
            for package in ("scivae-tools", "scvi-tools", "anndata", "torch")
        },
    }


def crossings_table(crossings: Crossings, classes: np.ndarray) -> pd.DataFrame:
    """The points where paths change class, a row each."""
    names = classes.astype(str).astype(object)
    return pd.DataFrame(
        {
            "path": crossings.path,
            "t": crossings.t,
            "before": names[crossings.before],
            "after": names[crossings.after],
        }
    )


def safe_key(name: str) -> str:
    """A name that file formats take as a key: slashes would open a group."""
    return name.replace("/", "|")


def storable(value: Any) -> Any:
    """The value, as text where it is an integer greater than those of file formats."""
    return str(value) if isinstance(value, int) and abs(value) >= 2**63 else value
