"""Configuration of the documentation; README.md in this folder says how to build it."""

from __future__ import annotations

import base64
import builtins
import io
import json
import os
import re
import shutil
import sys
import warnings
from collections import _tuplegetter
from importlib.metadata import version as installed
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from numpy.typing import ArrayLike
from PIL import Image
from sphinx.ext.napoleon import NumpyDocstring
from sphinx.pycode import ModuleAnalyzer
from sphinx_autodoc_typehints import format_annotation

# Of sphinx-autodoc-typehints, which sets what Sphinx 10 will not have.
warnings.filterwarnings("ignore", category=DeprecationWarning, module="sphinx_autodoc_typehints")

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "src"))

from scivae._validate.arrays import SparseLike  # noqa

sys.path.insert(0, str(HERE))
import addresses  # noqa
import error_texts  # noqa

(HERE / "errors.md").write_text(error_texts.page(), encoding="utf-8")


def prose_of_returns(self: NumpyDocstring, section: str) -> list[str]:
    """What a function returns is a sentence here; a type on a line of its own is in the annotation too."""
    lines = self._dedent(self._consume_to_next_section())
    lines = lines[lines[:1] == [":"] :]  # sphinx-autodoc-typehints puts it there, against types
    if len(lines) > 1 and lines[1].startswith(" "):
        lines = self._dedent(lines[1:])
    return self._format_block(":returns: ", lines)


NumpyDocstring._parse_returns_section = prose_of_returns


def short_type(annotation: Any, config: Any) -> str | None:
    """Name what numpy spells out as a union of protocols, alone or with alternatives."""
    parts, array = get_args(annotation), get_args(ArrayLike)
    if not all(part in parts for part in array):
        return None
    others = [part for part in parts if part not in array]
    return " | ".join(
        [":data:`~numpy.typing.ArrayLike`"]
        + ["sparse matrix" if p is SparseLike else format_annotation(p, config) for p in others]
    )


def fields_only(app, what, name, obj, options, signature, returns) -> tuple[str, None] | None:
    """What a named tuple holds; the section Attributes says of what kind."""
    if what == "class" and hasattr(obj, "_fields"):
        return f"({', '.join(obj._fields)})", None
    return None


def skip_inherited(app, what, name, obj, skip, options) -> bool | None:
    """Leave what comes from scvi-tools, torch or tuple to their own documentation."""
    if isinstance(obj, _tuplegetter):  # a field, which the section Attributes describes
        return True
    function = getattr(obj, "fget", None) or getattr(obj, "__func__", obj)
    module = getattr(function, "__module__", None)
    if what == "class" and callable(function) and not str(module).startswith("scivae"):
        return True
    return None


project = "scivae"
author = "The scivae authors"
copyright = f"2026, {author}"
release = version = installed("scivae-tools")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_autodoc_typehints",
    "scanpydoc.definition_list_typed_field",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
]
# Addresses of other packages' objects are fetched, which needs a network: Read the Docs has one.
if os.environ.get("READTHEDOCS") or os.environ.get("SCIVAE_DOCS_ONLINE"):
    extensions.append("sphinx.ext.intersphinx")
intersphinx_mapping = {
    "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
    "matplotlib": ("https://matplotlib.org/stable/", None),
    "numpy": ("https://numpy.org/doc/stable/", None),
    "pandas": ("https://pandas.pydata.org/docs/", None),
    "python": ("https://docs.python.org/3/", None),
    "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
    "scipy": ("https://docs.scipy.org/doc/scipy/", None),
    "scvi": ("https://docs.scvi-tools.org/en/stable/", None),
    "torch": ("https://docs.pytorch.org/docs/stable/", None),
}

exclude_patterns = ["README.md", "_build", "**.ipynb_checkpoints"]
templates_path = ["_templates"]
nitpicky = True
# References into other packages cannot be checked without a network. Those into this one all are.
_outside = "anndata|collections|contextlib|matplotlib|numpy|os|pandas|pathlib|scanpy|scipy|scvi|sklearn|torch|typing"
nitpick_ignore = [
    ("py:class", "scivae.data.requirements.Requirements"),
    ("py:class", "scivae.data.setup.Setup"),
    ("py:class", "scivae.model.codec.Codec"),
    ("py:class", "scivae.model._repr.Labels"),
    ("py:class", "scivae.data.manager.CellsManager"),
]
nitpick_ignore_regex = [
    (r"py:.*", rf"({_outside})\..+"),
    (r"py:(class|exc|obj|data)", "|".join(name for name in dir(builtins) if name[0] != "_")),
]
smartquotes_action = "De"  # dashes, no quotes: texts of errors are searched as they are
suppress_warnings = ["config.cache"]  # short_type is a function

autosummary_generate = True
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_param = True
napoleon_use_ivar = False
napoleon_custom_sections = ["Warns"]
typehints_defaults = "braces"
typehints_document_rtype = False
typehints_formatter = short_type
toc_object_entries_show_parents = "hide"
always_use_bars_union = True
add_module_names = False

myst_enable_extensions = ["amsmath", "attrs_block", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# MathJax from a package, so that formulas need no network.
mathjax_path = "tex-svg.js"
_mathjax = find_spec("sphinx-mathjax-offline").origin
html_theme = "sphinx_book_theme"
html_title = "scivae"
html_static_path = ["_static", str(Path(_mathjax).parent / "static" / "mathjax" / mathjax_path)]
html_css_files = ["custom.css"]
html_js_files = ["pages.js"]
html_favicon = "_static/logo.svg"
html_show_sourcelink = False
html_theme_options = {
    "navbar_persistent": [],
    "secondary_sidebar_items": {
        "index": [],
        "tutorials": [],
        **{
            page: ["page-toc.html"] for page in ("[!it]*", "installation", "api/**", "tutorials/**")
        },
    },  # none beside the cards of the landing page and of the tutorials, and the tables of evidence/
    "footer_content_items": ["copyright.html"],
    "logo": {"text": "scivae", "image_light": "_static/logo.svg", "image_dark": "_static/logo.svg"},
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}

# With the address of the repository in pyproject.toml: links to it, and a menu of versions.
REPOSITORY = addresses.repository(ROOT / "pyproject.toml")
VERSIONS = "_static/versions.json"
if REPOSITORY:
    documentation = addresses.urls(ROOT / "pyproject.toml")["Documentation"]
    html_theme_options |= {
        "repository_url": REPOSITORY,
        "repository_branch": addresses.BRANCH,
        "repository_provider": "gitlab" if "gitlab" in REPOSITORY else "github",
        "use_repository_button": True,
        "use_issues_button": True,
        "use_edit_page_button": True,
        "switcher": {
            "json_url": f"{documentation}en/latest/{VERSIONS}",
            "version_match": os.environ.get("READTHEDOCS_VERSION", "latest"),
        },
        "check_switcher": False,  # it is published with these pages
    }
    html_context = {
        "edit_page_provider_name": "GitLab" if "gitlab" in REPOSITORY else "GitHub",
        "edit_page_url_template": f"{REPOSITORY}/edit/{addresses.BRANCH}/{{{{ file_of_page(file_name) }}}}",
        "file_of_page": addresses.file_of_page,
    }
    html_sidebars = {
        "**": ["navbar-logo.html", "version-switcher.html", "search-button-field.html", "sbt-sidebar-nav.html"]
    }  # fmt: skip


def write_versions(app, error: Exception | None) -> None:
    """The versions that the menu offers: this one, and those that were released."""
    if error or not REPOSITORY:
        return
    notes = sorted((HERE / "releases").glob("*.md"), reverse=True)
    released = [
        note.stem for note in notes if "not released" not in note.read_text(encoding="utf-8")
    ]
    versions = [{"version": v, "url": f"{documentation}en/{v}/"} for v in ("latest", *released)]
    (Path(app.outdir) / VERSIONS).write_text(json.dumps(versions), encoding="utf-8")


# The figure of each tutorial that its card shows, and which part of it: left, upper, right, lower.
THUMBNAILS = {
    "1_quickstart": (5, (0, 0.02, 1, 0.66)),
    "2_mnist": (3, (0, 0, 1, 1)),
    "3_colon": (0, (0, 0, 0.5, 1)),
    "4_rare_cells": (0, (0, 0, 1, 0.6)),
    "5_few_labels": (0, (0, 0, 1, 1)),
    "6_large_data": (1, (0, 0, 1, 0.88)),
    "7_interferon": (0, (0.55, 0, 1, 1)),
    "8_your_own_data": (2, (0, 0, 1, 1)),
}


def pictures(notebook: dict[str, Any]) -> list[tuple[str, bytes]]:
    """All figures of a notebook, as the source of the cell that draws them and PNG."""
    return [
        ("".join(cell["source"]), base64.b64decode("".join(output["data"]["image/png"])))
        for cell in notebook["cells"]
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]


def thumbnail(name: str, figures: list[bytes]) -> Image.Image:
    """The picture on the card of a tutorial: the largest figure if it is not in the table above."""
    which, part = THUMBNAILS.get(name, (-1, (0, 0, 1, 1)))
    png = figures[which] if 0 <= which < len(figures) else max(figures, key=len)
    image = Image.open(io.BytesIO(png))
    return image.crop(tuple(round(x * n) for x, n in zip(part, image.size * 2, strict=True)))


# Functions of scivae.pl, and the first tutorial that shows a figure of each.
FIGURES: dict[str, str] = {}
# Figures of the others: the file, and what it shows.
DRAWN = {
    "animate": ("readme.gif", "Made by ``docs/readme_figure.py``."),
    "gene_order": (
        "pl_gene_order.png",
        "Genes from stem cells to enterocytes of the mouse intestine. An arrow leads to a gene that changes later. "
        "Made by ``docs/pl_figures.py``.",
    ),
    "enrichment": (
        "pl_enrichment.png",
        "Families of genes from stem cells to enterocytes of the mouse intestine. Made by ``docs/pl_figures.py``.",
    ),
    "tradeoff": (
        "pl_tradeoff.png",
        "Five splits of cells of colorectal cancer (dots) and their means; the gray line is the default β. "
        "Made by ``docs/pl_figures.py`` from :doc:`/evidence/tradeoff`.",
    ),
}


def copy_notebooks() -> None:
    """Put the notebooks, which lie beside this folder, where Sphinx finds pages."""
    target = HERE / "tutorials"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for notebook in sorted((ROOT / "tutorials").glob("*.ipynb")):
        contents = json.loads(notebook.read_text(encoding="utf-8"))
        # One that was stored without being run does not name its language.
        contents["metadata"].setdefault("language_info", {"name": "python"})
        link = f"{{download}}`Download this notebook <{notebook.name}>`"
        if online := addresses.colab(REPOSITORY, f"tutorials/{notebook.name}"):
            link += f" · [Open in Colab]({online})"
        cell = {"cell_type": "markdown", "id": "download", "metadata": {}, "source": link}
        contents["cells"].insert(1, cell)
        figures = pictures(contents)
        if figures:
            thumbnail(notebook.stem, [png for _, png in figures]).save(
                target / f"{notebook.stem}.png"
            )
        for source, png in figures:
            for name in re.findall(r"scivae\.pl\.(\w+)\(", source):
                FIGURES.setdefault(name, notebook.stem)
                if FIGURES[name] == notebook.stem and not (target / f"pl_{name}.png").exists():
                    (target / f"pl_{name}.png").write_bytes(png)
        (target / notebook.name).write_text(json.dumps(contents), encoding="utf-8")
    if not any(target.iterdir()):
        (target / "none.md").write_text(
            "# None here\n\nThis copy of the source has no notebooks.\n", encoding="utf-8"
        )


copy_notebooks()


def keep_together(app, docname: str, source: list[str]) -> None:
    """A number stays on one line with its percent sign, its symbol, or its standard deviation in a table."""
    if docname.startswith("evidence/") or docname == "mnist":
        source[0] = source[0].replace(" ± ", "\u00a0±\u00a0")
    if not docname.startswith("tutorials/"):
        source[0] = re.sub(r"(?<=\d) %(?!\w)", "\u00a0%", source[0])
        source[0] = re.sub(r"(?<=[αβ]) = (?=\d)", "\u00a0=\u00a0", source[0])


def add_verdict(app, docname: str, source: list[str]) -> None:
    """A table of the evidence begins with a link to the section that says what it shows."""
    folder, _, name = docname.partition("/")
    if folder != "evidence" or name in ("claims", "tried"):
        return
    for page in ("evidence", "performance", "colon", "mnist", "how_many_cells", "which_p_value"):
        text = (HERE / f"{page}.md").read_text(encoding="utf-8")
        title = re.search(r"^# (.*)$", text, re.MULTILINE)[1]
        first, *sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
        for section in (*sections, first):
            if f"evidence/{name}.md)" in section:
                heading = re.match(r"## (.*)", section)
                anchor = re.sub(r"[^\w -]", "", heading[1].lower()) if heading else ""
                target = f"{page}.md" + (f"#{anchor.replace(' ', '-')}" if anchor else "")
                link = f"What this shows: [{heading[1] if heading else title}](../{target})"
                source[0] = source[0].replace("\n\n", f"\n\n{link}\n\n", 1)
                return


def keep_initials(app, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """A reference that begins with an initial, as "A. Author", is no list with the numbers A, B, C."""
    initial = re.compile(r"^(\s*(?:\.\. \[\w+\] )?[A-Z])\. (?=[A-Z])")
    lines[:] = [initial.sub(r"\1\\. ", line) for line in lines]


def add_figure(app, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """A function of scivae.pl shows a figure that it draws, most of them from a tutorial."""
    package, _, function = name.rpartition(".")
    if package != "scivae.pl":
        return
    if function in FIGURES:
        image = f"/tutorials/pl_{function}.png"
        caption = f"From the tutorial :doc:`/tutorials/{FIGURES[function]}`."
    elif function in DRAWN:
        file, caption = DRAWN[function]
        image = f"/_static/{file}"
    else:
        return
    lines += ["", f".. figure:: {image}", f"   :alt: A figure of {name}", "", f"   {caption}", ""]


def add_colab(app, docname: str, source: list[str]) -> None:
    """Each card of the gallery opens its notebook in Colab, if the repository is on GitHub."""
    if docname == "tutorials" and addresses.colab(REPOSITORY, ""):
        source[0] = re.sub(
            r"\{download\}`Download <(tutorials/.*?)>`",
            lambda m: f"{m[0]} · [Open in Colab]({addresses.colab(REPOSITORY, m[1])})",
            source[0],
        )


def source_of(app, module: str) -> tuple[str, dict[str, Any]] | None:
    """The source of a module. Functions of scivae.model are methods of CIVAE, too."""
    if not module.startswith("scivae.model._"):
        return None
    analyzer = ModuleAnalyzer.for_module(module)
    analyzer.find_tags()
    methods = {f"CIVAE.{n}": tag for n, tag in analyzer.tags.items() if tag[0] == "def"}
    return analyzer.code, {**methods, **analyzer.tags}


def setup(app) -> None:
    """Connect the above."""
    app.connect("viewcode-find-source", source_of)
    app.connect("source-read", keep_together)
    app.connect("source-read", add_colab)
    app.connect("source-read", add_verdict)
    app.connect("autodoc-process-docstring", keep_initials)
    app.connect("autodoc-process-docstring", add_figure)
    app.connect("build-finished", write_versions)
    app.connect("autodoc-process-signature", fields_only, priority=600)
    app.connect("autodoc-skip-member", skip_inherited)
