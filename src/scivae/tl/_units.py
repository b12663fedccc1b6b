"""Whether donors or cells are the units of a comparison, and the tests of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _keys
from .._display import counted
from ..stats.donors import (
    MIN_DONORS,
    DonorDesign,
    DonorTest,
    differences_of_donors,
    donor_design,
    donor_test,
    on_log_scale,
    sampling_variance,
    testable,
)
from ..stats.permutation import MIN_ASSIGNMENTS, Evidence, design, permutation_test
from ._samples import BETWEEN, GROUPS, SOURCE, TARGET

if TYPE_CHECKING:
    from anndata import AnnData

DONORS, CELLS = "donors", "cells"
NO_DONORS = "one sample per group, as no donors are given; cells are permuted"


class Unit(NamedTuple):
    """The unit of a test, with texts for the reader.

    Attributes
    ----------
    name
        ``"donors"`` or ``"cells"``.
    text
        Number of units, and the test; for cells, how many donors there are and how many are needed.
    note
        Limits of the p-values; empty if all donors are used.
    """

    name: str
    text: str
    note: str


class MeasuredSamples(NamedTuple):
    """Sums of counts, or means of other values, of each donor and group.

    Attributes
    ----------
    values
        Shape ``(n_samples, n_genes)``.
    variance
        Sampling variance of these values from the finite number of cells; ``None`` if unknown.
    totals
        Counts of each sample over all genes; ``None`` if the values are not counts.
    donor
        Code of the donor of each sample.
    group
        Code of the group.
    n_cells
        Cells of each sample.
    named
        Whether donors are known; otherwise each group is one sample.
    left_out
        Donors with a sample of too few cells.
    """

    values: np.ndarray
    variance: np.ndarray | None
    totals: np.ndarray | None
    donor: np.ndarray
    group: np.ndarray
    n_cells: np.ndarray
    named: bool
    left_out: list[str]

    def contrast(self, source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions of the samples of two groups, their donors, and which belong to the second."""
        rows = np.flatnonzero(np.isin(self.group, (source, target)))
        return rows, self.donor[rows], self.group[rows] == target

    def design(self, source: int = SOURCE, target: int = TARGET) -> DonorDesign:
        """The design that compares donors of two groups; its positions refer to all samples."""
        rows, donor, is_target = self.contrast(source, target)
        found = donor_design(donor, is_target)
        return found._replace(samples=rows[found.samples])

    def enough(self, source: int = SOURCE, target: int = TARGET) -> bool:
        """Whether there are enough donors for a test."""
        return self.named and self.design(source, target).kind != "too few"

    def test(self, method: str, source: int = SOURCE, target: int = TARGET) -> DonorTest:
        """Test the difference of two groups between donors."""
        rows, donor, is_target = self.contrast(source, target)
        totals = None if self.totals is None else self.totals[rows]
        variance = None if self.variance is None else self.variance[rows]
        return donor_test(
            self.values[rows], totals, donor, is_target, method=method, cell_variance=variance
        )

    def sampling(self, plan: DonorDesign) -> np.ndarray | None:
        """Sampling variance of each value of the samples of a design, on the scale of the moderated test."""
        return sampling_variance(self.values, self.totals, self.variance, plan)

    def testable(self, plan: DonorDesign) -> np.ndarray:
        """Which genes are tested between the donors of a design."""
        return testable(self.values, self.totals, plan)

    def on_log_scale(self, plan: DonorDesign) -> np.ndarray:
        """Values of the samples of a design, on the scale of the moderated test."""
        return on_log_scale(self.values[plan.samples], self.totals, plan)

    def differences(self) -> np.ndarray:
        """Target minus source for donors with both, on the scale of the test; ``(n_donors, n_genes)``."""
        if not self.named:
            return np.empty((0, self.values.shape[1]))
        plan = self.design()
        return differences_of_donors(self.on_log_scale(plan), plan)

    def observed(self) -> np.ndarray:
        """Target minus source, mean over donors; for counts, of log2(1 + counts per 10,000)."""
        values = self.values
        if self.totals is not None:
            values = np.log2(1 + 1e4 * values / np.maximum(self.totals, 1)[:, None])
        plan = self.design()
        target, source = (values[plan.samples[plan.target == side]] for side in (True, False))
        if not (len(target) and len(source)):  # each sample has too few cells
            return np.full(values.shape[1], np.nan)
        return target.mean(axis=0) - source.mean(axis=0)


def samples_of(trends: AnnData, *, counts: bool, min_cells: int) -> MeasuredSamples:
    """The sums stored in trends, without samples of too few cells.

    Raises a ValueError if there are none because the AnnData was minified.
    """
    said = trends.uns[_keys.UNS].get("samples")
    values = trends.varm.get(_keys.SAMPLES)
    if said is None or values is None or not len(said) or np.shape(values)[1] != len(said):
        raise ValueError(
            f"measured cells are needed, but trends.varm[{_keys.SAMPLES!r}] has none (a minified "
            "AnnData keeps no measured values); calculate the trends again with adata= the cells "
            "and their values."
        )
    names = said["donor"].astype(str).to_numpy()
    named = bool((names != "").any())
    n_cells = said["n_cells"].to_numpy()
    group = np.array([GROUPS.index(str(name)) for name in said["group"]])
    kept = (n_cells >= min_cells) | (not named)
    left_out = sorted(set(names[~kept]))
    variance = trends.varm.get(_keys.SAMPLES_VARIANCE)
    return MeasuredSamples(
        np.asarray(values, dtype=float).T[kept],
        None if variance is None else np.asarray(variance, dtype=float).T[kept],
        said["total"].to_numpy(dtype=float)[kept] if counts else None,
        np.unique(names, return_inverse=True)[1][kept],
        group[kept],
        n_cells[kept],
        named,
        left_out,
    )


def unit_of(samples: MeasuredSamples, candidate: str | None, method: str, min_cells: int) -> Unit:
    """The unit of a comparison of source and target."""
    few = (
        f"; donors with a sample of fewer than {min_cells} cells are left out there: "
        f"{', '.join(samples.left_out[:6])}"
        if samples.left_out
        else ""
    )
    if not samples.named:
        cure = f"; pass donor_key={candidate!r} for donors" if candidate else ""
        return Unit(
            CELLS, NO_DONORS, f"p-values hold for these samples, not for other donors{cure}"
        )
    rows, donor, is_target = samples.contrast(SOURCE, TARGET)
    first, second = (np.unique(donor[is_target == side]) for side in (False, True))
    both = len(np.intersect1d(first, second))
    plan = donor_design(donor, is_target)
    how = {"moderated": "moderated t-test", "deseq2": "negative binomial test, PyDESeq2"}[method]
    if plan.kind == "paired":
        one_sided = len(np.union1d(first, second)) - both
        note = f"{one_sided} donors with one group only are left out" if one_sided else ""
        return Unit(
            DONORS, f"{both} donors with both groups, paired {how}", (note + few).lstrip("; ")
        )
    if plan.kind == "unpaired":
        text = f"{len(first)} donors with source against {len(second)} with target, {how}"
        return Unit(DONORS, text, few.lstrip("; "))
    return Unit(
        CELLS,
        f"{counted(len(first), 'donor')} with source and {len(second)} with target, {MIN_DONORS} of each are "
        "needed; cells are permuted instead",
        f"p-values hold for these samples, not for other donors{few}",
    )


class MeasuredCells(NamedTuple):
    """Single cells of the groups.

    Attributes
    ----------
    values
        Dense or CSR, shape ``(n_genes, n_cells)``.
    group
        Code of the group of each cell.
    donor
        Strata within which cells are permuted.
    """

    values: Any
    group: np.ndarray
    donor: np.ndarray

    def pair(self, source: int, target: int) -> tuple[Any, np.ndarray, np.ndarray]:
        """Values of the cells of two groups, which belong to the second, and their strata."""
        cells = np.flatnonzero(np.isin(self.group, (source, target)))
        is_target = self.group[cells] == target
        donor = self.donor[cells]
        # Cells of donors with one group cannot be permuted within the donor: they are one stratum.
        if not design(is_target, donor).strata:
            donor = np.zeros_like(donor)
        return self.values[:, cells], is_target, donor

    def enough(self, source: int = SOURCE, target: int = TARGET) -> bool:
        """Whether cells can be assigned to two groups in enough ways for a permutation test."""
        _, is_target, donor = self.pair(source, target)
        plan = design(is_target, donor)
        return bool(plan.strata) and plan.log_n_assignments >= np.log(MIN_ASSIGNMENTS)

    def test(
        self, source: int = SOURCE, target: int = TARGET, *, n_permutations: int, seed: int
    ) -> Evidence:
        """Test the difference of two groups of cells by permutation."""
        return permutation_test(
            *self.pair(source, target), n_permutations=n_permutations, seed=seed
        )


def cells_of_trends(trends: AnnData, cure: str) -> MeasuredCells:
    """The single cells stored in trends.

    Raises a ValueError that ends with ``cure`` if they are missing or too few.
    """
    null = trends.uns[_keys.UNS].get("null", {})
    values = trends.varm.get(_keys.NULL)
    if values is None or "group" not in null or values.shape[1] != len(null["group"]):
        raise ValueError(
            f"the permutation of cells needs measured cells, but trends.varm[{_keys.NULL!r}] has "
            f"none (a minified AnnData keeps no measured values); {cure}."
        )
    cells = MeasuredCells(values, np.asarray(null["group"]), np.asarray(null["donor"]))
    if not cells.enough():
        sizes = [int((cells.group == g).sum()) for g in (SOURCE, TARGET)]
        raise ValueError(
            f"the permutation of cells needs at least {MIN_ASSIGNMENTS} ways to assign cells to "
            f"the groups, but {sizes[0]} sources and {sizes[1]} targets allow fewer; use groups "
            f"with more cells (at least 7 and 7), or {cure}."
        )
    return cells


def has_between(samples: MeasuredSamples) -> bool:
    """Whether groups between source and target were measured."""
    return bool((samples.group == BETWEEN).any())
