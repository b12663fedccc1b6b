"""Treated cells that were not measured: how well are they predicted from untreated ones?

    python benchmarks/condition.py
    python benchmarks/condition.py --data FILE --labels-key TYPE --donor-key DONOR \
        --condition-key CONDITION --source CONTROL --target TREATED

pbmc_kang, control and interferon-stimulated blood cells of two donors. The stimulated cells of one type, or of one
donor, are left out of everything; half of its control cells, too. From the other half, its stimulated cells are
predicted. Half of the left-out stimulated cells are what predictions are compared with, the other half is the ceiling.
Measured changes are those against the control cells that were left out, predicted ones those against the control cells
that were given, so that no noise is shared. All sides have equally many cells. Donors are predicted type by type, and all
types are then scored together.

R² is of the means over cells of log-normalized expression, over all genes and over the 100 genes that change most. The energy distance
is in gene space, of log-normalized samples. The slope is that of predicted on measured changes: 1 is best.

The arithmetic adds the mean latent difference of the other types (or donors) to each cell, as scGen does; OT adds the mean displacement of
the ten nearest control cells that transport joins to stimulated ones. Both are decoded and drawn from the likelihood. β = 0 is the same network
without a discriminator. "Measured changes" is `scivae.tl.predict_condition`, which uses no network; "mean change" is the same without weights.
"""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

import anndata
import numpy as np
from _common import data_file
from _data import FILES, data_folder, load, log_normalize
from _study import Study, run, text_of

import scivae
from scivae.metrics import energy_distance
from scivae.stats import transfer_change
from scivae.tl import _conditions

CONDITION, SOURCE, TARGET = "condition", "ctrl", "stim"
TYPES = ("B cells", "CD14+ Monocytes", "CD4 T cells", "CD8 T cells", "FCGR3A+ Monocytes")


def own_cells(name: str, args):
    """A file of one's own, with the names of the study."""
    adata = load(name, "cell_type")
    if args.condition_key not in adata.obs:
        raise SystemExit(
            f"--condition-key must be a column of obs, got {args.condition_key!r}; the columns there are: "
            f"{', '.join(map(repr, adata.obs.columns))}."
        )
    names = {args.source: SOURCE, args.target: TARGET}
    found = adata.obs[args.condition_key].astype(str)
    missing = [name for name in names if not (found == name).any()]
    if missing:
        raise SystemExit(
            f"--source and --target must be values of {args.condition_key!r}, got {missing[0]!r}; "
            f"the values there are: {', '.join(map(repr, sorted(found.unique())))}."
        )
    adata = adata[found.isin(list(names)).to_numpy()].copy()
    adata.obs[CONDITION] = adata.obs[args.condition_key].astype(str).map(names)
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
    return adata


def of_file(name: str, args):
    """Each type, and each donor, that has 20 cells in both conditions."""
    obs = own_cells(name, args).obs
    settings = []
    for kind, column in (("type", "cell_type"), ("donor", "donor")):
        if column not in obs or obs[column].nunique() < 2:
            continue
        sizes = obs.groupby([column, CONDITION]).size().unstack(fill_value=0)
        names = sizes.index[
            (sizes.reindex(columns=[SOURCE, TARGET], fill_value=0) >= 20).all(axis=1)
        ]
        settings += [{"left out": f"{kind}: {level}"} for level in names]
    if not settings:
        raise SystemExit("no type and no donor has 20 cells in both conditions, beside another")
    return settings


def cells(quick: bool):
    """The data, with donors apart from conditions."""
    if quick and not (data_folder() / "pbmc_kang.h5ad").exists():
        adata = scivae.datasets.synthetic(600, 60, 5, layout="across", n_donors=2, seed=0)
        adata.obs["cell_type"] = (
            adata.obs["cell_type"]
            .astype(str)
            .map({f"class_{i}": name for i, name in enumerate(TYPES)})
        )
        adata.obs[CONDITION] = np.where(adata.obs["position"] > 0.5, TARGET, SOURCE)
        adata.obs["donor"] = adata.obs["donor"].map({"donor_0": "101", "donor_1": "107"})
        return adata
    adata = anndata.read_h5ad(data_file("pbmc_kang.h5ad"))
    adata.obs["donor"] = adata.obs["donor"].astype(str).str[-3:]
    for column in ("cell_type", CONDITION):
        adata.obs[column] = adata.obs[column].astype(str)
    if quick:
        genes = np.argsort(-np.asarray(adata.layers["counts"].sum(axis=0)).ravel())[:150]
        adata = adata[:, np.sort(genes)].copy()
    return adata


def halves(cells: np.ndarray, strata: np.ndarray, rng: np.random.Generator):
    """Two halves of some cells, of every stratum."""
    first = np.zeros(len(cells), dtype=bool)
    for name in np.unique(strata):
        own = rng.permutation(np.flatnonzero(strata == name))
        first[own[: len(own) // 2]] = True
    return cells[first], cells[~first]


def prepare(setting, seed, args):
    own_file = args.data is not None and args.data.stem in FILES
    adata = own_cells(args.data.stem, args) if own_file else cells(args.quick)
    by = setting["left out"].split(": ")[0]
    level = setting["left out"].split(": ", 1)[1]
    by = {"type": "cell_type", "donor": "donor"}[by]
    rng = np.random.default_rng([seed, 4])
    types = adata.obs["cell_type"].to_numpy()
    own = (adata.obs[by] == level).to_numpy()
    stimulated = (adata.obs[CONDITION] == TARGET).to_numpy()
    treated, control = np.flatnonzero(own & stimulated), np.flatnonzero(own & ~stimulated)
    scored, ceiling = halves(treated, types[treated], rng)
    given, baseline = halves(control, types[control], rng)
    train = np.ones(adata.n_obs, dtype=bool)
    train[treated] = train[baseline] = False
    log = log_normalize(adata.layers["counts"])
    return SimpleNamespace(
        train=adata[train].copy(),
        by=by,
        level=level,
        scored=log[scored],
        ceiling=log[ceiling],
        baseline=log[baseline],
        given=log[given],
        seed=seed,
        epochs=args.epochs,
        models={},
    )


def model_of(data, weight: float | None):
    """A model of the training cells, trained once for all methods."""
    if weight not in data.models:
        adata = data.train.copy()
        scivae.model.CIVAE.setup_anndata(adata)
        settings = {} if weight is None else {"discriminator_weight": weight}
        model = scivae.model.CIVAE(adata, seed=data.seed, **settings)
        model.train(max_epochs=data.epochs, enable_progress_bar=False)
        data.models[weight] = model
    return data.models[weight]


def predicted(data, method: str, weight: float | None):
    """Log-normalized predicted cells; a donor is predicted type by type."""
    model = model_of(data, weight)
    adata = model.adata
    parts = [adata]
    if data.by == "donor":
        types = adata.obs["cell_type"].to_numpy()
        parts = [adata[types == name].copy() for name in np.unique(types)]
    found = [
        scivae.tl.predict_condition(
            model,
            CONDITION,
            SOURCE,
            TARGET,
            level=data.level,
            by=data.by,
            adata=part,
            method=method,
            seed=data.seed,
        )
        for part in parts
    ]
    return log_normalize(np.concatenate([f.layers["counts"] for f in found]))


def unweighted(source, target, own, *, power=None):
    """The change of the others, all alike."""
    return transfer_change(source, target, own, power=0.0)


def mean_change(data):
    with mock.patch.object(_conditions, "transfer_change", unweighted):
        return predicted(data, "transfer", None)


METHODS = {
    "other half of the held-out cells (ceiling)": lambda data: data.ceiling,
    "control cells as they are": lambda data: data.given,
    "measured changes, weighted (predict_condition)": lambda data: predicted(
        data, "transfer", None
    ),
    "mean change of the others": mean_change,
    "VAE (β = 0), arithmetic (scGen's)": lambda data: predicted(data, "arithmetic", 0.0),
    "CI-VAE, arithmetic": lambda data: predicted(data, "arithmetic", None),
    "VAE (β = 0), OT": lambda data: predicted(data, "ot", 0.0),
    "CI-VAE, OT": lambda data: predicted(data, "ot", None),
}


def r_squared(predicted: np.ndarray, measured: np.ndarray) -> float:
    return 1 - ((predicted - measured) ** 2).sum() / ((measured - measured.mean()) ** 2).sum()


def measure(make, data, seed, args):
    made = make(data)
    rng = np.random.default_rng([seed, 5])
    n = min(len(data.scored), len(data.ceiling), len(data.given))
    some = made[rng.choice(len(made), n, replace=False)]
    real = data.scored[rng.choice(len(data.scored), n, replace=False)]
    change = data.scored.mean(axis=0) - data.baseline.mean(axis=0)
    top = np.argsort(-np.abs(change))[:100]
    guess = made.mean(axis=0) - data.given.mean(axis=0)
    varies = guess.std() > 0
    return {
        "R² of means": r_squared(made.mean(axis=0), data.scored.mean(axis=0)),
        "R² of 100 top genes": r_squared(made.mean(axis=0)[top], data.scored.mean(axis=0)[top]),
        "energy distance": energy_distance(some, real),
        "fold change, r": np.corrcoef(guess, change)[0, 1] if varies else np.nan,
        "fold change, slope": np.polyfit(change, guess, 1)[0],
    }


def options(parser):
    parser.add_argument("--condition-key", default=CONDITION, help="column of the conditions")
    parser.add_argument("--source", default=SOURCE, help="the condition to predict from")
    parser.add_argument("--target", default=TARGET, help="the condition to predict")


STUDY = Study(
    name="condition",
    title="A condition that was not measured",
    text=text_of(__doc__),
    methods=METHODS,
    settings=[
        *({"left out": f"type: {name}"} for name in TYPES),
        {"left out": "donor: 101"},
        {"left out": "donor: 107"},
    ],
    prepare=prepare,
    measure=measure,
    options=options,
    of_file=of_file,
    quick={"only": ["left out=type: CD4 T cells"]},
)


if __name__ == "__main__":
    run(STUDY)
