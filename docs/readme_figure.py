"""Draws docs/_static/readme.png: python docs/readme_figure.py."""

from pathlib import Path

import matplotlib.pyplot as plt
import scanpy as sc

import scivae

GENES = ["CST3", "HLA-DPA1", "S100A8", "FCN1"]


def main() -> None:
    adata = scivae.datasets.pbmc()
    scivae.model.CIVAE.setup_anndata(adata)
    model = scivae.model.CIVAE(adata)
    model.train()
    adata.obsm["X_civae"] = model.get_latent_representation()
    sc.pp.neighbors(adata, use_rep="X_civae")
    sc.tl.umap(adata)
    pairs = scivae.tl.pair_cells(adata, "cell_type", "CD14+ Monocyte", "Dendritic")
    trends = scivae.tl.gene_trends(model, pairs)
    paths = model.interpolate(pairs["source"][:40], pairs["target"][:40], n_steps=20)
    joint = scivae.tl.embed(adata, paths)
    figure = plt.figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.15, 1], wspace=0.04)
    umap = scivae.pl.path(joint, color="cell_type", zoom=False, ax=left.subplots())
    umap.margins(0.1)
    axes = right.subplots(2, 2, sharex=True)
    scivae.pl.gene_trends(trends, GENES, decoded=False, ax=axes)
    for ax in axes[1]:
        ax.set_xlabel("monocyte (0) to dendritic cell (1)", fontsize="small")
    figure.savefig(Path(__file__).parent / "_static" / "readme.png", dpi=160)


if __name__ == "__main__":
    main()
