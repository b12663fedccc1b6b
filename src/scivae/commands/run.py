"""What ``scivae run`` and ``scivae demo`` do: train, trace paths, follow genes, generate cells, write a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _keys
from .._errors import shown
from .._names import any_text_written
from .._validate.tables import check_known_genes
from . import cells
from .log import Log, StoppedError, printable_path, write_config

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from ..model import CIVAE

# Pairs over which genes are followed, and the steps of a path.
MAX_PAIRS, N_STEPS = 500, 50
# Paths that the map shows.
BUNDLE, BUNDLE_STEPS = 30, 20
# False discovery rate under which a gene is said to change.
SIGNIFICANT = 0.05


class Request(NamedTuple):
    """What to run.

    Attributes
    ----------
    data
        The user's file, or ``None``.
    dataset
        Name of a known data set, where ``data`` is ``None``.
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
    out
        Folder of the results.
    title
        Heading of the report.
    epochs
        Passes over the cells.
    n_synthetic
        Cells to make of each class.
    seed
        Seed of everything.
    accelerator, devices
        For training.
    argument
        What the user calls the file.
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
    "pbmc": {"groupby": "louvain", "source": "2", "target": "7", "label": "Dendritic"},
    "colon": {
        "groupby": "tissue",
        "source": "normal",
        "target": "tumor",
        "label": "epithelial cell",
    },
    "digits": {"labels_key": "digit", "label": "8"},
    "mnist": {"labels_key": "digit", "label": "8"},
}


def run(request: Request, log: Log, command: str = "run") -> dict[str, Any]:
    """Train, trace paths, augment, and write files.

    Parameters
    ----------
    request
        What to run.
    log
        What is told, and where it is kept.
    command
        Name of the command, for its log.

    Returns
    -------
    The figures of the short report.
    """
    request = _with_defaults(request)
    out = request.out
    cells.check_folder(out)
    sets = cells.read_gene_sets(request.gene_sets)
    adata = _load(request, log)
    adata, split = prepare(request, adata)
    label, pairable = _check_question(request, adata, log)
    model = set_up(request, adata, log)
    out.mkdir(parents=True, exist_ok=True)
    log.open(out / "log.txt")
    options = {k: v for k, v in request._asdict().items() if k != "argument"}
    options.pop("dataset" if request.data is not None else "data")
    write_config(out / "config.yaml", command, options)
    train(request, model, log, split)
    model.save(out / "model", overwrite=True)
    try:
        return _after_training(request, log, model, adata, label, pairable, sets, options)
    except (ValueError, KeyError, RuntimeError, TypeError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise StoppedError(
            f"{message} The trained model is kept in {printable_path(out / 'model')}."
        ) from error


def _after_training(
    request: Request,
    log: Log,
    model: CIVAE,
    adata: AnnData,
    label: str | None,
    pairable: bool,
    sets: dict[str, list[str]] | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Map, paths, genes, synthetic cells, and what is written of them."""
    out = request.out
    log.say("Placing cells on a map …")
    _add_umap(adata, model, request.seed)
    log.say("Tracing paths …")
    ends = _ends(adata, request, label)
    path = model.interpolate(*ends, n_steps=N_STEPS, seed=request.seed)
    bundle, trends, ranked = path, None, None
    if request.groupby is not None:
        pairs, bundle = _pairs(model, request, label, pairable)
        log.say("Following genes …")
        trends, ranked = _follow_genes(model, request, pairs)
    synthetic = None
    if request.n_synthetic:
        log.say("Making cells …")
        synthetic = _augment(model, adata, request, log)

    log.say("Writing the report …")
    results = {
        "cells": adata,
        "path": path,
        "paths": bundle,
        "trends": trends,
        "synthetic": synthetic,
    }
    _write(out, results, ranked)
    report = write_report(
        model, trends, bundle, synthetic, ranked=ranked, gene_sets=sets, genes=request.genes,
        title=request.title, seed=request.seed, out=out, settings=options,
    )  # fmt: skip
    if report.sets is not None:
        report.sets.to_csv(out / "gene_sets.csv", encoding="utf-8")
    numbers = _numbers(model, adata, report, synthetic)
    numbers["seconds"] = log.seconds
    names = (str(adata.obs_names[ends[0]]), str(adata.obs_names[ends[1]]))
    text = _text(numbers, request, label, names, ranked)
    (out / "report.txt").write_text(text, encoding="utf-8")
    log.say(text)
    return numbers


def _with_defaults(request: Request) -> Request:
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
    if given:  # groups given by the user do not belong to the class of the default question
        for name in ("groupby", "source", "target", "label"):
            defaults.pop(name, None)
    fill: dict[str, Any] = {k: v for k, v in defaults.items() if getattr(request, k) is None}
    return request._replace(**fill)


def _load(request: Request, log: Log) -> AnnData:
    from .. import datasets

    if request.data is None:
        log.say(f"Loading {request.dataset} …")
        # The test images of MNIST are enough to look at, and a sixth of the time.
        options = {"split": "test"} if request.dataset == "mnist" else {}
        return getattr(datasets, request.dataset)(**options)
    log.say(f"Reading {printable_path(request.data)} …")
    return cells.read_cells(request.data, request.argument)


def prepare(request: Request, adata: AnnData) -> tuple[AnnData, list[np.ndarray] | None]:
    """Cells that have a label, with the genes to model, and their split if genes were chosen by it.

    Raises
    ------
    KeyError
        If a column, a value or a gene is not there.
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
    check_known_genes("--genes", request.genes or (), adata.var_names.astype(str), "the data")
    if adata.obs[key].isna().any() and request.unlabeled_category is None:
        keep_cells(adata, adata.obs[key].notna().to_numpy())
    # Names on the command line are text, whatever the columns hold.
    for column in {key, request.groupby} - {None}:
        adata.obs[column] = cells.as_words(adata.obs[column])
    if request.n_top_genes is None or request.n_top_genes >= adata.n_vars:
        return adata, None
    from ..data.split import stratified_split

    codes = adata.obs[key].cat.codes.to_numpy().astype(int)
    split = stratified_split(
        codes - codes.min(), train_size=0.9, validation_size=None, batch_size=128, seed=request.seed
    )
    kept = cells.training_genes(
        adata, request.layer, split[0], request.n_top_genes, request.genes or ()
    )
    return adata[:, kept].copy(), split


def _check_question(request: Request, adata: AnnData, log: Log) -> tuple[str | None, bool]:
    """Class of the paths, and whether pairs can stay within donors; raise if there are too few cells."""
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
    """The model, before training; it refuses what it cannot be trained on."""
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
    """Train as the user asked, on a split of the cells if one was made before."""
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


def _add_umap(adata: AnnData, model: CIVAE, seed: int) -> None:
    import scanpy as sc

    adata.obsm[_keys.LATENT] = model.get_latent_representation()
    sc.pp.neighbors(adata, use_rep=_keys.LATENT, random_state=seed)
    sc.tl.umap(adata, random_state=seed)


def _ends(adata: AnnData, request: Request, label: str | None) -> tuple[int, int]:
    """Positions of the two cells of the path: the middle ones of their groups, or two far apart in the class."""
    inside = np.ones(adata.n_obs, dtype=bool)
    if label is not None:
        inside = (adata.obs[request.key] == label).to_numpy()
    z = adata.obsm[_keys.LATENT]
    if request.groupby is None:
        own = np.flatnonzero(inside)
        centered = z[own] - z[own].mean(axis=0)
        along = centered @ np.linalg.svd(centered, full_matrices=False)[2][0]
        order = own[np.argsort(along)]
        first, last = order[len(order) // 20], order[-1 - len(order) // 20]
        return int(first), int(last)
    found = []
    for group in (request.source, request.target):
        own = np.flatnonzero(inside & (adata.obs[request.groupby] == group).to_numpy())
        distance = np.linalg.norm(z[own] - np.median(z[own], axis=0), axis=1)
        found.append(int(own[distance.argmin()]))
    return found[0], found[1]


def _pairs(
    model: CIVAE, request: Request, label: str | None, pairable: bool
) -> tuple[pd.DataFrame, AnnData]:
    """Pairs of cells, within donors where donors have both groups, and paths between some of them."""
    from .. import tl

    pairs = tl.pair_cells(
        model.adata,
        str(request.groupby),
        request.source,
        request.target,
        label=label,
        labels_key=request.key,
        n_pairs=MAX_PAIRS,
        donor_key=request.donor_key if pairable else None,
        seed=request.seed,
    )
    some = np.random.default_rng(request.seed).permutation(len(pairs))[:BUNDLE]
    ends = (pairs[end].iloc[some].tolist() for end in ("source", "target"))
    bundle = model.interpolate(*ends, n_steps=BUNDLE_STEPS, key_added=None, seed=request.seed)
    return pairs, bundle


def _follow_genes(
    model: CIVAE, request: Request, pairs: pd.DataFrame
) -> tuple[AnnData, pd.DataFrame]:
    """Trends of genes over the pairs, and what changes."""
    from .. import tl

    trends = tl.gene_trends(
        model, pairs, n_steps=N_STEPS, donor_key=request.donor_key, between=request.between, seed=request.seed
    )  # fmt: skip
    return trends, tl.rank_genes(trends, seed=request.seed)


def _augment(model: CIVAE, adata: AnnData, request: Request, log: Log) -> AnnData:
    """Cells of every class that has two; a class that cannot be made is named, not fatal."""
    import anndata
    import pandas as pd

    sizes = adata.obs[request.key].value_counts()
    # Binary draws of gray pixels are no images: those are judged by what is expected.
    sample = model.likelihood != "bernoulli"
    parts = []
    for label in model.classes[[sizes[c] > 1 for c in model.classes]]:
        try:
            parts.append(
                model.augment(label, request.n_synthetic, sample=sample, seed=request.seed)
            )
        except RuntimeError as error:
            log.say(f"  left out: {error}")
    if not parts:
        raise RuntimeError(
            f"at least one class must be augmented, but none of {len(model.classes)} was; train "
            "longer, with --epochs."
        )
    keys = [str(i) for i in range(len(parts))]
    synthetic = anndata.concat(parts, index_unique="-", keys=keys, merge="same")
    classes = pd.concat([part.uns[_keys.UNS]["classes"] for part in parts])
    uns = {**parts[0].uns[_keys.UNS], "classes": classes}
    synthetic.uns.update({**parts[0].uns, _keys.UNS: uns})
    return synthetic


def write_report(
    model: CIVAE,
    trends: AnnData | None,
    paths: AnnData | None,
    synthetic: AnnData | None,
    *,
    out: Path,
    **options: Any,
) -> Any:
    """Write ``report.html`` and its figures, without a screen, into a folder."""
    import matplotlib as mpl

    from ..report import compose

    backend = mpl.get_backend()
    mpl.use("Agg")
    try:
        report = compose(model, trends, paths, synthetic, figures=out, **options)
    finally:
        mpl.use(backend)
    report.write(out / "report.html")
    return report


def _numbers(
    model: CIVAE, adata: AnnData, report: Any, synthetic: AnnData | None
) -> dict[str, Any]:
    """How good the model is, by cells that it was not trained on and by a judge that is not it."""
    held_out, made = report.held_out, report.made
    found: dict[str, Any] = {
        "n_obs": adata.n_obs,
        "n_vars": adata.n_vars,
        "n_classes": len(model.classes),
        "likelihood": model.likelihood,
        "held_out": held_out,
        "made": made,
        "n_synthetic": 0 if synthetic is None else synthetic.n_obs,
        "notes": report.notes,
    }
    if held_out is not None:
        found["separability"] = _separability(model, adata)
    if synthetic is not None:
        drawn = synthetic.uns[_keys.UNS]["classes"]["n_drawn"].sum()
        found["yield"] = synthetic.n_obs / drawn
    return found


def _separability(model: CIVAE, adata: AnnData) -> float:
    """Accuracy on held-out cells of a linear classifier that was fitted to z of training cells."""
    from ..data.checks import LABEL_CODES
    from ..metrics import linear_separability

    known = np.asarray(adata.obs[LABEL_CODES]) < len(model.classes)
    y = adata.obs[model.setup.labels_key].astype(str).to_numpy(dtype=object).astype(str)
    z = adata.obsm[_keys.LATENT]
    train, test = (np.asarray(i)[known[i]] for i in (model.train_indices, model.validation_indices))
    return linear_separability(z[train], y[train], z[test], y[test])


def _write(out: Path, results: dict[str, AnnData | None], ranked: pd.DataFrame | None) -> None:
    with any_text_written():
        for name, data in results.items():
            if data is not None and (name != "paths" or data is not results["path"]):
                data.write_h5ad(out / f"{name}.h5ad")
    if ranked is not None:
        ranked.to_csv(out / "genes.csv", encoding="utf-8")


def _text(
    report: dict[str, Any],
    request: Request,
    label: str | None,
    ends: tuple[str, str],
    genes: pd.DataFrame | None,
) -> str:
    """The report that a person reads in the terminal."""
    lines = [
        "",
        f"CI-VAE on {report['n_obs']:,} cells × {report['n_vars']:,} features, "
        f"{report['n_classes']} classes, likelihood {report['likelihood']}",
        "",
        *_of_held_out(report),
        *_of_synthetic(report),
        "",
        f"  path       {ends[0]} → {ends[1]}" + ("" if label is None else f", in class {label}"),
    ]
    if genes is not None:
        column = _keys.columns_of_significance(genes)[1]
        found = genes[genes[column] <= SIGNIFICANT]
        lines.append(
            f"  genes      {len(found)} of {len(genes)} change from {request.source} to "
            f"{request.target} (false discovery rate {SIGNIFICANT:.0%}; {genes.attrs['unit_text']})"
        )
        for shape in ("up", "down", "transient"):
            names = found.index[found["shape"] == shape][:8]
            if len(names):
                lines.append(f"             {shape + ':':<11}{', '.join(map(str, names))}")
    if report["notes"]:
        lines += ["", "  before you believe it"]
        lines += [f"  - {note}" for note in report["notes"]]
    folder = printable_path(request.out)
    lines += [
        "",
        f"  results in {folder}/, open {folder}/report.html  ({report['seconds']:.0f} s)",
        "",
    ]
    return "\n".join(lines)


def _of_held_out(report: dict[str, Any]) -> list[str]:
    held_out = report["held_out"]
    if held_out is None:
        return ["  no labeled cells were held out, so accuracy is not known"]
    own, control, majority = held_out.scores[:3]
    return [
        f"  accuracy of the discriminator      {own.accuracy:6.1%}   on {len(held_out.true)} "
        "cells held out",
        f"    principal components instead     {control.accuracy:6.1%}   as many, with a logistic "
        "regression",
        f"    always the largest class         {majority.accuracy:6.1%}",
        f"  linear separability of z           {report['separability']:6.1%}   "
        "fitted on training cells, scored on these",
    ]


def _of_synthetic(report: dict[str, Any]) -> list[str]:
    made = report["made"]
    if made is None:
        return []
    worst = min(made.classes, key=lambda row: row.recognized)
    return [
        f"  generated cells of the right class {made.recognized:6.1%}   of "
        f"{report['n_synthetic']}, by a classifier that knows the cells they start from",
        f"    in the worst class               {worst.recognized:6.1%}   {worst.label}",
        f"    the same classifier, real cells  {made.real_recognized:6.1%}   held out, which it "
        "does not know",
        f"  drawn cells that were accepted     {report['yield']:6.1%}",
    ]
