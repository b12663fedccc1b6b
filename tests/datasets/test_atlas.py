from __future__ import annotations

import io
import stat
import zipfile

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from scanpy.datasets._ebi_expression_atlas import read_expression_from_archive

from scivae.datasets import DamagedFileError, DownloadError
from scivae.datasets._atlas import check_archive, read_archive, read_design, read_matrix_market
from scivae.datasets._download import fetch
from scivae.datasets.registry import ATLAS_COLUMNS, COLON, RemoteFile


def read(text: bytes):
    return read_matrix_market(io.BytesIO(text), size=len(text))


def test_archive_reads_as_scanpy_reads_it(atlas, helpers, tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(helpers.atlas_zip(atlas))
    counts, cells, genes = read_archive(path)
    with zipfile.ZipFile(path) as archive:
        scanpys = read_expression_from_archive(archive)
    np.testing.assert_array_equal(counts.toarray(), scanpys.X.toarray())
    np.testing.assert_array_equal(counts.toarray(), atlas.counts)
    assert list(cells) == list(scanpys.obs_names) == atlas.cells
    assert list(genes["gene_ids"]) == list(scanpys.var_names) == atlas.gene_ids
    assert (genes["symbol"] == "").all()


def test_names_in_the_archive_are_used(atlas, helpers, tmp_path):
    path = tmp_path / "a.zip"
    rows = "".join(f"{gene}\tS{i}\n" for i, gene in enumerate(atlas.gene_ids))
    path.write_bytes(helpers.atlas_zip(atlas, mtx_rows=rows.encode()))
    assert read_archive(path)[2]["symbol"][2] == "S2"


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    density=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_matrix_reads_as_scipy_reads_it(helpers, shape, density, seed):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(3, shape) * (rng.random(shape) < density)
    text = helpers.matrix_market(counts)
    expected = scipy.io.mmread(io.BytesIO(text)).T.toarray()
    np.testing.assert_array_equal(read(text).toarray(), expected)


HEAD = b"%%MatrixMarket matrix coordinate real general\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "must start with"),
        (b"1 1 1\n", "must start with"),
        (HEAD, "line of three sizes, got the end of the file"),
        (HEAD + b"2 2\n", "line of three sizes, got b'2 2"),
        (HEAD + b"2 2 2\n1 1 1\n", "2 entries as in its header, got 1: truncated"),
        (HEAD + b"2 2 1\n1 1 1\n1 2 1\n", "1 entries as in its header, got more"),
        (HEAD + b"2 2 1\n3 1 1\n", "row of the matrix must lie in 1 to 2, got 3"),
        (HEAD + b"2 2 1\n1 0 1\n", "column of the matrix must lie in 1 to 2, got 0"),
        (HEAD + b"2 2 1\n1 1 -4\n", "not negative, got -4"),
        (HEAD + b"2 2 1\n1 1 nan\n", "finite and not negative, got nan"),
        (HEAD + b"2 2 2\n1 1 1\n1 2\n", "finite and not negative, got nan"),
        (HEAD + b"2 2 1\n1 1 a\n", "a line that cannot be parsed"),
        (HEAD + b"2 2 99999999999\n1 1 1\n", "bytes, got 2 × 2 with 99999999999 entries"),
        (HEAD + b"2 99999999999 1\n1 1 1\n", "bytes, got 2 × 99999999999"),
    ],
)
def test_broken_matrix_is_refused(text, told):
    with pytest.raises(DamagedFileError, match=told):
        read(text)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mtx_cols": b"a\nb\n"}, "the 12 genes and 2 cells that the archive lists"),
        ({"mtx_cols": b"a\n" * 30}, "cell names in the archive must be unique, got 'a' twice"),
    ],
)
def test_parts_that_disagree_are_refused(atlas, helpers, tmp_path, change, told):
    path = tmp_path / "a.zip"
    path.write_bytes(helpers.atlas_zip(atlas, **change))
    with pytest.raises(DamagedFileError, match=told):
        read_archive(path)


# ---- hostile archives -----------------------------------------------------------------------


def hostile(atlas_zip: bytes, kind: str) -> bytes:
    """A good archive with one bad member."""
    packed = io.BytesIO(atlas_zip)
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as archive:
        if kind == "dots":
            archive.writestr("../../evil.txt", "evil")
        elif kind == "absolute":
            archive.writestr("/tmp/scivae-evil.txt", "evil")
        elif kind == "drive":
            archive.writestr("C:\\evil.txt", "evil")
        elif kind == "backslashes":
            archive.writestr("..\\evil.txt", "evil")
        elif kind == "link":
            link = zipfile.ZipInfo("link")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, "/etc/passwd")
        elif kind == "bomb":
            with archive.open("bomb.txt", "w") as stream:
                for _ in range(24):
                    stream.write(bytes(1 << 20))
        elif kind == "twice":
            archive.writestr("another.mtx", "evil")
    return packed.getvalue()


TOLD = {
    "dots": "paths outside itself, got '../../evil.txt'",
    "absolute": "paths outside itself, got '/tmp/scivae-evil.txt'",
    "drive": "paths outside itself",
    "backslashes": "paths outside itself",
    "link": "not contain links, got 'link'",
    "bomb": "a decompression bomb",
    "twice": "one .mtx member, got a second one",
}


@pytest.mark.parametrize("kind", TOLD)
def test_hostile_archive_is_refused_and_touches_nothing(
    kind, atlas, helpers, server, tmp_path, monkeypatch
):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    before = helpers.visible(tmp_path)
    server.files["x.zip"] = hostile(helpers.atlas_zip(atlas), kind)
    with pytest.raises(DownloadError, match=TOLD[kind]):
        fetch(RemoteFile("x.zip", (server.url("x.zip"),), "zip"), folder, progress=False)
    assert helpers.visible(tmp_path) == before == set()

    path = tmp_path / "x.zip"  # put there by hand, past the download
    path.write_bytes(server.files["x.zip"])
    with pytest.raises(DamagedFileError, match=TOLD[kind]):
        read_archive(path)
    assert helpers.visible(tmp_path) == {"x.zip"}


def test_sum_of_sizes_is_limited(atlas, helpers, monkeypatch):
    monkeypatch.setattr("scivae.datasets._atlas._MAX_BYTES", 100)
    with (
        zipfile.ZipFile(io.BytesIO(helpers.atlas_zip(atlas))) as archive,
        pytest.raises(DamagedFileError, match="at most 100 bytes, got more: a decompression bomb"),
    ):
        check_archive(archive)


def test_member_that_lies_about_its_size(atlas, helpers, server, tmp_path):
    body = bytearray(helpers.atlas_zip(atlas))
    central = body.index(b"PK\x01\x02")
    body[central + 24 : central + 28] = (10).to_bytes(4, "little")  # unpacked size of .mtx
    server.files["x.zip"] = bytes(body)
    with pytest.raises(DownloadError, match="not a complete zip archive"):
        fetch(RemoteFile("x.zip", (server.url("x.zip"),), "zip"), tmp_path, progress=False)
    assert helpers.visible(tmp_path) == set()


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.99])
def test_archive_that_is_cut_short(atlas, helpers, server, tmp_path, keep):
    body = helpers.atlas_zip(atlas)
    server.files["x.zip"] = body[: int(len(body) * keep)]
    with pytest.raises(DownloadError, match="not a complete zip archive"):
        fetch(RemoteFile("x.zip", (server.url("x.zip"),), "zip"), tmp_path, progress=False)


def test_archive_without_a_part(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.mtx", "")
    with (
        zipfile.ZipFile(path) as archive,
        pytest.raises(DamagedFileError, match="must have a .mtx_"),
    ):
        check_archive(archive)


# ---- the design table -----------------------------------------------------------------------


def test_design_gives_the_columns_asked_for(atlas, tmp_path):
    path = tmp_path / "d.tsv"
    atlas.design.to_csv(path, sep="\t", index=False)
    design = read_design(path, ATLAS_COLUMNS)
    assert list(design.columns) == list(ATLAS_COLUMNS.values())
    assert list(design.index) == atlas.cells
    assert design["cell_type"].isna().sum() == 5


def test_design_without_a_column_names_it(atlas, tmp_path):
    path = tmp_path / "d.tsv"
    atlas.design.drop(columns="Sample Characteristic[sex]").to_csv(path, sep="\t", index=False)
    with pytest.raises(
        DamagedFileError, match=r"must have a column 'Sample Characteristic\[sex\]'"
    ):
        read_design(path, ATLAS_COLUMNS)


def test_addresses_are_those_of_scanpy():
    files = COLON["KUL3", "atlas"].files
    base = "https://www.ebi.ac.uk/gxa/sc/experiment/E-MTAB-8410/download"
    assert files["matrix"].urls[0] == f"{base}/zip?accessKey=&fileType=quantification-raw"
    assert files["annotation"].urls[0] == f"{base}?accessKey=&fileType=experiment-design"
    assert files["matrix"].name == "E-MTAB-8410/expression_archive.zip"
    assert files["annotation"].name == "E-MTAB-8410/experimental_design.tsv"
