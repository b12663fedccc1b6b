from __future__ import annotations

import gzip
import json
from dataclasses import replace

import anndata as ad
import numpy as np
import pytest

from scivae.datasets import DamagedFileError, DownloadError, mnist, registry

QUIET = {"progress": False, "timeout": 2.0}


@pytest.fixture
def idx_folder(tmp_path, idx_files):
    path = tmp_path / "idx"
    path.mkdir()
    for place, (name, content) in enumerate(idx_files.items()):
        if place % 2:  # gzipped or not, mixed
            (path / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (path / name).write_bytes(content)
    return path


@pytest.fixture
def served(server, folder, idx_files, monkeypatch):
    files = {}
    for key, file in registry.MNIST.files.items():
        server.files[file.filename] = gzip.compress(idx_files[file.filename[:-3]])
        files[key] = replace(file, urls=(server.url(file.filename),))
    monkeypatch.setattr(registry, "MNIST", replace(registry.MNIST, files=files))
    return server


@pytest.mark.parametrize(("split", "n"), [("all", 30), ("train", 20), ("test", 10)])
def test_folder(idx_folder, idx_files, split, n, tmp_path):
    adata = mnist(split, path=idx_folder, verify=False)
    assert adata.shape == (n, 784)
    assert adata.X.dtype == np.float32
    assert (adata.X.min(), adata.X.max()) == (0, 1)
    first = "t10k" if split == "test" else "train"
    pixels = np.frombuffer(idx_files[f"{first}-images-idx3-ubyte"][16:], dtype=np.uint8)
    np.testing.assert_allclose(adata.X.ravel()[: len(pixels)], pixels / 255, rtol=1e-6)
    assert list(adata.obs["digit"][:11]) == [*"01234567890"][: min(n, 11)]
    assert adata.obs["digit"].dtype == "category"
    assert set(adata.obs["split"]) == ({"train", "test"} if split == "all" else {split})
    assert list(adata.uns["image"]["shape"]) == [28, 28]
    assert tuple(adata.var.iloc[29]) == (1, 1)
    adata.write_h5ad(tmp_path / "x.h5ad")
    assert list(ad.read_h5ad(tmp_path / "x.h5ad").uns["image"]["shape"]) == [28, 28]


def test_contents_must_be_those_of_mnist(idx_folder):
    with pytest.raises(DamagedFileError, match="unpacked checksum md5:6bbc9a.*verify=False"):
        mnist(path=idx_folder)


def test_download(served, folder, helpers):
    adata = mnist("test", verify=False, **QUIET)
    assert adata.n_obs == 10
    assert sum(served.requests.values()) == 2
    mnist(verify=False, **QUIET)
    assert sum(served.requests.values()) == 4
    names = {file.name for file in registry.MNIST.files.values()}
    assert helpers.visible(folder) == names | {f"{name}.sha256" for name in names}


def test_download_of_other_images_is_refused(served, folder, helpers):
    with pytest.raises(DownloadError, match="checksum of the unpacked file must be"):
        mnist(**QUIET)
    assert helpers.visible(folder) == set()


def test_lacking_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte or train-.*gz, got nei"):
        mnist(path=tmp_path)


def test_unknown_split():
    with pytest.raises(ValueError, match="split must be one of 'all', 'train', 'test', got 'dev'"):
        mnist("dev")


def test_labels_and_images_must_be_as_many(idx_folder, helpers):
    labels = next(idx_folder.glob("t10k-labels*"))
    labels.write_bytes(helpers.idx_bytes(np.zeros(3, dtype=np.uint8)))
    with pytest.raises(DamagedFileError, match="got 10 images and 3 labels"):
        mnist("test", path=idx_folder, verify=False)


def test_labels_in_place_of_images(idx_folder, helpers):
    for images in idx_folder.glob("t10k-images*"):
        images.write_bytes(helpers.idx_bytes(np.zeros(10, dtype=np.uint8)))
    with pytest.raises(DamagedFileError, match=r"must have 3 dimensions, got shape \(10,\)"):
        mnist("test", path=idx_folder, verify=False)


def test_all_real_images_in_three_seconds_and_a_gigabyte(real_data, helpers):
    out = helpers.light_run(f"""
        import json, time
        import anndata, pandas
        from scivae.datasets import mnist
        seconds = []
        for _ in range(2):
            adata = None
            start = time.perf_counter()
            adata = mnist(path={str(real_data / "mnist")!r})
            seconds.append(time.perf_counter() - start)
        digits = adata.obs["digit"].value_counts().sort_index().tolist()
        print(json.dumps([adata.shape, min(seconds), peak(), digits, float(adata.X.mean())]))
        """)
    shape, seconds, peak, digits, mean = json.loads(out)
    assert shape == [70_000, 784]
    # The published counts of both parts.
    assert digits == [6903, 7877, 6990, 7141, 6824, 6313, 6876, 7293, 6825, 6958]
    assert mean == pytest.approx(0.1309, abs=2e-4)
    assert seconds < 3
    assert peak < 1e9
