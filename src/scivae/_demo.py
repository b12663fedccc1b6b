"""What ``scivae demo`` does, step by step."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _keys
from ._errors import near_matches, shown
from ._names import any_text_written

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from .model import CIVAE

# Pairs over which genes are followed, and genes that the figures show.
MAX_PAIRS, N_STEPS = 500, 50
N_CURVES, N_HEATMAP = 6, 30
# False discovery rate under which a gene is said to change.
SIGNIFICANT = 0.05


class Request(NamedTuple):
    """What to run the demonstration on.

    Attributes
    ----------
    data
        The user's file, or ``None``.
    dataset
        Name of a known data set, where ``data`` is ``None``.
    labels_key, layer, batch_key
        For :meth:`scivae.model.CIVAE.setup_anndata`.
    groupby, source, target, label
        For :func:`scivae.tl.pair_cells`.
    out
        Folder of the results.
    epochs
        Passes over the cells.
    n_synthetic
        Cells to make of each class.
    seed
        Seed of everything.
    """

    data: Path | None = None
    dataset: str = "pbmc"
    labels_key: str | None = None
    layer: str | None = None
    batch_key: str | None = None
    groupby: str | None = None
    source: str | None = None
    target: str | None = None
    label: str | None = None
    out: Path = Path("scivae_demo")
    epochs: int | None = None
    n_synthetic: int = 50
    seed: int = 0


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


def run(request: Request) -> dict[str, Any]:
    """Train, trace paths, augment, and write files.

    Parameters
    ----------
    request
        On what.

    Returns
    -------
    The figures of the report.
    """
    started = time.perf_counter()
    request = _with_defaults(request)
    _check_out(request.out)
    adata = _load(request)
    key = request.labels_key or _keys.LABELS_KEY
    model = _train(request, adata, key)
    out = request.out
    out.mkdir(parents=True, exist_ok=True)

    _say("Placing cells on a map …")
    _add_umap(adata, model, request.seed)
    _say("Tracing paths …")
    label = request.label or str(adata.obs[key].value_counts().index[0])
    ends = _ends(adata, request, label, key)
    path = model.interpolate(*ends, n_steps=N_STEPS, seed=request.seed)
    trends, genes = _follow_genes(model, adata, request, label, key)
    _say("Making cells …")
    synthetic = _augment(model, adata, key, request)

    _say("Judging them …")
    report = _report(model, adata, key, synthetic)
    _write(out, adata, path, synthetic, genes)
    _figures(out, model, adata, path, trends, genes, key)
    report["seconds"] = time.perf_counter() - started
    names = (str(adata.obs_names[ends[0]]), str(adata.obs_names[ends[1]]))
    text = _text(report, request, label, names, genes)
    (out / "report.txt").write_text(text, encoding="utf-8")
    print(text)
    return report


def _say(text: str) -> None:
    print(text, flush=True)


def _with_defaults(request: Request) -> Request:
    groups = {k: getattr(request, k) for k in ("groupby", "source", "target")}
    given = [k for k, v in groups.items() if v is not None]
    if given and len(given) < 3:
        raise ValueError(
            f"--groupby, --source and --target go together, got only {shown('--' + k for k in given)}."
        )
    if request.data is not None:
        return request
    defaults = dict(DEFAULTS[request.dataset])
    if given:  # groups given by the user do not belong to the class of the default question
        for name in ("groupby", "source", "target", "label"):
            defaults.pop(name, None)
    fill: dict[str, Any] = {k: v for k, v in defaults.items() if getattr(request, k) is None}
    return request._replace(**fill)


def _check_out(out: Path) -> None:
    """Raise before anything is done if the results could not be written afterwards."""
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir():
        what = "a file" if there == out else f"in {there}, which is a file"
        raise ValueError(f"--out must be a folder, but {out} is {what}; choose another.")
    if not os.access(there, os.W_OK):
        raise ValueError(
            f"--out must be a folder that can be written to, but {there} is not; choose another."
        )


def _load(request: Request) -> AnnData:
    import anndata

    from . import datasets

    if request.data is None:
        _say(f"Loading {request.dataset} …")
        # The test images of MNIST are enough to look at, and a sixth of the time.
        options = {"split": "test"} if request.dataset == "mnist" else {}
        return getattr(datasets, request.dataset)(**options)
    if not request.data.exists():
        raise ValueError(f"--data must be a file, but {request.data} is not there.")
    _say(f"Reading {request.data} …")
    try:
        return anndata.read_h5ad(request.data)
    except OSError as error:
        raise ValueError(
            f"--data must be an h5ad file, but {request.data} is none: {error}"
        ) from error


def as_words(column: pd.Series) -> pd.Series:
    """A column as it is spelled on a command line: as text, and whole numbers without a point."""
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        levels = as_words(pd.Series(column.cat.categories))
        if levels.is_unique:
            return column.cat.rename_categories(levels.tolist())
    if pd.api.types.is_float_dtype(column.dtype):
        known = column.dropna()
        if (known == known.round()).all() and (known.abs() < 2**53).all():
            column = column.astype("Int64")
    return (
        column.astype(object).where(column.notna()).map(str, na_action="ignore").astype("category")
    )


def _check_groups(adata: AnnData, request: Request, key: str) -> None:
    """Raise before hours of training if what is asked for afterwards is not there."""
    for option, column in (("--labels-key", key), ("--groupby", request.groupby)):
        if column is not None and column not in adata.obs:
            raise KeyError(
                f"{option} must be a column of obs, got {column!r}; available columns: "
                f"{shown(adata.obs.columns, 20)}.{near_matches(column, adata.obs.columns)}"
            )
    for option, value, column in (
        ("--label", request.label, key),
        ("--source", request.source, request.groupby),
        ("--target", request.target, request.groupby),
    ):
        if value is None or column is None:
            continue
        values = list(as_words(adata.obs[column]).dropna().unique())
        if value not in values:
            raise KeyError(
                f"{option} must be a value of obs[{column!r}], got {value!r}; they are: "
                f"{shown(sorted(values), 20)}.{near_matches(value, values)}"
            )


def _train(request: Request, adata: AnnData, key: str) -> CIVAE:
    from ._scvi import keep_cells
    from .model import CIVAE

    _check_groups(adata, request, key)
    if adata.obs[key].isna().any():
        keep_cells(adata, adata.obs[key].notna().to_numpy())
    # Names on the command line are text, whatever the columns hold.
    for column in {key, request.groupby} - {None}:
        adata.obs[column] = as_words(adata.obs[column])
    CIVAE.setup_anndata(adata, labels_key=key, layer=request.layer, batch_key=request.batch_key)
    model = CIVAE(adata, seed=request.seed)
    _say(
        f"Training on {adata.n_obs:,} cells × {adata.n_vars:,} features, {len(model.classes)} classes, "
        f"likelihood {model.likelihood} …"
    )
    model.train(max_epochs=request.epochs)
    return model


def _add_umap(adata: AnnData, model: CIVAE, seed: int) -> None:
    import scanpy as sc

    adata.obsm[_keys.LATENT] = model.get_latent_representation()
    sc.pp.neighbors(adata, use_rep=_keys.LATENT, random_state=seed)
    sc.tl.umap(adata, random_state=seed)


def _ends(adata: AnnData, request: Request, label: str, key: str) -> tuple[int, int]:
    """Positions of the two cells of the path: the middle ones of their groups, or two far apart in the class."""
    inside = (adata.obs[key] == label).to_numpy()
    z = adata.obsm[_keys.LATENT]
    if request.groupby is None:
        cells = np.flatnonzero(inside)
        centered = z[cells] - z[cells].mean(axis=0)
        along = centered @ np.linalg.svd(centered, full_matrices=False)[2][0]
        order = cells[np.argsort(along)]
        first, last = order[len(order) // 20], order[-1 - len(order) // 20]
        return int(first), int(last)
    found = []
    for option, group in (("--source", request.source), ("--target", request.target)):
        cells = np.flatnonzero(inside & (adata.obs[request.groupby] == group).to_numpy())
        if not cells.size:
            raise ValueError(
                f"no cell is {label!r} and of {option} {group!r}; choose another --label or group."
            )
        distance = np.linalg.norm(z[cells] - np.median(z[cells], axis=0), axis=1)
        found.append(int(cells[distance.argmin()]))
    return found[0], found[1]


def _follow_genes(
    model: CIVAE, adata: AnnData, request: Request, label: str, key: str
) -> tuple[AnnData | None, pd.DataFrame | None]:
    """Trends of genes over many pairs, and what changes, where there are groups."""
    if request.groupby is None or request.source is None or request.target is None:
        return None, None
    from . import tl

    _say("Following genes …")
    pairs = tl.pair_cells(
        adata,
        request.groupby,
        request.source,
        request.target,
        label=label,
        labels_key=key,
        n_pairs=MAX_PAIRS,
        seed=request.seed,
    )
    trends = tl.gene_trends(model, pairs, n_steps=N_STEPS)
    return trends, tl.rank_genes(trends)


def _augment(model: CIVAE, adata: AnnData, key: str, request: Request) -> AnnData:
    """Cells of every class that has two; a class that cannot be made is named, not fatal."""
    import anndata
    import pandas as pd

    sizes = adata.obs[key].value_counts()
    # Binary draws of gray pixels are no images: those are judged by what is expected.
    sample = model.likelihood != "bernoulli"
    parts = []
    for label in model.classes[[sizes[c] > 1 for c in model.classes]]:
        try:
            parts.append(
                model.augment(label, request.n_synthetic, sample=sample, seed=request.seed)
            )
        except RuntimeError as error:
            _say(f"  left out: {error}")
    if not parts:
        raise RuntimeError("no class could be augmented; train longer, with --epochs.")
    keys = [str(i) for i in range(len(parts))]
    synthetic = anndata.concat(parts, index_unique="-", keys=keys, merge="same")
    classes = pd.concat([part.uns[_keys.UNS]["classes"] for part in parts])
    uns = {**parts[0].uns[_keys.UNS], "classes": classes}
    synthetic.uns.update({**parts[0].uns, _keys.UNS: uns})
    return synthetic


def _report(model: CIVAE, adata: AnnData, key: str, synthetic: AnnData) -> dict[str, Any]:
    """How good the model is, by cells that it was not trained on and by a judge that is not it."""
    from .metrics import fit_judges, linear_separability, path_purity

    train, held_out = np.asarray(model.train_indices), np.asarray(model.validation_indices)
    y = adata.obs[key].to_numpy().astype(str)
    z = adata.obsm[_keys.LATENT]
    judge = fit_judges(_features(model, adata[train]), y[train], kinds=("logistic",))["logistic"]
    real = _features(model, adata[held_out])
    purity = path_purity(
        judge, _features(model, synthetic), synthetic.obs[key].to_numpy().astype(str)
    )
    # A class that happens to have no held-out cell cannot be scored on one.
    return {
        "n_obs": adata.n_obs,
        "n_vars": adata.n_vars,
        "n_classes": len(model.classes),
        "likelihood": model.likelihood,
        "n_held_out": len(held_out),
        "accuracy": float(np.mean(model.predict(indices=held_out).astype(str) == y[held_out])),
        "separability": linear_separability(z[train], y[train], z[held_out], y[held_out]),
        "judge": float(np.mean(judge.predict(real) == y[held_out])),
        "purity": purity.overall,
        "worst_purity": purity.worst,
        "worst_class": purity.worst_class,
        "n_synthetic": synthetic.n_obs,
        "yield": synthetic.n_obs / synthetic.uns[_keys.UNS]["classes"]["n_drawn"].sum(),
    }


def _features(model: CIVAE, adata: AnnData) -> Any:
    """What the judge sees: log-normalized counts, or the values as they are."""
    from .data.checks import values_of
    from .data.generated import log_normalize
    from .module import COUNT_LIKELIHOODS

    values = values_of(adata, model.setup.layer)
    return log_normalize(values) if model.likelihood in COUNT_LIKELIHOODS else values


def _write(
    out: Path, adata: AnnData, path: AnnData, synthetic: AnnData, genes: pd.DataFrame | None
) -> None:
    with any_text_written():
        adata.write_h5ad(out / "cells.h5ad")
        path.write_h5ad(out / "path.h5ad")
        synthetic.write_h5ad(out / "synthetic.h5ad")
    if genes is not None:
        genes.to_csv(out / "genes.csv", encoding="utf-8")


def _figures(
    out: Path,
    model: CIVAE,
    adata: AnnData,
    path: AnnData,
    trends: AnnData | None,
    genes: pd.DataFrame | None,
    key: str,
) -> None:
    import matplotlib as mpl

    backend = mpl.get_backend()
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from . import pl, tl

    def save(name: str, axes: Any) -> None:
        figure = np.ravel(axes)[0].figure
        figure.savefig(out / name, dpi=200, bbox_inches="tight")
        plt.close(figure)

    try:
        save("training.png", pl.history(model))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            joint = tl.embed(adata, path)
        save("path.png", pl.path(joint, color=key))
        save("margin.png", pl.class_margin(path))
        if trends is not None and genes is not None:
            save("genes.png", pl.gene_trends(trends, list(genes.index[:N_CURVES])))
            save("heatmap.png", pl.trend_heatmap(trends, genes, n_genes=N_HEATMAP))
        if "image" in adata.uns:
            shape = tuple(int(i) for i in adata.uns["image"]["shape"])
            save("images.png", pl.traversal_images(path, shape=shape))
    finally:
        mpl.use(backend)


def _text(
    report: dict[str, Any],
    request: Request,
    label: str,
    ends: tuple[str, str],
    genes: pd.DataFrame | None,
) -> str:
    """The report that a person reads."""
    lines = [
        "",
        f"CI-VAE on {report['n_obs']:,} cells × {report['n_vars']:,} features, "
        f"{report['n_classes']} classes, likelihood {report['likelihood']}",
        "",
        f"  accuracy of the discriminator      {report['accuracy']:6.1%}   "
        f"on {report['n_held_out']} cells held out",
        f"  linear separability of z           {report['separability']:6.1%}   "
        "fitted on training cells, scored on these",
        f"  generated cells of the right class {report['purity']:6.1%}   "
        f"of {report['n_synthetic']}, by a classifier that knows the cells they start from",
        f"    in the worst class               {report['worst_purity']:6.1%}   "
        f"{report['worst_class']}",
        f"    the same classifier, real cells  {report['judge']:6.1%}   held out, which it does not know",
        f"  drawn cells that were accepted     {report['yield']:6.1%}",
        "",
        f"  path       {ends[0]} → {ends[1]}, in class {label}",
    ]
    if genes is not None:
        column = "fdr" if "fdr" in genes else "fdr_cells"
        found = genes[genes[column] <= SIGNIFICANT]
        lines.append(
            f"  genes      {len(found)} of {len(genes)} change from {request.source} to "
            f"{request.target} (false discovery rate {SIGNIFICANT:.0%}; {genes.attrs['unit_text']})"
        )
        for shape in ("up", "down", "transient"):
            names = found.index[found["shape"] == shape][:8]
            if len(names):
                lines.append(f"             {shape + ':':<11}{', '.join(names)}")
    folder = os.fsencode(request.out).decode("utf-8", errors="replace")
    lines += ["", f"  results in {folder}/  ({report['seconds']:.0f} s)", ""]
    return "\n".join(lines)
