"""Figures of the report, each as an SVG in the page and as a PNG file next to it."""

from __future__ import annotations

import io
import warnings
from base64 import b64encode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from .. import _keys
from ._data import changed

if TYPE_CHECKING:
    from anndata import AnnData

    from ..model import CIVAE
    from ._quality import HeldOut

N_CURVES, N_HEATMAP, N_ORDER, N_SETS = 6, 40, 20, 4
# Resamples for the bands of gene sets.
N_RESAMPLES = 50
DPI = 200


class Figure(NamedTuple):
    """A drawn figure.

    Attributes
    ----------
    name
        Name of its file.
    svg
        The figure, in base64.
    width
        In CSS pixels.
    alt
        Alternative text for screen readers.
    """

    name: str
    svg: str
    width: int
    alt: str


class Drawer:
    """Draws figures one after another, closes each, and skips those that cannot be drawn.

    Parameters
    ----------
    folder
        Folder for PNG files of the figures; ``None`` for no files.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.failed: dict[str, str] = {}

    def __call__(self, name: str, alt: str, draw: Callable[[], Any]) -> Figure | None:
        """The figure that ``draw`` makes; ``None`` if the data do not allow it."""
        import matplotlib.pyplot as plt

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # characters that the font lacks
            try:
                figure = np.ravel(np.asarray(draw(), dtype=object))[0].figure
            except (ValueError, KeyError) as error:
                self.failed[name] = str(error.args[0] if error.args else error)
                return None
            try:
                if self.folder is not None:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    figure.savefig(self.folder / f"{name}.png", dpi=DPI, bbox_inches="tight")
                raw = io.BytesIO()
                figure.savefig(raw, format="svg", bbox_inches="tight", metadata={"Date": None})
                width = figure.get_window_extent().width / figure.dpi * 96
            finally:
                plt.close(figure)
        return Figure(name, b64encode(raw.getvalue()).decode("ascii"), round(1.35 * width), alt)


def of_model(
    draw: Drawer,
    model: CIVAE,
    held_out: HeldOut | None,
    label: str | None,
    symbols: dict[str, str],
) -> dict[str, Figure | None]:
    """Figures of training, of confused classes, and of the genes by which a class is recognized."""
    from .. import pl, tl

    figures = {
        "training": draw("training", "Terms of the objective by epoch", lambda: pl.history(model)),
    }
    if held_out is not None:
        order = [c for c in model.classes.astype(str) if c in {*held_out.true, *held_out.predicted}]
        figures["confusion"] = draw(
            "confusion",
            "Predicted classes of the held-out cells by their true class",
            lambda: pl.confusion(
                pd.Series(held_out.true), pd.Series(held_out.predicted), labels=order
            ),
        )
        if len(model.classes) > 1 and "image" not in model.adata.uns:  # type: ignore[union-attr]
            figures["attribution"] = draw(
                "attribution",
                f"Genes by which the classifier recognizes {label}",
                lambda: pl.attribution(
                    tl.attribute(model, label, max_cells=200, n_steps=20).rename(index=symbols)
                ),
            )
    return figures


def largest_class(model: CIVAE) -> str:
    """Name of the class with most cells."""
    labels = model.adata.obs[model.setup.labels_key].astype(str)  # type: ignore[union-attr]
    return str(labels[labels.isin(model.classes.astype(str))].value_counts().index[0])


def of_paths(
    draw: Drawer, joint: AnnData, paths: AnnData, key: str, groupby: str | None
) -> dict[str, Figure | None]:
    """Paths on the cells of their class, by group, and their margins."""
    from .. import pl

    color = next((k for k in (groupby, key) if k in joint.obs), None)
    return {
        "path": draw(
            "path",
            "Paths on the map of the cells",
            lambda: pl.path(joint, color=color, within=key if key in joint.obs else None),
        ),
        "margin": draw(
            "margin", "Margin of the class along the paths", lambda: pl.class_margin(paths)
        ),
    }


def of_trends(
    draw: Drawer, trends: AnnData, ranked: pd.DataFrame, shown: Sequence[str]
) -> dict[str, Figure | None]:
    """Curves with measured cells, a heatmap, and the order of genes."""
    from .. import pl, tl

    called = list(ranked.index[changed(ranked)])
    figures = {
        "genes": draw(
            "genes",
            f"Expression along the path: {', '.join(shown)}",
            lambda: pl.gene_trends(trends, list(shown), ranked=ranked),
        ),
        "heatmap": draw(
            "heatmap",
            "Genes by position along the path",
            lambda: pl.trend_heatmap(
                trends, ranked.loc[called] if called else ranked, n_genes=N_HEATMAP
            ),
        ),
    }
    if _keys.SWITCHES in trends.varm and bool(trends.var.loc[called, _keys.RESOLVED].any()):
        figures["order"] = draw(
            "order",
            "Which genes change before which",
            lambda: pl.gene_order(tl.gene_order(trends, called), n_genes=N_ORDER),
        )
    return figures


def of_sets(
    draw: Drawer,
    sets: pd.DataFrame,
    gene_sets: Any,
    adata: AnnData | None,
    trends: AnnData,
    layer: str,
) -> dict[str, Figure | None]:
    """Gene sets that rise and fall, and curves of the most significant ones."""
    from .. import pl, tl

    names = [str(name) for name in sets.index[:N_SETS]]

    def curves() -> Any:
        net = tl.as_network(gene_sets)
        net = net[net["source"].astype(str).isin(names)]
        found = tl.set_trends(adata, trends, net, layer=layer, n_bootstraps=N_RESAMPLES)
        return pl.gene_trends(found, names)

    figures = {
        "enrichment": draw("enrichment", "Gene sets that change", lambda: pl.enrichment(sets))
    }
    if adata is not None:
        figures["sets"] = draw("sets", f"Gene sets along the path: {', '.join(names)}", curves)
    return figures


def of_images(draw: Drawer, paths: AnnData, image: Any) -> dict[str, Figure | None]:
    """Decoded images along paths, where genes are pixels."""
    from .. import pl

    shape = tuple(int(i) for i in image["shape"])
    return {
        "images": draw(
            "images",
            "Decoded images along the path",
            lambda: pl.traversal_images(paths, shape=shape),
        )
    }


def of_synthetic(
    draw: Drawer, real: AnnData, synthetic: AnnData, key: str, withheld: np.ndarray | None
) -> dict[str, Figure | None]:
    """Synthetic cells with training cells and held-out cells, in gene space."""
    from .. import pl

    out = np.isin(np.arange(real.n_obs), [] if withheld is None else withheld)

    return {
        "synthetic": draw(
            "synthetic",
            "Synthetic cells among real ones",
            lambda: pl.augmentation(
                real[~out],
                synthetic,
                withheld=real[out] if out.any() else None,
                color=key if key in synthetic.obs else None,
                max_cells=2_000,
            ),
        )
    }
