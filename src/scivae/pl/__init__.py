"""Figures. Each function takes ``ax``, returns the Axes, and does not change its input."""

from __future__ import annotations

from ._animation import animate
from ._attribution import attribution
from ._confusion import confusion
from ._enrichment import enrichment
from ._history import history
from ._images import reconstruction, traversal_images
from ._latent import augmentation, latent
from ._margin import class_margin
from ._order import gene_order
from ._path import path
from ._style import category_colors as category_colors
from ._tradeoff import tradeoff
from ._trends import gene_trends, trend_heatmap

__all__ = [
    "animate",
    "attribution",
    "augmentation",
    "class_margin",
    "confusion",
    "enrichment",
    "gene_order",
    "gene_trends",
    "history",
    "latent",
    "path",
    "reconstruction",
    "tradeoff",
    "traversal_images",
    "trend_heatmap",
]
