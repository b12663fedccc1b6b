"""Weighted least squares of many genes on one design, with effects of groups eliminated."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._validate.arguments import check_number

FloatArray = npt.NDArray[np.float64]


class NormalEquations(NamedTuple):
    """A design whose products are known. Cells are in the order of their groups.

    Attributes
    ----------
    order
        Cells by group, those of none first, shape ``(n_cells,)``.
    x
        Design in that order, shape ``(n_cells, n_columns)``.
    products
        Products of two columns that are not zero in every cell, shape ``(n_cells, n_products)``.
    pairs
        Which two columns, shape ``(2, n_products)``.
    bounds
        Where cells of each group begin and end; those of none lie before the first.
    penalty
        Shape ``(n_columns, n_columns)``.
    precision
        Of the effects of groups.
    constant
        Coefficients that make the design equal to one, as nearly as may be, shape ``(n_columns,)``.
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
        """Products of the columns of ``x``, shape ``(n_cells, n_columns)``."""
        n, p = x.shape
        square = np.zeros((p, p)) if penalty is None else np.asarray(penalty, dtype=np.float64)
        if square.shape != (p, p) or not np.isfinite(square).all():
            raise ValueError(
                f"penalty must be a finite matrix of shape {(p, p)}, got shape {square.shape}."
            )
        precision = check_number("group_precision", precision, minimum=0)
        if group is None:
            order, bounds = np.arange(n), np.array([0])
        else:
            code = np.asarray(group)
            if code.shape != (n,) or code.dtype.kind not in "iu":
                raise ValueError(
                    f"group must hold an integer for each of {n} cells, got shape {code.shape} of "
                    f"dtype {code.dtype}."
                )
            if not precision:
                raise ValueError("group_precision must be positive where there are groups, got 0.")
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
        for k in range(self.n_groups):
            eta[:, self.bounds[k] : self.bounds[k + 1]] += u[:, k, None]
        return eta

    def solve(
        self, weights: FloatArray, residual: FloatArray, b: FloatArray, u: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """One step of Newton or Fisher from the coefficients ``b`` and the effects ``u``.

        Parameters
        ----------
        weights
            Of each cell in the equations, shape ``(n_genes, n_cells)``.
        residual
            Derivative of the log likelihood by the linear predictor, shape ``(n_genes, n_cells)``.
        b, u
            Shapes ``(n_genes, n_columns)`` and ``(n_genes, n_groups)``.

        Returns
        -------
        Step of ``b``, step of ``u``, what the step gains in log likelihood (to second order), and the
        effective degrees of freedom.
        """
        p, n_groups = self.x.shape[1], self.n_groups
        packed = weights @ self.products  # (n_genes, n_products)
        i, j = self.pairs
        data = np.zeros((len(b), p, p))
        data[:, i, j] = data[:, j, i] = packed
        score = residual @ self.x - b @ self.penalty
        matrix = data + self.penalty
        # A column that no cell of weight has stays where it is.
        scale = np.einsum("gii->gi", matrix).max(axis=1)
        matrix[:, np.arange(p), np.arange(p)] += 1e-12 * scale[:, None]
        if not n_groups:
            inverse = np.linalg.inv(matrix)
            step = np.einsum("gij,gj->gi", inverse, score)
            gain = 0.5 * (step * score).sum(axis=1)
            return step, u, gain, np.einsum("gij,gji->g", inverse, data)
        cross = np.empty((len(b), n_groups, p))
        own = np.empty((len(b), n_groups))
        score_u = np.empty((len(b), n_groups))
        for k in range(n_groups):
            cells = slice(self.bounds[k], self.bounds[k + 1])
            cross[:, k] = weights[:, cells] @ self.x[cells]
            own[:, k] = weights[:, cells].sum(axis=1)
            score_u[:, k] = residual[:, cells].sum(axis=1)
        score_u -= self.precision * u
        total = own + self.precision
        shared = cross / total[:, :, None]  # (n_genes, n_groups, p)
        inverse = np.linalg.inv(matrix - np.einsum("gki,gkj->gij", cross, shared))
        step = np.einsum("gij,gj->gi", inverse, score - np.einsum("gki,gk->gi", shared, score_u))
        step_u = score_u / total - np.einsum("gki,gi->gk", shared, step)
        gain = 0.5 * ((step * score).sum(axis=1) + (step_u * score_u).sum(axis=1))
        # trace of (H + penalties)⁻¹ H, H without penalties, as n_columns + n_groups less the penalties'
        penalized = np.einsum("gij,ji->g", inverse, self.penalty)
        spread = np.einsum("gki,gij,gkj->gk", shared, inverse, shared)
        of_groups = self.precision * (1 / total + spread).sum(axis=1)
        return step, step_u, gain, p + n_groups - penalized - of_groups

    def solve_all(self, weights: FloatArray, weighted: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Coefficients and effects of genes that share the weights of cells.

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
        """A bound of what a step changes in the linear predictor, shape ``(n_genes,)``."""
        of_b = np.abs(step_b @ self.x.T).max(axis=1)
        return of_b + np.abs(step_u).max(axis=1, initial=0)


def pairs_of_columns(x: FloatArray) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Pairs of columns, the second not before the first, that share a cell where none is zero.

    B-splines overlap only with their neighbors, which saves half of the products.
    """
    nonzero = (x != 0).astype(np.float32)
    i, j = np.nonzero(np.triu(nonzero.T @ nonzero > 0))
    return i, j
