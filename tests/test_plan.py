"""The plan for a hundred million cells, compared with what a run of a few thousand reads and holds."""

import gc
import tracemalloc
from importlib import import_module
from pathlib import Path

import pytest
from tests.conftest import make_adata

from scivae.model import BlockDataModule

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module("plan")


def test_a_run_reads_the_bytes_of_the_plan(plan, tmp_path):
    table = plan.simulate(tmp_path, n_cells=1_500, n_genes=30, epochs=2).set_index("what")
    assert set(table.index) == {"check", "training", "annotate"}
    assert ((table["ratio"] - 1).abs() < 0.03).all(), table
    assert table.loc["training", "read"] > 4 * table.loc["annotate", "read"]


def held(path: Path) -> int:
    """Bytes that a datamodule holds."""
    tracemalloc.start()
    try:
        data = BlockDataModule(path, layer="counts", check=False)
        assert data.n_obs
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_memory_grows_by_the_bytes_of_the_plan(plan, tmp_path):
    sizes = (3_000, 60_000)
    for n in sizes:
        make_adata(n_cells=n, n_genes=3).write_h5ad(tmp_path / f"{n}.h5ad")
    held(tmp_path / "3000.h5ad")  # imports and caches, some 15 kB of which come and go
    few, many = (held(tmp_path / f"{n}.h5ad") for n in sizes)
    pointers = 8  # kept while cells are read
    assert (many - few) / (sizes[1] - sizes[0]) + pointers == pytest.approx(
        plan.BYTES_HELD, rel=0.1
    )


def test_the_page_holds_the_plan(plan):
    page = (ROOT / "docs" / "large.md").read_text(encoding="utf-8")
    assert page.count(plan.BEGIN) == page.count(plan.END) == 1
    assert "A plan for 100,000,000 cells" in page
    text = plan.main(["--cells", "1000000"])
    assert "A plan for 1,000,000 cells" in text
