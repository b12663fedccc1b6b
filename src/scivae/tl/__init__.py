"""Functions on AnnData: pairs of cells from two groups, gene trends, real and generated cells together."""

from __future__ import annotations

from ._attribution import attribute
from ._checks import check_paths
from ._compare import compare_trends
from ._conditions import predict_condition
from ._describe import describe
from ._embed import embed
from ._enrichment import enrich
from ._gene_sets import as_network as as_network
from ._gene_sets import read_gene_sets as read_gene_sets
from ._gene_sets import set_trends
from ._genes import rank_genes
from ._order import GeneOrder, gene_order
from ._pairs import pair_cells
from ._project import project
from ._trends import curve_layers as curve_layers
from ._trends import gene_trends

__all__ = [
    "GeneOrder",
    "attribute",
    "check_paths",
    "compare_trends",
    "describe",
    "embed",
    "enrich",
    "gene_order",
    "gene_trends",
    "pair_cells",
    "predict_condition",
    "project",
    "rank_genes",
    "set_trends",
]
