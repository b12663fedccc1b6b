"""Silence messages of other packages that users of this one do not need."""

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

# Packages whose use of what is deprecated is theirs to change.
PACKAGES = (
    r"(anndata|lightning|lightning_utilities|numba|pandas|pyro|scipy|scvi|torch|torchmetrics)\b"
)
# Torch says of its layout CSR that it is in beta; only its three arrays are read here. The plan steps the
# scheduler by hand, as Lightning asks. A last minibatch of two cells trains; one of a single cell never is.
# Torch forks the processes that load.
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
    """Hold back some of what a logger is given by this thread, up to ``INFO``.

    Levels and handlers stay as the user has set them. A logger that is set to ``DEBUG`` says everything.

    Parameters
    ----------
    logger
        The logger.
    unwanted
        Whether to hold a record back.
    """
    thread = threading.get_ident()

    def is_wanted(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno > logging.INFO or not unwanted(record)

    if not logger.isEnabledFor(logging.DEBUG):
        logger.addFilter(is_wanted)
    try:
        yield
    finally:
        logger.removeFilter(is_wanted)  # which it need not have


def _of_the_framework(record: logging.LogRecord) -> bool:
    """Whether Lightning says it of itself: its callbacks and loggers say what they were told to say."""
    parts = PurePath(record.pathname).parts
    return "lightning" in parts and not {"callbacks", "loggers"}.intersection(parts)


@contextmanager
def quiet_training() -> Iterator[None]:
    """No notes on devices, no adverts, no warnings of deprecation inside other packages."""
    with held_back(rank_zero.log, _of_the_framework), warnings.catch_warnings():
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category, module=PACKAGES)
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        for message in MESSAGES:
            warnings.filterwarnings("ignore", message=message)
        yield


@contextmanager
def quiet_transfer() -> Iterator[None]:
    """No note that cells which are new to a model are read by its setup: they were passed for that."""
    with held_back(logging.getLogger(LOGGER_OF_TRANSFERS), lambda record: True):
        yield


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No note that a file which was never to be downloaded is there."""
    with held_back(logging.getLogger(LOGGER_OF_DOWNLOADS), lambda record: True):
        yield


@contextmanager
def quiet_about_sparse_tensors() -> Iterator[None]:
    """Torch says of its layout CSR that it is in beta; only its three arrays are read here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR tensor|invariant checks)")
        # Lightning 2.6 asks torch 2.13 and newer what these no longer want to be asked.
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
        yield
