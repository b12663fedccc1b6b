"""Methods of scvi-tools that ``CIVAE`` overrides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from scvi.data import AnnDataManager
from scvi.model import SCVI

from .._errors import near_matches, shown
from .._names import as_objects
from .._random import seeded
from .._scvi import ADATA_MINIFY_TYPE, get_minify_type
from .._validate.arguments import check_choice, check_integer, check_trained, check_type
from ..data import checks
from ..data.checks import resolve_indices
from ..data.manager import CellsManager
from ._base import CellsModel
from ._inherited import check_further

# Number of cells that are encoded to check whether a posterior comes from this model.
CELLS_ENCODED = 64


@checks.leaves_unchanged
def get_latent_representation(
    self: CellsModel,
    adata: AnnData | None = None,
    indices: Sequence[int] | np.ndarray | None = None,
    **kwargs,
) -> np.ndarray:
    """Latent representation of cells, shape ``(n, n_latent)``.

    As :meth:`scvi.model.SCVI.get_latent_representation`, without changing the global random state.

    Parameters
    ----------
    adata
        Cells with the genes of the model; ``None`` for the training data.
    indices
        Positions of the cells, or a mask; ``None`` for all.
    **kwargs
        ``batch_size``, ``return_dist``, ``give_mean``, …

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata, n_latent=4)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> model.get_latent_representation(indices=[0, 1, 2]).shape
    (3, 4)
    """
    check_trained(self)
    check_further(self, "get_latent_representation", kwargs, SCVI.get_latent_representation)
    if kwargs.get("batch_size") is not None:
        check_integer("batch_size", kwargs["batch_size"], minimum=1)
    if kwargs.get("dataloader") is not None:
        kwargs["dataloader"] = self.requirements.checked_loader(
            kwargs["dataloader"], adata=adata, indices=indices
        )
    else:
        adata = self._validate_anndata(adata, every_row=False)
        indices = resolve_indices(adata, indices)
        if not kwargs.keys() - {"batch_size", "dataloader"}:  # only the means are requested
            return self.codec.encode(adata, indices, kwargs.get("batch_size")).mean
    with self.codec.evaluating(), seeded(self._seed):
        return SCVI.get_latent_representation(self, adata, indices, **kwargs)


def to_device(self: CellsModel, device: str | int | torch.device) -> None:
    """Move the model to a device; see :meth:`scvi.model.SCVI.to_device`.

    Parameters
    ----------
    device
        ``"cpu"``, ``"cuda:0"``, the number of a GPU, or a torch device.

    Raises
    ------
    ValueError
        If torch does not find the device.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata, n_latent=4)
    >>> model.to_device("cpu")
    >>> str(model.device)
    'cpu'
    """
    try:
        SCVI.to_device(self, device)
    except (AssertionError, RuntimeError) as error:
        available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ValueError(
            f"device must be one that torch finds, got {device!r} "
            f"({str(error).splitlines()[0]}); available: {shown(available)}."
        ) from error


def minify_adata(
    self: CellsModel,
    minified_data_type: str = ADATA_MINIFY_TYPE.LATENT_POSTERIOR,
    use_latent_qzm_key: str = "X_latent_qzm",
    use_latent_qzv_key: str = "X_latent_qzv",
) -> None:
    """Replace the AnnData of the model by a copy with posteriors instead of counts.

    As :meth:`scvi.model.SCVI.minify_adata`, after a check that the posteriors come from this model.

    Parameters
    ----------
    minified_data_type
        ``"latent_posterior_parameters"``, or ``"latent_posterior_parameters_with_counts"``.
    use_latent_qzm_key, use_latent_qzv_key
        Slots of ``obsm`` with the means and the variances of the posterior, as
        ``get_latent_representation(return_dist=True)`` gives them.

    Raises
    ------
    KeyError
        If a slot is not there.
    ValueError
        If it holds something else.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata, n_latent=4)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> mean, variance = model.get_latent_representation(return_dist=True)
    >>> adata.obsm["X_latent_qzm"], adata.obsm["X_latent_qzv"] = mean, variance
    >>> model.minify_adata()
    >>> model.minified_data_type
    'latent_posterior_parameters'
    """
    check_choice("minified_data_type", minified_data_type, tuple(ADATA_MINIFY_TYPE))
    adata = self._validate_anndata()
    if get_minify_type(adata) is not None:
        raise ValueError(
            "minify_adata needs an AnnData with its counts, but that of this model is minified "
            "already; nothing is left to do."
        )
    some = np.unique(np.linspace(0, adata.n_obs - 1, CELLS_ENCODED).astype(int))
    posterior = self.get_latent_representation(indices=some, return_dist=True)
    for argument, key, expected in (
        ("use_latent_qzm_key", use_latent_qzm_key, posterior[0]),
        ("use_latent_qzv_key", use_latent_qzv_key, posterior[1]),
    ):
        if key not in adata.obsm:
            raise KeyError(
                f"{argument} must be a key of adata.obsm, got {key!r}; available: "
                f"{shown(adata.obsm.keys()) or 'none'}.{near_matches(key, adata.obsm.keys())}"
            )
        found = np.asarray(adata.obsm[key])
        if found.shape != (adata.n_obs, expected.shape[1]) or not np.allclose(
            found[some], expected, rtol=1e-3, atol=1e-4
        ):
            raise ValueError(
                f"adata.obsm[{key!r}] must hold the posterior of this model, but holds other values; "
                "set it, and the other slot, to the results of "
                "model.get_latent_representation(return_dist=True)."
            )
    SCVI.minify_adata(self, minified_data_type, use_latent_qzm_key, use_latent_qzv_key)


def transfer_fields(self: CellsModel, adata: AnnData, **kwargs: Any) -> AnnDataManager:
    """Write the codes of the columns of other cells, by the categories of the model.

    Parameters
    ----------
    adata
        Cells with the genes of the model.
    **kwargs
        ``extend_categories=True`` allows new batches and categories.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata, n_latent=4)
    >>> other = scivae.datasets.synthetic(n_cells=100, n_genes=40, seed=1)
    >>> model.transfer_fields(other).adata is other
    True
    """
    checks.check_adata(adata)
    checks.check_shape(adata)
    checks.check_genes(adata, self.setup.genes)
    checks.resolve_layer(adata, self.setup.layer)
    with self._unchanged_on_error(adata):
        return SCVI.transfer_fields(self, adata, **kwargs)


def get_var_names(self: CellsModel, legacy_mudata_format: bool = False) -> np.ndarray:
    """Genes of the model, in its order, shape ``(n_vars,)``, even if the AnnData has changed.

    Parameters
    ----------
    legacy_mudata_format
        Has no effect.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> scivae.model.CIVAE(adata, n_latent=4).get_var_names()[:2].tolist()
    ['gene_0', 'gene_1']
    """
    return as_objects(str(gene) for gene in self.setup.genes)


def view_registry(self: CellsModel, hide_state_registries: bool = False) -> None:
    """Print the registry of the model: what :meth:`setup_anndata` registered.

    Parameters
    ----------
    hide_state_registries
        Leave out classes, batches and categories.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> scivae.model.CIVAE(adata, n_latent=4).view_registry()  # doctest: +ELLIPSIS
    Anndata setup with scvi-tools version ...
    """
    if self.adata is None:
        raise ValueError(
            "view_registry needs an AnnData, but this model has none; read model.setup instead."
        )
    self.adata_manager.view_registry(hide_state_registries)


def view_setup_method_args(self: CellsModel) -> None:
    """Print the arguments of the setup.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> scivae.model.CIVAE(adata, n_latent=4).view_setup_method_args()  # doctest: +ELLIPSIS
    Setup via `CIVAE.setup_anndata` with arguments:
    ...
    """
    CellsManager.view_setup_method_args(self.registry_)


def update_setup_method_args(self: CellsModel, setup_method_args: dict[str, Any]) -> None:
    """Change the arguments of the setup that the registry holds.

    Parameters
    ----------
    setup_method_args
        Arguments of :meth:`CIVAE.setup_anndata`.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40)
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata, n_latent=4)
    >>> model.update_setup_method_args({"labels_key": "cell_type"})
    """
    check_type("setup_method_args", setup_method_args, dict, "a dict of arguments")
    arguments = self.registry_["setup_args"]
    for name in setup_method_args:
        if name not in arguments:
            raise TypeError(
                f"setup_method_args must be arguments of CIVAE.setup_anndata, got {name!r}."
                f"{near_matches(name, arguments)}"
            )
    arguments.update(setup_method_args)
    self._setup = None  # it will be read from the registry again
