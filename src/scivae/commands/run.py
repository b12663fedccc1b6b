"""The commands ``scivae run`` and ``demo``: train, trace paths, find genes, generate cells, write a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._names import write_plain
from .._validate.tables import gene_symbols_of
from . import cells
from .analysis import (
    N_STEPS,
    add_umap,
    augment_classes,
    check_path,
    ends_of_path,
    follow_genes,
    pairs_and_paths,
)
from .log import Log, StoppedError, printable_path, write_config
from .request import Request, with_defaults
from .summary import numbers_of, text_of
from .training import check_question, load, prepare, set_up, train

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from ..model import CIVAE

# Table of the controls of the path, in the folder of results.
PATH_CHECKS = "path_checks.csv"


def run(request: Request, log: Log, command: str = "run") -> dict[str, Any]:
    """Train, trace paths, augment, and write files.

    Parameters
    ----------
    request
        Options of the run.
    log
        Log for the terminal and the file.
    command
        Name of the command, for its log.

    Returns
    -------
    The numbers of the short report.
    """
    request = with_defaults(request)
    out = request.out
    cells.check_folder(out)
    sets = cells.read_gene_sets(request.gene_sets)
    adata = load(request, log)
    adata, split = prepare(request, adata)
    symbols = gene_symbols_of(adata.var, request.gene_symbols, "var")
    cells.check_gene_sets(sets, symbols)
    label, pairable = check_question(request, adata, log)
    model = set_up(request, adata, log)
    cells.warn_of_results(out)
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
    """Calculate map, paths, genes and synthetic cells, and write them to files."""
    out = request.out
    log.say("Placing cells on a map …")
    add_umap(adata, model, request.seed)
    log.say("Tracing paths …")
    ends = ends_of_path(adata, model, request, label)
    path = model.interpolate(*ends, n_steps=N_STEPS, seed=request.seed)
    bundle, trends, ranked, checks = path, None, None, None
    if request.groupby is not None:
        pairs, bundle = pairs_and_paths(model, request, label, pairable)
        log.say("Following genes …")
        trends, ranked = follow_genes(model, request, pairs)
        log.say("Checking the path …")
        checks = check_path(model, request, pairs)
        checks["verdict"] = checks["verdict"].map(log.worded)
        checks.to_csv(out / PATH_CHECKS, encoding="utf-8")
    synthetic: AnnData | None = None
    left_out: list[str] = []
    if request.n_synthetic:
        log.say("Making cells …")
        synthetic, left_out = augment_classes(model, adata, request)

    log.say("Writing the report …")
    results = {
        "cells": adata,
        "path": path,
        "paths": bundle,
        "trends": trends,
        "synthetic": synthetic,
    }
    _write(out, results, ranked, request.gene_symbols)
    report = write_report(
        model, trends, bundle, synthetic, ranked=ranked, checks=checks, gene_sets=sets, genes=request.genes,
        gene_symbols=request.gene_symbols, title=request.title, seed=request.seed, out=out, settings=options,
        notes=left_out, worded=log.worded,
    )  # fmt: skip
    if report.sets is not None:
        report.sets.to_csv(out / "gene_sets.csv", encoding="utf-8")
    numbers = numbers_of(model, adata, report, synthetic)
    numbers["seconds"] = log.seconds
    names = (str(adata.obs_names[ends[0]]), str(adata.obs_names[ends[1]]))
    text = text_of(numbers, request, label, names, ranked)
    (out / "report.txt").write_text(text, encoding="utf-8")
    log.say(text)
    return numbers


def _write(
    out: Path,
    results: dict[str, AnnData | None],
    ranked: pd.DataFrame | None,
    gene_symbols: str | None,
) -> None:
    for name, data in results.items():
        if data is not None and (name != "paths" or data is not results["path"]):
            write_plain(data, out / f"{name}.h5ad")
    if ranked is not None:
        cells_of_run = results["cells"]
        if gene_symbols is not None and cells_of_run is not None:
            symbols = gene_symbols_of(cells_of_run.var, gene_symbols, "var")
            ranked = ranked.copy()
            ranked.insert(0, "symbol", [symbols[str(name)] for name in ranked.index])
        ranked.to_csv(out / "genes.csv", encoding="utf-8")


def write_report(
    model: CIVAE,
    trends: AnnData | None,
    paths: AnnData | None,
    synthetic: AnnData | None,
    *,
    out: Path,
    **options: Any,
) -> Any:
    """Write ``report.html`` and its figures into a folder, without opening windows."""
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
