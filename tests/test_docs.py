"""The documentation: its examples run, its pages build without a warning, and a browser can read them."""

from __future__ import annotations

import doctest
import functools
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import filelock
import numpy as np
import pytest
import yaml
from tests.conftest import NARROW, resize
from tests.test_layout import PUBLIC, ROOT

from scivae import module

DOCS = ROOT / "docs"
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
EXAMPLES = {
    name: thing
    for name, thing in {
        **PUBLIC,
        "module.CIVAEModule": module.CIVAEModule,
        "module.thin": module.thin,
    }.items()
    if ">>>" in (inspect.getdoc(thing) or "")
}
PAGES = sorted(
    path.name for path in DOCS.glob("*.md") if re.search(r"```(python|pycon)\n", path.read_text())
)


@pytest.fixture(autouse=True)
def figures_are_not_shown(monkeypatch, tmp_path):
    """Examples draw without a screen, and write into a folder of their own."""
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    yield
    plt.close("all")


def run(code: str, name: str, names: dict) -> None:
    test = doctest.DocTestParser().get_doctest(code, names, name, name, 0)
    assert test.examples
    with np.printoptions(precision=8):  # some library changes it
        assert doctest.DocTestRunner(optionflags=OPTIONS).run(test).failed == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_docstrings_run(name):
    run(inspect.getdoc(EXAMPLES[name]), name, {})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", PAGES)
def test_code_of_pages_runs(page):
    text = (DOCS / page).read_text()
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        # Four epochs, for the sake of time; all else as it stands.
        code = re.sub(r"\.train\(", ".train(max_epochs=4, enable_progress_bar=False, ", code)
        exec(compile(code, page, "exec"), names)
    code = "\n".join(re.findall(r"```pycon\n(.*?)```", text, flags=re.DOTALL))
    if code:
        run(code, page, {})


def test_every_task_of_the_guide_has_code():
    text = (DOCS / "guide.md").read_text()
    table = text[text.index("## Which tool") : text.index("## What it assumes")]
    tasks = [line for line in table.splitlines() if line.startswith("| ")][1:]
    linked = [re.match(r"\| \[[^]]*\]\(#([\w-]+)\) \|", task) for task in tasks]
    assert all(linked), tasks
    parts = dict(re.findall(r"^### (.*?)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))
    named = {title.lower().replace(" ", "-"): part for title, part in parts.items()}
    assert [match[1] for match in linked] == list(named)
    for name, part in named.items():
        code = re.findall(r"```python\n(.*?)```", part, re.DOTALL)
        assert [3 <= len(lines.splitlines()) <= 8 for lines in code] == [True], name


def test_every_public_name_is_on_an_api_page():
    for room in ("model", "tl", "pl", "report", "metrics", "geometry", "datasets"):
        text = (DOCS / "api" / f"{room}.md").read_text()
        listed = re.findall(r"^   (\w+)$", text, flags=re.MULTILINE)
        assert sorted(listed) == sorted(import_module(f"scivae.{room}").__all__), room


def test_what_is_said_to_be_inherited_is_there():
    rows = re.findall(
        r"^\| (\[`.*?) \|", (DOCS / "api" / "model.md").read_text(), flags=re.MULTILINE
    )
    names = re.findall(r"`(\w+)`", " ".join(rows))
    assert len(names) > 10
    assert all(hasattr(PUBLIC["model.CIVAE"], name) for name in names)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "benchmarks/README.md"])
def test_links_beside_the_site_lead_somewhere(name):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / name).read_text())
    broken = [
        x for x in links if not urlparse(x).scheme and not (ROOT / name).parent.joinpath(x).exists()
    ]
    assert not broken


def test_every_version_has_release_notes():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    versions = re.findall(r"^## \[(\d[\w.]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    for name in {version, *versions}:
        note = (DOCS / "releases" / f"{name}.md").read_text()
        assert note.startswith(f"# {name}")
        assert ("not released" in note) == (name not in versions)


def test_one_version_and_one_license():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation, entry = (
        yaml.safe_load((ROOT / name).read_text()) for name in ("CITATION.cff", "meta.yaml")
    )
    assert citation["version"] == project["version"]
    assert citation["license"] == entry["license"] == project["license"]
    assert entry["install"]["pypi"] == project["name"]


def test_the_entry_for_scverse_follows_its_schema():
    """What schema 2.0 of scverse/ecosystem-packages demands; the version is read from the index."""
    entry = yaml.safe_load((ROOT / "meta.yaml").read_text())
    required = {"name", "description", "project_home", "documentation_home", "install", "license",
                "tags", "primary_category", "language", "category"}  # fmt: skip
    assert required <= set(entry)
    assert "version" not in entry
    for key in ("project_home", "documentation_home", "tutorials_home"):
        assert re.fullmatch(r"https://[\w./-]+/[\w./-]*", entry[key])
    assert entry["primary_category"] == "scRNA-seq"
    assert entry["language"] == "Python"
    assert entry["category"] == "ecosystem"
    vocabulary = {"scRNA-seq", "cell-type annotation", "differential expression",
                  "trajectory inference", "perturbation", "deep learning", "probabilistic modeling",
                  "optimal transport", "GPU acceleration", "dimensionality reduction", "denoising",
                  "functional analysis", "pseudotime", "visualization"}  # fmt: skip
    assert set(entry["tags"]) <= vocabulary
    assert 1 <= len(entry["tags"]) == len(set(entry["tags"])) <= 10
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    assert urls["Documentation"] == entry["documentation_home"]


# --- the address of the repository ---------------------------------------------------------------

SOURCE_URL = "https://github.com/made-up/scivae"


def load_addresses():
    spec = importlib.util.spec_from_file_location("addresses", DOCS / "addresses.py")
    addresses = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(addresses)
    return addresses


def with_source(project: str, address: str = SOURCE_URL) -> str:
    """The text of pyproject.toml with an address of the repository."""
    lines = [line for line in project.splitlines() if not line.startswith("urls.Source")]
    lines.insert(lines.index("[project]") + 1, f'urls.Source = "{address}"')
    return "\n".join(lines) + "\n"


@pytest.fixture
def project(tmp_path) -> Path:
    (tmp_path / "pyproject.toml").write_text(with_source((ROOT / "pyproject.toml").read_text()))
    return tmp_path / "pyproject.toml"


def test_readme_fits_the_address_in_pyproject():
    text = (ROOT / "README.md").read_text()
    written = load_addresses().readme(text, ROOT / "pyproject.toml")
    assert text == written, "run python docs/addresses.py"


def test_readme_with_an_address_has_badges_and_absolute_links(project):
    addresses, text = load_addresses(), (ROOT / "README.md").read_text()
    written = addresses.readme(text, project)
    assert addresses.readme(written, project) == written
    links = re.findall(r"\]\(([^)\s]+)\)", written)
    assert all(urlparse(link).scheme == "https" for link in links)
    assert f"({SOURCE_URL}/raw/main/docs/_static/readme.png)" in written
    assert f"[FAQ]({SOURCE_URL}/blob/main/docs/faq.md)" in written
    assert written.count("[![") == 5
    assert f"[![tests]({SOURCE_URL}/actions/workflows/test.yaml/badge.svg)]" in written
    inside = re.findall(rf"{SOURCE_URL}/(?:raw|blob)/main/([^)#\s]+)", written)
    assert len(inside) > 10
    assert all((ROOT / path).exists() for path in inside)
    # Back to no address, and on to another.
    plain = project.with_name("plain.toml")
    plain.write_text('[project]\nname = "scivae-tools"\n')
    relative = addresses.readme(written, plain)
    assert SOURCE_URL not in relative
    assert "[![" not in relative
    assert "(docs/faq.md)" in relative
    assert addresses.readme(relative, project) == written


@pytest.mark.parametrize(
    ("address", "known"),
    [
        (f"{SOURCE_URL}.git", True),
        ("https://github.com/OWNER/scivae", False),
        ("https://example.org/scivae", False),
        ("", False),
    ],
)
def test_placeholders_are_no_address(project, address, known):
    project.write_text(with_source(project.read_text(), address))
    assert load_addresses().repository(project) == (SOURCE_URL if known else "")


def test_pages_link_to_the_file_they_are_made_from(site, pages):
    from scivae.tl import _enrichment, _genes

    edit = f"{SOURCE_URL}/edit/main/"
    for page, file in {
        "faq": "docs/faq.md",
        "changelog": "CHANGELOG.md",
        "tutorials/1_quickstart": "tutorials/1_quickstart.ipynb",
        "api/generated/scivae.tl.rank_genes": inspect.getsourcefile(_genes),
        "api/generated/scivae.tl.enrich": inspect.getsourcefile(_enrichment),
        "api/generated/scivae.model.CIVAE.setup_anndata": "src/scivae/model/_base.py",
    }.items():
        file = str(file)[str(file).find("src/scivae") :] if "src/scivae" in str(file) else file
        assert edit + file in pages[f"{page}.html"].links, page
        assert SOURCE_URL in pages[f"{page}.html"].links
    edited = {x.removeprefix(edit) for page in pages.values() for x in page.links if edit in x}
    assert len(edited) > 50
    assert [file for file in edited if not (ROOT / file).exists()] == []


def test_notebooks_open_in_colab(pages):
    start = "https://colab.research.google.com/github/made-up/scivae/blob/main/tutorials/"
    names = {notebook.name for notebook in (ROOT / "tutorials").glob("*.ipynb")}
    assert {start + name for name in names} <= pages["tutorials.html"].links
    for name in names:
        assert start + name in pages[f"tutorials/{Path(name).stem}.html"].links


def test_the_menu_of_versions_reads_a_list_that_is_published_with_the_pages(site):
    versions = json.loads((site / "_static" / "versions.json").read_text())
    assert versions[0] == {
        "version": "latest",
        "url": "https://scivae-tools.readthedocs.io/en/latest/",
    }
    text = (site / "index.html").read_text()
    assert "https://scivae-tools.readthedocs.io/en/latest/_static/versions.json" in text
    assert "version-switcher" in text


# --- the site -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The pages, built once from a copy of what they are made of; any warning is an error."""
    wanted = (
        "sphinx",
        "sphinx-mathjax-offline",
        "myst_nb",
        "sphinx_book_theme",
        "sphinxcontrib.bibtex",
    )
    missing = [name for name in wanted if not found(name)]
    if missing:
        pytest.skip(f"the extra docs is not installed: there is no {', '.join(missing)}")
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # all workers read the same pages
        shared = shared.parent
    folder, html = shared / "docs_source", shared / "docs_html"
    with filelock.FileLock(shared / "docs.lock"):
        if not folder.exists():
            ignored = shutil.ignore_patterns("_build", "generated", ".*")
            shutil.copytree(DOCS, folder / "docs", ignore=ignored)
            for name in ("CHANGELOG.md", "CONTRIBUTING.md"):
                shutil.copy(ROOT / name, folder)
            # With a made-up address of the repository, so that all that depends on it is there.
            project = (ROOT / "pyproject.toml").read_text()
            (folder / "pyproject.toml").write_text(with_source(project))
            for name in ("src", "tutorials"):
                if (ROOT / name).exists():
                    (folder / name).symlink_to(ROOT / name)
            command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q"]
            done = subprocess.run(
                [*command, str(folder / "docs"), str(html)], capture_output=True, text=True
            )
            (shared / "docs.log").write_text(done.stderr if done.returncode else "")
    log = (shared / "docs.log").read_text()
    assert not log, log
    return html


def found(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


class Page(HTMLParser):
    """Names of a page that links can lead to, its links, and its figures."""

    def __init__(self, text: str):
        super().__init__()
        self.names: set[str] = set()
        self.links: set[str] = set()
        self.figures: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.names |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "img":
            self.figures.append(given["src"])
        self.links |= {given[key] for key in ("href", "src") if given.get(key)}


@pytest.fixture(scope="session")
def pages(site) -> dict[str, Page]:
    """Every page by its address in the site."""
    files = (f for f in site.rglob("*.html") if "_static" not in f.relative_to(site).parts)
    return {f.relative_to(site).as_posix(): Page(f.read_text()) for f in sorted(files)}


def test_no_link_within_the_site_is_broken(site, pages):
    broken = []
    for address, page in pages.items():
        for link in page.links:
            if urlparse(link).scheme:  # to another site, or data
                continue
            target, anchor = urldefrag(urljoin(address, link))
            path = unquote(target.split("?")[0])
            there = (site / path).is_file()
            if there and anchor and path in pages:
                there = unquote(anchor) in pages[path].names
            if not there:
                broken.append((address, link))
    assert not broken


def test_nothing_is_loaded_from_elsewhere(site, pages):
    """The site can be read without a network."""
    from_elsewhere = re.compile(r"<(?:script|link|img)[^>]*(?:src|href)=\"(https?:[^\"]*)")
    for address in pages:
        text = (site / address).read_text()
        assert not from_elsewhere.findall(re.sub(r"<link[^>]*rel=\"canonical\"[^>]*>", "", text)), (
            address
        )


def test_functions_link_to_their_source(pages):
    for name in ("model.CIVAE.train", "model.CIVAE.augment", "tl.gene_trends", "pl.path"):
        links = pages[f"api/generated/scivae.{name}.html"].links
        assert any("_modules/scivae" in link for link in links), name


def test_the_site_has_what_it_should(pages):
    wanted = {"index", "installation", "tutorials", "method", "evidence", "performance", "faq"}
    wanted |= {"migration", "reliability", "colon", "changelog", "contributing", "references"}
    wanted |= {"guide", "real_path", "which_p_value", "how_many_cells"}
    wanted |= {f"api/generated/scivae.model.CIVAE{name}" for name in ("", ".train", ".augment")}
    assert {f"{name}.html" for name in wanted} <= set(pages)
    for table in (DOCS / "evidence").glob("*.md"):
        assert f"evidence/{table.stem}.html" in pages
    for notebook in (ROOT / "tutorials").glob("*.ipynb"):
        assert f"tutorials/{notebook.stem}.html" in pages
    assert any(page.figures for page in pages.values())


@pytest.fixture(scope="session")
def address(site):
    """Where the site is served on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def test_tables_of_notebooks_show_the_names_of_their_columns(browser, address):
    resize(browser, 1280)
    browser.get(address + "tutorials/5_few_labels.html")
    heads = "return [...document.querySelectorAll('table.dataframe thead')].map(h => h.innerText)"
    found = browser.execute_script(heads)
    assert len(found) > 3
    assert all(text.strip() for text in found)


def test_search_finds_a_word(browser, address):
    from selenium.webdriver.support.ui import WebDriverWait

    resize(browser, 1280)
    browser.get(address + "search.html?q=geodesic")
    links = "return [...document.querySelectorAll('#search-results li a')].map(a => a.href)"
    hits = WebDriverWait(browser, 20).until(lambda b: b.execute_script(links))
    assert any("geodesic" in hit for hit in hits)
    browser.get(address + "search.html?q=qwertzuiop")
    summary = "return document.querySelector('#search-results')?.innerText || ''"
    WebDriverWait(browser, 20).until(lambda b: "did not match" in b.execute_script(summary))


def test_formulas_are_set_without_a_network(browser, address):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(address + "method.html")
    count = "return document.querySelectorAll('mjx-container svg').length"
    assert WebDriverWait(browser, 20).until(lambda b: b.execute_script(count)) > 100


@pytest.mark.parametrize("page", ["tutorials/1_quickstart.html", "evidence.html"])
def test_the_dark_theme_puts_no_gray_box_around_figures(browser, address, page):
    browser.get(address + page)
    browser.execute_script("document.documentElement.dataset.theme = 'dark'")
    style = "const s = getComputedStyle(document.querySelector('.bd-article img'));"
    found = browser.execute_script(f"{style} return [s.filter, s.backgroundColor, s.padding]")
    assert found == ["none", "rgb(255, 255, 255)", "0px"]
    printed = "document.querySelectorAll('.cell_output .text_html:not(:has(table.dataframe))')"
    colors = f"return [...{printed}].map(e => getComputedStyle(e).backgroundColor)"
    assert set(browser.execute_script(colors)) <= {"rgba(0, 0, 0, 0)"}


def test_figures_load_and_no_page_is_wider_than_a_telephone(browser, address, pages):
    # Pages of single functions are much alike: the ten with the most links stand for them.
    functions = [page for page in pages if page.startswith(("api/generated/", "_modules/"))]
    longest = sorted(functions, key=lambda page: -len(pages[page].links))[:10]
    resize(browser, NARROW)
    faults = []
    for page in [*(page for page in pages if page not in functions), *longest]:
        browser.get(address + page)
        found = browser.execute_script(
            "return {width: document.documentElement.scrollWidth, lost: [...document.images]"
            ".filter(i => !i.complete || i.naturalWidth === 0).map(i => i.src)}"
        )
        if found["width"] > NARROW or found["lost"]:
            faults.append((page, found))
    assert not faults


def test_the_first_column_of_a_wide_table_stays_in_view(browser, address):
    resize(browser, NARROW)
    browser.get(address + "evidence/augmentation_realism.html")
    left, scrolled, first = browser.execute_script(
        "const box = document.querySelector('.pst-scrollable-table-container');"
        "box.scrollLeft = 1e6;"  # as far as it goes: how wide a table is depends on the fonts of the machine
        "const at = e => e.getBoundingClientRect().left;"
        "return [at(box), box.scrollLeft, at(box.querySelector('td'))]"
    )
    assert scrolled > 50  # the table is wider than the page, and scrolls by itself
    assert abs(first - left) < 2


def test_a_wide_table_says_that_it_scrolls(browser, address):
    from selenium.webdriver.support.ui import WebDriverWait

    resize(browser, NARROW)
    browser.get(address + "evidence/augmentation_realism.html")
    hint, faded = browser.execute_script(
        "const box = document.querySelector('.pst-scrollable-table-container');"
        "return [box.nextElementSibling.checkVisibility(), box.classList.contains('more-right')]"
    )
    assert hint
    assert faded
    box = "document.querySelector('.pst-scrollable-table-container')"
    browser.execute_script(f"{box}.scrollLeft = 1e6")
    gone = f"return !{box}.classList.contains('more-right')"
    WebDriverWait(browser, 20).until(lambda b: b.execute_script(gone))


def test_a_table_of_text_is_a_list_on_a_telephone(browser, address):
    layout = (
        "const cell = document.querySelector('table.rows td');"
        "return [getComputedStyle(cell).display, cell.nextElementSibling.dataset.column]"
    )
    resize(browser, NARROW)
    browser.get(address + "which_p_value.html")
    assert browser.execute_script(layout) == ["block", "columns"]
    resize(browser, 1280)
    assert browser.execute_script(layout) == ["table-cell", "columns"]


def test_initials_of_authors_are_no_numbers_of_a_list(site):
    listed = [
        page.name
        for page in (site / "api" / "generated").glob("*.html")
        if re.search(r'<ol class="(upper|lower)(alpha|roman)', page.read_text())
    ]
    assert not listed


def test_functions_of_figures_show_one(site):
    pages = sorted((site / "api" / "generated").glob("scivae.pl.*.html"))
    assert len(pages) > 10
    assert [page.stem for page in pages if "<figure" not in page.read_text()] == []


def test_tables_of_the_evidence_lead_to_what_they_show(site):
    for table in (DOCS / "evidence").glob("*.md"):
        text = (site / "evidence" / f"{table.stem}.html").read_text()
        assert ("What this shows: <a" in text) == (table.stem not in ("claims", "tried")), table
