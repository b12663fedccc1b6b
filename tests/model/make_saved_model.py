"""Make the saved model that later versions must go on loading: ``python -m tests.model.make_saved_model``.

Run it only when the format changes on purpose, and keep the folders of the versions before.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from tests.conftest import make_adata, make_model

import scivae

SAVED = Path(__file__).parent / "saved"
SETUP = {
    "batch_key": "batch",
    "unlabeled_category": "gamma",
    "categorical_covariate_keys": ["site"],
    "continuous_covariate_keys": ["age"],
}


def outputs(model: scivae.model.CIVAE) -> dict[str, list]:
    """What a loaded model must still give for the cells of :func:`tests.conftest.make_adata`."""
    path = model.interpolate(0, 3, n_steps=3, key_added=None)
    return {
        "latent": np.asarray(model.get_latent_representation()[:10], float).tolist(),
        "probabilities": model.predict(soft=True).to_numpy()[:10].tolist(),
        "path": np.asarray(path.layers["counts"], float).tolist(),
        "loss": model.history["train_loss"].to_numpy(float).ravel().tolist(),
    }


if __name__ == "__main__":
    folder = SAVED / version("scivae-tools")
    model = make_model(make_adata(), epochs=10, setup=SETUP)
    model.save(folder, overwrite=True)
    (folder / "outputs.json").write_text(json.dumps(outputs(model)) + "\n")
