"""Build an AnnData of generated cells; prepare what is written to the AnnData of the real cells."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from .. import _keys
from .._names import as_text, native_text, same_names
from .._validate.arguments import check_key
from ..geometry import Crossings
from .checks import X_LAYER

if TYPE_CHECKING:
    from .setup import Setup

LOG1P = "log1p"  # entry of uns by which scanpy marks X as log-transformed
IMAGE = "image"  # entry of uns with height and width, if genes are pixels
TARGET_SUM = 1e4
# Most bytes of a key, which is the name of a folder in a zarr store.
MAX_KEY = 200


def log_normalize(counts: Any) -> Any:
    """``log1p`` of counts per 10,000, as scanpy does it; dense or CSR, float32."""
    total = np.asarray(counts.sum(axis=1)).reshape(-1, 1)
    factor = TARGET_SUM / np.maximum(total, np.finfo(np.float32).tiny)
    if sparse.issparse(counts):
        out = sparse.csr_matrix(counts, dtype=np.float32, copy=True)
        out.data *= np.repeat(factor.ravel(), np.diff(out.indptr))
        return out.log1p()
    out = counts * factor.astype(np.float32)
    torch.from_numpy(out).log1p_()  # several times faster than numpy
    return out


def assemble(
    values: Any,
    *,
    real: AnnData,
    setup: Setup,
    obs: pd.DataFrame,
    latent: np.ndarray,
    counts: bool,
    uns: dict[str, Any],
    layers: dict[str, Any] | None = None,
) -> AnnData:
    """AnnData of generated cells, with the values in the layer that the model reads.

    Parameters
    ----------
    values
        Shape ``(n, n_vars)``, dense or CSR.
    real
        The real cells. The annotation of genes, the names of the indices and the colors of the
        columns of the setup are copied from there.
    setup
        Names and categories of the setup.
    obs
        Annotation of the generated cells.
    latent
        Latent points, shape ``(n, n_latent)``.
    counts
        Whether the values are counts; X is then log-normalized if counts are in a layer.
    uns
        Entries of ``uns["civae"]`` that say how the cells were made.
    layers
        Further layers.
    """
    entries = {_keys.UNS: uns, **colors_of(real, obs, setup)}
    own: dict[str, Any] = {} if setup.layer == X_LAYER else {setup.layer: values}
    x = values
    if own and counts:
        x = log_normalize(values)
        entries[LOG1P] = {}  # without a base: the natural logarithm
    elif not counts and LOG1P in real.uns:
        entries[LOG1P] = real.uns[LOG1P]
    if IMAGE in real.uns:
        entries[IMAGE] = real.uns[IMAGE]
    var = real.var.copy()
    var.index = pd.Index(as_text(setup.genes), name=var.index.name)
    if real.obs_names.name not in obs:
        obs.index.name = real.obs_names.name
    return AnnData(
        X=x,
        obs=native_text(obs),
        var=native_text(var),
        varm={
            key: native_text(value) if isinstance(value, pd.DataFrame) else value.copy()
            for key, value in real.varm.items()
        },
        layers={**own, **(layers or {})},
        obsm={_keys.LATENT: np.asarray(latent, dtype=np.float32)},
        uns=copy.deepcopy(entries),
    )


def colors_of(real: AnnData, obs: pd.DataFrame, setup: Setup) -> dict[str, Any]:
    """Colors in ``real.uns`` for the columns of the setup; those of the labels also for predicted classes."""
    found = {}
    for column in (setup.labels_key, setup.batch_key, *setup.categorical):
        colors = real.uns.get(f"{column}_colors")
        kind = None if column is None else obs[column].dtype
        if colors is None or not isinstance(kind, pd.CategoricalDtype):
            continue
        own = real.obs[column].dtype if column in real.obs else kind
        if not isinstance(own, pd.CategoricalDtype) or len(colors) != len(kind.categories):
            continue
        if same_names(own.categories, kind.categories):
            found[f"{column}_colors"] = colors
            if column == setup.labels_key:
                found[f"{_keys.PREDICTED}_colors"] = colors
    return found


def provenance(model_parameters: dict[str, Any], **details: Any) -> dict[str, Any]:
    """Entries of ``uns["civae"]``: how cells were made, by which model, with which versions.

    Entries that are ``None`` are left out, because not every version of the file formats can store it.
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
    """A table of the points where paths change class, one row per point."""
    names = classes.astype(str).astype(object)
    return pd.DataFrame(
        {
            "path": crossings.path,
            "t": crossings.t,
            "before": names[crossings.before],
            "after": names[crossings.after],
        }
    )


def distinct(names: Sequence[str]) -> list[str]:
    """The names, with `` (2)`` and so on appended to repeated ones."""
    taken: set[str] = set(names)
    seen: set[str] = set()
    numbers: dict[str, int] = {}  # the last number of each name
    out = []
    for name in names:
        n = numbers.get(name, 1)
        new = name if n == 1 else f"{name} ({n})"
        while new in seen or (n > 1 and new in taken):
            n += 1
            new = f"{name} ({n})"
        numbers[name] = n
        seen.add(new)
        out.append(new)
    return out


def safe_key(name: str, taken: Callable[[str], bool] = lambda key: False) -> str:
    """A key that is valid in every file format, as close to a name as possible.

    A slash would create a group, some characters are not allowed in keys, and names of folders are
    limited in length. Two names can therefore give the same key; a number is appended while it is ``taken``.

    Parameters
    ----------
    name
        Any text.
    taken
        Whether a key already belongs to something else.
    """
    key = "".join(sign if sign.isprintable() else " " for sign in name.replace("/", "|"))
    if len(key.encode()) > MAX_KEY:
        key = key.encode()[:MAX_KEY].decode(errors="ignore") + "…"
    new, n = key, 1
    while taken(new):
        n += 1
        new = f"{key} ({n})"
    return new


def storable(value: Any) -> Any:
    """The value; an integer too large for file formats is converted to text."""
    return str(value) if isinstance(value, int) and abs(value) >= 2**63 else value


def check_uns(adata: AnnData, key_added: str | None) -> None:
    """Raise if ``adata.uns[key_added]`` already exists and was not written by scivae."""
    if key_added is None:
        return
    check_key("key_added", key_added)
    taken = adata.uns.get(key_added, {})
    keys = set(taken) if isinstance(taken, Mapping) else None
    if (
        keys is None
        or not (keys <= _keys.UNS_ENTRIES or keys >= _keys.PROVENANCE)
        or not isinstance(taken.get(_keys.PATHS, {}), Mapping)
    ):
        raise ValueError(
            f"adata.uns[{key_added!r}] already exists and was not written by scivae; pass another "
            "key_added."
        )


def as_categories(obs: pd.DataFrame) -> pd.DataFrame:
    """Convert columns of text to categorical."""
    for column in (_keys.KIND, _keys.PATH, _keys.SOURCE, _keys.TARGET):
        if column in obs:
            obs[column] = pd.Categorical(obs[column])
    return obs
