"""MNIST: 70,000 handwritten digits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from . import registry
from ._download import fetch
from ._errors import DamagedFileError
from ._idx import read_idx
from ._images import describe, from_images
from .registry import RemoteFile

if TYPE_CHECKING:
    from anndata import AnnData

_PARTS = {"all": ("train", "test"), "train": ("train",), "test": ("test",)}


def mnist(
    split: Literal["all", "train", "test"] = "all",
    *,
    path: str | os.PathLike[str] | None = None,
    verify: bool = True,
    mirrors: Sequence[str] = (),
    progress: bool = True,
    timeout: float = 30.0,
) -> AnnData:
    """The MNIST digits, 28 × 28 pixels.

    Parameters
    ----------
    split
        ``train`` (60,000 images), ``test`` (10,000), or ``all``: both, training images first.
    path
        Folder with the IDX files (such as ``train-images-idx3-ubyte``, also with ``.gz``); nothing
        is downloaded. None: download to ``scanpy.settings.datasetdir`` from the standard mirrors
        (12 MB).
    verify
        Whether to check the published checksums of the unpacked files. Set to False for other
        images with the same file names, such as Fashion-MNIST.
    mirrors
        Base addresses that are tried before the standard ones.
    progress
        Whether to show a progress bar while downloading.
    timeout
        Seconds without data after which a mirror is abandoned.

    Returns
    -------
    AnnData of ``n_images × 784``: ``X`` float32 in [0, 1] (gray value / 255), ``obs["digit"]``
    categorical from ``"0"`` to ``"9"``, ``obs["split"]`` categorical, ``var`` with ``row`` and
    ``column``, ``uns["image"]["shape"]`` (28, 28), ``uns["mnist"]`` source and license.

    Raises
    ------
    DownloadError
        If no mirror provides a file. The message says which file to put where.
    FileNotFoundError
        If a file is missing in ``path``.
    ValueError
        If the split is unknown, a file is damaged, or a checksum does not match.

    Notes
    -----
    LeCun et al., Proceedings of the IEEE 86 (1998), doi:10.1109/5.726791. CC BY-SA 3.0.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.mnist("test")  # doctest: +SKIP
    >>> adata.shape  # doctest: +SKIP
    (10000, 784)
    """
    if split not in _PARTS:
        raise ValueError(
            f"split must be one of {', '.join(map(repr, _PARTS))}, got {split!r}; pass one of "
            "these."
        )
    images, labels, names = [], [], []
    for part in _PARTS[split]:
        arrays = []
        for what, n_dims in (("images", 3), ("labels", 1)):
            file = registry.MNIST.files[f"{part} {what}"]
            if path is None:
                location = fetch(
                    file, mirrors=mirrors, timeout=timeout, progress=progress, verify=verify
                )
            else:
                location = _find(Path(path), file)
            arrays.append(_read(location, file, n_dims, verify))
        if len(arrays[0]) != len(arrays[1]):
            raise DamagedFileError(
                f"the {part} files must have as many labels as images, got {len(arrays[0])} "
                f"images and {len(arrays[1])} labels"
            )
        images.append(arrays[0])
        labels.append(arrays[1])
        names += [f"{part}_{i}" for i in range(len(arrays[0]))]
    shapes = {array.shape[1:] for array in images}
    if len(shapes) > 1:
        raise DamagedFileError(f"all images must have the same size, got {sorted(shapes)}")
    adata = from_images(
        np.concatenate(images),
        np.concatenate(labels),
        labels_key="digit",
        obs_names=names,
    )
    adata.obs["split"] = pd.Categorical(
        np.repeat(_PARTS[split], [len(array) for array in images]), categories=_PARTS[split]
    )
    source = registry.MNIST
    return describe(
        adata,
        "mnist",
        title=source.title,
        citation=source.citation,
        licence=source.licence,
        homepage=source.homepage,
        split=split,
    )


def _find(folder: Path, file: RemoteFile) -> Path:
    plain = folder / file.filename.removesuffix(".gz")
    for candidate in (plain, folder / file.filename):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"path must contain {plain.name} or {file.filename}, got neither in {folder}; omit path= "
        f"to download it, or get it from {registry.MNIST.homepage}"
    )


def _read(location: Path, file: RemoteFile, n_dims: int, verify: bool) -> np.ndarray:
    array, checksum = read_idx(location)
    if verify and file.unpacked is not None and checksum != file.unpacked:
        raise DamagedFileError(
            f"{location} must have the unpacked checksum {file.unpacked}, got {checksum}; delete "
            "it and load again, or pass verify=False if it is meant to differ"
        )
    if array.ndim != n_dims:
        raise DamagedFileError(f"{location} must have {n_dims} dimensions, got shape {array.shape}")
    return array
