"""Realism of synthetic cells, and tests for copies of training cells."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from .._validate.arguments import check_choice, check_integer
from .._validate.arrays import MatrixLike, Points, as_matrix, as_points, check_columns, subsample
from ._distances import nearest_distances


class TwoSampleTest(NamedTuple):
    """Result of :func:`classifier_two_sample_test`.

    Attributes
    ----------
    auc
        Area under the ROC curve, mean over folds: 0.5 if the two cannot be distinguished, 1 if they
        always can. A value clearly below 0.5 indicates copies.
    fold_aucs
        Area under the curve in each fold.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.metrics import classifier_two_sample_test
    >>> x = np.random.default_rng(0).normal(size=(40, 2))
    >>> classifier_two_sample_test(x, x + 9, n_trees=10).auc
    1.0
    """

    auc: float
    fold_aucs: tuple[float, ...]


class GeneGeneAgreement(NamedTuple):
    """Result of :func:`gene_gene_correlation`.

    Attributes
    ----------
    pearson
        Pearson correlation of the two sets of gene-gene correlations, in [−1, 1]; 1 is best.
    mean_absolute_difference
        Mean absolute difference of the two, in [0, 2]; 0 is best. Unlike :attr:`pearson`, it
        detects correlations that are all too strong or all too weak.
    n_genes
        Number of genes that vary in both populations. Correlations are defined only for these.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.metrics import gene_gene_correlation
    >>> x = np.random.default_rng(0).normal(size=(50, 4))
    >>> gene_gene_correlation(x, x).n_genes
    4
    """

    pearson: float
    mean_absolute_difference: float
    n_genes: int


class CopyingTest(NamedTuple):
    """Result of :func:`copying_test`.

    Attributes
    ----------
    share_closer
        Probability that a generated cell is closer to its nearest training cell than a held-out
        real cell is to its nearest training cell (ties count half): 0.5 for new cells, 1 for
        copies, 0 for cells far from any real one.
    p_value
        One-sided p-value of the hypothesis that generated cells are no closer than new real cells.
    median_ratio
        Median distance of generated cells to the nearest training cell, divided by the same median
        for held-out cells: 1 for new cells.
    n_exact
        Number of generated cells that equal a training cell in every gene.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.metrics import copying_test
    >>> x = np.random.default_rng(0).normal(size=(60, 3))
    >>> copying_test(x[:20], x[:40], x[40:]).n_exact
    20
    """

    share_closer: float
    p_value: float
    median_ratio: float
    n_exact: int


def classifier_two_sample_test(
    real: MatrixLike,
    generated: MatrixLike,
    *,
    n_folds: int = 5,
    n_trees: int = 200,
    max_points: int | None = None,
    seed: int = 0,
    n_jobs: int | None = None,
) -> TwoSampleTest:
    """Cross-validated AUC of a random forest that separates generated from real cells.

    The expected AUC does not depend on the numbers of cells; its variance does.

    Parameters
    ----------
    real
        Real cells that the model was *not* trained on, ``(n, p)``, dense or sparse.
    generated
        Generated cells, ``(m, p)``, dense or sparse, processed like the real ones.
    n_folds
        Number of stratified folds; each population needs at least that many cells.
    n_trees
        Number of trees in the forest.
    max_points
        Largest number of cells per population; larger populations are subsampled. None: use all
        cells.
    seed
        Seed of the subsampling, the folds and the forest.
    n_jobs
        Number of threads; it does not change the result.

    Returns
    -------
    :class:`TwoSampleTest`.

    Raises
    ------
    ValueError
        If the two differ in columns, have fewer cells than folds, or contain NaN or infinity.

    References
    ----------
    Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", International Conference on
    Learning Representations (2017). Random forests are commonly used to evaluate single-cell
    simulators.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.metrics import classifier_two_sample_test
    >>> x = np.random.default_rng(0).normal(size=(40, 2))
    >>> classifier_two_sample_test(x, x + 9, n_trees=10).auc
    1.0
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    check_integer("n_folds", n_folds, minimum=2)
    check_integer("n_trees", n_trees, minimum=1)
    if max_points is not None:
        check_integer("max_points", max_points, minimum=n_folds)
    rng = np.random.default_rng(seed)
    parts = [
        subsample(as_matrix(name, x, min_rows=n_folds), max_points, rng)
        for x, name in ((real, "real"), (generated, "generated"))
    ]
    check_columns("real", parts[0], "generated", parts[1])
    x = _stack(parts)
    is_generated = np.repeat([0, 1], [part.shape[0] for part in parts])
    aucs = []
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    for fitted, held_out in folds.split(is_generated, is_generated):
        forest = RandomForestClassifier(n_trees, random_state=seed, n_jobs=n_jobs).fit(
            x[fitted], is_generated[fitted]
        )
        score = forest.predict_proba(x[held_out])[:, 1]
        aucs.append(float(roc_auc_score(is_generated[held_out], score)))
    return TwoSampleTest(auc=float(np.mean(aucs)), fold_aucs=tuple(aucs))


def gene_gene_correlation(
    real: MatrixLike,
    generated: MatrixLike,
    *,
    method: Literal["pearson", "spearman"] = "pearson",
) -> GeneGeneAgreement:
    """Agreement of the gene-gene correlations of two populations.

    Correlations are calculated over the cells of each population, for every pair of genes that vary
    in both. The two lists of ``n_genes·(n_genes − 1)/2`` correlations are then compared.

    Parameters
    ----------
    real
        Real cells, ``(n, n_genes)``, log-normalized, dense or sparse.
    generated
        Generated cells, ``(m, n_genes)``, same genes in the same order.
    method
        Type of correlation between two genes. The two lists are always compared by Pearson
        correlation.

    Returns
    -------
    :class:`GeneGeneAgreement`.

    Raises
    ------
    ValueError
        If the two differ in genes, have fewer than three cells or fewer than three genes that vary
        in both, or contain NaN or infinity; if all correlations of one population are equal.

    References
    ----------
    Crowell et al., "The shaky foundations of simulating single-cell RNA sequencing data", Genome
    Biology 24 (2023), which uses gene-gene correlations to evaluate synthetic cells.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.metrics import gene_gene_correlation
    >>> x = np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 1.0], [3.0, 7.0, 0.0], [4.0, 8.0, 2.0]])
    >>> agreement = gene_gene_correlation(x, 10 * x + 3)
    >>> round(agreement.pearson, 6), agreement.n_genes
    (1.0, 3)
    """
    from scipy.stats import rankdata

    check_choice("method", method, ("pearson", "spearman"))
    a, b = as_points("real", real, min_rows=3), as_points("generated", generated, min_rows=3)
    check_columns("real", a, "generated", b)
    varies = (np.ptp(a, axis=0) > 0) & (np.ptp(b, axis=0) > 0)
    n_genes = int(varies.sum())
    if n_genes < 3:
        raise ValueError(
            f"at least 3 genes must vary in both real and generated, got {n_genes} of "
            f"{varies.size}; pass more cells or other genes."
        )
    pairs = np.triu_indices(n_genes, k=1)
    correlations: list[Points] = []
    for cells, name in ((a, "real"), (b, "generated")):
        values = cells[:, varies]
        if method == "spearman":
            values = rankdata(values, axis=0)
        correlation = np.asarray(np.corrcoef(values, rowvar=False))[pairs]
        if np.ptp(correlation) < 1e-12:
            raise ValueError(
                f"the gene-gene correlations of {name} must not all be equal, got "
                f"{correlation[0]:.3g} for all pairs; pass more cells."
            )
        correlations.append(correlation)
    return GeneGeneAgreement(
        pearson=float(np.asarray(np.corrcoef(np.stack(correlations)))[0, 1]),
        mean_absolute_difference=float(np.abs(correlations[0] - correlations[1]).mean()),
        n_genes=n_genes,
    )


def copying_test(generated: MatrixLike, training: MatrixLike, held_out: MatrixLike) -> CopyingTest:
    """Test whether generated cells are closer to the training cells than held-out real cells are.

    A generator that memorizes produces cells too close to training cells. Held-out real cells show
    which distances are normal: their distances to the nearest training cell are the null
    distribution of a one-sided Mann-Whitney test.

    Parameters
    ----------
    generated
        Generated cells, ``(m, p)``.
    training
        Cells that the generator was trained on, ``(n, p)``.
    held_out
        Real cells of the same population that the generator was not trained on, with the same class
        proportions as ``generated``, ``(h, p)``.

    Returns
    -------
    :class:`CopyingTest`.

    Raises
    ------
    ValueError
        If the three differ in columns, are empty, or contain NaN or infinity, or if more than half
        of the held-out cells are exact copies of training cells.

    References
    ----------
    Meehan, Chaudhuri and Dasgupta, "A non-parametric test to detect data-copying in generative
    models", International Conference on Artificial Intelligence and Statistics (2020).

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.metrics import copying_test
    >>> x = np.random.default_rng(0).normal(size=(60, 3))
    >>> test = copying_test(x[:20], x[:40], x[40:])
    >>> test.share_closer, test.n_exact, test.p_value < 0.001
    (1.0, 20, True)
    """
    from scipy.stats import mannwhitneyu

    new, old = as_points("generated", generated), as_points("training", training)
    fresh = as_points("held_out", held_out)
    check_columns("generated", new, "training", old)
    check_columns("held_out", fresh, "training", old)
    of_new, of_fresh = nearest_distances(new, old), nearest_distances(fresh, old)
    typical = float(np.median(of_fresh))
    if typical == 0:
        raise ValueError(
            f"held_out must not overlap with training, got {int((of_fresh == 0).sum())} of "
            f"{of_fresh.size} cells that are exact copies; hold cells out before training."
        )
    # U counts the pairs in which the first is larger
    larger = mannwhitneyu(of_fresh, of_new, alternative="greater")
    return CopyingTest(
        share_closer=float(larger.statistic / (of_new.size * of_fresh.size)),
        p_value=float(larger.pvalue),
        median_ratio=float(np.median(of_new)) / typical,
        n_exact=int((of_new == 0).sum()),
    )


def _stack(parts: list[Points]) -> Any:
    if any(hasattr(part, "tocsr") for part in parts):
        from scipy.sparse import csr_matrix, vstack

        return vstack([csr_matrix(part) for part in parts], format="csr")
    return np.concatenate(parts)
