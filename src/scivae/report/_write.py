"""The public function ``write``, which checks its arguments and combines the parts of the report."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from .. import _keys
from .._names import as_text
from .._validate.arguments import check_integer, check_trained, check_type
from .._validate.tables import (
    by_symbol,
    check_kind,
    check_known_genes,
    check_trends,
    gene_symbols_of,
)
from . import _controls, _data, _figures, _map, _methods, _notes, _page, _quality, _tables

if TYPE_CHECKING:
    from anndata import AnnData

    from ..model import CIVAE

# Largest number of cells on the map.
MAX_CELLS = 50_000
PACKAGES = ("scivae-tools", "scvi-tools", "anndata", "scanpy", "torch", "numpy", "pandas")


class Report(NamedTuple):
    """The contents of the report, and the results that it is based on.

    Attributes
    ----------
    contents
        Variables of the template.
    held_out
        Labels of held-out cells; ``None`` if there were none.
    made
        Checks of synthetic cells; ``None`` without any.
    notes
        Warnings in plain words.
    sets
        Table of :func:`scivae.tl.enrich`; ``None`` without gene sets.
    """

    contents: dict[str, Any]
    held_out: _quality.HeldOut | None
    made: _quality.Made | None
    notes: list[str]
    sets: pd.DataFrame | None

    def write(self, target: Path) -> Path:
        """Write the page; an existing file is replaced once the new one is complete."""
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            part.write_text(_page.render(self.contents), encoding="utf-8")
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return target


def write(
    model: CIVAE,
    trends: AnnData | None = None,
    paths: AnnData | None = None,
    synthetic: AnnData | None = None,
    *,
    out: str | os.PathLike = "report.html",
    ranked: pd.DataFrame | None = None,
    checks: pd.DataFrame | None = None,
    gene_sets: Mapping[str, Sequence[str]] | pd.DataFrame | None = None,
    genes: Sequence[str] | None = None,
    gene_symbols: str | None = None,
    title: str | None = None,
    max_cells: int = MAX_CELLS,
    seed: int = 0,
) -> Path:
    """Write a report on a model and its results: one HTML file that opens without a network.

    Parameters
    ----------
    model
        A trained model, with its training cells.
    trends
        From :func:`scivae.tl.gene_trends`.
    paths
        From :meth:`scivae.model.CIVAE.interpolate`: paths for the map.
    synthetic
        From :meth:`scivae.model.CIVAE.augment`.
    out
        The file, or a folder for ``report.html``. Folders are created.
    ranked
        The table of :func:`scivae.tl.rank_genes`; ``None``: it is calculated.
    checks
        The table of :func:`scivae.tl.check_paths`: controls of the paths.
    gene_sets
        Gene sets for :func:`scivae.tl.enrich`: ``{set: genes}``, or a table in the format of decoupler.
    genes
        Genes whose curves are shown; ``None``: the most significant of each direction.
    gene_symbols
        Column of ``adata.var`` with the names of genes to show; ``genes`` and ``gene_sets`` can use these
        names too. ``None``: ``var_names``.
    title
        Heading of the page; ``None``: the groups of the trends.
    max_cells
        Maximum number of cells on the interactive map; a random subset if there are more.
    seed
        Seed of all random choices.

    Returns
    -------
    Path of the file.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    KeyError
        If a gene or ``gene_symbols`` does not exist.
    RuntimeError
        If the model is not trained.
    ValueError
        If the model has no cells, or results are not from the functions named above.
    OSError
        If the file cannot be written.

    Notes
    -----
    *Held-out numbers* are from cells that training held out. Controls on the same cells are a balanced logistic
    regression on principal components (as many as latent dimensions), the largest class, and chance. These
    cells come from the same samples as the training cells.

    *Synthetic cells* are checked with a logistic regression that was fitted on training cells (from which
    synthetic cells start), compared with held-out real cells; with a random forest; and by distances to
    training cells.

    *The map* is ``adata.obsm["X_umap"]`` if it exists; otherwise a UMAP of the latent space is calculated and
    not stored. Nothing is written to the AnnData.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40, n_classes=2, layout="across")
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata, n_latent=4)
    >>> model.train(max_epochs=10, enable_progress_bar=False)
    >>> adata.obsm["X_umap"] = model.get_latent_representation()[:, :2]
    >>> scivae.report.write(model, out="my_report.html").name
    'my_report.html'
    """
    target = checked_target(out)
    report = compose(
        model, trends, paths, synthetic, ranked=ranked, checks=checks, gene_sets=gene_sets, genes=genes,
        gene_symbols=gene_symbols, title=title, max_cells=max_cells, seed=seed,
    )  # fmt: skip
    target.parent.mkdir(parents=True, exist_ok=True)
    return report.write(target)


def checked_target(out: Any) -> Path:
    """The file to write; raise early if it could not be written."""
    check_type("out", out, (str, os.PathLike), "a path")
    target = Path(os.fsdecode(out))
    if target.is_dir() or not target.suffix:
        target = target / "report.html"
    there = next(f for f in (target.parent, *target.absolute().parents) if f.exists())
    if not there.is_dir() or not os.access(there, os.W_OK) or target.is_dir():
        what = "is a file" if not there.is_dir() else "cannot be written to"
        raise ValueError(
            f"out must be a file in a folder that can be written to, but {there} {what}; choose another."
        )
    return target


def compose(
    model: CIVAE,
    trends: AnnData | None,
    paths: AnnData | None,
    synthetic: AnnData | None,
    *,
    ranked: pd.DataFrame | None = None,
    checks: pd.DataFrame | None = None,
    gene_sets: Any = None,
    genes: Sequence[str] | None = None,
    gene_symbols: str | None = None,
    title: str | None = None,
    max_cells: int = MAX_CELLS,
    seed: int = 0,
    figures: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    worded: Callable[[str], str] = str,
) -> Report:
    """The contents of the page.

    Parameters
    ----------
    model, trends, paths, synthetic, ranked, checks, gene_sets, genes, gene_symbols, title, max_cells, seed
        As for :func:`write`.
    figures
        Folder for PNG files of the figures.
    settings
        Options of the command, for the list of parameters.
    notes
        More warnings, which come last.
    worded
        Puts a warning in the words of the caller.
    """
    from .. import tl
    from .._scvi import get_minify_type
    from ..model import CIVAE as Model

    check_type("model", model, Model, "a CIVAE")
    check_trained(model)
    max_cells = check_integer("max_cells", max_cells, minimum=10)
    seed = check_integer("seed", seed, minimum=0)
    check_type("title", title, (str, type(None)), "text or None")
    if model.adata is None:
        raise ValueError(
            "the report needs the training cells, but this model has none; load it with "
            "CIVAE.load(folder, adata)."
        )
    if trends is not None:
        check_trends("trends", trends)
    if paths is not None:
        check_kind("paths", paths, _keys.INTERPOLATED, "generated")
    if synthetic is not None:
        check_kind("synthetic", synthetic, _keys.AUGMENTED, "synthetic")
    if checks is not None:
        _controls.check_controls(checks)
    with model.reading() as adata:
        setup = model.setup
        minified = get_minify_type(adata) is not None
        if trends is not None and ranked is None:
            ranked = tl.rank_genes(trends, seed=seed)
        if trends is None:
            ranked = None
        symbols = gene_symbols_of(adata.var, gene_symbols, "adata.var")
        fitted = trends
        if gene_symbols is not None:
            trends, ranked, genes, gene_sets, symbols = _named(
                trends, ranked, genes, gene_sets, symbols
            )
        names = _shown_genes(trends, ranked, genes)
        sets = (
            None if gene_sets is None or fitted is None else tl.enrich(fitted, gene_sets, seed=seed)
        )
        cells = None if minified else _quality.cells_of(model, adata, seed)
        held_out = None if cells is None else _quality.held_out(model, cells, seed)
        made = None
        if synthetic is not None and cells is not None:
            made = _quality.made(model, cells, synthetic, seed)
        small, basis = _map.on_map(model, adata, max_cells, seed)
        joint = _map.joined(small, basis, paths)

        draw = _figures.Drawer(figures)
        label = None if trends is None else trends.uns[_keys.UNS].get("label")
        if label is None or label not in model.classes.astype(str):
            label = _figures.largest_class(model)
        drawn = _figures.of_model(draw, model, held_out, label, symbols)
        if paths is not None and joint is not None:
            drawn |= _figures.of_paths(
                draw,
                joint,
                paths,
                setup.labels_key,
                None if trends is None else trends.uns[_keys.UNS].get("groupby"),
            )
            if "image" in adata.uns:
                drawn |= _figures.of_images(draw, paths, adata.uns["image"])
        if trends is not None and ranked is not None:
            drawn |= _figures.of_trends(draw, trends, ranked, names)
        if sets is not None and fitted is not None:
            measured = None if minified else adata
            drawn |= _figures.of_sets(draw, sets, gene_sets, measured, fitted, setup.layer or "X")
        if synthetic is not None and _quality.is_sampled(synthetic) and not minified:
            drawn |= _figures.of_synthetic(
                draw, adata, synthetic, setup.labels_key, model.validation_indices
            )

        said = {} if trends is None else dict(trends.uns[_keys.UNS])
        donor_key = _data.donor_column(adata, said)
        qc = _data.qc_table(model, adata, donor_key, minified=minified)
        found = _notes.notes(model, said, ranked, held_out, made, qc, minified=minified)
        notes = [worded(note) for note in (*found, *notes)]
        controls = [] if checks is None else _controls.verdicts(checks)
        controls = [(question, worded(verdict)) for question, verdict in controls]
        paragraph, references = _methods.methods(
            model,
            trends,
            None if ranked is None else {str(k): v for k, v in ranked.attrs.items()},
            synthetic,
            sets is not None,
            controls,
        )
        t = _data.positions(adata, trends)
        of_map = _map.cells_map(
            small if joint is None else joint, small, basis,
            _map.columns_of(small, [setup.labels_key, said.get("groupby"), donor_key, setup.batch_key]),
            t, seed,
        )  # fmt: skip
    contents = {
        "title": title or _data.title(model, said),
        "made_on": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        "version": version("scivae-tools"),
        "question": _data.question(model, said, ranked),
        "headline": _data.headline(said, ranked, held_out, made),
        "surest": [] if ranked is None else _data.surest(ranked),
        "notes": [*_controls.failed(controls), *notes],
        "controls": controls,
        "facts": _data.facts(model, adata, donor_key),
        "qc": qc,
        "samples": _data.samples_table(said),
        "training": _data.training_facts(model),
        "held_out": held_out,
        "map": of_map,
        "n_cells": adata.n_obs,
        "n_paths": 0 if paths is None else paths.obs[_keys.PATH].nunique(),
        "table": None if ranked is None else _tables.gene_table(ranked),
        "unit": None if ranked is None else worded(_data.unit_sentence(ranked, said)),
        "shown": names,
        "label": label,
        "trends": said,
        "sets": None if sets is None else _tables.set_table(sets),
        "made": made,
        "sampled": synthetic is not None and _quality.is_sampled(synthetic),
        "figures": {name: figure for name, figure in drawn.items() if figure is not None},
        "methods": paragraph,
        "references": references,
        "parameters": _data.parameters(model, trends, settings),
        "versions": {
            "Python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
            "system": f"{platform.system()} {platform.machine()}",
        },
    }
    return Report(contents, held_out, made, notes, sets)


def _named(
    trends: AnnData | None,
    ranked: pd.DataFrame | None,
    genes: Sequence[str] | None,
    gene_sets: Any,
    symbols: dict[str, str],
) -> tuple[AnnData | None, pd.DataFrame | None, Sequence[str] | None, Any, dict[str, str]]:
    """Results with gene symbols as names (made unique as in anndata), and gene sets with these names."""
    from anndata.utils import make_index_unique

    from .. import tl

    if genes is not None:
        genes = by_symbol("genes", [genes] if isinstance(genes, str) else genes, symbols)
    unique = make_index_unique(pd.Index(list(symbols.values()), dtype=object))
    symbols = dict(zip(symbols, unique.astype(str), strict=True))

    def renamed(names: Any) -> list[str]:
        return [symbols.get(str(name), str(name)) for name in names]

    if trends is not None:
        trends = trends.copy()
        trends.var_names = renamed(trends.var_names)
    if ranked is not None:
        ranked = ranked.assign(id=as_text(ranked.index)).set_axis(renamed(ranked.index))
    if gene_sets is not None:
        own = {symbol: name for name, symbol in symbols.items()}
        net = tl.as_network(gene_sets)
        known = [str(g) if str(g) in symbols else own.get(str(g), str(g)) for g in net["target"]]
        gene_sets = net.assign(target=known).drop_duplicates(["source", "target"])
    return trends, ranked, None if genes is None else renamed(genes), gene_sets, symbols


def _shown_genes(
    trends: AnnData | None, ranked: pd.DataFrame | None, genes: Sequence[str] | None
) -> list[str]:
    """Genes whose curves are drawn: the requested ones, else those with the smallest p-values."""
    if trends is None or ranked is None:
        return []
    if genes is not None:
        names = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
        check_known_genes("genes", names, trends.var_names.astype(str), "the trends")
        return names[:24]
    half = _figures.N_CURVES // 2
    moved = ranked[ranked["shape"] != "flat"] if (ranked["shape"] != "flat").any() else ranked
    rising = list(moved.index[moved["change"] > 0][:half])
    falling = list(moved.index[moved["change"] <= 0][:half])
    chosen = [*rising, *falling]
    chosen += [name for name in moved.index if name not in chosen]
    wanted = set(chosen[: _figures.N_CURVES])
    return [str(name) for name in ranked.index if name in wanted]
