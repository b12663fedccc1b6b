"""Draws docs/_static/readme.png and readme.gif: python docs/readme_figure.py."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import scanpy as sc

import scivae

FOLDER = Path(__file__).parent / "_static"
SOURCE, TARGET = "CD14+ Monocyte", "Dendritic"
COLORS = {SOURCE: "#E69F00", TARGET: "#0072B2"}
# Known markers of the two types.
GENES = {"monocyte": ["FCGR3A", "FCN1"], "dendritic cell": ["FCER1A", "HLA-DQA1"]}


def computed() -> tuple:
    """Cells and paths on a UMAP, and curves of genes."""
    adata = scivae.datasets.pbmc()
    scivae.model.CIVAE.setup_anndata(adata)
    model = scivae.model.CIVAE(adata)
    model.train()
    adata.obsm["X_civae"] = model.get_latent_representation()
    sc.pp.neighbors(adata, use_rep="X_civae")
    sc.tl.umap(adata)
    pairs = scivae.tl.pair_cells(adata, "cell_type", SOURCE, TARGET)
    trends = scivae.tl.gene_trends(model, pairs)
    paths = model.interpolate(pairs["source"][:40], pairs["target"][:40], n_steps=20)
    types = adata.obs["cell_type"].cat.categories
    adata.uns["cell_type_colors"] = [COLORS.get(name, "#BDBDBD") for name in types]
    return scivae.tl.embed(adata, paths), trends


def draw(joint, trends) -> plt.Figure:
    """Map at the left, markers of both types at the right."""
    figure = plt.figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.1, 1], wspace=0.04)
    left.suptitle("Paths from monocytes to dendritic cells", fontweight="bold")
    right.suptitle("Genes in measured cells along these paths", fontweight="bold")
    ax = scivae.pl.path(
        joint, color="cell_type", paths=list(range(7)), zoom=True, size=40, ax=left.subplots()
    )
    ax.spines[["top", "right"]].set_visible(False)
    emphasize(ax)
    bar = left.axes[-1]
    bar.set_yticks([0, 1], ["monocyte", "dendritic\ncell"])
    bar.set_ylabel("")

    axes = right.subplots(2, 2, sharex=True)
    genes = [gene for names in GENES.values() for gene in names]
    scivae.pl.gene_trends(trends, genes, decoded=False, ax=axes)
    kinds = [kind for kind, names in GENES.items() for _ in names]
    for one, kind in zip(axes.ravel(), kinds, strict=True):
        one.set_title(f"marker of {kind}s", loc="right", fontsize="x-small", color="0.4")
        one.title.set_fontsize("medium")
        one.spines[["top", "right"]].set_visible(False)
        one.set_ylabel(one.get_ylabel() and "log1p of mean\ncounts per 10,000")
    for one in axes[1]:
        one.set_xlabel("")
        one.set_xticks([0, 1], ["monocyte", "dendritic cell"])
        for label, side in zip(one.get_xticklabels(), ("left", "right"), strict=True):
            label.set_horizontalalignment(side)
    axes[0, 0].get_legend().set_loc("lower left")
    return figure


def emphasize(ax) -> None:
    """Larger names of types."""
    for text in ax.texts:
        if text.get_text() in COLORS:
            text.set(fontsize="medium", fontweight="bold")


def main() -> None:
    joint, trends = computed()
    draw(joint, trends).savefig(FOLDER / "readme.png", dpi=160)
    scivae.pl.animate(
        joint,
        basis="umap",
        paths=None,
        color="cell_type",
        trends=trends,
        genes=[gene for names in GENES.values() for gene in names],
        filename=FOLDER / "readme.gif",
    )


if __name__ == "__main__":
    main()
