"""Controls of a path: would it look the same if the groups did not differ?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import _keys
from .._validate import tables
from .._validate.arguments import check_integer
from ._controls import MIN_SCORED, Ends, left_out, middle, permuted
from ._model import check_model
from ._samples import BETWEEN, SOURCE, TARGET, cells_of
from ._trends import check_pairs, positions_of

if TYPE_CHECKING:
    from anndata import AnnData

    from ..model import CIVAE


def check_paths(
    model: CIVAE,
    pairs: pd.DataFrame,
    *,
    adata: AnnData | None = None,
    donor_key: str | None = None,
    between: Sequence[Any] | None = None,
    n_permutations: int = 200,
    max_cells: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Test a path with three controls that it could fail.

    Parameters
    ----------
    model
        A trained model.
    pairs
        Pairs of cells, from :func:`pair_cells`.
    adata
        The cells; ``None`` for the training data.
    donor_key
        Column of ``obs`` with the donors; ``None``: the column ``donor`` of ``pairs``, if there is
        one.
    between
        Groups that are expected to lie between source and target. ``None``: those between the two if
        the groups are an ordered categorical, else none.
    n_permutations
        Number of permutations of the groups.
    max_cells
        Maximum number of cells of each group; larger groups are sampled.
    seed
        Seed of all random choices.

    Returns
    -------
    DataFrame, one row per control:

    - ``permuted_ends``: ``value`` is the AUC with which positions on the axis tell unseen source
      cells from unseen target cells (1: perfectly, 0.5: not at all). ``reference`` is the 95 %
      quantile of this AUC when the groups are permuted (within donors, if these are known).
    - ``held_out_middle``: ``value`` is the energy distance between the cells of ``between`` and the
      points of the paths at their median position. ``reference`` is their energy distance to the
      nearer of the two ends. The axis and the paths are made without these cells.
    - ``left_out_donors``: each donor is scored on the axis of the other donors. ``value`` is the lowest
      AUC. ``reference`` is the 95 % quantile of this donor's AUC without a difference.

    ``passed`` is True, False, or missing if the control cannot be run. ``n_cells`` is the number of cells
    that were scored. ``verdict`` says the result in a sentence. ``attrs`` holds the parameters.

    Raises
    ------
    KeyError
        If a cell or a column does not exist.
    RuntimeError
        If the model is not trained.
    ValueError
        If there are no pairs, donors and groups coincide, or an argument is out of range.

    Warns
    -----
    UserWarning
        If no donors are given, and a column of ``obs`` looks like donors.

    Notes
    -----
    *Unseen cells.* Each cell is scored on an axis that was fitted to other cells. If the model was
    trained with labels that tell source from target, its training cells are separated even if the
    labels mean nothing. Then only cells that the model was not trained on are scored.

    *What a pass means.* The groups differ (``permuted_ends``), in each donor in the same direction
    (``left_out_donors``), and the groups expected in between are closer to the paths than to an end
    (``held_out_middle``). It does not mean that cells move along the path. If the groups were found by
    clustering, they differ by construction, and the first control has no meaning.

    *The middle* excludes only groups that lie at an end. An unrelated type that is as far from both ends,
    or a mixture of cells of both ends, is closer to the middle of the paths, too. A ``value`` well
    below ``reference`` is better evidence: in simulations it was 0.3 to 0.6 of it for cells in between
    without a program of their own, and 0.7 to 1.0 for such other groups.

    *Axis.* Fisher's linear discriminant in latent space, with the covariance within the groups shrunk
    as in :func:`gene_trends`. Energy distances are between equal numbers of cells and points.

    References
    ----------
    Székely and Rizzo, "Energy statistics: a class of statistics based on distances", Journal of
    Statistical Planning and Inference 143 (2013). Permutation of labels: Ojala and Garriga,
    "Permutation tests for studying classifier performance", Journal of Machine Learning Research 11
    (2010).

    Examples
    --------
    >>> import scivae
    >>> adata = scivae.datasets.synthetic(n_cells=300, n_genes=40, n_classes=2, layout="across")
    >>> scivae.model.CIVAE.setup_anndata(adata)
    >>> model = scivae.model.CIVAE(adata, n_latent=4)
    >>> model.train(max_epochs=10, enable_progress_bar=False)
    >>> adata.obsm["X_civae"] = model.get_latent_representation()
    >>> pairs = scivae.tl.pair_cells(adata, "stage", "early", "late", label="class_0")
    >>> checks = scivae.tl.check_paths(model, pairs)  # the stage "middle" lies between
    >>> checks.index.tolist()
    ['permuted_ends', 'held_out_middle', 'left_out_donors']
    >>> checks.loc["left_out_donors", "verdict"]
    'Not tested: no donors are given; pass donor_key.'
    """
    n_permutations = check_integer("n_permutations", n_permutations, minimum=20)
    max_cells = check_integer("max_cells", max_cells, minimum=2 * MIN_SCORED)
    rng = np.random.default_rng(check_integer("seed", seed, minimum=0))
    check_pairs(pairs)
    check_model(model)
    trained = _trained_names(model)
    with model.reading(adata) as adata:
        tables.check_names(adata)
        first, second = (positions_of(adata, pairs[end], end) for end in ("source", "target"))
        groups = cells_of(
            adata, pairs, donor_key=donor_key, between=between, first=first, second=second
        )
        cells = _sample(groups.group, max_cells, rng)
        order = rng.permutation(len(pairs))[:max_cells]
        start, end = (model.codec.encode(adata, cells[order]).mean for cells in (first, second))
        posterior = model.codec.encode(adata, cells)
    z, group, donor = posterior.mean.astype(float), groups.group[cells], groups.donor[cells]
    scored = np.ones(len(cells), dtype=bool)
    if _labels_tell_groups(posterior.labels, group, len(model.classes)):
        scored = ~pd.Index(adata.obs_names[cells].astype(str)).isin(trained)
    at_end = group != BETWEEN
    names = tuple(str(pairs.attrs.get(side) or side) for side in ("source", "target"))
    ends = Ends(z[at_end], group[at_end] == TARGET, donor[at_end], scored[at_end], names)
    found = {
        _keys.PERMUTED_ENDS: permuted(ends, bool(groups.donors), n_permutations, rng),
        _keys.HELD_OUT_MIDDLE: middle(ends, z[~at_end], start, end, groups.between, rng),
        _keys.LEFT_OUT_DONORS: left_out(ends, groups.donors, rng),
    }
    table = pd.DataFrame(list(found.values()), index=pd.Index(found, name="control"))
    table["passed"] = table["passed"].astype("boolean")
    table.attrs = {
        **{name: pairs.attrs.get(name) for name in ("groupby", "source", "target", "label")},
        "between": [str(level) for level in groups.between],
        "donors": list(groups.donors),
        "n_permutations": n_permutations,
        "seed": int(seed),
    }
    return table


def _sample(group: np.ndarray, max_cells: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of at most ``max_cells`` cells of each group."""
    own = [np.flatnonzero(group == code) for code in (SOURCE, BETWEEN, TARGET)]
    return np.sort(np.concatenate([rng.permutation(cells)[:max_cells] for cells in own]))


def _labels_tell_groups(labels: np.ndarray, group: np.ndarray, n_classes: int) -> bool:
    """Whether the model was trained with labels that tell source from target."""
    known = (labels < n_classes) & (group != BETWEEN)
    table = pd.crosstab(labels[known], group[known])
    return table.shape == (len(table), 2) and bool((table.min(axis=1) == 0).all())


def _trained_names(model: CIVAE) -> set[str]:
    """Names of the training cells of the model, if they are known."""
    if model.adata is None or model.train_indices is None:
        return set()
    return set(model.adata.obs_names[model.train_indices].astype(str))
