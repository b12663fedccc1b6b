"""The 8 × 8 digits that scikit-learn ships."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._images import describe, from_images
from .registry import DIGITS

if TYPE_CHECKING:
    from anndata import AnnData


def digits() -> AnnData:
    """Handwritten digits of 8 × 8 pixels. No download needed.

    Returns
    -------
    AnnData of 1,797 images × 64 pixels: ``X`` float32 in [0, 1] (the 17 gray values divided by
    16), ``obs["digit"]`` categorical from ``"0"`` to ``"9"``, ``var`` with ``row`` and
    ``column``, ``uns["image"]["shape"]`` (8, 8), ``uns["digits"]`` source and license.

    Raises
    ------
    ValueError
        If the installed scikit-learn has different data.

    Notes
    -----
    Alpaydin and Kaynak, UCI Machine Learning Repository (1998), doi:10.24432/C50P49, test part, as
    loaded by :func:`sklearn.datasets.load_digits`. CC BY 4.0.

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.digits()
    >>> adata.shape, adata.uns["image"]["shape"].tolist()
    ((1797, 64), [8, 8])
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    if bunch.images.shape != (DIGITS.n_cells, 8, 8):
        raise ValueError(
            f"scikit-learn's digits must have the shape ({DIGITS.n_cells}, 8, 8), got "
            f"{bunch.images.shape}; install a scikit-learn release with the complete data."
        )
    adata = from_images(bunch.images, bunch.target, labels_key="digit", max_value=16)
    return describe(
        adata,
        "digits",
        title=DIGITS.title,
        citation=DIGITS.citation,
        licence=DIGITS.licence,
        homepage=DIGITS.homepage,
    )
