"""A server on the loopback interface with miniature files in the true formats, and its faults."""

from __future__ import annotations

import gzip
import io
import os
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from collections import Counter
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

import scivae.datasets
from scivae.datasets import registry
from scivae.datasets.registry import ATLAS_COLUMNS, RemoteFile


@dataclass
class Server:
    """What each path answers. A list of faults is used up, one a request, before the file is served."""

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    requests: Counter = field(default_factory=Counter)
    slow: float = 3.0

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        state: Server = self.server.state
        name = self.path.lstrip("/")
        state.requests[name] += 1
        fault = state.faults[name].pop(0) if state.faults.get(name) else ""
        if fault.isdigit():
            self.send_error(int(fault))
            return
        if name not in state.files:
            self.send_error(404)
            return
        body = state.files[name]
        if fault == "slow":
            time.sleep(state.slow)
        if fault == "truncated":  # a server that sends half and says that this is all
            body = body[: len(body) // 2]
        if fault == "wrong":
            body = b"<html>please log in</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            if fault == "cut":
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
            elif fault == "stall":
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                time.sleep(state.slow)
            elif fault == "trickle":
                for start in range(0, len(body), max(len(body) // 20, 1)):
                    self.wfile.write(body[start : start + max(len(body) // 20, 1)])
                    self.wfile.flush()
                    time.sleep(0.1)
            else:
                self.wfile.write(body)
        except OSError:
            pass  # the client has left
        self.close_connection = True

    def log_message(self, *args):
        pass


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a slow answer would hold the test's end

    def handle_error(self, request, client_address):
        pass


@pytest.fixture
def server():
    http = _QuietServer(("127.0.0.1", 0), _Handler)
    state = Server(f"http://127.0.0.1:{http.server_address[1]}")
    http.state = state
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def folder(tmp_path):
    """``scanpy.settings.datasetdir`` for one test."""
    path = tmp_path / "data"
    path.mkdir()
    before = sc.settings.datasetdir
    sc.settings.datasetdir = path  # a property of the class: monkeypatch cannot put it back
    yield path
    sc.settings.datasetdir = before


def visible(folder: Path) -> set[str]:
    """Files under a folder; locks are empty and left out."""
    found = [path for path in folder.rglob("*") if path.is_file() or path.is_symlink()]
    return {str(path.relative_to(folder)) for path in found if not path.name.endswith(".lock")}


@pytest.fixture
def gz_file(server) -> RemoteFile:
    """A gzip file that the server has under the name file.gz."""
    server.files["file.gz"] = gzip.compress(os.urandom(300_000))
    return RemoteFile(name="set/file.gz", urls=(server.url("file.gz"),), format="gzip")


# ---- miniature data -------------------------------------------------------------------------


@dataclass
class Miniature:
    """The truth behind the files: what a loader must bring back."""

    counts: np.ndarray  # (n_cells, n_genes)
    cells: list[str]
    gene_ids: list[str]
    symbols: list[str]
    design: pd.DataFrame


SITES = ("normal tissue adjacent to neoplasm", "tumour border", "tumour core")


@pytest.fixture
def atlas() -> Miniature:
    rng = np.random.default_rng(0)
    n_cells, n_genes = 30, 12
    cells = [f"ERS38585{i % 3}-{i:08d}" for i in range(n_cells)]
    design = pd.DataFrame(
        {
            "Assay": cells,
            "Sample Characteristic[organism]": "Homo sapiens",
            "Sample Characteristic[individual]": [f"KUL{i % 6:02d}" for i in range(n_cells)],
            "Sample Characteristic Ontology Term[individual]": "",
            "Sample Characteristic[sex]": ["female" if i % 2 else "male" for i in range(n_cells)],
            "Sample Characteristic[organism part]": "colon",
            "Sample Characteristic[sampling site]": [SITES[i % 3] for i in range(n_cells)],
            "Factor Value[inferred cell type - ontology labels]": [
                ["epithelial cell", "fibroblast", ""][i % 3 if i < 15 else i % 2]
                for i in range(n_cells)
            ],
            "Factor Value Ontology Term[inferred cell type - ontology labels]": "",
            "Factor Value[inferred cell type - authors labels]": [
                ["CMS2", "Stromal 1", ""][i % 3 if i < 15 else i % 2] for i in range(n_cells)
            ],
        }
    )
    ids = [f"ENSG{i:011d}" for i in range(n_genes)]
    symbols = [f"GENE{i}" for i in range(n_genes)]
    symbols[3] = ""  # unknown to HGNC
    symbols[5] = symbols[4]  # one symbol, two ids
    counts = rng.poisson(1.0, (n_cells, n_genes))
    return Miniature(counts, cells, ids, symbols, design)


def matrix_market(counts: np.ndarray, decimals: str = "g") -> bytes:
    """Genes × cells as the atlas writes it: sorted by cell, one space, real values."""
    by_cell = sparse.coo_matrix(counts)
    order = np.lexsort((by_cell.col, by_cell.row))
    lines = [
        f"{by_cell.col[i] + 1} {by_cell.row[i] + 1} {by_cell.data[i]:{decimals}}\n" for i in order
    ]
    n_cells, n_genes = counts.shape
    head = f"%%MatrixMarket matrix coordinate real general\n%\n{n_genes} {n_cells} {len(lines)}\n"
    return (head + "".join(lines)).encode()


def atlas_zip(mini: Miniature, **changes: bytes) -> bytes:
    """The three members under the atlas' names; ``changes`` replace one by its ending."""
    members = {
        "mtx": matrix_market(mini.counts),
        "mtx_rows": "".join(f"{gene}\t{gene}\n" for gene in mini.gene_ids).encode(),
        "mtx_cols": "".join(f"{cell}\n" for cell in mini.cells).encode(),
    } | changes
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, body in members.items():
            archive.writestr(f"E-MTAB-8410.aggregated_filtered_counts.{part}", body)
    return packed.getvalue()


def hgnc_table(mini: Miniature) -> bytes:
    rows = ["hgnc_id\tsymbol\tname\tensembl_gene_id"]
    rows += [
        f"HGNC:{i}\t{symbol}\tname {i}\t{gene}"
        for i, (symbol, gene) in enumerate(zip(mini.symbols, mini.gene_ids, strict=True))
        if symbol
    ]
    return ("\n".join(rows) + "\n").encode()


def _served(file: RemoteFile, server: Server, content: bytes | None) -> RemoteFile:
    if content is not None:
        server.files[file.filename] = content
    return replace(file, urls=(server.url(file.filename),))


@pytest.fixture
def colon_served(server, folder, atlas, monkeypatch):
    """The loopback server with the atlas' files; the table of colon data points at it."""
    contents = {
        "expression_archive.zip": atlas_zip(atlas),
        "experimental_design.tsv": atlas.design.to_csv(sep="\t", index=False).encode(),
    }
    table = {
        key: replace(
            source,
            files={
                role: _served(file, server, contents.get(file.filename))
                for role, file in source.files.items()
            },
            n_cells=None,
            n_annotated=None,
        )
        for key, source in registry.COLON.items()
    }
    monkeypatch.setattr(registry, "COLON", table)
    monkeypatch.setattr(registry, "HGNC", _served(registry.HGNC, server, hgnc_table(atlas)))
    assert set(atlas.design) >= set(ATLAS_COLUMNS)
    return server


# ---- GEO ------------------------------------------------------------------------------------


@pytest.fixture
def geo(colon_served) -> Miniature:
    """KUL3 and SMC of GEO on the server: the same cells under both accessions."""
    rng = np.random.default_rng(1)
    n_cells, n_genes = 24, 15
    classes = ("Normal", "Border", "Tumor")
    cells = [f"KUL{i % 6:02d}-{classes[i % 3][0]}_AAAC{i:04d}" for i in range(n_cells)]
    annotation = pd.DataFrame(
        {
            "Index": cells,
            "Patient": [cell[:5] for cell in cells],
            "Class": [classes[i % 3] for i in range(n_cells)],
            "Sample": [cell[:7] for cell in cells],
            "Cell_type": ["Epithelial cells" if i % 2 else "T cells" for i in range(n_cells)],
            "Cell_subtype": ["CMS2" if i % 2 else "CD8+ T cells" for i in range(n_cells)],
        }
    )
    genes = [f"GENE{i}" for i in range(n_genes)]
    counts = rng.negative_binomial(0.3, 0.02, (n_cells, n_genes))  # many zeros, some of 3 digits
    mini = Miniature(counts, cells, [""] * n_genes, genes, annotation)
    for cohort in ("KUL3", "SMC"):
        files = registry.COLON[cohort, "geo"].files
        colon_served.files[files["matrix"].filename] = gzip.compress(geo_text(mini))
        colon_served.files[files["annotation"].filename] = gzip.compress(
            annotation.to_csv(sep="\t", index=False).encode()
        )
    return mini


def geo_text(mini: Miniature) -> bytes:
    lines = ["\t".join(["Index", *mini.cells])]
    lines += [
        "\t".join([gene, *map(str, row)])
        for gene, row in zip(mini.symbols, mini.counts.T, strict=True)
    ]
    return ("\n".join(lines) + "\n").encode()


# ---- images ---------------------------------------------------------------------------------


def idx_bytes(array: np.ndarray) -> bytes:
    """IDX of unsigned bytes."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def idx_files() -> dict[str, bytes]:
    """The four files of MNIST in miniature: 20 training and 10 test images of 28 × 28."""
    rng = np.random.default_rng(2)
    files = {}
    for stem, n in (("train", 20), ("t10k", 10)):
        images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        images[0, 0, :2] = 0, 255
        files[f"{stem}-images-idx3-ubyte"] = idx_bytes(images)
        files[f"{stem}-labels-idx1-ubyte"] = idx_bytes((np.arange(n) % 10).astype(np.uint8))
    return files


# ---- real data ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with real data: SCIVAE_DATA_DIR, or ../shared/data beside the checkout."""
    given = os.environ.get("SCIVAE_DATA_DIR")
    path = Path(given) if given else Path(__file__).parents[3] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no real data at {path}; set SCIVAE_DATA_DIR to the folder that holds it")
    return path


# ---- helpers --------------------------------------------------------------------------------

# Only scivae.datasets: `import scivae` would bring torch, its memory and its seconds.
_LIGHT = f"""
import sys, types
package = types.ModuleType("scivae")
package.__path__ = [{str(Path(scivae.datasets.__file__).parents[1])!r}]
sys.modules["scivae"] = package

def peak():
    # Linux hands the peak that getrusage tells on from parent to child; VmHWM is of the process alone.
    try:
        with open("/proc/self/status") as status:
            lines = dict(line.split(":", 1) for line in status)
    except FileNotFoundError:
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    return int(lines["VmHWM"].split()[0]) * 1024
"""


def light_process(code: str) -> subprocess.Popen:
    """Another Python that runs ``code`` with scivae.datasets alone; ``peak()`` is its memory, bytes."""
    return subprocess.Popen(
        [sys.executable, "-c", _LIGHT + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def light_run(code: str) -> str:
    """What ``code`` prints, run in another Python with scivae.datasets alone."""
    process = light_process(code)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope="session")
def helpers() -> SimpleNamespace:
    """Functions for tests (test modules cannot import from this file)."""
    return SimpleNamespace(
        visible=visible,
        matrix_market=matrix_market,
        atlas_zip=atlas_zip,
        geo_text=geo_text,
        idx_bytes=idx_bytes,
        light_process=light_process,
        light_run=light_run,
    )
