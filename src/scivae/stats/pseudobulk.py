"""Pseudobulk sums, size factors, and log counts per million."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

# Prior count, added before the log in a sample of average library size (as in limma and edgeR).
PRIOR_COUNT = 2.0


def sum_by(values: Any, codes: np.ndarray, n: int) -> np.ndarray:
    """Sum rows by code.

    Parameters
    ----------
    values
        Dense or sparse, shape ``(n_rows, n_columns)``.
    codes
        Code of each row, from 0 to ``n - 1``. Rows with code -1 are left out.
    n
        Number of codes.

    Returns
    -------
    Shape ``(n, n_columns)``, float64.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import sum_by
    >>> sum_by(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([1, 0, 1]), 2)
    array([[3., 4.],
           [6., 8.]])
    """
    out = _summed(values, codes, n)
    return out.toarray() if hasattr(out, "toarray") else np.asarray(out)


def _summed(values: Any, codes: np.ndarray, n: int) -> Any:
    """The sums of :func:`sum_by`, sparse if the values are."""
    from scipy import sparse

    rows = np.flatnonzero(codes >= 0)
    shape = (n, len(codes))
    members = sparse.csr_matrix((np.ones(len(rows)), (codes[rows], rows)), shape=shape)
    return members @ values


class SampleSums(NamedTuple):
    """Sums over the cells of each sample. Sums of several blocks of cells can be added.

    Attributes
    ----------
    values
        Sum of the values, shape ``(n_samples, n_genes)``.
    squares
        Sum of the squared values.
    crossed
        Sum of value × size of the cell.
    size, size_squared
        Sums of the cell sizes and of the squared cell sizes, shape ``(n_samples, 1)``.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import SampleSums
    >>> sums = SampleSums.of(np.array([[1.0], [3.0]]), np.array([0, 0]), 1, np.array([4.0, 4.0]))
    >>> sums.variance
    array([[2.]])
    """

    values: np.ndarray
    squares: np.ndarray
    crossed: np.ndarray
    size: np.ndarray
    size_squared: np.ndarray

    @classmethod
    def of(cls, values: Any, codes: np.ndarray, n: int, size: np.ndarray) -> SampleSums:
        """Sum over the cells of each sample.

        Parameters
        ----------
        values
            Dense or sparse, shape ``(n_cells, n_genes)``.
        codes
            Sample of each cell as a code from 0 to ``n - 1``; -1 for cells without a sample.
        n
            Number of samples.
        size
            Total counts of each cell, or ones if the values are not counts. Shape ``(n_cells,)``.
            The expected value of a gene is proportional to it.
        """
        sums = cls(*(np.zeros((n, k)) for k in (*3 * (np.shape(values)[1],), 1, 1)))
        sums.add(values, codes, size)
        return sums

    def add(self, values: Any, codes: np.ndarray, size: np.ndarray) -> None:
        """Add a block of cells in place, in time proportional to its values, however many samples there are.

        Parameters
        ----------
        values, codes, size
            As for :meth:`of`.
        """
        from scipy import sparse

        if sparse.issparse(values):
            values = sparse.csr_array(values, dtype=np.float64)
            squares, crossed = values.power(2), sparse.diags_array(size) @ values
        else:
            values = np.asarray(values, dtype=np.float64)
            squares, crossed = values**2, values * size[:, None]
        parts = (values, squares, crossed, size[:, None], size[:, None] ** 2)
        for total, part in zip(self, parts, strict=True):
            sums = _summed(part, codes, len(total))
            if sparse.issparse(sums):
                sums = sums.tocoo()
                total[sums.row, sums.col] += sums.data  # a product holds each entry once
            else:
                total += sums

    def plus(self, other: SampleSums) -> SampleSums:
        """Add the sums of another block of cells.

        Parameters
        ----------
        other
            Sums of other cells, of the same genes and samples.
        """
        return SampleSums(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def variance(self) -> np.ndarray:
        """Variance of the sums due to sampling cells, shape ``(n_samples, n_genes)``.

        The sum of squared differences between each cell and its expected value, which is
        proportional to its size.
        """
        rate = self.values / np.maximum(self.size, 1e-300)
        out = self.squares - 2 * rate * self.crossed + rate**2 * self.size_squared
        return np.maximum(out, 0)


def size_factors(counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Size factor of each sample: median ratio of its counts to the geometric mean over samples.

    Parameters
    ----------
    counts
        Shape ``(n_samples, n_genes)``.
    totals
        Total counts of each sample, shape ``(n_samples,)``. They are used instead of the ratios if
        fewer than 20 genes have counts in every sample.

    Returns
    -------
    Shape ``(n_samples,)``, with geometric mean 1.

    References
    ----------
    Anders and Huber, "Differential expression analysis for sequence count data", Genome Biology 11
    (2010).

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import size_factors
    >>> counts = np.outer([1, 2, 4], np.arange(1, 31))
    >>> size_factors(counts, counts.sum(axis=1))
    array([0.5, 1. , 2. ])
    """
    present = (counts > 0).all(axis=0)
    if present.sum() >= 20:
        log = np.log(counts[:, present])
        factors = np.exp(np.median(log - log.mean(axis=0), axis=1))
    else:
        factors = np.maximum(totals, 1.0)
    return factors / np.exp(np.log(factors).mean())


def log_cpm(counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """log2 counts per million, corrected for composition, with a prior count of 2.

    Parameters
    ----------
    counts
        Shape ``(n_samples, n_genes)``.
    totals
        Total counts of each sample, shape ``(n_samples,)``.

    Returns
    -------
    Shape ``(n_samples, n_genes)``. The prior count is proportional to the size of a sample, so a
    gene without counts has the same value in all samples.

    References
    ----------
    Robinson, McCarthy and Smyth, "edgeR: a Bioconductor package for differential expression analysis
    of digital gene expression data", Bioinformatics 26 (2010).

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.stats import log_cpm
    >>> log_cpm(np.array([[0.0, 10.0], [0.0, 20.0]]), np.array([1e6, 2e6])).round(2)
    array([[0.42, 3.5 ],
           [0.42, 3.5 ]])
    """
    factors = size_factors(counts, totals)
    size = factors * np.exp(np.log(np.maximum(totals, 1.0)).mean())
    prior = prior_count(size)
    return np.log2((counts + prior[:, None]) / (size + 2 * prior)[:, None] * 1e6)


def prior_count(size: np.ndarray) -> np.ndarray:
    """Prior count of each sample, proportional to its size, with mean 2."""
    return PRIOR_COUNT * size / size.mean()
