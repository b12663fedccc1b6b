"""Dimension reduction for figures and maps: UMAP, t-SNE, PCA."""

from __future__ import annotations

from typing import Literal

import numpy as np

from .._validate.arguments import check_choice, check_integer

Method = Literal["umap", "tsne", "pca"]
METHODS = ("umap", "tsne", "pca")


def embed_points(x: np.ndarray, method: str, n_components: int, seed: int) -> np.ndarray:
    """Embed points in two or three dimensions.

    Parameters
    ----------
    x
        Shape ``(n, d)``.
    method
        One of :data:`METHODS`.
    n_components
        2 or 3.
    seed
        Random seed. The global random state is neither read nor changed.

    Returns
    -------
    Shape ``(n, n_components)``.
    """
    check_method(method, n_components)
    if len(x) <= 3:
        raise ValueError(f"an embedding must have more than three cells, got {len(x)}; pass more.")
    if method == "pca" or x.shape[1] <= n_components:
        return principal_components(x, x, n_components)
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(x) - 1) / 3)
        return TSNE(
            n_components, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1
        ).fit_transform(np.asarray(x, dtype=np.float32))
    from umap import UMAP

    return UMAP(
        n_components=n_components,
        n_neighbors=min(15, len(x) - 1),
        random_state=seed,
        n_jobs=1,
    ).fit_transform(np.asarray(x, dtype=np.float32))


def check_method(method: str, n_components: int) -> None:
    """Raise a ValueError unless the method and the number of components are valid."""
    check_choice("method", method, METHODS)
    check_integer("n_components", n_components, minimum=1)
    check_choice("n_components", n_components, (2, 3))


def principal_components(fitted: np.ndarray, x: np.ndarray, n: int) -> np.ndarray:
    """Scores of ``x`` on up to ``n`` principal components of ``fitted``, shape ``(len(x), n)``."""
    from sklearn.decomposition import PCA

    n = min(n, *fitted.shape)
    return PCA(n, svd_solver="full" if min(fitted.shape) < 500 else "randomized", random_state=0).fit(
        fitted
    ).transform(x)  # fmt: skip


def some_of(n: int, most: int, seed: int) -> np.ndarray:
    """Sorted indices of a random subset of at most ``most`` of n cells."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, size=most, replace=False))
