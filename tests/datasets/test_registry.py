from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest

from scivae.datasets.registry import COLON, DIGITS, HGNC, MNIST, PBMC

SOURCES = [*COLON.values(), MNIST, DIGITS, PBMC]
FILES = [file for source in SOURCES for file in source.files.values()] + [HGNC]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_files_have_safe_names_and_addresses(file):
    parts = file.name.split("/")
    assert not {"", ".", ".."} & set(parts)
    assert file.urls
    for url in file.urls:
        assert urlsplit(url).scheme == "https"
        assert urlsplit(url).netloc
    for checksum in (file.checksum, file.unpacked):
        assert checksum is None or re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", checksum)
    if file.format == "tsv":
        assert file.columns


def test_names_and_addresses_are_unique():
    assert len({file.name for file in FILES}) == len(FILES)
    urls = [url for file in FILES for url in file.urls]
    assert len(set(urls)) == len(urls)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.title)
def test_sources_are_told(source):
    assert all((source.title, source.citation, source.licence, source.homepage))


@pytest.mark.parametrize("source", COLON.values(), ids=lambda source: source.title)
def test_colon_names_what_the_model_needs(source):
    assert {"tissue", "donor", "cell_type", "cell_state"} <= set(source.columns.values())
    assert set(source.files) == {"matrix", "annotation"}


def test_mnist_has_the_published_checksums():
    assert {key: file.unpacked for key, file in MNIST.files.items()} == {
        "train images": "md5:6bbc9ace898e44ae57da46a324031adb",
        "train labels": "md5:a25bea736e30d166cdddb491f175f624",
        "test images": "md5:2646ac647ad5339dbf082846283269ea",
        "test labels": "md5:27ae3e4e09519cfbb04c329615203637",
    }
    assert all(len(file.urls) >= 2 for file in MNIST.files.values())
