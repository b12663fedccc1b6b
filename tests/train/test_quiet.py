"""Training says what concerns its user, and leaves the logging of the process as it was."""

import logging
import os
import re
import subprocess
import sys
import warnings

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning_utilities.core import rank_zero
from tests.conftest import make_adata, make_model

from scivae._quiet import held_back
from scivae.model import CIVAE

SCRIPT = """
import logging, sys, tempfile, warnings
import scivae
adata = scivae.datasets.synthetic(n_cells=200, n_genes=40)
scivae.model.CIVAE.setup_anndata(adata)

def train(n):
    model = scivae.model.CIVAE(adata, n_latent=4)
    model.train(max_epochs=n)
    model.train(max_epochs=2, early_stopping=True, datasplitter_kwargs={"num_workers": 1})
    model.train(max_epochs=n, plan_kwargs={"minibatch_size": None, "reduce_lr_on_plateau": True})
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder + "/model")
        for _ in range(2):
            scivae.model.CIVAE.load(folder + "/model", adata).train(2, checkpoint_dir=folder)
    try:
        model.train(max_epochs=2, plan_kwargs={"lr": 1e30}, enable_progress_bar=False)
    except FloatingPointError:
        pass

print("begin", flush=True); print("begin", file=sys.stderr, flush=True)
train(30)
logging.basicConfig(level=logging.WARNING)
train(2)
warnings.simplefilter("always")
train(2)
"""


def test_training_says_how_far_it_is_and_no_more():
    """Also where the user has set up logging, and where all warnings are shown."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.partition("begin\n")[2] == ""
    lines = done.stderr.partition("begin\n")[2].splitlines()
    epochs = [
        re.match(r"Training: (\d+)/(\d+) epochs, loss [\d.]+, held-out loss", x) for x in lines
    ]
    assert all(epochs), lines
    a_tenth, few = [*range(3, 31, 3)], [1, 2]
    assert [int(m[1]) for m in epochs] == a_tenth + few + a_tenth + few * 9


def test_loggers_and_warnings_are_as_before(adata):
    names = ("", "lightning", "lightning.pytorch", "scvi", rank_zero.log.name)
    loggers = [logging.getLogger(name) for name in names]

    def state():
        return [(x.level, list(x.handlers), list(x.filters), x.propagate) for x in loggers]

    before, filters = state(), list(warnings.filters)
    make_model(adata)
    assert state() == before
    assert warnings.filters == filters


class Says(Callback):
    """Says things in the course of training."""

    def on_train_epoch_end(self, trainer, plan):
        rank_zero_info("an epoch has gone")
        warnings.warn("old", FutureWarning, stacklevel=1)
        warnings.warn("odd", UserWarning, stacklevel=1)


def test_what_the_user_has_asked_for_is_said(adata, caplog):
    """Their own callbacks, those of Lightning that are to be loud, warnings of their own code."""
    CIVAE.setup_anndata(adata)
    model = CIVAE(adata, n_latent=4, n_hidden=16)
    stop = EarlyStopping("accuracy_train", mode="max", patience=0, verbose=True, min_delta=9.0)
    logger = logging.getLogger("lightning.pytorch")
    for name in (logger.name, rank_zero.log.name):  # the benchmarks silence both
        caplog.set_level(logging.INFO, logger=name)
    logger.addHandler(caplog.handler)
    try:
        with pytest.warns(FutureWarning, match="old"), pytest.warns(UserWarning, match="odd"):
            model.train(5, callbacks=[Says(), stop], enable_progress_bar=False)
    finally:
        logger.removeHandler(caplog.handler)
    said = [record.getMessage() for record in caplog.records]
    assert "an epoch has gone" in said
    assert any("accuracy_train" in text for text in said)
    assert not any("available" in text or "Tip" in text or "stopped" in text for text in said)


def test_a_logger_that_is_set_to_debug_says_everything(caplog):
    logger = rank_zero.log
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(caplog.handler)
    try:
        make_model(make_adata())
    finally:
        logger.setLevel(before)
        logger.removeHandler(caplog.handler)
    assert any("GPU available" in record.getMessage() for record in caplog.records)


def test_others_are_heard(caplog):
    """Another thread, and what is more than a note."""
    from threading import Thread

    logger = logging.getLogger("scivae.tests.held_back")
    logger.setLevel(logging.INFO)
    with caplog.at_level(logging.INFO), held_back(logger, lambda record: True):
        logger.info("mine")
        logger.warning("a warning of mine")
        thread = Thread(target=logger.info, args=("of another thread",))
        thread.start()
        thread.join()
    logger.info("afterwards")
    said = [record.getMessage() for record in caplog.records]
    assert said == ["a warning of mine", "of another thread", "afterwards"]
