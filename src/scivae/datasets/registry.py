"""Registry of the data sets: addresses, checksums, expected columns and shapes.

Nothing here uses the network. Loaders look up their files here, and :mod:`._download` downloads
them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

Format = Literal["gzip", "zip", "tsv"]


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be downloaded.

    Parameters
    ----------
    name
        Path relative to ``scanpy.settings.datasetdir``, with forward slashes.
    urls
        Addresses, tried in this order.
    format
        File format: ``gzip``, ``zip`` or ``tsv`` (plain text, tab-separated, with a header).
    checksum
        ``"algorithm:hex"`` of the file as served, if the publisher keeps it constant.
    unpacked
        ``"algorithm:hex"`` of the unpacked content. Mirrors may compress the same content
        differently.
    columns
        Columns that the header must have (``tsv`` only).
    megabytes
        Approximate size, shown in the instructions for manual download.
    """

    name: str
    urls: tuple[str, ...]
    format: Format
    checksum: str | None = None
    unpacked: str | None = None
    columns: tuple[str, ...] = ()
    megabytes: float | None = None

    @property
    def filename(self) -> str:
        """The last part of ``name``."""
        return self.name.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Source:
    """Source of a data set and its expected content.

    Parameters
    ----------
    title, citation, licence, homepage
        Written to ``adata.uns``.
    files
        Files by their role for the loader.
    n_cells
        Cells (or images) in the published matrix, annotated or not.
    n_annotated
        Number of cells with a cell type.
    n_vars
        Number of genes or pixels. None if the publisher's pipeline may change it.
    columns
        Mapping from columns of the publisher's annotation to columns of ``obs``.
    """

    title: str
    citation: str
    licence: str
    homepage: str
    files: dict[str, RemoteFile]
    n_cells: int | None = None
    n_annotated: int | None = None
    n_vars: int | None = None
    columns: dict[str, str] = field(default_factory=dict)


LEE_2020: Final = (
    "Lee H.-O. et al. Lineage-dependent gene expression programs influence the immune landscape of "
    "colorectal cancer. Nature Genetics 52, 594-603 (2020). doi:10.1038/s41588-020-0636-z"
)

# Values of obs["tissue"], in order of disease.
TISSUES: Final = ("normal", "border", "tumor")

ATLAS_COLUMNS: Final = {
    "Sample Characteristic[sampling site]": "tissue",
    "Sample Characteristic[individual]": "donor",
    "Factor Value[inferred cell type - ontology labels]": "cell_type",
    "Factor Value[inferred cell type - authors labels]": "cell_state",
    "Sample Characteristic[sex]": "sex",
    "Sample Characteristic[organism part]": "organism_part",
}

GEO_COLUMNS: Final = {
    "Class": "tissue",
    "Patient": "donor",
    "Cell_type": "cell_type",
    "Cell_subtype": "cell_state",
    "Sample": "sample",
}


def _geo_file(accession: str, filename: str, megabytes: float) -> RemoteFile:
    series = f"{accession[:-3]}nnn"
    return RemoteFile(
        name=f"{accession}/{filename}",
        urls=(
            f"https://ftp.ncbi.nlm.nih.gov/geo/series/{series}/{accession}/suppl/{filename}",
            "https://www.ncbi.nlm.nih.gov/geo/download/"
            f"?acc={accession}&format=file&file={filename}",
        ),
        format="gzip",
        megabytes=megabytes,
    )


# Same addresses and file names as scanpy.datasets.ebi_expression_atlas, so that both can use the
# same downloads.
_ATLAS = "https://www.ebi.ac.uk/gxa/sc/experiment/E-MTAB-8410/download"

# Ensembl id -> approved symbol. The atlas has only Ensembl ids.
HGNC: Final = RemoteFile(
    name="HGNC/hgnc_complete_set.txt",
    urls=(
        "https://storage.googleapis.com/public-download-files/hgnc/tsv/tsv/hgnc_complete_set.txt",
        "https://ftp.ebi.ac.uk/pub/databases/genenames/hgnc/tsv/hgnc_complete_set.txt",
    ),
    format="tsv",
    columns=("symbol", "ensembl_gene_id"),
    megabytes=16,
)

# By (cohort, source).
COLON: Final[dict[tuple[str, str], Source]] = {
    ("KUL3", "atlas"): Source(
        title="Colorectal cancer, KUL3 cohort (Single Cell Expression Atlas E-MTAB-8410)",
        citation=LEE_2020,
        licence="EMBL-EBI terms of use (open data, cite the source)",
        homepage="https://www.ebi.ac.uk/gxa/sc/experiments/E-MTAB-8410",
        files={
            "matrix": RemoteFile(
                name="E-MTAB-8410/expression_archive.zip",
                urls=(f"{_ATLAS}/zip?accessKey=&fileType=quantification-raw",),
                format="zip",
                megabytes=400,
            ),
            "annotation": RemoteFile(
                name="E-MTAB-8410/experimental_design.tsv",
                urls=(
                    f"{_ATLAS}?accessKey=&fileType=experiment-design",
                    "https://ftp.ebi.ac.uk/pub/databases/microarray/data/atlas/sc_experiments/"
                    "E-MTAB-8410/ExpDesign-E-MTAB-8410.tsv",
                ),
                format="tsv",
                columns=tuple(ATLAS_COLUMNS),
                megabytes=30,
            ),
        },
        n_annotated=25_480,
        columns=ATLAS_COLUMNS,
    ),
    ("KUL3", "geo"): Source(
        title="Colorectal cancer, KUL3 cohort (GEO GSE144735)",
        citation=LEE_2020,
        licence="GEO: no restriction on use by NCBI; cite the source",
        homepage="https://www.ncbi.nlm.nih.gov/geo/query/acc.cgi?acc=GSE144735",
        files={
            "matrix": _geo_file(
                "GSE144735", "GSE144735_processed_KUL3_CRC_10X_raw_UMI_count_matrix.txt.gz", 60
            ),
            "annotation": _geo_file(
                "GSE144735", "GSE144735_processed_KUL3_CRC_10X_annotation.txt.gz", 0.3
            ),
        },
        n_cells=27_414,
        columns=GEO_COLUMNS,
    ),
    ("SMC", "geo"): Source(
        title="Colorectal cancer, SMC cohort (GEO GSE132465)",
        citation=LEE_2020,
        licence="GEO: no restriction on use by NCBI; cite the source",
        homepage="https://www.ncbi.nlm.nih.gov/geo/query/acc.cgi?acc=GSE132465",
        files={
            "matrix": _geo_file(
                "GSE132465", "GSE132465_GEO_processed_CRC_10X_raw_UMI_count_matrix.txt.gz", 129
            ),
            "annotation": _geo_file(
                "GSE132465", "GSE132465_GEO_processed_CRC_10X_cell_annotation.txt.gz", 0.7
            ),
        },
        n_cells=63_689,
        columns=GEO_COLUMNS,
    ),
}

_MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
    "https://yann.lecun.com/exdb/mnist",
)


def _mnist_file(stem: str, md5: str, megabytes: float) -> RemoteFile:
    filename = f"{stem}.gz"
    return RemoteFile(
        name=f"mnist/{filename}",
        urls=tuple(f"{mirror}/{filename}" for mirror in _MNIST_MIRRORS),
        format="gzip",
        unpacked=f"md5:{md5}",
        megabytes=megabytes,
    )


# Keys of files: "<split> <what>". n_cells is the total of both splits.
MNIST: Final = Source(
    title="MNIST handwritten digits",
    citation=(
        "LeCun Y., Bottou L., Bengio Y., Haffner P. Gradient-based learning applied to document "
        "recognition. Proceedings of the IEEE 86, 2278-2324 (1998). doi:10.1109/5.726791"
    ),
    licence="CC BY-SA 3.0",
    homepage="https://yann.lecun.com/exdb/mnist",
    files={
        "train images": _mnist_file(
            "train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb", 10
        ),
        "train labels": _mnist_file(
            "train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624", 0.03
        ),
        "test images": _mnist_file("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea", 2),
        "test labels": _mnist_file(
            "t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637", 0.005
        ),
    },
    n_cells=70_000,
    n_vars=784,
)

DIGITS: Final = Source(
    title="Optical recognition of handwritten digits (test part), as scikit-learn ships it",
    citation="Alpaydin E., Kaynak C. UCI Machine Learning Repository (1998). doi:10.24432/C50P49",
    licence="CC BY 4.0",
    homepage="https://archive.ics.uci.edu/dataset/80",
    files={},
    n_cells=1_797,
    n_vars=64,
)

PBMC: Final = Source(
    title="Peripheral blood mononuclear cells, donor A, subsampled (scanpy's pbmc68k_reduced)",
    citation=(
        "Zheng G. X. Y. et al. Massively parallel digital transcriptional profiling of single "
        "cells. Nature Communications 8, 14049 (2017). doi:10.1038/ncomms14049"
    ),
    licence="CC BY 4.0 (10x Genomics); the subsample is part of scanpy (BSD-3-Clause)",
    homepage="https://www.10xgenomics.com/datasets/fresh-68-k-pbm-cs-donor-a-1-standard-1-1-0",
    files={},
    n_cells=700,
    n_vars=765,
)
