"""Silence messages of other packages that do not concern users of this package."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath

from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning_utilities.core import rank_zero

from ._scvi import LOGGER_OF_DOWNLOADS, LOGGER_OF_TRANSFERS

# Packages whose internal deprecation warnings are hidden: users cannot act on them.
PACKAGES = (
    r"(anndata|lightning|lightning_utilities|numba|pandas|pyro|scipy|scvi|torch|torchmetrics)\b"
)
# Hidden because they do not apply: torch's CSR layout is in beta, but only its three arrays are
# read; the training plan steps the scheduler itself, as Lightning advises; a small last minibatch
# can be trained (a single cell is never left over); torch forks data-loading processes.
MESSAGES = (
    "Sparse (CSR tensor|invariant checks)",
    r"The lr scheduler dict contains the key\(s\) \['monitor'\]",
    "Last batch will have a small size",
    r"This process \(pid=\d+\) is multi-threaded, use of fork",
)


@contextmanager
def held_back(
    logger: logging.Logger, unwanted: Callable[[logging.LogRecord], bool]
) -> Iterator[None]:
    """Drop unwanted log records of this thread up to level ``INFO``.

    The user's log levels and handlers are not changed. A logger at level ``DEBUG`` shows
    everything.

    Parameters
    ----------
    logger
        The logger to filter.
    unwanted
        Returns True for a record to drop.
    """
    thread = threading.get_ident()

    def is_wanted(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno > logging.INFO or not unwanted(record)

    if not logger.isEnabledFor(logging.DEBUG):
        logger.addFilter(is_wanted)
    try:
        yield
    finally:
        logger.removeFilter(is_wanted)  # no error if it was not added


def _of_the_framework(record: logging.LogRecord) -> bool:
    """Whether a record is from Lightning itself, not from a callback or logger of the user."""
    parts = PurePath(record.pathname).parts
    return "lightning" in parts and not {"callbacks", "loggers"}.intersection(parts)


@contextmanager
def quiet_training() -> Iterator[None]:
    """Hide device notes, tips, and deprecation warnings raised inside other packages."""
    with held_back(rank_zero.log, _of_the_framework), warnings.catch_warnings():
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category, module=PACKAGES)
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        for message in MESSAGES:
            warnings.filterwarnings("ignore", message=message)
        yield


@contextmanager
def quiet_transfer() -> Iterator[None]:
    """Hide the note that new cells are set up like the model's: the user passed them for that."""
    with held_back(logging.getLogger(LOGGER_OF_TRANSFERS), lambda record: True):
        yield


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Hide the note that a local file is already downloaded."""
    with held_back(logging.getLogger(LOGGER_OF_DOWNLOADS), lambda record: True):
        yield


@contextmanager
def quiet_about_sparse_tensors() -> Iterator[None]:
    """Hide torch's note that its CSR layout is in beta; only its three arrays are read here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR tensor|invariant checks)")
        # Lightning 2.6 uses a function that torch 2.13 deprecates.
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
        yield
