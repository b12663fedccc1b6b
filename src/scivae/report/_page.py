"""The page: a template, a style sheet and a script, combined in one file."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from ._data import fixed, percent


@cache
def _template() -> Any:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_part),
        autoescape=True,  # names of cells and genes can contain any text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fixed": fixed, "percent": percent, "script": _for_script}
    return environment.get_template("report.html")


def _part(name: str) -> str:
    """Read a file from the folder of templates."""
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8")


def _for_script(value: Any) -> Any:
    """A value as JSON, escaped so that no text in it can end the script."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign, written in (("&", "\\u0026"), ("<", "\\u003c"), (">", "\\u003e"),
                          ("\u2028", "\\u2028"), ("\u2029", "\\u2029")):  # fmt: skip
        text = text.replace(sign, written)
    return Markup(text)


def render(contents: dict[str, Any]) -> str:
    """The page as text; characters that UTF-8 cannot encode (lone surrogates) become question marks."""
    from markupsafe import Markup

    page = _template().render(
        **contents,
        style=Markup(_part("report.css")),
        code=Markup(_part("report.js")),
    )
    return page.encode("utf-8", "replace").decode("utf-8")
