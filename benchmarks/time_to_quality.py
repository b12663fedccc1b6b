"""Time to quality: how long must CIVAE train on a real data set, and with which settings?

    python benchmarks/time_to_quality.py

Colorectal cancer, all 4,210 genes, 20 % of the cells held out. Rows differ in what `train` is given; "default" is
`model.train()`. Separability is the accuracy on held-out cells of a logistic regression fitted on the training
cells' latent means. Reconstruction is the negative log
likelihood of a held-out cell. "Twice as long" is what the others are to be compared with: what the default does not reach of
it is still to be gained by time.
"""

from __future__ import annotations

import time
from types import SimpleNamespace

from _data import labels_of, load, split
from _methods import reconstruction_loss
from _study import Study, run, text_of

import scivae
from scivae.metrics import linear_separability
from scivae.train.plan import default_epochs

KEY = "cell_type"


def prepare(setting, seed, args):
    adata = load(setting.get("data", "colon_crc"), KEY, quick=args.quick)
    train, test = split(adata, KEY, seed)
    return SimpleNamespace(train=train, test=test, y=labels_of(train, KEY))


def measure(settings, data, seed, args):
    share, arguments, *others = settings
    train = data.train.copy()
    scivae.model.CIVAE.setup_anndata(train)
    model = scivae.model.CIVAE(train, seed=seed, **dict(*others))
    epochs = args.epochs or max(1, round(share * default_epochs(train.n_obs)))
    start = time.perf_counter()
    model.train(epochs, enable_progress_bar=False, **arguments)
    seconds = time.perf_counter() - start
    z, z_test = (model.get_latent_representation(a) for a in (None, data.test))
    return {
        "epochs": len(model.history["train_loss"]),
        "separability, held out": linear_separability(z, data.y, z_test, labels_of(data.test, KEY)),
        "reconstruction, held out": reconstruction_loss(model, data.test),
        "training time, s": seconds,
    }


EARLY = {"early_stopping": True, "early_stopping_patience": 10}
METHODS = {
    "default": (1.0, {}),
    "β = 50": (1.0, {}, {"discriminator_weight": 50.0}),
    "a quarter of the epochs": (0.25, {}),
    "half of the epochs": (0.5, {}),
    "twice as long": (2.0, {}),
    "batch of 256": (1.0, {"batch_size": 256}),
    "batch of 256, twice the rate": (1.0, {"batch_size": 256, "plan_kwargs": {"lr": 4e-3}}),
    "twice the rate": (1.0, {"plan_kwargs": {"lr": 4e-3}}),
    "half of the rate": (1.0, {"plan_kwargs": {"lr": 1e-3}}),
    "rate lowered on a plateau": (
        1.0,
        {"plan_kwargs": {"reduce_lr_on_plateau": True, "lr_patience": 8}},
    ),
    "early stopping": (1.0, EARLY),
}

STUDY = Study(
    name="time_to_quality",
    title="Time to quality, colorectal cancer",
    text=text_of(__doc__),
    methods=METHODS,
    prepare=prepare,
    measure=measure,
    time="training time, s",
    of_file=lambda name, args: [{"data": name}],
)

if __name__ == "__main__":
    run(STUDY)
