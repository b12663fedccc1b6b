"""Linear separability of the classes in latent space."""

from __future__ import annotations

from typing import Literal

import numpy.typing as npt

from .._validate.arguments import check_choice, check_integer, check_positive
from .._validate.arrays import (
    Labels,
    MatrixLike,
    Points,
    as_labels,
    as_points,
    check_columns,
    check_known,
    check_rows,
    check_two_classes,
)

SeparabilityProtocol = Literal["train-test", "test-test", "train-train"]


def linear_separability(
    z_train: MatrixLike,
    y_train: npt.ArrayLike,
    z_test: MatrixLike | None = None,
    y_test: npt.ArrayLike | None = None,
    *,
    protocol: SeparabilityProtocol = "train-test",
    inverse_penalty: float = 1.0,
    max_iter: int = 2000,
) -> float:
    """Accuracy of a multinomial logistic regression on latent points.

    A protocol is named ``<fitted on>-<scored on>``. Here *train* means the cells that the
    representation (the VAE) was trained on, and *test* the cells that it never saw:

    ``"train-test"``
        The default, and the only one that measures generalization: fitted on training latents,
        scored on held-out latents.
    ``"test-test"``
        The protocol of the CI-VAE paper: fitted *and* scored on the held-out latents. The
        representation is held out, the logistic regression is not.
    ``"train-train"``
        The optimistic one: fitted and scored on training latents. A network with a class term in
        its loss can reach almost 1 by memorizing the training cells, so this says little about new
        cells.

    Each latent dimension is standardized with the mean and standard deviation of the cells that the
    regression is fitted on. The solver (L-BFGS) is deterministic.

    Parameters
    ----------
    z_train
        Latent points of training cells, ``(n_train, n_latent)``.
    y_train
        Their labels, ``(n_train,)``.
    z_test
        Latent points of held-out cells, ``(n_test, n_latent)``. Not needed for ``"train-train"``.
    y_test
        Their labels, ``(n_test,)``. Not needed for ``"train-train"``.
    protocol
        Which cells the regression is fitted and scored on; see above.
    inverse_penalty
        Inverse strength of the L2 penalty (scikit-learn's ``C``), above 0.
    max_iter
        Maximum number of iterations of the solver. scikit-learn warns if the solver does not
        converge.

    Returns
    -------
    Proportion of correctly classified points, in [0, 1].

    Raises
    ------
    ValueError
        If arrays do not match in length or columns, contain NaN or infinity, have missing labels,
        or have only one class; if the protocol needs test points that are not given; if a test
        label does not occur among the cells that the regression is fitted on.

    References
    ----------
    The CI-VAE paper, Table 1 ("linear separability"), for the measure and for ``"test-test"``.

    Examples
    --------
    >>> import numpy as np
    >>> from scivae.metrics import linear_separability
    >>> z = np.array([[-2.0, 0.0], [-1.0, 1.0], [1.0, 0.0], [2.0, 1.0]])
    >>> y = np.array(["B cell", "B cell", "T cell", "T cell"])
    >>> linear_separability(z, y, z + 0.1, y)
    1.0
    >>> linear_separability(z, y, -z, y)
    0.0
    >>> linear_separability(z, y, -z, y, protocol="test-test")
    1.0
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    check_choice("protocol", protocol, ("train-test", "test-test", "train-train"))
    check_positive("inverse_penalty", inverse_penalty)
    check_integer("max_iter", max_iter, minimum=1)
    parts = {"train": _part(z_train, y_train, "train")}
    if z_test is not None and y_test is not None:
        parts["test"] = _part(z_test, y_test, "test")
        check_columns("z_train", parts["train"][0], "z_test", parts["test"][0])
    elif protocol != "train-train" or z_test is not None or y_test is not None:
        absent = [name for name, v in (("z_test", z_test), ("y_test", y_test)) if v is None]
        raise ValueError(
            f"protocol {protocol!r} must have both z_test and y_test, got no "
            f"{' and no '.join(absent)}; pass both, or neither with protocol='train-train'."
        )

    fit_name, score_name = protocol.split("-")
    z_fit, y_fit = parts[fit_name]
    z_score, y_score = parts[score_name]
    check_two_classes(f"y_{fit_name}", y_fit)
    check_known(f"y_{score_name}", y_score, f"the labels of y_{fit_name}", y_fit)
    regression = LogisticRegression(C=inverse_penalty, max_iter=max_iter)
    pipeline = make_pipeline(StandardScaler(), regression).fit(z_fit, y_fit)
    return float((pipeline.predict(z_score) == y_score).mean())


def _part(z: MatrixLike, y: npt.ArrayLike, name: str) -> tuple[Points, Labels]:
    points, labels = as_points(f"z_{name}", z), as_labels(f"y_{name}", y)
    check_rows(f"y_{name}", labels, f"z_{name}", points)
    return points, labels
