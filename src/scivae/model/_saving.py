"""Saving and loading: an interrupted save changes nothing, and loading runs no code from the file."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import torch
from anndata import AnnData
from scipy import sparse
from scvi.model import SCVI

from .._names import any_text_written
from .._progress import without_widgets
from .._quiet import quiet_loading
from .._scvi import LATENT_MEAN, LATENT_VARIANCE, SAVE_KEYS, SETUP_METHOD_NAME, get_minify_type
from ..data import checks, files, likelihoods, profile
from ..data.manager import CellsManager
from ..data.plain import foreign, from_plain, to_plain
from ..data.setup import Setup
from ._base import CELLS_LOOKED_AT, CellsModel

_PARTS = (SAVE_KEYS.MODEL_STATE_DICT_KEY, SAVE_KEYS.VAR_NAMES_KEY, SAVE_KEYS.ATTR_DICT_KEY)


def read_model(folder: Path, prefix: str | None, trusted: bool) -> dict[str, Any]:
    """Read the parts of a saved model: weights, gene names, attributes."""
    path = files.find(folder, f"{prefix or ''}{SAVE_KEYS.MODEL_FNAME}")
    if not path.exists():
        raise FileNotFoundError(
            f"there is no saved model at {path}; check the folder, and the prefix if one was given."
        )
    contents = files.read(path, trusted=trusted)
    if not isinstance(contents, dict) or not all(
        isinstance(contents.get(part), dict) for part in (_PARTS[0], _PARTS[2])
    ):
        raise ValueError(
            f"a model file must be saved by CIVAE.save, but {path} was not; check the folder."
        )
    parts = {
        _PARTS[0]: contents[_PARTS[0]],
        **{part: from_plain(contents.get(part)) for part in _PARTS[1:]},
    }
    # scvi-tools would call whatever method the file names here, with arguments from the file.
    method = parts[_PARTS[2]].get("registry_", {}).get(SETUP_METHOD_NAME, "setup_anndata")
    if method != "setup_anndata":
        raise ValueError(
            f"a CIVAE must be set up by setup_anndata, but {path} names {method!r}; save the model "
            "again."
        )
    return parts


@contextmanager
def _not_taken_for_minified(adata: Any) -> Iterator[None]:
    """Allow loading an AnnData whose X is an empty sparse matrix, as it can be with counts in a layer.

    scvi-tools would take it for minified data; it does not if these latent points are there.
    """
    slots = (LATENT_MEAN, LATENT_VARIANCE)
    empty = isinstance(adata, AnnData) and sparse.issparse(adata.X) and adata.X.nnz == 0
    added = [slot for slot in slots if empty and slot not in adata.obsm]
    for slot in added:
        adata.obsm[slot] = np.zeros((adata.n_obs, 1), dtype=np.float32)
    try:
        yield
    finally:
        for slot in added:
            del adata.obsm[slot]


def save(
    self: CellsModel,
    dir_path: str | os.PathLike,
    prefix: str | None = None,
    overwrite: bool = False,
    save_anndata: bool = False,
    **kwargs: Any,
) -> None:
    """Save the model to a folder; a failed save changes nothing.

    If saving is interrupted (the process is killed, the disk is full), the folder holds either the
    previous model or the new one. The file contains numbers and text only, so :meth:`load`
    does not have to trust it.

    Parameters
    ----------
    dir_path
        The folder.
    prefix
        Prefix of the file names, so that one folder can hold several models.
    overwrite
        Replace the model of a folder that exists.
    save_anndata
        Save the AnnData too.
    **kwargs
        As :meth:`scvi.model.SCVI.save` takes them.

    Raises
    ------
    ValueError
        If the folder exists and ``overwrite`` is not set.
    OSError
        If the files cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata, n_latent=4)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(f"{folder}/model")
    ...     loaded = scivae.model.CIVAE.load(f"{folder}/model", adata)
    >>> bool((loaded.predict() == model.predict()).all())
    True
    """
    target = Path(os.fsdecode(dir_path)).absolute()
    if target.exists() and not (overwrite and target.is_dir()):
        cure = "pass overwrite=True to replace the model in it, or " if target.is_dir() else ""
        raise ValueError(
            f"the folder must be new, but {target} already exists; {cure}choose another."
        )
    with files.new_files(target) as part:
        with any_text_written():
            SCVI.save(self, part, prefix, True, save_anndata, **kwargs)
        path = part / f"{prefix or ''}{SAVE_KEYS.MODEL_FNAME}"
        contents = files.read(path, trusted=True)  # trusted: this process has just written it
        # scvi-tools also saves the parameters of all Pyro models in this process.
        contents[_PARTS[0]].pop("pyro_param_store", None)
        plain = {part: to_plain(contents[part]) for part in _PARTS}
        if names := foreign(plain):
            warnings.warn(
                f"the model refers to {', '.join(sorted(names))}, which cannot be saved as numbers "
                "or text: the file can only be loaded with trusted=True. Use text or numbers "
                "as classes and batches.",
                UserWarning,
                stacklevel=2,
            )
        files.write(path, plain)


def load(
    cls: type[CellsModel],
    dir_path: str | os.PathLike,
    adata: AnnData | bool | None = None,
    *,
    trusted: bool = False,
    prefix: str | None = None,
    backup_url: str | None = None,
    **kwargs: Any,
):
    """Load a saved model without running code from the file.

    Parameters
    ----------
    dir_path
        Folder that :meth:`save` wrote.
    adata
        AnnData with the genes and columns of the one that the model was trained on. ``None``: the
        one that was saved with it. ``False``: none.
    trusted
        Also load a file that runs code, which models saved by this class do not need.
        Such a file can do anything that a program can, so set this only if you know who made it.
    prefix
        Prefix of the file names, as in :meth:`save`.
    backup_url
        Address of the model file, if it is not in the folder.
    **kwargs
        ``accelerator``, ``device`` and others that :meth:`scvi.model.SCVI.load` takes.

    Returns
    -------
    The model.

    Raises
    ------
    FileNotFoundError
        If there is no model in the folder.
    ValueError
        If the file is damaged, or of another class, or names code and is not trusted.

    Examples
    --------
    >>> import tempfile
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata, n_latent=4)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(f"{folder}/model")
    ...     loaded = scivae.model.CIVAE.load(f"{folder}/model", adata)
    >>> loaded.is_trained
    True
    """
    folder = Path(os.fsdecode(dir_path))
    name = f"{prefix or ''}{SAVE_KEYS.MODEL_FNAME}"
    if backup_url is not None and not files.find(folder, name).exists():
        with without_widgets():
            import pooch

        pooch.retrieve(backup_url, known_hash=None, fname=name, path=folder)
    parts = read_model(folder, prefix, trusted)
    saved_adata = files.find(folder, f"{prefix or ''}{SAVE_KEYS.ADATA_FNAME}")
    if adata is None and saved_adata.exists():
        adata = anndata.read_h5ad(saved_adata)
    if adata is not None and adata is not False:
        checks.check_adata(adata)
        checks.check_shape(adata)
        setup = Setup.from_registry(parts[_PARTS[2]]["registry_"])
        checks.check_genes(adata, setup.genes, model=repr(str(dir_path)))
        _check_some_values(adata, setup, parts[_PARTS[2]]["init_params_"])
    # scvi-tools trusts the file that it reads, so it gets a checked copy in a private folder.
    with (
        tempfile.TemporaryDirectory() as private,
        quiet_loading(),
        checks.unchanged_on_error(adata),
    ):
        torch.save(parts, Path(private) / SAVE_KEYS.MODEL_FNAME)
        with _not_taken_for_minified(adata):
            return super(CellsModel, cls).load(private, adata, **kwargs)  # type: ignore[misc]


def _check_some_values(adata: AnnData, setup: Setup, init_params: dict[str, Any]) -> None:
    """Raise a ValueError where the first cells have values that a saved model cannot read."""
    likelihood = init_params["non_kwargs"]["likelihood"]
    layer = checks.resolve_layer(adata, setup.layer)
    if get_minify_type(adata) is not None:
        return
    summary = profile.summarize(checks.values_of(adata, layer)[:CELLS_LOOKED_AT])
    if summary.first_bad is None:  # the setup raises an error for those
        likelihoods.check_values(adata, layer, summary, likelihood, training=False)


def load_registry(
    dir_path: str | os.PathLike, prefix: str | None = None, *, trusted: bool = False
) -> dict:
    """Read the registry of a saved model.

    Parameters
    ----------
    dir_path
        Folder of the saved model.
    prefix
        Prefix of the file names, as in :meth:`save`.
    trusted
        As :meth:`load` takes it.

    Examples
    --------
    >>> import tempfile
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata, n_latent=4)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(f"{folder}/model")
    ...     registry = scivae.model.CIVAE.load_registry(f"{folder}/model")
    >>> registry["setup_args"]["labels_key"]
    'cell_type'
    """
    return read_model(Path(os.fsdecode(dir_path)), prefix, trusted)[SAVE_KEYS.ATTR_DICT_KEY][
        "registry_"
    ]


def view_setup_args(
    cls: type[CellsModel],
    dir_path: str | os.PathLike,
    prefix: str | None = None,
    *,
    trusted: bool = False,
) -> None:
    """Print the arguments of the setup of a saved model.

    Parameters
    ----------
    dir_path
        Folder of the saved model.
    prefix
        Prefix of the file names, as in :meth:`save`.
    trusted
        As :meth:`load` takes it.

    Examples
    --------
    >>> import tempfile
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata, n_latent=4)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(f"{folder}/model")
    ...     scivae.model.CIVAE.view_setup_args(f"{folder}/model")  # doctest: +ELLIPSIS
    Setup via `CIVAE.setup_anndata` with arguments:
    ...
    """
    CellsManager.view_setup_method_args(cls.load_registry(dir_path, prefix, trusted=trusted))


def convert_legacy_save(cls: type[CellsModel], *args: Any, **kwargs: Any) -> None:
    """Not supported: no CIVAE was saved in the format of scvi-tools before 0.15.

    Parameters
    ----------
    *args, **kwargs
        Ignored.

    Examples
    --------
    >>> import scivae
    >>> scivae.model.CIVAE.convert_legacy_save("old", "new")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    NotImplementedError: CIVAE does not support the format of scvi-tools before 0.15, ...
    """
    raise NotImplementedError(
        "CIVAE does not support the format of scvi-tools before 0.15, which cannot be read without "
        "executing code from the file; use CIVAE.load for models of this package."
    )
