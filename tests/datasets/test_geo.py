from __future__ import annotations

import gzip
import io
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scivae.datasets import DamagedFileError, _geo
from scivae.datasets._geo import parse_block, read_annotation, read_counts
from scivae.datasets.registry import GEO_COLUMNS


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    top=st.sampled_from([1, 2, 12, 1000, 10**9]),
    seed=st.integers(0, 1000),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_block_reads_as_pandas_reads_it(shape, top, seed, end):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, top, shape) * (rng.random(shape) < 0.5)
    lines = ["\t".join([f"g{i}", *map(str, row)]) for i, row in enumerate(values)]
    text = (end.join(lines) + end).encode()
    names, block = parse_block(text, shape[1])
    expected = pd.read_csv(io.BytesIO(text), sep="\t", header=None, index_col=0)
    assert names == list(expected.index)
    np.testing.assert_array_equal(block.toarray(), expected.to_numpy(dtype=np.float32))
    assert block.has_sorted_indices
    assert (block.data != 0).all()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("block", [1, 64, 1 << 20])
def test_any_block_size_gives_the_same(geo, helpers, tmp_path, monkeypatch, packed, block):
    monkeypatch.setattr(_geo, "_BLOCK", block)
    path = tmp_path / "m.txt.gz"  # the name says nothing: some servers unpack on the way
    text = helpers.geo_text(geo)
    path.write_bytes(gzip.compress(text) if packed else text)
    counts, cells, genes = read_counts(path)
    np.testing.assert_array_equal(counts.toarray(), geo.counts)
    assert list(cells) == geo.cells
    assert list(genes) == geo.symbols
    assert counts.dtype == np.float32


def test_header_without_a_corner_and_a_last_line_without_an_end(tmp_path):
    path = tmp_path / "m.txt"
    path.write_bytes(b'"a"\t"b"\n"G1"\t1\t0\n"G2"\t0\t12')
    counts, cells, genes = read_counts(path)
    assert counts.toarray().tolist() == [[1, 0], [0, 12]]
    assert (list(cells), list(genes)) == (["a", "b"], ["G1", "G2"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "at least one line of counts, got none"),
        (b"Index\ta\tb\n", "at least one line of counts, got none"),
        (b"Index\ta\tb\nG1\t1\t2\nG2\t1\n", "each gene must have 2 values, .*got 1 for 'G2'"),
        (b"Index\ta\ta\nG1\t1\t2\n", "must be unique, got 'a' twice"),
        (
            b"Index\ta\tb\nG1\t1\t2.5\n",
            "raw counts must be whole numbers .*, got '2.5' for gene 'G1'",
        ),
        (b"Index\ta\tb\nG1\t1\t-2\n", "got '-2' for gene"),
        (b"Index\ta\tb\nG1\t1\tNA\n", "got 'NA' for gene"),
        (b"Index\ta\tb\nG1\t1\t\n", "got '' for gene"),
        (b"Index\ta\tb\nG1\t1\t1234567890\n", "at most nine digits"),
    ],
)
def test_broken_table_is_refused(tmp_path, text, told):
    path = tmp_path / "m.txt"
    path.write_bytes(text)
    with pytest.raises(DamagedFileError, match=told):
        read_counts(path)


def test_gzip_that_is_cut_short_is_refused(geo, helpers, tmp_path):
    path = tmp_path / "m.txt.gz"
    path.write_bytes(gzip.compress(helpers.geo_text(geo))[:-12])
    with pytest.raises(DamagedFileError, match="is truncated"):
        read_counts(path)


def test_annotation_without_a_column_names_it(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("Index\tPatient\nc\tP\n")
    with pytest.raises(
        DamagedFileError, match="must have a column 'Class', got 'Index', 'Patient'"
    ):
        read_annotation(path, GEO_COLUMNS)


def test_peak_memory_is_under_three_times_the_result(helpers, tmp_path):
    n_genes, n_cells = 8000, 2000
    rng = np.random.default_rng(0)
    matrix = tmp_path / "GSE144735_processed_KUL3_CRC_10X_raw_UMI_count_matrix.txt.gz"
    cells = [f"KUL01-T_{i:08d}" for i in range(n_cells)]
    with gzip.open(matrix, "wb", compresslevel=1) as stream:
        stream.write(("\t".join(["Index", *cells]) + "\n").encode())
        for start in range(0, n_genes, 500):
            counts = rng.integers(1, 10, (500, n_cells)) * (rng.random((500, n_cells)) < 0.1)
            text = np.full((500, 2 * n_cells), ord("\t"), dtype=np.uint8)
            text[:, 1::2] = counts + ord("0")
            for i, line in enumerate(text):
                stream.write(f"G{start + i}".encode() + line.tobytes() + b"\n")
    annotation = pd.DataFrame(
        {
            "Index": cells,
            "Patient": "KUL01",
            "Class": "Tumor",
            "Sample": "KUL01-T",
            "Cell_type": "T cells",
            "Cell_subtype": "CD8",
        }
    )
    annotation.to_csv(
        tmp_path / "GSE144735_processed_KUL3_CRC_10X_annotation.txt.gz", sep="\t", index=False
    )
    out = helpers.light_run(f"""
        import json, re, time, warnings
        import anndata, pandas, scipy.sparse
        from scivae.datasets import colon
        warnings.simplefilter("ignore")
        def status(key):
            with open("/proc/self/status") as stream:
                return 1024 * int(re.search(key + r":\\s+(\\d+)", stream.read()).group(1))
        before, start = status("VmRSS"), time.perf_counter()
        adata = colon("KUL3", "geo", path={str(tmp_path)!r}, symbols=False)
        seconds, peak = time.perf_counter() - start, status("VmHWM")
        parts = (adata.X, adata.layers["counts"])
        final = sum(a.nbytes for m in parts for a in (m.data, m.indices, m.indptr))
        print(json.dumps([adata.shape, adata.X.nnz, seconds, (peak - before) / final, final]))
        """)
    shape, nnz, _, ratio, final = json.loads(out)
    assert shape == [n_cells, n_genes]
    assert 0.09 < nnz / (n_cells * n_genes) < 0.11
    assert final > 20e6  # large beside what the interpreter itself takes
    assert ratio < 3
