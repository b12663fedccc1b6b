"""Study B: are genes that are called between two groups of donors right?

    python benchmarks/donors.py
    python benchmarks/donors.py --hidden   # genes that follow a property of the samples: 8 minutes

Writes docs/evidence/donors.md and one CSV for each of its tables. Simulated donors, with and without a true
difference; control cells split at random; interferon genes in two donors; tumor against normal tissue in
three patients. With --hidden, writes docs/evidence/donors_hidden.md instead: genes that follow an unknown property
of the samples.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import anndata
import numpy as np
import pandas as pd
from _common import DOCS, PACKAGES, data_file, markdown_table, provenance
from _data import log_normalize
from _study import replace

import scivae
from scivae import stats
from scivae.stats.permutation import permutation_test

LEVEL = 0.05
N_GENES = 500
EFFECT, N_TRUE = 0.7, 50  # natural logarithm; half of these genes rise, half fall
# Named before any test was run: induced by interferon in every kind of blood cell.
INTERFERON = (
    "ISG15", "IFI6", "IFIT1", "IFIT2", "IFIT3", "IFITM1", "IFITM2", "IFITM3", "MX1", "MX2", "OAS1", "OAS2",
    "OAS3", "OASL", "ISG20", "IRF7", "STAT1", "STAT2", "LY6E", "IFI44", "IFI44L", "IFI35", "IFI16", "RSAD2",
    "HERC5", "EIF2AK2", "XAF1", "BST2", "TNFSF10", "PLSCR1", "SAMD9", "SAMD9L", "PSMB9", "USP18", "DDX58",
    "IFIH1", "PARP14", "NT5C3A", "SP100", "SP110", "TRIM22", "UBE2L6", "LAP3", "HES4", "EPSTI1",
)  # fmt: skip


class Design(NamedTuple):
    """Donors of a simulation, and how they differ (standard deviations of natural logarithms)."""

    paired: bool
    n: int  # donors on a side
    donor_sd: float = 0.2
    sample_sd: float = 0.0
    unalike: bool = False  # genes differ in how much they vary, by an inverse chi-squared with 4 df
    cells: tuple[int, int] | None = None  # in a sample of source and of target; 30 to 120 at random
    n_target: int | None = None  # donors of the target, if they are another number
    followers: float = 0.0  # proportion of genes that follow a hidden property of the samples
    loading_sd: float = 0.3  # of the change of these genes per standard deviation of the property

    @property
    def donor(self) -> np.ndarray:
        if self.paired:
            return np.tile(np.arange(self.n), 2)
        return np.arange(self.n + (self.n_target or self.n))

    @property
    def target(self) -> np.ndarray:
        return np.repeat([False, True], [self.n, self.n_target or self.n])


DESIGNS = {
    "3 + 3 donors": Design(False, 3),
    "3 + 3 donors, some genes vary more": Design(False, 3, 0.3, unalike=True),
    "6 + 6 donors": Design(False, 6),
    "3 pairs, samples 0.2": Design(True, 3, sample_sd=0.2),
    "6 pairs": Design(True, 6),
    "6 pairs, samples 0.2": Design(True, 6, sample_sd=0.2),
    "6 pairs, samples 0.4": Design(True, 6, sample_sd=0.4),
    "6 pairs, samples 0.3, some genes vary more": Design(True, 6, 0.3, 0.3, unalike=True),
    "8 pairs, samples 0.2": Design(True, 8, sample_sd=0.2),
    "6 pairs, samples 0.2, 300 against 10 cells": Design(True, 6, sample_sd=0.2, cells=(300, 10)),
    "4 + 4 donors, 100 against 10 cells": Design(False, 4, cells=(100, 10)),
    "3 + 3 donors, 300 against 10 cells": Design(False, 3, cells=(300, 10)),
    "3 donors of 30 cells + 9 of 300": Design(False, 3, cells=(30, 300), n_target=9),
}


def with_hidden(paired: bool, n: int, followers: float, loading_sd: float = 0.3) -> Design:
    """A design whose samples differ by 0.2 gene by gene and by a property that many genes follow."""
    return Design(paired, n, sample_sd=0.2 * paired, followers=followers, loading_sd=loading_sd)


HIDDEN = {
    "3 pairs, no gene": with_hidden(True, 3, 0.0),
    "3 pairs, 10 % of genes": with_hidden(True, 3, 0.1),
    "3 pairs, 50 % of genes": with_hidden(True, 3, 0.5),
    "3 pairs, all genes": with_hidden(True, 3, 1.0),
    "3 pairs, 50 % of genes, half the change": with_hidden(True, 3, 0.5, 0.15),
    "3 pairs, 50 % of genes, twice the change": with_hidden(True, 3, 0.5, 0.6),
    "4 pairs, 50 % of genes": with_hidden(True, 4, 0.5),
    "5 pairs, 50 % of genes": with_hidden(True, 5, 0.5),
    "6 pairs, 50 % of genes": with_hidden(True, 6, 0.5),
    "3 + 3 donors, 50 % of genes": with_hidden(False, 3, 0.5),
    "5 + 5 donors, 50 % of genes": with_hidden(False, 5, 0.5),
}


class Cells(NamedTuple):
    """Simulated counts: of cells, and their sums."""

    samples: stats.SampleSums
    cells: np.ndarray  # (n_cells, n_genes)
    sample: np.ndarray  # (n_cells,)


def simulate(design: Design, rng: np.random.Generator, effect: np.ndarray) -> Cells:
    """Overdispersed counts of cells, with effects of donors and samples on each gene."""
    mean = np.exp(rng.normal(-1.5, 1.5, N_GENES))  # counts of a gene in a cell
    spread = np.sqrt(4 / rng.chisquare(4, N_GENES)) if design.unalike else np.ones(N_GENES)
    of_donor = rng.normal(0, design.donor_sd, (design.donor.max() + 1, N_GENES)) * spread
    # Drawn only where there is one, so that the other designs keep their random numbers.
    loading = np.zeros(N_GENES)
    if design.followers:
        follows = rng.permutation(N_GENES) < round(design.followers * N_GENES)
        loading[follows] = rng.normal(0, design.loading_sd, follows.sum())
    hidden = rng.normal(size=len(design.donor)) if design.followers else np.zeros(len(design.donor))
    counts, sample = [], []
    for i, (donor, target) in enumerate(zip(design.donor, design.target, strict=True)):
        n = design.cells[int(target)] if design.cells else int(rng.integers(30, 121))
        of_sample = rng.normal(0, design.sample_sd, N_GENES) * spread
        of_sample = of_sample + hidden[i] * loading
        rate = mean * np.exp(of_donor[donor] + of_sample + target * effect)
        size = np.exp(rng.normal(0, 0.3, (n, 1)))
        counts.append(rng.poisson(size * rate * rng.gamma(2, 0.5, (n, N_GENES))))
        sample += [i] * n
    cells = np.concatenate(counts).astype(float)
    sample = np.array(sample)
    return Cells(sums_of_samples(cells, sample, len(design.donor)), cells, sample)


def sums_of_samples(counts, sample: np.ndarray, n: int) -> stats.SampleSums:
    return stats.SampleSums.of(counts, sample, n, np.asarray(counts.sum(axis=1)).ravel())


def sums_tested(
    sums: stats.SampleSums, donor: np.ndarray, target: np.ndarray, method: str = "moderated"
):
    """The test of rank_genes on sums of counts."""
    totals = sums.values.sum(axis=1)
    return stats.donor_test(
        sums.values, totals, donor, target, method=method, cell_variance=sums.variance
    )


def by_donors(method: str) -> Callable[[Cells, Design, int], np.ndarray]:
    def p_value(data: Cells, design: Design, seed: int) -> np.ndarray:
        return sums_tested(data.samples, design.donor, design.target, method).p_value

    return p_value


def by_cells(data: Cells, design: Design, seed: int) -> np.ndarray:
    """What `p_cells` is, within donors where these are paired."""
    values = log_normalize(data.cells).T
    strata = design.donor[data.sample] if design.paired else np.zeros(len(data.sample), dtype=int)
    target = design.target[data.sample]
    return permutation_test(values, target, strata, n_permutations=400, seed=seed).p_value


class Method(NamedTuple):
    p_value: Callable[[Cells, Design, int], np.ndarray]
    n_runs: int | None = None  # at most; None: as many as asked for


# Designs with a hidden property in which the slow tests are compared.
COMPARED = ("3 pairs, 50 % of genes", "6 pairs, 50 % of genes")
METHODS = {
    "moderated t (rank_genes)": Method(by_donors("moderated")),
    "PyDESeq2": Method(by_donors("deseq2"), 30),
    "cells as units (control)": Method(by_cells, 40),
}


def null_runs(
    design: Design, p_value: Callable[[Cells, Design, int], np.ndarray], runs: int
) -> tuple[np.ndarray, np.ndarray]:
    """How many genes each run without a true difference calls, and all its p-values."""
    found = [
        p_value(simulate(design, np.random.default_rng([s, 0]), np.zeros(N_GENES)), design, s)
        for s in range(runs)
    ]
    called = np.array([(stats.false_discovery_rate(p) <= LEVEL).sum() for p in found])
    return called, np.concatenate([p[np.isfinite(p)] for p in found])


def hidden_properties(
    n_null: int,
    done: pd.DataFrame,
    designs: dict[str, Design] = HIDDEN,
    methods: tuple[str, ...] = tuple(METHODS),
) -> pd.DataFrame:
    """One row a design and method: what is called where many genes follow a property of the samples."""
    rows = done.to_dict("records")
    for method in methods:
        for name, design in designs.items():
            p_value, most = METHODS[method]
            if (most and name not in COMPARED) or any(
                r["design"] == name and r["test"] == method for r in rows
            ):
                continue
            runs = max(n_null // 5, 1) if most else n_null
            called, pooled = null_runs(design, p_value, runs)
            some = called[called > 0]
            rows.append(
                {
                    "design": name,
                    "test": method,
                    "null runs": runs,
                    "null runs with a call, %": 100 * (called > 0).mean(),
                    "standard error, %": 100 * float(np.std(called > 0)) / np.sqrt(runs),
                    "genes called in such a run, median": np.median(some) if len(some) else np.nan,
                    "most": int(called.max()),
                    "null p < 0.05, %": 100 * (pooled < 0.05).mean(),
                }
            )
            print({k: round(v, 2) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)  # fmt: skip
            if designs is HIDDEN:
                table = pd.DataFrame(rows).to_csv(index=False, float_format="%.6g")
                replace(DOCS / "donors_hidden.csv", table)
    order = {name: i for i, name in enumerate(designs)}
    return pd.DataFrame(rows).sort_values("design", key=lambda s: s.map(order), kind="stable")


def simulations(n_null: int, n_power: int, done: pd.DataFrame) -> pd.DataFrame:
    """One row a design and method, with what it calls without and with a true effect."""
    rows = done.to_dict("records")
    effect = np.zeros(N_GENES)
    effect[:N_TRUE] = EFFECT * np.tile([1, -1], N_TRUE // 2)
    for name, design in DESIGNS.items():
        for method, (p_value, most) in METHODS.items():
            if any(r["design"] == name and r["test"] == method for r in rows):
                continue
            start = time.perf_counter()
            runs = min(n_null, most or n_null)
            called, pooled = null_runs(design, p_value, runs)
            row = {
                "design": name,
                "test": method,
                "null runs": runs,
                "null runs with a call, %": 100 * (called > 0).mean(),
                "genes called in a null run": called.mean(),
                "null p < 0.05, %": 100 * (pooled < 0.05).mean(),
                "null p < 0.001, %": 100 * (pooled < 0.001).mean(),
            }
            found, false, small, others = [], [], [], []
            for s in range(min(n_power, most or n_power)):
                p = p_value(simulate(design, np.random.default_rng([s, 1]), effect), design, s)
                called = stats.false_discovery_rate(p) <= LEVEL
                found.append(called[:N_TRUE].mean())
                false.append(called[N_TRUE:].sum() / max(called.sum(), 1))
                small.append(np.nan_to_num(p[:N_TRUE], nan=1))
                others.append(p[N_TRUE:][np.isfinite(p[N_TRUE:])])
            small, others = np.concatenate(small), np.concatenate(others)
            row |= {
                "power at 5 % FDR": np.mean(found),
                "false among called": np.mean(false),
                # At thresholds that equally many of the genes without effect fall below.
                "power at equal level, 0.1 %": (small < np.quantile(others, 0.001)).mean(),
                "power at equal level, 1 %": (small < np.quantile(others, 0.01)).mean(),
                "time of a test, s": (time.perf_counter() - start)
                / (runs + min(n_power, most or n_power)),
            }
            rows.append(row)
            print(
                {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True
            )
            replace(
                DOCS / "donors.csv", pd.DataFrame(rows).to_csv(index=False, float_format="%.6g")
            )
    order = pd.DataFrame(rows)
    keys = [(d, m) for d in DESIGNS for m in METHODS]
    order = order.set_index(["design", "test"]).loc[[k for k in keys if k in {*zip(order.design, order.test, strict=True)}]]  # fmt: skip
    return order.reset_index()


# --- through the whole package -------------------------------------------------------------------


def small_cells(design: Design, seed: int) -> anndata.AnnData:
    """Simulated cells as an AnnData, of fewer genes."""
    data = simulate(design, np.random.default_rng([seed, 2]), np.zeros(N_GENES))
    genes = np.argsort(-data.cells.sum(axis=0))[:120]
    return anndata.AnnData(
        X=log_normalize(data.cells[:, genes]),
        layers={"counts": data.cells[:, genes].astype(np.float32)},
        obs=pd.DataFrame(
            {
                "cell_type": np.random.default_rng([seed, 7]).choice(["a", "b"], len(data.sample)),
                "donor": design.donor[data.sample].astype(str),
                "condition": np.where(design.target[data.sample], "target", "source"),
            },
            index=[f"c{i}" for i in range(len(data.sample))],
        ),
    )


def whole_package(n_runs: int) -> pd.DataFrame:
    """Null runs from cells to `rank_genes`, with a model that is trained in each."""
    rows = []
    for name in ("3 + 3 donors", "6 pairs, samples 0.2"):
        design = DESIGNS[name]
        called = {"donors": [], "cells": []}
        for seed in range(n_runs):
            adata = small_cells(design, seed)
            scivae.model.CIVAE.setup_anndata(adata)
            model = scivae.model.CIVAE(adata, n_latent=5, seed=seed)
            model.train(max_epochs=3, enable_progress_bar=False)
            adata.obsm["X_civae"] = model.get_latent_representation()
            pairs = scivae.tl.pair_cells(
                adata,
                "condition",
                "source",
                "target",
                donor_key="donor" if design.paired else None,
                n_pairs=100,
                seed=seed,
            )
            for unit, key in (("donors", "donor"), ("cells", None)):
                if unit == "cells" and design.paired:
                    pairs = pairs.drop(columns="donor")
                trends = scivae.tl.gene_trends(model, pairs, n_steps=5, donor_key=key, seed=seed)
                genes = scivae.tl.rank_genes(trends, seed=seed)
                if genes.attrs["unit"] != unit:
                    raise RuntimeError(f"expected {unit} as units, got {genes.attrs['unit']}")
                fdr = genes["fdr" if unit == "donors" else "fdr_cells"]
                called[unit].append(int((fdr <= LEVEL).sum()))
        for unit, n in called.items():
            rows.append(
                {
                    "design": name,
                    "units": unit,
                    "null runs": n_runs,
                    "null runs with a call, %": 100 * float(np.mean(np.array(n) > 0)),
                    "genes called of 120": float(np.mean(n)),
                }
            )
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


# --- control cells, split at random --------------------------------------------------------------


def kang() -> anndata.AnnData:
    """Blood cells; `donor` of the file holds condition and donor together."""
    adata = anndata.read_h5ad(data_file("pbmc_kang.h5ad"))
    adata.obs["donor"] = adata.obs["donor"].astype(str).str[-3:]
    return adata


def null_splits(n_runs: int) -> pd.DataFrame:
    """Control cells of blood, split into groups that differ in nothing."""
    adata = kang()
    adata = adata[adata.obs["condition"] == "ctrl"]
    counts = adata.layers["counts"].toarray().astype(float)
    donor = pd.factorize(adata.obs["donor"], sort=True)[0]
    values = log_normalize(counts).T
    everyone = np.zeros(len(donor), dtype=int)

    def parts(rng: np.random.Generator, n: int) -> np.ndarray:
        return rng.permutation(np.arange(len(donor)) % n)

    def test(sample: np.ndarray, who: np.ndarray, target: np.ndarray, method: str) -> np.ndarray:
        return sums_tested(sums_of_samples(counts, sample, len(who)), who, target, method).p_value

    def pairs(method: str) -> Callable[[np.random.Generator, int], np.ndarray]:
        def run(rng: np.random.Generator, seed: int) -> np.ndarray:
            return test(parts(rng, 12), np.arange(12) % 6, np.arange(12) >= 6, method)

        return run

    def groups(method: str) -> Callable[[np.random.Generator, int], np.ndarray]:
        def run(rng: np.random.Generator, seed: int) -> np.ndarray:
            return test(parts(rng, 6), np.arange(6), np.arange(6) >= 3, method)

        return run

    def cells(rng: np.random.Generator, seed: int) -> np.ndarray:
        return permutation_test(
            values, parts(rng, 2) == 1, donor, n_permutations=1000, seed=seed
        ).p_value

    cases = {
        "cells in halves, within donors: p_cells": cells,
        "six pairs of parts: moderated t": pairs("moderated"),
        "three parts against three: moderated t": groups("moderated"),
        "six pairs of parts: PyDESeq2": pairs("deseq2"),
        "three parts against three: PyDESeq2": groups("deseq2"),
    }
    rows = []
    for name, run in cases.items():
        runs = n_runs if "DESeq2" not in name else max(n_runs // 5, 1)
        found = [run(np.random.default_rng([s, 3]), s) for s in range(runs)]
        called = np.array([(stats.false_discovery_rate(p) <= LEVEL).sum() for p in found])
        pooled = np.concatenate([p[np.isfinite(p)] for p in found])
        rows.append(
            {
                "split": name,
                "runs": runs,
                "runs with a call, %": 100 * (called > 0).mean(),
                "p < 0.05, %": 100 * (pooled < 0.05).mean(),
            }
        )
        print(rows[-1], flush=True)
    # No split at all: one donor against the other, within a type. What cells call is the donor.
    for label in ("CD4 T cells", "CD14+ Monocytes"):
        own = (adata.obs["cell_type"] == label).to_numpy()
        p = permutation_test(
            values[:, own], donor[own] == 1, everyone[own], n_permutations=1000, seed=0
        ).p_value
        rows.append(
            {
                "split": f"donor 101 against donor 107, control {label}: p_cells",
                "runs": 1,
                "runs with a call, %": np.nan,
                "p < 0.05, %": 100 * float((p[np.isfinite(p)] < 0.05).mean()),
                "genes called": int((stats.false_discovery_rate(p) <= LEVEL).sum()),
            }
        )
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


# --- interferon ----------------------------------------------------------------------------------


def sums_of(adata: anndata.AnnData, groupby: str, ends: tuple[str, str]):
    """Sums of each donor and group; donors and which are of the second group."""
    adata = adata[adata.obs[groupby].isin(ends)]
    key = pd.MultiIndex.from_arrays(
        [adata.obs["donor"].astype(str), adata.obs[groupby].astype(str)]
    )
    codes, names = pd.factorize(key)
    counts = adata.layers["counts"]
    sums = sums_of_samples(counts, codes, len(names))
    donor = pd.factorize(np.array([d for d, _ in names]), sort=True)[0]
    return sums, donor, np.array([g == ends[1] for _, g in names])


def log_differences(sums: stats.SampleSums, donor: np.ndarray, target: np.ndarray) -> np.ndarray:
    """log2 fold change of each donor with both groups, shape ``(n_donors, n_genes)``."""
    y = stats.log_cpm(sums.values, sums.values.sum(axis=1))
    both = np.intersect1d(donor[target], donor[~target])
    return np.stack([y[(donor == d) & target][0] - y[(donor == d) & ~target][0] for d in both])


def interferon() -> pd.DataFrame:
    """Two donors, control and stimulated: cells are the units, and the known genes are there."""
    adata = kang()
    known = adata.var_names.isin(INTERFERON)
    rows = []
    for label in adata.obs["cell_type"].unique():
        own = adata[adata.obs["cell_type"] == label]
        values = log_normalize(own.layers["counts"]).T
        target = (own.obs["condition"] == "stim").to_numpy()
        donor = pd.factorize(own.obs["donor"], sort=True)[0]
        found = permutation_test(values, target, donor, n_permutations=1000)
        called = stats.false_discovery_rate(found.p_value) <= LEVEL
        each = log_differences(*sums_of(own, "condition", ("ctrl", "stim")))
        # The same call in each donor alone, and in one direction.
        alone = [
            permutation_test(
                values[:, donor == d], target[donor == d], np.zeros((donor == d).sum(), int)
            )
            for d in (0, 1)
        ]
        calls = [
            np.sign(a.difference) * (stats.false_discovery_rate(a.p_value) <= LEVEL) for a in alone
        ]
        both = (calls[0] == calls[1]) & (calls[0] != 0)
        chance = sum((calls[0] == s).mean() * (calls[1] == s).mean() for s in (-1, 1)) * len(both)
        rows.append(
            {
                "type": label,
                "genes called, fdr_cells": int(called.sum()),
                "known, called and up": int((called & known & (found.difference > 0)).sum()),
                "known in the file": int(known.sum()),
                "called in each donor alone, same direction": int(both.sum()),
                "expected by chance": chance,
                "of these known": int((both & known).sum()),
                "fold changes of the donors, r": float(np.corrcoef(each)[0, 1]),
            }
        )
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


# --- three patients ------------------------------------------------------------------------------


def patients() -> tuple[pd.DataFrame, dict[str, object]]:
    """Normal epithelium against tumor in three patients: which genes are found in each?"""
    adata = anndata.read_h5ad(data_file("colon_lee_epithelial.h5ad"))
    ends = ("normal", "tumor")
    adata = adata[adata.obs["tissue"].isin(ends)].copy()
    sums, donor, target = sums_of(adata, "tissue", ends)
    paired = sums_tested(sums, donor, target)
    fdr = stats.false_discovery_rate(paired.p_value)
    each = log_differences(sums, donor, target)
    signs = stats.sign_test(each)
    values = log_normalize(adata.layers["counts"]).T
    is_tumor = (adata.obs["tissue"] == "tumor").to_numpy()
    who = adata.obs["donor"].astype(str).to_numpy()
    calls, p_each = [], []
    for name in np.unique(who):
        own = who == name
        found = permutation_test(
            values[:, own], is_tumor[own], np.zeros(own.sum(), int), n_permutations=2000
        )
        p_each.append(found.p_value)
        calls.append(
            np.sign(found.difference) * (stats.false_discovery_rate(found.p_value) <= LEVEL)
        )
    calls = np.array(calls)
    every = (calls == calls[0]).all(axis=0) & (calls[0] != 0)
    chance = {s: len(adata.var) * np.prod([(c == s).mean() for c in calls]) for s in (1, -1)}
    table = pd.DataFrame(
        {
            "log2 fold change": paired.estimate,
            **{f"in {name}": each[i] for i, name in enumerate(np.unique(who))},
            "p_value": paired.p_value,
            "fdr": fdr,
            "agreement": signs.agreement,
            "found in each patient": every,
            "direction": np.where(paired.estimate > 0, "up", "down"),
        },
        index=pd.Index(adata.var_names, name="gene"),
    ).sort_values("p_value")
    pairs_of_patients = [
        float(np.corrcoef(each[i], each[j])[0, 1]) for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    # A gene called in two patients alike: is it in the third, too?
    again, tested, by_chance = 0, 0, 0.0
    for out in range(3):
        others = [i for i in range(3) if i != out]
        alike = (calls[others[0]] == calls[others[1]]) & (calls[others[0]] != 0)
        tested += int(alike.sum())
        again += int((alike & (calls[out] == calls[others[0]])).sum())
        by_chance += float(
            sum((alike & (calls[others[0]] == s)).sum() * (calls[out] == s).mean() for s in (1, -1))
        )
    return table, {
        "genes": len(table),
        "called, paired test": int((fdr <= LEVEL).sum()),
        "same sign in all patients": int((signs.agreement == 1).sum()),
        "expected of the sign": len(table) / 4,
        "called in each patient alone, same direction": int(every.sum()),
        "expected by chance": float(sum(chance.values())),
        "called in two, found in the third": again / max(tested, 1),
        "that by chance": by_chance / max(tested, 1),
        "fold changes of two patients, r": np.round(pairs_of_patients, 2).tolist(),
        "up": sorted(table.index[table["found in each patient"] & (table["direction"] == "up")]),
        "down": sorted(
            table.index[table["found in each patient"] & (table["direction"] == "down")]
        ),
    }


TEXT = """
**Simulations.** {n_genes} genes, negative binomial counts of 30 to 120 cells a sample, where the row says
nothing else. Donors differ by 0.2 (standard deviation of natural
logarithms, gene by gene), samples of a donor by what the row says; "some genes vary more": this standard deviation is 0.3 times the root of
an inverse chi-squared variable with 4 degrees of freedom, drawn for each gene. Null runs have no true difference: at most 5 % of them should
call any gene at 5 % FDR. Power: {n_true} genes change by ±{effect} (natural logarithm). "At equal level": the threshold is the one below
which 0.1 % (1 %) of the unchanged genes of the same runs fall, so that tests are compared at the same rate of false calls. *Cells as
units* is the control that shows that these data can fail a test: what `p_cells` would say if it were read as evidence for the groups.
"""


HIDDEN_TEXT = """
Studies without a true difference between the groups, in which many genes follow an unknown property of the samples, such as
their age or quality. {n_genes} genes, negative binomial counts of 30 to 120 cells a sample. Donors differ by 0.2 (standard
deviation of natural logarithms, gene by gene), and the two samples of a pair by 0.2 more. The property is a normal random number for
each sample; the genes that follow it (the proportion in the row) change by 0.3 (standard deviation over genes) for
each standard deviation of the property, or by half or twice as much. By chance, the property differs between the groups in the same
direction in all donors, and the genes that follow it then seem to differ. At most 5 % of the studies should call any gene at 5 % FDR.
The tests are those of the [other designs](donors.md).
"""


def write_hidden(table: pd.DataFrame) -> None:
    text = HIDDEN_TEXT.strip().format(n_genes=N_GENES)
    head = f"# Donors: genes that follow a hidden property\n\n{text}\n\n"
    foot = provenance(packages=(*PACKAGES, "pydeseq2"))
    replace(DOCS / "donors_hidden.md", f"{head}{markdown_table(table)}\n\n{foot}\n")


def write(tables: dict[str, pd.DataFrame], said: dict[str, object], text: str) -> None:
    parts = [f"# Donors\n\n{text.strip()}\n"]
    for title, table in tables.items():
        parts.append(f"## {title}\n\n{markdown_table(table)}\n")
    facts = "\n".join(
        f"- {k}: {', '.join(map(str, v)) if isinstance(v, list) else f'{v:.3g}' if isinstance(v, float) else v}"
        for k, v in said.items()
    )
    parts.append(f"## Three patients: what is found in each\n\n{facts}\n")
    parts.append(provenance(packages=(*PACKAGES, "pydeseq2")))
    replace(DOCS / "donors.md", "\n".join(parts) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--null-runs", type=int, default=200)
    parser.add_argument("--power-runs", type=int, default=60)
    parser.add_argument("--package-runs", type=int, default=40)
    parser.add_argument("--restart", action="store_true", help="forget the rows that are there")
    parser.add_argument(
        "--hidden",
        action="store_true",
        help="only samples with a hidden property (1,000 null runs)",
    )
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.hidden:
        csv = DOCS / "donors_hidden.csv"
        done = pd.DataFrame() if args.restart or not csv.exists() else pd.read_csv(csv)
        write_hidden(hidden_properties(1000, done))
        return
    csv = DOCS / "donors.csv"
    done = pd.DataFrame() if args.restart or not csv.exists() else pd.read_csv(csv)
    tables = {}
    lee, said = patients()
    replace(DOCS / "donors_lee.csv", lee.to_csv(float_format="%.6g"))
    print(said)
    for title, name, make in (
        ("Interferon genes, two donors", "donors_kang", interferon),
        ("Control cells, split at random", "donors_splits", lambda: null_splits(args.null_runs)),
        ("Through the whole package", "donors_package", lambda: whole_package(args.package_runs)),
    ):
        file = DOCS / f"{name}.csv"
        if args.restart or not file.exists():  # a run that was cut short goes on
            replace(file, make().to_csv(index=False, float_format="%.6g"))
        tables[title] = pd.read_csv(file)
    simulated = simulations(args.null_runs, args.power_runs, done)
    text = TEXT.format(n_genes=N_GENES, n_true=N_TRUE, effect=EFFECT)
    tables["Three patients, normal epithelium against tumor: the 30 surest"] = (
        lee.drop(columns="direction").head(30).reset_index()
    )
    write({"Simulated donors": simulated, **tables}, said, text)


if __name__ == "__main__":
    main()
