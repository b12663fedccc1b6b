"""How work and memory grow with cells, genes, classes, paths and donors, by counts of operations instead of seconds.

Lines of the package that are run count what loops do; the peak of traced memory counts the largest arrays. Work is at
most their product, so two sizes show its slope.
"""

import sys
import tracemalloc
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from tests.conftest import make_adata, make_model

import scivae
from scivae.data.generated import distinct
from scivae.geometry import LinearClasses, _crossings, segment_crossings
from scivae.model._augmentation import HeldOut
from scivae.model.codec import Codec
from scivae.stats import (
    SampleSums,
    donor_design,
    fit_negative_binomial,
    measured_curves,
    permute_donors,
)
from scivae.train import calibration

SLACK = 1.15  # of a ratio: what does not grow at all, and blocks that are not full


class Cost(NamedTuple):
    """Lines of the package that were run, and the largest memory that was used beyond the arguments, bytes."""

    lines: int
    peak: int


def cost(call: Callable[[], object]) -> Cost:
    call()  # imports and caches
    lines = 0

    def trace(frame, event, arg):
        nonlocal lines
        if "scivae" not in frame.f_code.co_filename or "tests" in frame.f_code.co_filename:
            return None
        lines += event == "line"
        return trace

    tracemalloc.start()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        call()
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    known = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(known)
    return Cost(lines, peak)


def growth(make: Callable[[int], Callable[[], object]], few: int, many: int) -> tuple[float, float]:
    """By how much lines and memory grow, each divided by the growth of the size: 1 is linear."""
    one, other = cost(make(few)), cost(make(many))
    times = many / few
    return other.lines / max(one.lines, 1) / times, other.peak / one.peak / times


def test_the_measure_finds_loops_and_squares():
    def square(n):
        return lambda: distinct([f"{i}" for i in range(n * n)])

    lines, memory = growth(square, 10, 40)
    assert lines == pytest.approx(4, rel=0.1)
    assert memory == pytest.approx(4, rel=0.4)


# --- classes ---------------------------------------------------------------------------------------


def test_odds_against_all_classes_are_linear_in_classes():
    rng = np.random.default_rng(0)

    def odds(n_classes):
        logits = 3 * rng.normal(size=(300, n_classes))
        return lambda: calibration.log_odds_against(logits)

    lines, memory = growth(odds, 50, 400)
    assert lines * 8 == 1  # no loop over classes
    assert memory < SLACK


def test_odds_against_classes_are_those_of_a_loop():
    from scipy.special import logsumexp

    rng = np.random.default_rng(0)
    for scale in (0.1, 3, 40, 800):
        logits = scale * rng.normal(size=(200, 7))
        logits[0] = 0
        logits[1, :2] = logits[1].max() + 1  # two largest
        found = calibration.log_odds_against(logits)
        for k in range(7):
            expected = logsumexp(np.delete(logits, k, axis=1), axis=1) - logits[:, k]
            np.testing.assert_allclose(found[:, k], expected, rtol=1e-12, atol=1e-12)


def test_calibration_holds_no_logits_of_all_cells(monkeypatch):
    monkeypatch.setattr(calibration, "LOGITS_FOR_TEMPERATURE", 2**14)
    weights = np.random.default_rng(0).normal(size=(200, 5))
    labels = np.arange(8_000) % 200
    z = weights[labels]

    def own(n):
        return lambda: calibration.own_log_odds(
            lambda rows: z[:n][rows] @ weights.T, labels[:n], 200
        )

    found = own(8_000)()
    whole = calibration.log_odds_against(z @ weights.T)[np.arange(8_000), labels]
    np.testing.assert_allclose(found, whole, rtol=1e-10)
    lines, _ = growth(own, 1_000, 8_000)
    assert lines < SLACK
    assert cost(own(8_000)).peak < 200 * 8_000 * 8 / 4
    assert len(calibration.cells_for_temperature(9_000, 200, 0)) == 5_000
    assert len(calibration.cells_for_temperature(4_000, 200, 0)) == 4_000


def test_distances_to_classes_hold_one_class_at_a_time():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(500, 6))

    def distances(n_classes):
        means, eye = rng.normal(size=(n_classes, 6)), np.broadcast_to(np.eye(6), (n_classes, 6, 6))
        return lambda: calibration.ClassGaussians(means, eye).distance(z)

    lines, memory = growth(distances, 20, 160)
    assert lines < SLACK
    assert memory * 8 < SLACK


def test_held_out_cells_are_encoded_once_for_all_classes(monkeypatch):
    """Classes of few held-out cells share a threshold, that of all held-out cells."""
    adata = make_adata(n_cells=240)
    adata.obs["cell_type"] = pd.Categorical([f"c{i % 12}" for i in range(240)])
    model = make_model(adata, epochs=1)
    encoded = []
    encode = Codec.encode
    monkeypatch.setattr(
        Codec,
        "encode",
        lambda self, a, i, *more: encoded.append(len(i)) or encode(self, a, i, *more),
    )
    held_out = HeldOut(model, adata)
    found = [held_out.confidence(code) for code in range(12)]
    assert encoded == [len(model.validation_indices)]
    assert all(np.array_equal(one, found[0]) for one in found)


# --- paths -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["predict", "margin", "segments"])
def test_no_array_of_paths_and_classes(monkeypatch, what):
    monkeypatch.setattr(_crossings, "LOGITS_HELD", 2**14)
    rng = np.random.default_rng(0)
    linear = LinearClasses(rng.normal(size=(300, 4)), rng.normal(size=300))
    start, end = rng.normal(size=(2, 4_000, 4))
    label = linear.predict(start)

    def of(n):
        calls = {
            "predict": lambda: linear.predict(start[:n].reshape(-1, 2, 4)),
            "margin": lambda: linear.margin(start[:n], label[:n]),
            "segments": lambda: segment_crossings(linear, start[:n], end[:n]),
        }
        return calls[what]

    lines, _ = growth(of, 1_000, 4_000)
    assert lines < SLACK
    assert cost(of(4_000)).peak < 4_000 * 300 * 8 / 4
    found = of(4_000)()
    monkeypatch.setattr(_crossings, "LOGITS_HELD", 2**30)
    for part, whole in zip(np.atleast_2d(found), np.atleast_2d(of(4_000)()), strict=True):
        np.testing.assert_allclose(part, whole, rtol=1e-12, atol=1e-12)


def test_names_of_the_same_path_are_linear():
    lines, _ = growth(lambda n: lambda: distinct(["a → b"] * n), 200, 1_600)
    assert lines < SLACK
    assert distinct(["a", "a", "a (2)", "a", "b", "a"]) == [
        "a",
        "a (3)",
        "a (2)",
        "a (4)",
        "b",
        "a (5)",
    ]


# --- donors ----------------------------------------------------------------------------------------


def test_sums_of_samples_cost_their_values_alone():
    """A block of cells is added without arrays of all samples and genes."""
    rng = np.random.default_rng(0)
    block = sparse.random(64, 500, 0.02, format="csr", random_state=rng)
    size = np.ones(64)

    def add(n_samples):
        sums = SampleSums.of(block[:0], np.zeros(0, int), n_samples, size[:0])
        codes = rng.integers(n_samples, size=64)
        return lambda: sums.add(block, codes, size)

    few, many = cost(add(100)), cost(add(1_600))
    assert many.lines == few.lines
    assert many.peak < 1_600 * 500 * 8 / 10


@pytest.mark.parametrize("n_groups", [51, 60, 130])
def test_many_groups_are_summed_as_few_are(monkeypatch, n_groups):
    from scivae.stats import _normal_equations

    rng = np.random.default_rng(0)
    n, group = 700, rng.integers(-1, n_groups, size=700)
    group[group == 7] = 8  # one without cells
    design = np.column_stack([np.ones(n), rng.random(n)])
    options = {
        "library": np.full(n, 1e3),
        "dispersion": 0.3,
        "group": group,
        "group_precision": 4.0,
    }
    counts = rng.poisson(3, (20, n))
    many = fit_negative_binomial(counts, design, **options)
    monkeypatch.setattr(_normal_equations, "_MANY_GROUPS", 1_000)
    few = fit_negative_binomial(counts, design, **options)
    for one, other in zip(many, few, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


def counts_of(n_genes: int, n_cells: int):
    rng = np.random.default_rng(0)
    return sparse.csr_matrix(rng.poisson(0.7, (n_genes, n_cells)).astype(np.float32)), rng.random(
        n_cells
    )


def test_fits_are_linear_in_donors():
    """With eight cells of each; a loop over donors for each block of genes would be quadratic."""

    def fit(n_donors):
        matrix, t = counts_of(64, 8 * n_donors)
        design, group = np.column_stack([np.ones_like(t), t]), np.arange(len(t)) % n_donors
        return lambda: fit_negative_binomial(
            matrix, design, library=np.full(len(t), 1e3), dispersion=0.3, group=group,
            group_precision=4.0, max_iterations=3, tolerance=0.0,
        )  # fmt: skip

    lines, memory = growth(fit, 400, 1_600)
    assert lines < SLACK
    assert memory < SLACK


def test_curves_are_linear_in_genes():
    def curves(n_genes):
        matrix, t = counts_of(n_genes, 200)
        library = np.full(200, 1e3)
        return lambda: measured_curves(matrix, t, library=library, n_bootstraps=2, n_steps=5)

    lines, memory = growth(curves, 400, 1_200)
    assert lines < SLACK
    assert memory < SLACK


def test_pairs_are_linear_in_donors_and_cells():
    def pairs(n_donors):
        n = 8 * n_donors
        i = np.arange(n)
        obs = pd.DataFrame(
            {"side": np.where(i % 2, "b", "a"), "donor": [f"d{k}" for k in i // 8]},
            index=[f"c{k}" for k in i],
        )
        adata = AnnData(np.zeros((n, 1), np.float32), obs=obs)
        adata.obsm["X_z"] = np.random.default_rng(0).normal(size=(n, 3))
        return lambda: scivae.tl.pair_cells(
            adata, "side", "a", "b", donor_key="donor", use_rep="X_z", method="nearest"
        )

    lines, memory = growth(pairs, 20, 80)
    assert lines < SLACK
    assert memory < SLACK


def test_permuted_labels_factor_the_design_once(monkeypatch):
    """A factorization takes the square of the donors, in one line; there are 200 permutations."""
    calls = []

    def counted(name, function):
        def call(*args, **kwargs):
            calls.append(name)
            return function(*args, **kwargs)

        return call

    for name in ("qr", "svd", "inv", "matrix_rank", "solve"):
        monkeypatch.setattr(np.linalg, name, counted(name, getattr(np.linalg, name)))
    n_donors = 30
    design = donor_design(np.tile(range(n_donors), 2), np.repeat([False, True], n_donors))
    values = np.random.default_rng(0).normal(size=(2 * n_donors, 50))
    found = permute_donors(values, design)
    assert found is not None
    assert len(found.permuted) == 200
    assert calls == ["qr"]
