"""Normal equations of many genes for one design matrix, with group effects eliminated."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._validate.arguments import check_number

FloatArray = npt.NDArray[np.float64]
# Number of groups from which they are summed without a loop.
_MANY_GROUPS = 50


class NormalEquations(NamedTuple):
    """A design matrix with precomputed column products. Cells are sorted by group.

    Attributes
    ----------
    order
        Indices that sort the cells by group, cells without a group first, shape ``(n_cells,)``.
    x
        Design matrix with cells in this order, shape ``(n_cells, n_columns)``.
    products
        Products of pairs of columns, without those that are zero in every cell, shape ``(n_cells,
        n_products)``.
    pairs
        The two columns of each product, shape ``(2, n_products)``.
    bounds
        First index of each group, and the end. Cells without a group come before the first bound.
    penalty
        Shape ``(n_columns, n_columns)``.
    precision
        One over the variance of the group effects.
    constant
        Least-squares coefficients of a constant 1, shape ``(n_columns,)``.
    """

    order: npt.NDArray[np.intp]
    x: FloatArray
    products: FloatArray
    pairs: npt.NDArray[np.intp]
    bounds: npt.NDArray[np.intp]
    penalty: FloatArray
    precision: float
    constant: FloatArray

    @classmethod
    def of(
        cls, x: FloatArray, group: Any, precision: float, penalty: npt.ArrayLike | None
    ) -> NormalEquations:
        """Precompute column products of ``x``, shape ``(n_cells, n_columns)``."""
        n, p = x.shape
        square = np.zeros((p, p)) if penalty is None else np.asarray(penalty, dtype=np.float64)
        if square.shape != (p, p) or not np.isfinite(square).all():
            raise ValueError(
                f"penalty must be a finite matrix of shape {(p, p)}, got shape {square.shape}; "
                "pass one row and one column for each column of the design."
            )
        precision = check_number("group_precision", precision, minimum=0)
        if group is None:
            order, bounds = np.arange(n), np.array([0])
        else:
            code = np.asarray(group)
            if code.shape != (n,) or code.dtype.kind not in "iu":
                raise ValueError(
                    f"group must hold an integer for each of {n} cells, got shape {code.shape} and "
                    f"dtype {code.dtype}; convert names with pandas.factorize."
                )
            if not precision:
                raise ValueError(
                    "group_precision must be positive if groups are given, got 0; pass one over "
                    "the variance of the group effects."
                )
            code = np.maximum(code, -1)
            order = np.argsort(code, kind="stable")
            bounds = np.searchsorted(code[order], np.arange(code.max(initial=-1) + 2))
        ordered = np.ascontiguousarray(x[order])
        i, j = pairs_of_columns(ordered)
        constant: FloatArray = np.linalg.lstsq(ordered, np.ones(n), rcond=None)[0].astype(
            np.float64
        )
        products = ordered[:, i] * ordered[:, j]
        pairs = np.stack([i, j])
        return cls(order, ordered, products, pairs, bounds, square, precision, constant)

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.bounds) - 1

    def predict(self, b: FloatArray, u: FloatArray) -> FloatArray:
        """Linear predictor, shape ``(n_genes, n_cells)``."""
        eta = b @ self.x.T
        if self.n_groups:
            eta[:, self.bounds[0] :] += np.repeat(u, np.diff(self.bounds), axis=1)
        return eta

    def solve(
        self, weights: FloatArray, residual: FloatArray, b: FloatArray, u: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """One Newton or Fisher scoring step from coefficients ``b`` and group effects ``u``.

        Parameters
        ----------
        weights
            Weight of each cell in the equations, shape ``(n_genes, n_cells)``.
        residual
            Derivative of the log likelihood with respect to the linear predictor, shape ``(n_genes,
            n_cells)``.
        b, u
            Shapes ``(n_genes, n_columns)`` and ``(n_genes, n_groups)``.

        Returns
        -------
        Step of ``b``, step of ``u``, predicted gain in log likelihood (to second order), and
        effective degrees of freedom.
        """
        p, n_groups = self.x.shape[1], self.n_groups
        packed = weights @ self.products  # (n_genes, n_products)
        i, j = self.pairs
        data = np.zeros((len(b), p, p))
        data[:, i, j] = data[:, j, i] = packed
        score = residual @ self.x - b @ self.penalty
        matrix = data + self.penalty
        # The small ridge keeps the coefficient of a column unchanged if no cell with weight has it.
        scale = np.einsum("gii->gi", matrix).max(axis=1)
        matrix[:, np.arange(p), np.arange(p)] += 1e-12 * scale[:, None]
        if not n_groups:
            inverse = np.linalg.inv(matrix)
            step = np.einsum("gij,gj->gi", inverse, score)
            gain = 0.5 * (step * score).sum(axis=1)
            return step, u, gain, np.einsum("gij,gji->g", inverse, data)
        cross, own, score_u = self._by_group(weights, residual)
        score_u -= self.precision * u
        total = own + self.precision
        shared = cross / total[:, :, None]  # (n_genes, n_groups, p)
        inverse = np.linalg.inv(matrix - np.einsum("gki,gkj->gij", cross, shared))
        step = np.einsum("gij,gj->gi", inverse, score - np.einsum("gki,gk->gi", shared, score_u))
        step_u = score_u / total - np.einsum("gki,gi->gk", shared, step)
        gain = 0.5 * ((step * score).sum(axis=1) + (step_u * score_u).sum(axis=1))
        # trace((H + P)⁻¹ H) = n_columns + n_groups − trace((H + P)⁻¹ P), P the penalties
        penalized = np.einsum("gij,ji->g", inverse, self.penalty)
        spread = np.einsum("gki,gij,gkj->gk", shared, inverse, shared)
        of_groups = self.precision * (1 / total + spread).sum(axis=1)
        return step, step_u, gain, p + n_groups - penalized - of_groups

    def _by_group(
        self, weights: FloatArray, residual: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Sums over the cells of each group: weights × columns, weights, and residuals.

        Shapes ``(n_genes, n_groups, n_columns)``, ``(n_genes, n_groups)`` twice.
        """
        n_genes, p, n_groups = len(weights), self.x.shape[1], self.n_groups
        # With many groups, a loop over them, for every block of genes, would take most of the time.
        if n_groups > _MANY_GROUPS:
            cells = slice(self.bounds[0], None)
            starts = self.bounds[:-1]
            filled = np.flatnonzero(np.diff(self.bounds))
            cross, own, score_u = (np.zeros((n_genes, n_groups, k)) for k in (p, 1, 1))
            at = starts[filled] - self.bounds[0]
            for j in range(p):
                products = weights[:, cells] * self.x[cells, j]
                cross[:, filled, j] = np.add.reduceat(products, at, axis=1)
            own[:, filled, 0] = np.add.reduceat(weights[:, cells], at, axis=1)
            score_u[:, filled, 0] = np.add.reduceat(residual[:, cells], at, axis=1)
            return cross, own[..., 0], score_u[..., 0]
        cross = np.empty((n_genes, n_groups, p))
        own, score_u = np.empty((2, n_genes, n_groups))
        for k in range(n_groups):
            group = slice(self.bounds[k], self.bounds[k + 1])
            cross[:, k] = weights[:, group] @ self.x[group]
            own[:, k] = weights[:, group].sum(axis=1)
            score_u[:, k] = residual[:, group].sum(axis=1)
        return cross, own, score_u

    def solve_all(self, weights: FloatArray, weighted: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Solve for coefficients and group effects of genes that share the weights of cells.

        Parameters
        ----------
        weights
            Shape ``(n_cells,)``.
        weighted
            Values times weights, shape ``(n_genes, n_cells)``.
        """
        p, n_groups = self.x.shape[1], self.n_groups
        member = np.zeros((len(weights), n_groups))
        for k in range(n_groups):
            member[self.bounds[k] : self.bounds[k + 1], k] = 1
        whole = np.hstack([self.x, member])
        matrix = (whole * weights[:, None]).T @ whole
        matrix[:p, :p] += self.penalty
        matrix[range(p, p + n_groups), range(p, p + n_groups)] += self.precision
        matrix[np.diag_indices(p)] += 1e-12 * np.abs(matrix).max()
        found = np.asarray(np.linalg.solve(matrix, (weighted @ whole).T).T, dtype=np.float64)
        return found[:, :p], found[:, p:]

    def largest(self, step_b: FloatArray, step_u: FloatArray) -> FloatArray:
        """Upper bound of the change of the linear predictor in a step, shape ``(n_genes,)``."""
        of_b = np.abs(step_b @ self.x.T).max(axis=1)
        return of_b + np.abs(step_u).max(axis=1, initial=0)


def pairs_of_columns(x: FloatArray) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Pairs of columns (i ≤ j) that are both nonzero in at least one cell.

    A B-spline overlaps only with its neighbors, which saves half of the products.
    """
    nonzero = (x != 0).astype(np.float32)
    i, j = np.nonzero(np.triu(nonzero.T @ nonzero > 0))
    return i, j
