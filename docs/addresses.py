"""What depends on the public address of the repository: ``Source`` in ``[project.urls]`` of pyproject.toml.

Without it the documentation has no links for editing, no Colab links and no menu of versions, and README.md has
relative links and no badges. With it they appear. README.md is written by

    python docs/addresses.py

and a test fails until that was done.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from urllib.parse import urlparse

ROOT = Path(__file__).resolve().parent.parent
BRANCH = "main"
_PLACEHOLDER = re.compile(r"example|owner|your|[<>{}]", re.IGNORECASE)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)\s]+)\)")
_BADGES = re.compile(r"(<!-- badges -->\n).*?(<!-- end of badges -->)", re.DOTALL)
# Pages that are made from a file elsewhere.
_ELSEWHERE = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "errors.md": "docs/error_texts.py",
}


def urls(project: Path) -> dict[str, str]:
    """The addresses of a pyproject.toml; none if there is no such file."""
    if not project.is_file():
        return {}
    return tomllib.loads(project.read_text(encoding="utf-8"))["project"].get("urls", {})


def repository(project: Path) -> str:
    """The address of the repository, or nothing if it is unknown or a placeholder."""
    address = urls(project).get("Source", "").rstrip("/").removesuffix(".git")
    known = re.fullmatch(r"https://[\w.-]+/[\w./-]+", address)
    return address if known and not _PLACEHOLDER.search(address) else ""


def file_of_page(page: str) -> str:
    """The file of the repository that a page of the documentation is made from.

    Parameters
    ----------
    page
        File of the page, relative to ``docs``.
    """
    if page.startswith("tutorials/"):
        return page
    if page.startswith("api/generated/"):
        return _source(Path(page).stem)
    return _ELSEWHERE.get(page, f"docs/{page}")


def _source(name: str) -> str:
    """The file that defines a public name such as ``scivae.tl.enrich``."""
    import inspect
    from importlib import import_module

    package, room, *path = name.split(".")
    thing = import_module(f"{package}.{room}")
    for part in path:
        thing = getattr(thing, part)
    file = inspect.getsourcefile(inspect.unwrap(getattr(thing, "__func__", thing)))
    parts = Path(str(file)).parts
    return "/".join(("src", *parts[len(parts) - parts[::-1].index(package) - 1 :]))


def colab(address: str, notebook: str) -> str:
    """Where Google Colab opens a notebook; nothing if the repository is not on GitHub."""
    where = urlparse(address)
    if where.hostname != "github.com":
        return ""
    return f"https://colab.research.google.com/github{where.path}/blob/{BRANCH}/{notebook}"


def badges(address: str, documentation: str, name: str) -> str:
    """Lines of Markdown: the version on the index, tests, documentation and license."""
    shields = f"https://img.shields.io/pypi/{{}}/{name}"
    index = f"https://pypi.org/project/{name}/"
    tests = f"{address}/actions/workflows/test.yaml"
    found = [
        ("PyPI", shields.format("v"), index),
        ("Python", shields.format("pyversions"), index),
        ("tests", f"{tests}/badge.svg", tests),
        ("documentation", f"https://img.shields.io/readthedocs/{name}", documentation),
        ("license", shields.format("l"), f"{address}/blob/{BRANCH}/LICENSE"),
    ]
    return "\n".join(f"[![{what}]({image})]({link})" for what, image, link in found if link) + "\n"


def readme(text: str, project: Path) -> str:
    """The text of README.md with links and badges that fit the address: relative links if it is unknown."""
    address, known = repository(project), urls(project)
    text = re.sub(
        rf"https://[\w./-]+?/(?:blob|raw|tree)/{BRANCH}/([^)\s]+)",
        lambda m: m[1] if (ROOT / m[1].split("#")[0]).exists() else m[0],
        text,
    )
    shown = ""
    if address:
        name = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["name"]
        shown = badges(address, known.get("Documentation", ""), name)
        kinds = {"!": "raw", "": "blob"}
        text = _LINK.sub(lambda m: f"{m[1]}[{m[2]}]({address}/{kinds[m[1]]}/{BRANCH}/{m[3]})", text)
    return _BADGES.sub(lambda m: m[1] + shown + m[2], text)


if __name__ == "__main__":
    file = ROOT / "README.md"
    file.write_text(
        readme(file.read_text(encoding="utf-8"), ROOT / "pyproject.toml"), encoding="utf-8"
    )
