"""Write the files that test_other_versions.py reads, in one archive, with the anndata and pandas of this Python.

Run once with the versions of constraints.txt on Python 3.11, and once with the newest on Python 3.12:

    python tests/written/make.py tests/written/pandas2
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

import scivae


def main(target: Path) -> None:
    adata = scivae.datasets.synthetic(n_cells=40, n_genes=12)
    adata.obs["run"] = np.array(["one", "two"])[np.arange(40) % 2]
    adata.obs["barcode"] = [f"barcode of {name}" for name in adata.obs_names]  # stays text
    scivae.model.CIVAE.setup_anndata(adata, batch_key="run", unlabeled_category="Unknown")
    model = scivae.model.CIVAE(adata, n_latent=3, n_hidden=8)
    model.train(max_epochs=2, enable_progress_bar=False)
    adata.obsm["X_civae"] = model.get_latent_representation()
    with tempfile.TemporaryDirectory() as scratch:
        model.save(f"{scratch}/model", save_anndata=True)
        model.interpolate(0, 1, n_steps=4).write_h5ad(f"{scratch}/path.h5ad")
        model.augment(model.classes[0], 6, store=f"{scratch}/cells.zarr")
        shutil.make_archive(str(target), "zip", scratch)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
