"""Load, check and train on the cells of a request; errors are raised before training if possible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._errors import warn
from . import cells
from .log import Log, printable_path
from .request import Request

if TYPE_CHECKING:
    from anndata import AnnData

    from ..model import CIVAE


def load(request: Request, log: Log) -> AnnData:
    """Read the cells of a file or of a known data set."""
    from .. import datasets

    if request.data is None:
        log.say(f"Loading {request.dataset} …")
        # The test images of MNIST suffice for a demonstration, in a sixth of the time.
        options = {"split": "test"} if request.dataset == "mnist" else {}
        return getattr(datasets, request.dataset)(**options)
    log.say(f"Reading {printable_path(request.data)} …")
    return cells.read_cells(request.data, request.argument)


def prepare(request: Request, adata: AnnData) -> tuple[AnnData, list[np.ndarray] | None]:
    """Labeled cells with the genes to model, and their split if genes were selected on training cells.

    Raises
    ------
    KeyError
        If a column, a value or a gene does not exist.
    """
    from .._scvi import keep_cells

    key = request.key
    for option, column in (
        ("--labels-key", key), ("--groupby", request.groupby), ("--batch-key", request.batch_key),
        ("--donor-key", request.donor_key),
    ):  # fmt: skip
        cells.check_column(adata, option, column)
    for option, value, column in (
        ("--label", request.label, key),
        ("--source", request.source, request.groupby),
        ("--target", request.target, request.groupby),
        ("--unlabeled-category", request.unlabeled_category, key),
        *(("--between", level, request.groupby) for level in request.between or ()),
    ):
        cells.check_value(adata, option, value, column)
    ends = {request.source, request.target} - {None}
    if inside := [level for level in request.between or () if level in ends]:
        raise ValueError(
            f"--between must name groups other than source and target, got {inside[0]!r}; leave it out."
        )
    cells.warn_of_roles(adata.obs, key, request.donor_key)
    cells.check_layer(adata, request.layer)
    genes = cells.check_genes(adata, request.genes, request.gene_symbols)
    labeled = adata.obs[key].notna().to_numpy()
    if not labeled.all() and request.unlabeled_category is None:
        warn(
            f"{(~labeled).sum():,} of {len(labeled):,} cells are left out, because obs[{key!r}] is missing; fill it in, "
            "or pass --unlabeled-category Unknown to keep them without a label."
        )
        keep_cells(adata, labeled)
    # Values on the command line are text, so columns are converted to text.
    for column in {key, request.groupby} - {None}:
        adata.obs[column] = cells.as_words(adata.obs[column])
    if request.n_top_genes is None or request.n_top_genes >= adata.n_vars:
        return adata, None
    from ..data.split import stratified_split

    codes = adata.obs[key].cat.codes.to_numpy().astype(int)
    split = stratified_split(
        codes - codes.min(), train_size=0.9, validation_size=None, batch_size=128, seed=request.seed
    )
    kept = cells.training_genes(adata, request.layer, split[0], request.n_top_genes, genes)
    return adata[:, kept].copy(), split


def check_question(request: Request, adata: AnnData, log: Log) -> tuple[str | None, bool]:
    """The class of the paths, and whether pairs can stay within donors; raise if there are too few cells."""
    labels = adata.obs[request.key]
    known = (labels != request.unlabeled_category).to_numpy() & labels.notna().to_numpy()
    if request.groupby is None:
        return request.label or str(labels[known].value_counts().index[0]), False
    if request.source == request.target:
        raise ValueError(
            f"--source and --target must be two groups, got {request.source!r} twice; name another "
            "one."
        )
    groups = adata.obs[request.groupby]
    source, target = ((groups == name).to_numpy() for name in (request.source, request.target))
    label = request.label
    if label is None and request.groupby != request.key:
        label = cells.common_label(labels[known], source[known], target[known])
        said = "all cells are compared, as no class has both groups"
        log.say(
            f"No --label: {said}"
            if label is None
            else f"No --label: cells of {label!r} are compared"
        )
    if label is not None:
        inside = (labels == label).to_numpy()
        source, target = source & inside, target & inside
    named = (f"--source {request.source!r}", source), (f"--target {request.target!r}", target)
    cells.check_groups(adata, named, label, request.key, request.groupby)
    if request.donor_key is None:
        return label, False
    return label, cells.check_donors(adata, request.donor_key, source, target)


def set_up(request: Request, adata: AnnData, log: Log) -> CIVAE:
    """The untrained model; raises for cells that it cannot be trained on."""
    from ..model import CIVAE

    CIVAE.setup_anndata(
        adata,
        labels_key=request.key,
        unlabeled_category=request.unlabeled_category,
        layer=request.layer,
        batch_key=request.batch_key,
    )
    model = CIVAE(adata, seed=request.seed)
    log.say(
        f"Training on {adata.n_obs:,} cells × {adata.n_vars:,} features, {len(model.classes)} "
        f"classes, likelihood {model.likelihood} …"
    )
    return model


def train(request: Request, model: CIVAE, log: Log, split: list[np.ndarray] | None = None) -> None:
    """Train with the options of the request, on a split of the cells if one was made before."""
    options: dict[str, Any] = {}
    if split is not None:
        options["datasplitter_kwargs"] = {"external_indexing": split}
    if request.accelerator is not None:
        options["accelerator"] = request.accelerator
    if request.devices is not None:
        options["devices"] = int(request.devices) if request.devices.isdigit() else request.devices
    if log.quiet:
        options["enable_progress_bar"] = False
    model.train(max_epochs=request.epochs, **options)
    log.keep(str(model.engine))
    warn_of_chance(model)


def warn_of_chance(model: CIVAE) -> None:
    """Warn if the held-out accuracy is not above that of always predicting the largest class."""
    held_out = model.validation_indices
    if model.adata is None or held_out is None:
        return
    labels = model.adata.obs[model.setup.labels_key].astype(object).to_numpy()[held_out]
    known = np.isin(labels.astype(str), model.classes.astype(str))
    if not known.any():
        return
    true = labels[known].astype(str)
    predicted = np.asarray(model.predict(indices=held_out[known])).astype(str)
    names, codes, sizes = np.unique(true, return_inverse=True, return_counts=True)
    right = predicted == true
    of_class = np.bincount(codes, right) / sizes
    share = float(sizes.max() / sizes.sum())
    by_chance = max(0.5, 1 / len(names) + 0.1)
    # With classes of very different size, a useful model may have a lower accuracy than the largest class.
    if len(names) > 1 and right.mean() <= share and of_class.mean() <= by_chance:
        warn(
            f"the model labels {right.mean():.1%} of {len(true):,} held-out cells right, and calling all of them "
            f"{str(names[sizes.argmax()])!r} would {share:.1%}; train longer, or check labels_key and layer."
        )
