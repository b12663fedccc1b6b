"""All uses of private parts of scvi-tools, Lightning, anndata and torch, with tested versions.

Private names are imported here, private attributes are accessed by functions in this file, and
:data:`HOOKS` lists the private methods and attributes of other packages' classes that this package
overrides, calls or sets. A test scans the package: it fails for a private name that is not listed
here, and for a listed name that the installed version no longer has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch
from scvi.data._constants import _MANAGER_UUID_KEY as MANAGER_UUID  # scvi-tools 1.4, 1.5
from scvi.data._constants import _MODEL_NAME_KEY as MODEL_NAME  # scvi-tools 1.4, 1.5
from scvi.data._constants import _SCVI_UUID_KEY as ADATA_UUID  # scvi-tools 1.4, 1.5
from scvi.data._constants import _SETUP_ARGS_KEY as SETUP_ARGS  # scvi-tools 1.4, 1.5
from scvi.data._constants import _SETUP_METHOD_NAME as SETUP_METHOD_NAME  # scvi-tools 1.4, 1.5
from scvi.data._constants import ADATA_MINIFY_TYPE  # scvi-tools 1.4, 1.5
from scvi.data._utils import _get_adata_minify_type as get_minify_type  # scvi-tools 1.4, 1.5
from scvi.model.base._constants import SAVE_KEYS  # scvi-tools 1.4, 1.5
from scvi.module._constants import MODULE_KEYS  # scvi-tools 1.4, 1.5
from torch.optim.optimizer import (  # torch 2.10 to 2.14
    _global_optimizer_post_hooks,
    _global_optimizer_pre_hooks,
)

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from lightning.pytorch import Trainer
    from torch import nn

__all__ = [
    "ADATA_MINIFY_TYPE",
    "ADATA_UUID",
    "HOOKS",
    "LATENT_MEAN",
    "LATENT_VARIANCE",
    "LOGGER_OF_DOWNLOADS",
    "LOGGER_OF_TRANSFERS",
    "MANAGER_UUID",
    "MODEL_NAME",
    "MODULE_KEYS",
    "SAVE_KEYS",
    "SETUP_ARGS",
    "SETUP_METHOD_NAME",
    "begin_epoch_again",
    "count_step",
    "get_minify_type",
    "is_watched",
    "keep_cells",
    "keep_genes",
    "loaders_of_training",
    "unchecked_distributions",
]

# Private methods and attributes that are overridden, called or set, by class. scvi-tools 1.4, 1.5.
HOOKS: Final[dict[str, tuple[str, ...]]] = {
    "scvi.model.SCVI": (
        "_data_loader_cls",
        "_data_splitter_cls",
        "_get_fields_for_adata_minification",
        "_get_init_params",
        "_get_most_recent_anndata_manager",
        "_get_setup_method_args",
        "_make_data_loader",
        "_module_cls",
        "_per_instance_manager_store",
        "_setup_adata_manager_store",
        "_train_runner_cls",
        "_training_plan_cls",
        "_update_adata_and_manager_post_minification",
        "_validate_anndata",
    ),
    "scvi.module.VAE": ("_get_inference_input", "_regular_inference"),
    "scvi.data.AnnDataManager": ("_add_field",),  # and _registry, set by __init__
    "scvi.train.TrainingPlan": ("_optimizer_creator_fn",),
    "scvi.train.TrainRunner": ("_trainer_cls", "_update_history"),
    "torch.distributions.Distribution": (
        "_validate_args",
        "_validate_sample",
    ),  # torch 2.10 to 2.13
}
# Attributes that exist only on instances, because ``__init__`` sets them. scvi-tools 1.4, 1.5.
SET_BY_INIT: Final = ("_registry", "_original_attr_key", "_model_summary_string")

# Loggers for cells that are new to a model, and for files already downloaded. scvi-tools 1.4, 1.5.
LOGGER_OF_TRANSFERS: Final = "scvi.model.base._base_model"
LOGGER_OF_DOWNLOADS: Final = "scvi.data._download"
# Slots of minified AnnData. 1.4, 1.5.
LATENT_MEAN: Final = "_scvi_latent_qzm"
LATENT_VARIANCE: Final = "_scvi_latent_qzv"


def loaders_of_training(trainer: Trainer) -> list[Any]:
    """Data loaders of the training epoch. Lightning 2.6."""
    combined = trainer.fit_loop._combined_loader
    return [] if combined is None else list(combined.flattened)


def begin_epoch_again(trainer: Trainer) -> None:
    """Restart the loaders of the first epoch. Lightning 2.6.

    Lightning creates the iterators before any hook of the epoch. Loaders with worker processes then
    draw from their samplers at once, before the samplers are seeded.
    """
    fetcher = trainer.fit_loop._data_fetcher
    if fetcher.length is not None:  # a loader without a length may be good for one pass only
        iter(fetcher)


def count_step(optimizer: Any) -> None:
    """Make Lightning count an optimizer step that it did not perform. Lightning 2.6.

    Parameters
    ----------
    optimizer
        The optimizer returned by ``LightningModule.optimizers()``.
    """
    optimizer._on_before_step()
    optimizer._on_after_step()


def is_watched(module: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    """Whether a function is called with what a layer returns, with the gradient of a weight, or at a step of the optimizer.

    torch 2.10 to 2.14.
    """
    of_layers = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")
    of_all = vars(torch.nn.modules.module)
    return (
        any(getattr(m, f"_{name}") for m in module.modules() for name in of_layers)
        or any(of_all[f"_global_{name}"] for name in of_layers)
        or any(w._backward_hooks or w._post_accumulate_grad_hooks for w in module.parameters())
        or bool(optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks)
        or bool(_global_optimizer_pre_hooks or _global_optimizer_post_hooks)
    )


def keep_genes(adata: AnnData, index: np.ndarray) -> None:
    """Subset an AnnData to some genes, in place. anndata 0.11 to 0.13."""
    adata._inplace_subset_var(index)


def keep_cells(adata: AnnData, index: np.ndarray) -> None:
    """Subset an AnnData to some cells, in place. anndata 0.11 to 0.13."""
    adata._inplace_subset_obs(index)


@contextmanager
def unchecked_distributions() -> Iterator[None]:
    """Turn off argument checks of distributions: each waits for the GPU. torch 2.10 to 2.13."""
    from torch.distributions import Distribution

    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)
