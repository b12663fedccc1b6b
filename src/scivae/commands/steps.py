"""The commands for single steps: train, predict, augment, annotate and report."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pandas as pd

from .. import _keys
from .._errors import near_matches, shown
from .._names import as_text, same_names, write_plain
from . import cells
from .log import Log, printable_path, write_config
from .request import Request
from .run import PATH_CHECKS, write_report
from .training import prepare, set_up
from .training import train as train_model

if TYPE_CHECKING:
    from anndata import AnnData

    from ..model import CIVAE

MODEL_FILE = "model.pt"
TABLES, GENERATED = (".csv", ".tsv"), (".h5ad", ".zarr")


class Step(NamedTuple):
    """Options of a command that uses a trained model.

    Attributes
    ----------
    model
        Folder of a model, or of the results of ``scivae run``.
    data
        File of the cells.
    out
        File or folder of the result.
    level
        Coverage of prediction sets.
    probabilities
        Whether to write the probability of every class.
    label
        Classes to generate cells of; ``None`` for all.
    n
        Number of cells to generate of each class.
    method
        Method of :meth:`scivae.model.CIVAE.augment`.
    expected
        Write expected values, not samples.
    key_added
        Prefix of the names of the results.
    genes, gene_sets, gene_symbols, title
        As for :func:`scivae.report.write`.
    seed
        Seed of all random choices.
    """

    model: Path
    data: Path | None = None
    out: Path | None = None
    level: float = 0.9
    probabilities: bool = False
    label: list[str] | None = None
    n: int = 100
    method: Literal["linear", "normal"] = "linear"
    expected: bool = False
    key_added: str = _keys.KEY_ADDED
    genes: list[str] | None = None
    gene_sets: Path | None = None
    gene_symbols: str | None = None
    title: str | None = None
    seed: int = 0


def train(request: Request, log: Log) -> None:
    """Train a model and save it, with its history."""
    out = request.out
    cells.check_folder(out)
    adata = cells.read_cells(request.data, request.argument) if request.data is not None else None
    if adata is None:
        raise ValueError(
            "scivae train needs FILE, the cells to train on, got none; name an h5ad file."
        )
    adata, split = prepare(request, adata)
    model = set_up(request, adata, log)
    cells.warn_of_results(out)
    out.mkdir(parents=True, exist_ok=True)
    log.open(out / "log.txt")
    wanted = (
        "data", "labels_key", "unlabeled_category", "layer", "batch_key", "n_top_genes", "out",
        "epochs", "seed", "accelerator", "devices",
    )  # fmt: skip
    write_config(out / "config.yaml", "train", {k: getattr(request, k) for k in wanted})
    train_model(request, model, log, split)
    model.save(out / "model", overwrite=True)
    history = pd.concat(
        [pd.DataFrame(v).iloc[:, 0].rename(k) for k, v in (model.history_ or {}).items()], axis=1
    )
    history.to_csv(out / "history.csv", encoding="utf-8")
    logged = (model.history_ or {}).get("accuracy_validation")
    if logged is not None and len(logged):
        held_out = len(np.asarray(model.validation_indices))
        log.say(
            f"Accuracy on {held_out:,} cells held out: "
            f"{float(pd.to_numeric(pd.DataFrame(logged).iloc[:, 0]).iloc[-1]):.1%}"
        )
    log.say(f"The model is in {printable_path(out / 'model')} ({log.seconds:.0f} s)")


def predict(step: Step, log: Log) -> None:
    """Write a table with the predicted classes of cells."""
    out = step.out or Path("predictions.csv")
    cells.check_file(out, TABLES)
    model = _model(step)
    adata = fitting(model, _cells_of(step))
    _begin(step, log, out, "predict", ("level", "probabilities"))
    log.say(f"Labeling {adata.n_obs:,} cells …")
    soft = pd.DataFrame(model.predict(adata, soft=True))
    names = np.array(_words(model.classes), dtype=object)
    table = pd.DataFrame(
        {
            "predicted": names[soft.to_numpy().argmax(axis=1)],
            "confidence": soft.max(axis=1).to_numpy(),
        },
        index=pd.Index(as_text(adata.obs_names), name="cell"),
    )
    calibration = model.calibration_ or {}
    if "distances" in calibration:
        table["novelty"] = np.asarray(model.novelty(adata))
    if "scores" in calibration:
        sets = np.asarray(model.predict(adata, return_sets=True, level=step.level), dtype=bool)
        table["set"] = ["; ".join(names[row]) for row in sets]
    if step.probabilities:
        for i, name in enumerate(names):
            table[f"p({name})"] = soft.iloc[:, i].to_numpy()
    out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(out, sep="\t" if out.suffix.lower() == ".tsv" else ",", encoding="utf-8")
    key = model.setup.labels_key
    log.say(_agreement(adata, key, names, table["predicted"].to_numpy()))
    log.say(f"{len(table):,} rows in {printable_path(out)} ({log.seconds:.0f} s)")


def _agreement(adata: AnnData, key: str, names: np.ndarray, predicted: np.ndarray) -> str:
    """A sentence on how many predicted classes equal the labels of the cells, if they have labels."""
    if key not in adata.obs:
        return f"The cells have no column {key!r} to compare with."
    known = cells.as_words(adata.obs[key]).astype(object).to_numpy()
    rows = np.isin(known.astype(str), names.astype(str))
    if not rows.any():
        return f"No cell has a class of the model in obs[{key!r}]."
    same = np.mean(known[rows] == predicted[rows])
    return (
        f"Of {int(rows.sum()):,} cells, {same:.1%} have the predicted class in obs[{key!r}] "
        "(cells that the model was trained on count, too)."
    )


def augment(step: Step, log: Log) -> None:
    """Write synthetic cells to a file."""
    out = step.out or Path("synthetic.h5ad")
    cells.check_file(out, GENERATED)
    model = _model(step)
    adata = fitting(model, _cells_of(step))
    by_name = {str(word): c for c, word in zip(model.classes, _words(model.classes), strict=True)}
    for name in step.label or ():
        if name not in by_name:
            raise KeyError(
                f"--label must be a class of the model, got {name!r}; available: "
                f"{shown(by_name, 20)}."
                f"{near_matches(name, by_name)}"
            )
    wanted = {by_name[name]: step.n for name in step.label or by_name}
    _begin(step, log, out, "augment", ("label", "n", "method", "expected", "seed"))
    log.say(f"Making {step.n:,} cells of each of {len(wanted)} classes …")
    made = model.augment(
        wanted, method=step.method, sample=not step.expected, adata=adata, key_added=None, seed=step.seed
    )  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    write_plain(made, out)
    drawn = made.uns[_keys.UNS]["classes"]["n_drawn"].sum()
    log.say(f"{made.n_obs / drawn:.1%} of the drawn cells were accepted")
    log.say(f"{made.n_obs:,} cells in {printable_path(out)} ({log.seconds:.0f} s)")


def annotate(step: Step, log: Log) -> None:
    """Write latent space, classes and novelty into the file of the cells or a copy of it."""
    model = _model(step)
    data = _data_of(step)
    out = step.out or data
    if out != data:
        cells.check_file(out, (data.suffix.lower(),))
    more = _extra_genes(model, data)
    _begin(step, log, out, "annotate", ("key_added",))
    log.say(f"Annotating {printable_path(out)} …")
    if more is not None:
        _annotate_in_memory(model, more, out, step.key_added)
    else:
        if out != data:
            _copy(data, out)
        try:
            model.annotate(out, key_added=step.key_added)
        except BaseException:
            if out != data:
                _remove(out)
            raise
    log.say(
        f"obsm['{_keys.latent_key(step.key_added)}'] and "
        f"obs['{_keys.predicted_key(step.key_added)}'] are in "
        f"{printable_path(out)} ({log.seconds:.0f} s)"
    )


def _extra_genes(model: CIVAE, data: Path) -> AnnData | None:
    """The cells in memory if their genes, or the order of these, differ from the model; else ``None``."""
    import anndata

    if not data.is_dir():
        backed = cells.read_cells(data, "FILE", backed=True)
        own = as_text(backed.var_names)
        backed.file.close()
    else:
        own = as_text(anndata.read_zarr(data).var_names)
    if np.array_equal(own, as_text(model.setup.genes)):
        return None
    adata = cells.read_cells(data, "FILE")
    fitting(model, adata)  # raises if genes are missing
    return adata


def _annotate_in_memory(model: CIVAE, adata: AnnData, out: Path, key_added: str) -> None:
    """Annotate cells using the genes of the model, and write them with all of their own genes."""
    part = fitting(model, adata)
    model.annotate(part, key_added=key_added)
    latent = _keys.latent_key(key_added)
    adata.obsm[latent] = part.obsm[latent]
    for key in (_keys.predicted_key, _keys.confidence_key, _keys.novelty_key):
        if key(key_added) in part.obs:
            adata.obs[key(key_added)] = part.obs[key(key_added)].array
    new = out.with_name(f".{out.stem}.part{out.suffix}")
    try:
        write_plain(adata, new)
        if out.is_dir():
            shutil.rmtree(out)
        new.replace(out)
    finally:
        _remove(new)


def _copy(data: Path, out: Path) -> None:
    if data.is_dir():
        shutil.copytree(data, out, dirs_exist_ok=True)
    else:
        shutil.copyfile(data, out)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def report(step: Step, log: Log) -> None:
    """Write the report of a folder of results again."""
    folder = step.model
    if not (folder / "cells.h5ad").exists():
        raise ValueError(
            f"RESULTS must be a folder that scivae run wrote, but {printable_path(folder)} has no "
            "cells.h5ad; check its name, or run scivae run first."
        )
    out = step.out or folder
    cells.check_folder(out)
    sets = cells.read_gene_sets(step.gene_sets)
    from ..model import CIVAE

    log.say(f"Reading {printable_path(folder)} …")
    adata = cells.read_cells(folder / "cells.h5ad", "RESULTS")
    cells.check_genes(adata, step.genes, step.gene_symbols)
    model = CIVAE.load(_folder(folder), adata)
    trends, paths, path, synthetic = (
        cells.read_cells(folder / name, "RESULTS") if (folder / name).exists() else None
        for name in ("trends.h5ad", "paths.h5ad", "path.h5ad", "synthetic.h5ad")
    )
    kept = folder / PATH_CHECKS
    checks = pd.read_csv(kept, index_col=0) if kept.exists() else None
    log.say("Writing the report …")
    write_report(
        model, trends, paths if paths is not None else path, synthetic, checks=checks, gene_sets=sets,
        genes=step.genes, gene_symbols=step.gene_symbols, title=step.title, seed=step.seed, out=out,
    )  # fmt: skip
    log.say(f"Open {printable_path(out / 'report.html')} ({log.seconds:.0f} s)")


def _begin(step: Step, log: Log, out: Path, command: str, wanted: tuple[str, ...]) -> None:
    """Open the log and write the options next to a result."""
    out.parent.mkdir(parents=True, exist_ok=True)
    log.open(out.with_name(f"{out.stem}.log"))
    options = {k: getattr(step, k) for k in ("model", "data", *wanted)}
    write_config(out.with_name(f"{out.stem}.config.yaml"), command, {**options, "out": out})


def _folder(path: Path) -> Path:
    """The folder of the model, which can be inside a folder of results; a ValueError if there is none."""
    for folder in (path, path / "model"):
        if (folder / MODEL_FILE).exists():
            return folder
    if path.is_file() or path.suffix in GENERATED:
        raise ValueError(
            f"MODEL must be a folder that scivae train or scivae run wrote, got {printable_path(path)}, a file "
            "of cells; name MODEL first, then FILE."
        )
    raise ValueError(
        f"MODEL must be a folder that scivae train or scivae run wrote, but {printable_path(path)} "
        f"holds no {MODEL_FILE}; check its name."
    )


def _model(step: Step) -> CIVAE:
    from ..model import CIVAE

    return CIVAE.load(_folder(step.model), adata=False)


def _data_of(step: Step) -> Path:
    """The file of the cells; if none was given, the file that the results are from."""
    kept = step.model / "cells.h5ad"
    if step.data is None and kept.exists():
        return kept
    if step.data is None:
        raise ValueError("FILE must name the cells, got none; name an h5ad file or a zarr store.")
    if not step.data.exists():
        raise ValueError(
            f"FILE must be a file, got {printable_path(step.data)}, which does not exist; check the "
            "path."
        )
    return step.data


def _cells_of(step: Step) -> AnnData:
    return cells.read_cells(_data_of(step), "FILE")


def fitting(model: CIVAE, adata: AnnData) -> AnnData:
    """The cells with the genes of the model, in its order; raise if a gene is missing."""
    from ..data.checks import check_genes

    genes = pd.Index(as_text(model.setup.genes))
    own = pd.Index(as_text(adata.var_names))
    if own.is_unique and not same_names(own, genes) and genes.isin(own).all():
        adata = adata[:, own.get_indexer(genes)].copy()
    check_genes(adata, model.setup.genes)
    return adata


def _words(values: np.ndarray) -> list[str]:
    """Classes as text, as they are written on a command line."""
    return cells.as_words(pd.Series(values)).tolist()
