"""Names of all AnnData slots that scivae reads or writes. Each name is defined only here.

``key_added`` replaces ``civae`` in the slot names of the user's AnnData. Columns of generated
AnnData objects have fixed names, so that code can rely on them.
"""

from __future__ import annotations

from typing import Any, Final

# Default prefix of slots in the user's AnnData.
KEY_ADDED: Final = "civae"

# Defaults of setup_anndata.
COUNTS_LAYER: Final = "counts"
LABELS_KEY: Final = "cell_type"

# Slots of generated AnnData (and of the user's, with key_added="civae").
LATENT: Final = "X_civae"
UNS: Final = "civae"
PATHS: Final = "paths"
AUGMENTATION: Final = "augmented"
# Keys of uns["civae"] in the user's AnnData, and in generated AnnData.
UNS_ENTRIES: Final = frozenset({PATHS, AUGMENTATION})
PROVENANCE: Final = frozenset({"kind", "versions"})
Q05_LAYER: Final = "q05"
Q95_LAYER: Final = "q95"

# Slots of trends along paths, which also use Q05_LAYER and Q95_LAYER.
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

# Column of the yield of classes: number of cells drawn.
N_DRAWN: Final = "n_drawn"

# Rows of the table of :func:`scivae.tl.check_paths`.
PERMUTED_ENDS: Final = "permuted_ends"
HELD_OUT_MIDDLE: Final = "held_out_middle"
LEFT_OUT_DONORS: Final = "left_out_donors"

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
    """Name of the obs column with the proportion of path points among the neighbors of a cell."""
    return f"{key_added}_share"


def predicted_key(key_added: str = KEY_ADDED) -> str:
    """Name of the obs column with the predicted class of real cells."""
    return f"{key_added}_predicted"


def confidence_key(key_added: str = KEY_ADDED) -> str:
    """Name of the obs column with the probability of the predicted class of real cells."""
    return f"{key_added}_confidence"


def novelty_key(key_added: str = KEY_ADDED) -> str:
    """Name of the obs column with the novelty of real cells: how far they are from all classes."""
    return f"{key_added}_novelty"


def latent_key(key_added: str = KEY_ADDED) -> str:
    """Name of the obsm slot of the latent representation."""
    return f"X_{key_added}"


def significance_columns(between_donors: bool) -> tuple[str, str]:
    """Names of the columns with p-values and false discovery rates: between donors, or between cells."""
    return ("p_value", "fdr") if between_donors else ("p_cells", "fdr_cells")


def columns_of_significance(table: Any) -> tuple[str, str]:
    """The same of a table that :func:`scivae.tl.rank_genes` or :func:`scivae.tl.enrich` returned."""
    return significance_columns("fdr" in table)
