"""Draws docs/_static/pl_*.png, the figures of functions that no tutorial shows: python docs/pl_figures.py.

The cells are those of the mouse intestine (`SCIVAE_DATA_DIR`), from stem cells to enterocytes; stages in between have
no label in training.
"""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import anndata
import pandas as pd

import scivae

FOLDER = Path(__file__).parent / "_static"
sys.path.insert(0, str(FOLDER.parents[1] / "benchmarks"))
from _common import DOCS, data_file  # noqa: E402

ENDS, BETWEEN = ("1_stem", "5_mature"), ("2_TA", "3_EP", "4_immature")
# Beginnings of the names of genes.
SETS = {
    "ribosomal proteins": r"Rp[ls]\d+[a-z]?$|Rplp",
    "ribosome biogenesis": "Nop|Ncl|Wdr(43|75)|Las1l",
    "mitochondrial ribosome": "Mrp[ls]",
    "respiratory chain": r"Nduf|Cox\d|Sdh|Atp5",
    "DNA replication, mitosis": r"Cenp|Smc\d|Rfc|Lig3|Rpa\d$|Hist1h[12]|Cdca|Kif",
    "splicing": "Srsf|Lsm",
    "RNA helicases": "Ddx|Dhx",
    "zinc finger proteins": "Zfp",
    "solute carriers": "Slc",
    "lipid metabolism": r"Acad|Ehhadh|Ces1|Apo|Abcg|Pla2g|Hsd17|Slc27|Dbi$",
    "interferon-induced": "Ifi|Oasl|Nlrc5",
}


def trends_of_intestine() -> anndata.AnnData:
    """Genes along the paths from stem cells to mature enterocytes."""
    adata = anndata.read_h5ad(data_file("intestine_haber.h5ad"))
    stage = adata.obs["stage"].astype(str)
    adata = adata[stage.isin([*ENDS, *BETWEEN])].copy()
    adata.obs["known"] = stage.where(stage.isin(ENDS), "unknown")
    scivae.model.CIVAE.setup_anndata(adata, labels_key="known", unlabeled_category="unknown")
    model = scivae.model.CIVAE(adata)
    model.train()
    adata.obsm["X_civae"] = model.get_latent_representation()
    pairs = scivae.tl.pair_cells(adata, "stage", *ENDS)
    return scivae.tl.gene_trends(model, pairs, between=list(BETWEEN))


def gene_order(trends: anndata.AnnData):
    """Twelve of the genes that change twofold or more."""
    genes = scivae.tl.rank_genes(trends)
    called = genes.index[(genes["fdr_cells"] < 0.05) & (genes["change"].abs() > 1)]
    return scivae.pl.gene_order(scivae.tl.gene_order(trends, list(called)), n_genes=12)


def enrichment(trends: anndata.AnnData):
    """Families of genes."""
    names = trends.var_names
    sets = {key: [x for x in names if re.match(start, x)] for key, start in SETS.items()}
    return scivae.pl.enrichment(scivae.tl.enrich(trends, sets, min_size=4))


def tradeoff():
    """Five splits of the cells of colorectal cancer, from the table of the evidence."""
    rows = pd.read_csv(DOCS / "tradeoff.csv")
    rows = rows[(rows["data"] == "colon_crc") & (rows["kl_weight"] == 0.1)]
    metrics = ["reconstruction loss, held out", "separability, held out"]
    return scivae.pl.tradeoff(rows, metrics=metrics, chosen=rows["β of 'auto'"].mean())[0]


def main() -> None:
    warnings.simplefilter("ignore")
    trends = trends_of_intestine()
    drawn = {
        "gene_order": gene_order(trends),
        "enrichment": enrichment(trends),
        "tradeoff": tradeoff(),
    }
    for name, ax in drawn.items():
        ax.get_figure().savefig(FOLDER / f"pl_{name}.png", dpi=200)


if __name__ == "__main__":
    main()
