"""Colorectal cancer data of Lee et al. 2020, used in the CI-VAE paper."""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from . import registry
from ._atlas import read_archive, read_design
from ._download import (
    atomic_write,
    dataset_folder,
    fetch,
    file_hash,
    locked,
    recorded_hash,
    write_record,
)
from ._errors import DamagedFileError, DownloadError
from ._geo import read_annotation, read_counts
from ._images import describe
from ._normalize import log_normalize
from .registry import TISSUES, Source

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

# Part of the cache file name: increase it when the reader changes.
_CACHE_VERSION = 1
# Values that mean "missing" in annotations.
_NOTHING = frozenset({"", "na", "nan", "n/a", "none", "not available", "not applicable"})


def colon(
    cohort: Literal["KUL3", "SMC"] = "KUL3",
    source: Literal["atlas", "geo"] | None = None,
    *,
    keep_unannotated: bool = False,
    symbols: bool | Mapping[str, str] = True,
    path: str | os.PathLike[str] | None = None,
    mirrors: Sequence[str] = (),
    cache: bool = True,
    progress: bool = True,
    timeout: float = 30.0,
) -> AnnData:
    """Colorectal cancer: normal tissue, tumor border and tumor from the same patients.

    Parameters
    ----------
    cohort
        ``KUL3``: 6 Belgian patients, with tumor border. ``SMC``: 23 Korean patients, 63,689 cells,
        tumor and some normal tissue, without border.
    source
        ``atlas``: E-MTAB-8410 of the Single Cell Expression Atlas, which re-analyzed KUL3 (25,480
        annotated cells); the data of the paper. ``geo``: the authors' own counts, GSE144735
        (KUL3) or GSE132465 (SMC). None: ``atlas`` for KUL3, ``geo`` for SMC.
    keep_unannotated
        Whether to keep cells without a cell type, with ``cell_type`` missing.
    symbols
        Whether to look up gene names at HGNC (16 MB; atlas: symbols of the Ensembl ids, geo:
        Ensembl ids of the symbols). If HGNC is not available, there is a warning and genes keep the
        names of the source. Can also be a mapping from Ensembl id to symbol.
    path
        Folder with the files under their published names; nothing is downloaded. None: download to
        ``scanpy.settings.datasetdir`` (60 to 400 MB).
    mirrors
        Base addresses that are tried before the standard ones.
    cache
        Whether to store the parsed matrix as h5ad for later calls (parsing the text takes minutes).
    progress
        Whether to show a progress bar while downloading.
    timeout
        Seconds without data after which a mirror is abandoned.

    Returns
    -------
    AnnData of cells × genes:

    - ``layers["counts"]``: raw counts, CSR, float32 with whole numbers. The pipeline of the
      atlas can assign fractions of reads to genes: values are rounded to the nearest whole
      number, and ``uns["colon"]["n_rounded"]`` is the number of rounded values
    - ``X``: natural logarithm of one plus counts per 10,000, CSR, float32
    - ``obs``: ``tissue`` (ordered: normal < border < tumor), ``donor``, ``cell_type``,
      ``cell_state``, all categorical. Atlas: also ``sex``, ``organism_part``; ``cell_type`` is
      the ontology's label and ``cell_state`` the authors'. GEO: also ``sample``
    - ``var_names``: gene symbols if known and unique, otherwise Ensembl ids;
      ``var["gene_ids"]``: Ensembl ids (empty if unknown)
    - ``uns["colon"]``: cohort, source, citation, license (key ``licence``)

    Raises
    ------
    DownloadError
        If no mirror provides a file. The message says which file to put where.
    FileNotFoundError
        If a file is missing in ``path``.
    ValueError
        If the cohort or source is unknown, or files do not match the publisher's description.

    Notes
    -----
    Lee et al., Nature Genetics 52 (2020), doi:10.1038/s41588-020-0636-z. Open data; cite the authors.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.colon()  # doctest: +SKIP
    >>> list(adata.obs["tissue"].cat.categories)  # doctest: +SKIP
    ['normal', 'border', 'tumor']
    """
    table = _look_up(cohort, source)
    kind = source or ("atlas" if (cohort, "atlas") in registry.COLON else "geo")
    files = {
        role: _locate(file, path, mirrors, timeout, progress) for role, file in table.files.items()
    }
    ensembl_to_symbol = _symbols(symbols, path, mirrors, timeout, progress)
    if cache and path is None:
        adata = _cached(cohort, kind, files, table)
    else:
        adata = _read(kind, files, table)

    _name_genes(adata, ensembl_to_symbol)
    annotated = adata.obs["cell_type"].notna().to_numpy()
    if not annotated.any():
        raise DamagedFileError(
            f"{files['annotation'].name} must have a cell type for some cells, got none for the "
            f"{adata.n_obs} cells of {files['matrix'].name}; delete both files and load again"
        )
    for what, expected, found in (
        ("cells", table.n_cells, adata.n_obs),
        ("annotated cells", table.n_annotated, int(annotated.sum())),
    ):
        if expected is not None and expected != found:
            warnings.warn(
                f"{table.title} must have {expected} {what} as published, got {found}: the "
                "publisher has revised it, or the file is incomplete; download it again",
                stacklevel=2,
            )
    if not keep_unannotated and not annotated.all():
        logger.info("Dropped %d cells without a cell type", (~annotated).sum())
        adata = adata[annotated].copy()
    for column in adata.obs.columns.drop("tissue"):
        adata.obs[column] = adata.obs[column].cat.remove_unused_categories()
    adata.layers["counts"] = adata.X
    adata.X = log_normalize(adata.X)
    n_rounded = int(adata.uns["n_rounded"])
    adata.uns.clear()
    describe(
        adata,
        "colon",
        cohort=cohort,
        source=kind,
        title=table.title,
        citation=table.citation,
        licence=table.licence,
        homepage=table.homepage,
    )
    adata.uns["colon"]["n_rounded"] = n_rounded
    return adata


def _look_up(cohort: str, source: str | None) -> Source:
    cohorts = sorted({known for known, _ in registry.COLON})
    if cohort not in cohorts:
        raise ValueError(
            f"cohort must be one of {', '.join(map(repr, cohorts))}, got {cohort!r}; pass one of "
            "these."
        )
    sources = [known for name, known in registry.COLON if name == cohort]
    if source is not None and source not in sources:
        raise ValueError(
            f"source of cohort {cohort} must be one of {', '.join(map(repr, sources))}, got "
            f"{source!r}; pass one of these."
        )
    return registry.COLON[cohort, source or sources[0]]


def _locate(
    file: registry.RemoteFile,
    path: str | os.PathLike[str] | None,
    mirrors: Sequence[str],
    timeout: float,
    progress: bool,
) -> Path:
    if path is None:
        return fetch(file, mirrors=mirrors, timeout=timeout, progress=progress)
    for candidate in (Path(path) / file.filename, Path(path) / file.name):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"path must contain {file.filename}, got none in {path}; download it from {file.urls[0]}"
        if file.urls
        else f"path must contain {file.filename}, got none in {path}"
    )


# ---- reading --------------------------------------------------------------------------------


def _read(kind: str, files: dict[str, Path], table: Source) -> AnnData:
    """Read all cells, with counts in X and annotation as categoricals."""
    import anndata as ad

    n_rounded = 0
    if kind == "atlas":
        counts, cells, var = read_archive(files["matrix"])
        annotation = read_design(files["annotation"], table.columns)
        counts, n_rounded = _round(counts)
    else:
        counts, cells, genes = read_counts(files["matrix"])
        annotation = read_annotation(files["annotation"], table.columns)
        var = pd.DataFrame({"gene_ids": "", "symbol": genes.to_numpy()})
    obs = _annotate(cells, annotation, files)
    var.index = pd.RangeIndex(len(var)).astype(str)
    return ad.AnnData(counts, obs=obs, var=var, uns={"n_rounded": n_rounded})


def _round(counts: sparse.csr_matrix) -> tuple[sparse.csr_matrix, int]:
    """Round to whole numbers; also return how many values changed."""
    whole = np.rint(counts.data)
    n_rounded = int(np.count_nonzero(whole != counts.data))
    counts.data = whole
    counts.eliminate_zeros()
    return counts, n_rounded


def _annotate(cells: pd.Index, annotation: pd.DataFrame, files: dict[str, Path]) -> pd.DataFrame:
    known = annotation.index
    if not known.is_unique:
        name = known[known.duplicated()][0]
        raise DamagedFileError(
            f"cell names in {files['annotation'].name} must be unique, got {name!r} twice"
        )
    if not cells.isin(known).any():
        # R replaces dashes in column names with dots.
        dotted = pd.Index(known.str.replace("-", ".", regex=False), dtype=str)
        if not cells.isin(dotted).any():
            raise DamagedFileError(
                f"{files['matrix'].name} and {files['annotation'].name} must have the same cells, "
                f"got none in common: {cells[0]!r} and {known[0] if len(known) else 'no cell'!r}"
            )
        annotation = annotation.set_axis(dotted)
        annotation = annotation[~annotation.index.duplicated()]
    obs = annotation.reindex(cells)
    obs.index.name = None
    for column in obs.columns:
        text = obs[column]
        text = text.where(~text.astype(str).str.strip().str.lower().isin(_NOTHING), None)
        if column == "tissue":
            obs[column] = _tissue(text)
        else:
            obs[column] = pd.Categorical(text)
    return obs


def _tissue(text: pd.Series) -> pd.api.extensions.ExtensionArray:
    """Convert the tissue terms of both sources to an ordered categorical."""
    words = {}
    for value in text.dropna().unique():
        low = value.lower()
        # "normal tissue adjacent to neoplasm", "tumour border", "tumour core"; "Tumor", …
        if "normal" in low:
            words[value] = "normal"
        elif "border" in low:
            words[value] = "border"
        elif any(word in low for word in ("core", "tumor", "tumour", "neoplasm")):
            words[value] = "tumor"
        else:
            raise DamagedFileError(
                f"the tissue of a cell must be normal, border or tumor, got {value!r}"
            )
    order: pd.CategoricalDtype = pd.CategoricalDtype(list(TISSUES), ordered=True)
    return pd.Categorical(text.map(words), dtype=order)


# ---- names of genes -------------------------------------------------------------------------


def _symbols(
    symbols: bool | Mapping[str, str],
    path: str | os.PathLike[str] | None,
    mirrors: Sequence[str],
    timeout: float,
    progress: bool,
) -> Mapping[str, str]:
    """Mapping from Ensembl id to symbol; empty if not requested or not available."""
    if isinstance(symbols, Mapping):
        return symbols
    if not symbols:
        return {}
    try:
        file = _locate(registry.HGNC, path, mirrors, timeout, progress)
    except (DownloadError, FileNotFoundError) as error:
        warnings.warn(
            f"genes keep the names of their source because HGNC is not available: "
            f"{error}; or pass symbols=False",
            stacklevel=3,
        )
        return {}
    columns = list(registry.HGNC.columns)
    table = pd.read_csv(file, sep="\t", usecols=columns, dtype=str).dropna()
    return dict(zip(table["ensembl_gene_id"], table["symbol"], strict=True))


def _name_genes(adata: AnnData, ensembl_to_symbol: Mapping[str, str]) -> None:
    """Set unique ``var_names`` and ``var["gene_ids"]``, in place."""
    ids = adata.var["gene_ids"].astype(str)
    names = adata.var["symbol"].astype(str)
    if (ids == "").all():
        symbol_to_ensembl = {symbol: gene for gene, symbol in ensembl_to_symbol.items()}
        ids = names.map(lambda name: symbol_to_ensembl.get(name, ""))
    else:
        # ENSG00000000003.15 -> ENSG00000000003
        bare = ids.str.replace(r"\.\d+$", "", regex=True)
        names = names.where(names != "", bare.map(lambda gene: ensembl_to_symbol.get(gene, "")))
    taken: set[str] = set()
    unique = []
    for name, gene in zip(names, ids, strict=True):
        # The first gene with a symbol gets it; later ones get their id, or a number is appended.
        choice = name if name and name not in taken else gene
        number = 1
        while not choice or choice in taken:
            choice = f"{name}-{number}"
            number += 1
        taken.add(choice)
        unique.append(choice)
    adata.var = pd.DataFrame({"gene_ids": ids.to_numpy()}, index=pd.Index(unique, dtype=str))


# ---- the parsed matrix on disk --------------------------------------------------------------


def _cached(cohort: str, kind: str, files: dict[str, Path], table: Source) -> AnnData:
    """Result of :func:`_read` from a cached h5ad file, named by the hash of its source files."""
    import anndata as ad

    key = hashlib.sha256(f"version {_CACHE_VERSION}".encode(), usedforsecurity=False)
    for role in sorted(files):
        key.update(file_hash(files[role], "sha256").encode())
    target = dataset_folder() / "scivae" / f"colon_{cohort}_{kind}_{key.hexdigest()[:16]}.h5ad"
    # If the cache is damaged, the text is parsed again.
    try:
        if recorded_hash(target) == file_hash(target, "sha256"):
            return ad.read_h5ad(target)
    except (OSError, ValueError, KeyError):
        pass
    adata = _read(kind, files, table)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target):
            with atomic_write(target) as part:
                adata.write_h5ad(part)
            write_record(target)
    except OSError as error:
        logger.warning("The parsed matrix was not kept at %s: %s", target, error)
    return adata
