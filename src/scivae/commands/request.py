"""Options of ``scivae run``, ``demo`` and ``train``, with defaults for known data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from .. import _keys
from .._errors import shown


class Request(NamedTuple):
    """Options of a run.

    Attributes
    ----------
    data
        The user's file, or ``None``.
    dataset
        Name of a known data set, if ``data`` is ``None``.
    labels_key, unlabeled_category, layer, batch_key
        For :meth:`scivae.model.CIVAE.setup_anndata`.
    donor_key
        Column of the donors.
    n_top_genes
        Most variable genes of the training cells to model; ``None`` for all genes.
    groupby, source, target, label
        For :func:`scivae.tl.pair_cells`.
    between
        Groups between source and target.
    genes
        Genes whose curves are shown.
    gene_sets
        File of gene sets (GMT).
    gene_symbols
        Column of ``var`` with the names of genes in the report.
    out
        Folder of the results.
    title
        Heading of the report.
    epochs
        Passes over the cells.
    n_synthetic
        Number of synthetic cells of each class.
    seed
        Seed of all random choices.
    accelerator, devices
        Hardware for training, as for :meth:`scivae.model.CIVAE.train`.
    argument
        Name of the argument with the file, for errors.
    """

    data: Path | None = None
    dataset: str = "pbmc"
    labels_key: str | None = None
    unlabeled_category: str | None = None
    layer: str | None = None
    batch_key: str | None = None
    donor_key: str | None = None
    n_top_genes: int | None = None
    groupby: str | None = None
    source: str | None = None
    target: str | None = None
    label: str | None = None
    between: list[str] | None = None
    genes: list[str] | None = None
    gene_sets: Path | None = None
    gene_symbols: str | None = None
    out: Path = Path("scivae_results")
    title: str | None = None
    epochs: int | None = None
    n_synthetic: int = 50
    seed: int = 0
    accelerator: str | None = None
    devices: str | None = None
    argument: str = "FILE"

    @property
    def key(self) -> str:
        """Column of the labels."""
        return self.labels_key or _keys.LABELS_KEY


# Defaults of the known data sets.
DEFAULTS: dict[str, dict[str, str]] = {
    "pbmc": {"groupby": "subset", "source": "cDC2", "target": "cDC1", "label": "Dendritic"},
    "colon": {
        "groupby": "tissue",
        "source": "normal",
        "target": "tumor",
        "label": "epithelial cell",
    },
    "digits": {"labels_key": "digit", "label": "8"},
    "mnist": {"labels_key": "digit", "label": "8"},
}


def with_defaults(request: Request) -> Request:
    """The request with the defaults of its data set; raise if options contradict each other."""
    groups = {k: getattr(request, k) for k in ("groupby", "source", "target")}
    given = [k for k, v in groups.items() if v is not None]
    if given and len(given) < 3:
        raise ValueError(
            "--groupby, --source and --target must be passed together, got only "
            f"{shown('--' + k for k in given)}; name all three, or none of them."
        )
    if not given and request.between and (request.data is not None or request.dataset != "pbmc"):
        raise ValueError(
            "--between needs --groupby, --source and --target, got none of these; name them too."
        )
    if request.data is not None:
        return request
    defaults = dict(DEFAULTS[request.dataset])
    if given:  # the default label is for the default groups only
        for name in ("groupby", "source", "target", "label"):
            defaults.pop(name, None)
    fill: dict[str, Any] = {k: v for k, v in defaults.items() if getattr(request, k) is None}
    return request._replace(**fill)
