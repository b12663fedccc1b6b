"""Mapping of query cells onto a model (scArches)."""

from __future__ import annotations

import os
from typing import Any

import pandas as pd
import torch
from anndata import AnnData
from scvi.nn import FCLayers

from .._errors import in_another_case
from .._names import as_objects
from .._scvi import keep_genes
from .._validate.arguments import check_type
from ..data import checks
from ..data.setup import Setup
from ._base import CellsModel


def place_weights_of_categories(reference: torch.nn.Module, model: torch.nn.Module) -> None:
    """Move the weights of batches and categories of a reference to their columns in the query model.

    The input of a layer ends with one indicator per batch, then one per category of the first covariate, and
    so on. scvi-tools appends all new weights at the end, so with new batches the weights of the covariates
    would be in the wrong columns. A reference with a single batch has no indicator for it; its weight is zero.

    Parameters
    ----------
    reference
        The network of the reference.
    model
        The network of the query model; changed in place.
    """
    of_reference = dict(reference.named_modules())
    for name, layers in model.named_modules():
        before = of_reference.get(name)
        if not isinstance(layers, FCLayers) or not isinstance(before, FCLayers):
            continue
        if layers.n_cat_list == before.n_cat_list:
            continue
        for old, new in zip(before.modules(), layers.modules(), strict=True):
            if not isinstance(new, torch.nn.Linear) or new.weight.shape == old.weight.shape:
                continue
            n_input = old.weight.shape[1] - sum(before.n_cat_list)
            added = iter(new.weight.data[:, old.weight.shape[1] :].clone().split(1, dim=1))
            columns, start = [old.weight.data[:, :n_input]], n_input
            for n_before, n_now in zip(before.n_cat_list, layers.n_cat_list, strict=True):
                columns.append(old.weight.data[:, start : start + n_before])
                start += n_before
                more = [next(added) for _ in range(n_now - n_before)]
                if more and n_before == 0:
                    more[0] = torch.zeros_like(more[0])
                columns += more
            together = [column.to(new.weight.device) for column in columns]
            new.weight.data.copy_(torch.cat(together, dim=1))


def load_query_data(
    cls: type[CellsModel],
    adata: AnnData | None = None,
    reference_model: Any = None,
    *,
    trusted: bool = False,
    **kwargs: Any,
):
    """Map query cells onto a model (scArches); see :meth:`scvi.model.SCVI.load_query_data`.

    Parameters
    ----------
    adata
        The query cells.
    reference_model
        A model, or the folder of a saved one.
    trusted
        As :meth:`load` takes it.
    **kwargs
        As :meth:`scvi.model.SCVI.load_query_data` takes them.

    Returns
    -------
    A model of the query cells, which has the classes of ``reference_model`` and can predict them at once.

    Notes
    -----
    Training fits the weights of new batches and the batch normalization of the decoder, and leaves the others
    as they are. The encoder has weights of batches only with ``CIVAE(…, encode_covariates=True)``. Without it,
    the latent points of the query do not move. Pass ``plan_kwargs={"weight_decay": 0.0}``: with weight decay,
    weights of the reference shrink.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
    >>> scivae.model.CIVAE.setup_anndata(adata, batch_key="batch")
    >>> model = scivae.model.CIVAE(adata, n_latent=4, encode_covariates=True)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> query = scivae.datasets.synthetic(n_cells=300, n_genes=40, seed=1)
    >>> query.obs["batch"] = "new"
    >>> mapped = scivae.model.CIVAE.load_query_data(query, model)
    >>> mapped.train(
    ...     max_epochs=2, plan_kwargs={"weight_decay": 0.0}, enable_progress_bar=False
    ... )
    >>> mapped.predict().shape
    (300,)
    """
    reference = _reference(cls, reference_model, trusted)
    registry = kwargs.get("registry")
    if adata is not None:
        checks.check_adata(adata)
        checks.check_shape(adata)
        if kwargs.get("inplace_subset_query_vars"):
            known = as_objects(reference.setup.genes)
            found = pd.Index(as_objects(adata.var_names)).get_indexer(known)
            if (found >= 0).all():
                keep_genes(adata, found)
        checks.check_genes(adata, reference.setup.genes)
        reference.requirements.check_minified(adata)
        reference.requirements.check_values(adata)
    elif registry is not None:
        checks.check_genes(
            checks.Genes(Setup.from_registry(registry).genes),
            reference.setup.genes,
            cure="make the datamodule with BlockDataModule(…, registry=model.registry)",
        )
    else:
        raise ValueError(
            "load_query_data needs cells, got neither adata nor registry; pass adata= (query cells) "
            "or registry= (of a datamodule)."
        )
    with checks.unchanged_on_error(adata):
        mapped = super(CellsModel, cls).load_query_data(adata, reference, **kwargs)  # type: ignore[misc]
    place_weights_of_categories(reference.module, mapped.module)
    # The classes are those of the reference, and so is the calibration of their probabilities.
    for name in ("temperature_", "calibration_"):
        setattr(mapped, name, getattr(reference, name))
    mapped.mapped_ = True
    return mapped


def prepare_query_anndata(
    cls: type[CellsModel],
    adata: AnnData,
    reference_model: Any,
    *,
    trusted: bool = False,
    **kwargs: Any,
):
    """Give query cells the genes of a model; see :meth:`scvi.model.SCVI.prepare_query_anndata`.

    Parameters
    ----------
    adata
        The query cells.
    reference_model
        A model, or the folder of a saved one.
    trusted
        As :meth:`load` takes it.
    **kwargs
        As :meth:`scvi.model.SCVI.prepare_query_anndata` takes them.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata, n_latent=4)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> query = scivae.datasets.synthetic(n_cells=300, n_genes=40, seed=1)[:, :30].copy()
    >>> scivae.model.CIVAE.prepare_query_anndata(query, model)
    >>> query.n_vars
    40
    """
    reference = _reference(cls, reference_model, trusted)
    if not kwargs.get("return_reference_var_names"):
        checks.check_adata(adata)
        checks.check_shape(adata)
        if adata.isbacked:
            raise ValueError(
                "adata is read from a file, whose genes cannot be changed; pass adata.to_memory()."
            )
        genes, names = as_objects(reference.setup.genes), as_objects(adata.var_names)
        missing = genes[~pd.Index(genes).isin(names)]
        if len(missing) == len(genes) or in_another_case(missing, names):
            checks.check_genes(adata, genes, cure="use names of the same kind")
    return super(CellsModel, cls).prepare_query_anndata(adata, reference, **kwargs)  # type: ignore[misc]


def _reference(cls: type[CellsModel], reference_model: Any, trusted: bool) -> Any:
    """The reference model, loaded first if a folder was given."""
    if isinstance(reference_model, (str, os.PathLike)):
        return cls.load(reference_model, False, trusted=trusted)
    check_type("reference_model", reference_model, cls, f"a {cls.__name__} or its folder")
    return reference_model
