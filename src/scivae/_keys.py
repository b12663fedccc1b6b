"""Every slot of AnnData that scivae writes or reads by name, spelled once.

``key_added`` of a method replaces the word ``civae`` in the slots of the AnnData that the user gave;
the columns of generated AnnData keep their fixed names, so that code can rely on them.
"""

from __future__ import annotations

from typing import Final

# The word from which the slots in the user's AnnData are made.
KEY_ADDED: Final = "civae"

# Set-up defaults.
COUNTS_LAYER: Final = "counts"
LABELS_KEY: Final = "cell_type"

# Slots of generated AnnData (and of the user's, with key_added="civae").
LATENT: Final = "X_civae"
UNS: Final = "civae"
PATHS: Final = "paths"
AUGMENTATION: Final = "augmented"
# What scivae writes into the entry of the user's AnnData, and what that of generated AnnData has.
UNS_ENTRIES: Final = frozenset({PATHS, AUGMENTATION})
PROVENANCE: Final = frozenset({"kind", "versions"})
Q05_LAYER: Final = "q05"
Q95_LAYER: Final = "q95"

# Slots of trends along paths; Q05_LAYER and Q95_LAYER are theirs too.
MEAN_LAYER: Final = "mean"
SD_LAYER: Final = "sd"
FIT_LAYER: Final = "fit"
FIT_LOW_LAYER: Final = "fit_low"
FIT_HIGH_LAYER: Final = "fit_high"
DECODED_LAYER: Final = "decoded"
CHANGE: Final = "change"
SWITCH: Final = "switch"
RESOLVED: Final = "resolved"
SWITCHES: Final = "civae_switch"
BINS: Final = "civae_bins"
BINS_SE: Final = "civae_bins_se"
NULL: Final = "civae_null"
SAMPLES: Final = "civae_samples"
SAMPLES_VARIANCE: Final = "civae_samples_variance"

# obs columns of generated AnnData.
KIND: Final = "civae_kind"
PATH: Final = "civae_path"
T: Final = "civae_t"
SOURCE: Final = "civae_source"
TARGET: Final = "civae_target"
PREDICTED: Final = "civae_predicted"
MARGIN: Final = "civae_margin"
CONFIDENCE: Final = "civae_confidence"

# Values of KIND.
INTERPOLATED: Final = "interpolated"
AUGMENTED: Final = "augmented"
REAL: Final = "real"


def t_key(key_added: str = KEY_ADDED) -> str:
    """Name of the obs column with the position of real cells along a path."""
    return f"{key_added}_t"


def distance_key(key_added: str = KEY_ADDED) -> str:
    """Name of the obs column with the distance of real cells from a path."""
    return f"{key_added}_distance"


def share_key(key_added: str = KEY_ADDED) -> str:
    """Name of the obs column with the share of points of a path among the neighbors of real cells."""
    return f"{key_added}_share"


def predicted_key(key_added: str = KEY_ADDED) -> str:
    """Name of the obs column with the predicted class of real cells."""
    return f"{key_added}_predicted"


def confidence_key(key_added: str = KEY_ADDED) -> str:
    """Name of the obs column with the probability of the predicted class of real cells."""
    return f"{key_added}_confidence"


def novelty_key(key_added: str = KEY_ADDED) -> str:
    """Name of the obs column that says how unlike all classes real cells are."""
    return f"{key_added}_novelty"


def latent_key(key_added: str = KEY_ADDED) -> str:
    """Name of the obsm slot of the latent representation."""
    return f"X_{key_added}"
