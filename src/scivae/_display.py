"""Descriptions of results, as text and as HTML.

Paths, trends and pairs are plain AnnData and DataFrames, whose classes are not changed. A formatter of IPython
shows a description for results of scivae; other objects are displayed as usual.
"""

from __future__ import annotations

import html
import sys
import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _keys
from ._names import layer_names
from ._ranked import permuted, tested
from ._validate.tables import CONDITION, OF_SETS, TRENDS

if TYPE_CHECKING:
    from anndata import AnnData

WIDTH = 88


class Description(NamedTuple):
    """Description of a result.

    Attributes
    ----------
    title
        Name of the object, in one line.
    facts
        Names and values.
    steps
        Possible next steps: code, and what it does.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    steps: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        name = max((len(n) for n, _ in self.facts), default=0)
        lines = [self.title]
        for n, value in self.facts:
            first, *rest = textwrap.wrap(value, max(WIDTH - name - 4, 20)) or [""]
            lines += [f"  {n:<{name}}  {first}", *(" " * (name + 4) + line for line in rest)]
        if self.steps:
            code = max(len(c) for c, _ in self.steps)
            lines.append("next:")
            lines += [f"  {c:<{code}}  # {what}" for c, what in self.steps]
        return printable("\n".join(lines))

    def _repr_html_(self) -> str:
        # Colors and lines are inherited from the page, light or dark.
        cell = "text-align:left;vertical-align:top;padding:1px 12px 1px 0;background:none;border:0"
        facts = "".join(
            f'<tr style="background:none"><td style="{cell};opacity:0.7;white-space:nowrap">'
            f'{html.escape(n)}</td><td style="{cell}">{html.escape(value)}</td></tr>'
            for n, value in self.facts
        )
        steps = "".join(
            f'<tr style="background:none"><td style="{cell};white-space:nowrap"><code '
            f'style="background:none;color:inherit">{html.escape(c)}</code></td>'
            f'<td style="{cell};opacity:0.7">{html.escape(what)}</td></tr>'
            for c, what in self.steps
        )
        table = '<table style="border:0;margin:2px 0 4px 0;font-size:0.92em">'
        after = (
            f'<div style="opacity:0.7;font-size:0.92em">next</div>{table}{steps}</table>'
            if steps
            else ""
        )
        return (
            '<div style="border-left:3px solid #0072B2;padding:2px 0 2px 10px;max-width:60em">'
            f"<div><b>{html.escape(self.title)}</b></div>{table}{facts}</table>{after}</div>"
        )


# Replacements of characters that a console may not be able to show.
_PLAIN = {"→": "->", "×": "x", "–": "-", "…": "...", "α": "alpha", "β": "beta"}


def printable(text: str) -> str:
    """Text that :func:`print` can show: characters that the console cannot encode are replaced."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    plain: dict[int, str] = {}
    for sign in set(text):
        try:
            sign.encode(encoding)
        except UnicodeEncodeError:
            plain[ord(sign)] = _PLAIN.get(sign, "?")
        except LookupError:  # an unknown encoding
            return text
    return text.translate(plain)


def listed(names: Iterable[Any], n: int = 6) -> str:
    """Comma-separated names, and the number of further ones after ``n``."""
    names = [str(name) for name in names]
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")


def counted(n: int, one: str) -> str:
    """A number and a noun, in the plural unless the number is one."""
    return f"{n:,} {one}" + ("" if n == 1 else "es" if one.endswith("s") else "s")


_NEEDED = {
    _keys.INTERPOLATED: (_keys.KIND, _keys.PATH, _keys.PREDICTED, _keys.MARGIN),
    _keys.AUGMENTED: (_keys.KIND,),
    TRENDS: (_keys.T,),
    CONDITION: (_keys.KIND, _keys.SOURCE),
}


def describe(data: Any) -> Description | None:
    """Description of an AnnData or DataFrame of scivae; ``None`` for other objects."""
    attrs, columns = getattr(data, "attrs", None), set(getattr(data, "columns", ()))
    # A subset of a table keeps its attrs, so the columns are checked too.
    if isinstance(attrs, dict) and columns >= {"source", "target", "cost"} and "use_rep" in attrs:
        return _pairs(data)
    tested = {"fdr", "fdr_cells"} & columns
    if isinstance(attrs, dict) and columns >= {"score", "n_genes"} and "min_size" in attrs:
        return _sets(data)
    if isinstance(attrs, dict) and "shape" in columns and tested and "unit_text" in attrs:
        return _ranks(data, tested.pop())
    uns = getattr(data, "uns", None)
    said = uns.get(_keys.UNS) if isinstance(uns, Mapping) else None
    if not isinstance(said, Mapping):
        return None
    kind = said.get("kind")
    makers = {_keys.INTERPOLATED: _path, _keys.AUGMENTED: _augmented, TRENDS: _trends,
              CONDITION: _condition}  # fmt: skip
    make = makers.get(str(kind))
    if make is None or not set(_NEEDED[str(kind)]) <= set(data.obs) or not data.n_obs:
        return None
    if _keys.KIND in data.obs and (data.obs[_keys.KIND].astype(str) == _keys.REAL).any():
        return None  # real and generated cells together
    return make(data, said)


def _values(said: Mapping[str, Any]) -> str:
    return {"expected": "expected values", "sampled": "samples of the likelihood"}.get(
        str(said.get("values")), "values"
    )


def _layers(data: AnnData) -> str:
    others = [f"layers[{k!r}]" for k in layer_names(data)]
    return listed(["X (log-normalized)" if "layers['counts']" in others else "X", *others])


def _path(data: AnnData, said: Mapping[str, Any]) -> Description:
    obs = data.obs
    paths = obs.groupby(obs[_keys.PATH].astype(str), sort=False)
    names = list(paths.groups)
    ends = paths[_keys.PREDICTED].agg(["first", "last"]).astype(str)
    same = ends["first"] == ends["last"]
    lowest = paths[_keys.MARGIN].min()
    n_same, n_inside = int(same.sum()), int((lowest[same] > 0).sum())
    kinds = dict.fromkeys(a if a == b else f"{a} → {b}" for a, b in ends.to_numpy())
    facts = [
        (counted(len(names), "path").split(" ", 1)[1], listed(names, 3)),
        ("steps", f"{said.get('n_steps', '?')} a path, {said.get('method')}"),
        ("classes", listed(kinds)),
    ]
    if n_same:
        facts.append(
            (
                "stay in class",
                f"{n_inside:,} of {counted(n_same, 'path')} within a class, lowest margin "
                f"{lowest[same].min():.2g} log-odds",
            )
        )
    facts += [
        ("values", f"{_values(said)} of {data.n_vars:,} variables in {_layers(data)}"),
        ("z", f"obsm[{_keys.LATENT!r}], position along the path: obs[{_keys.T!r}]"),
    ]
    return Description(
        f"{counted(len(names), 'path')} through latent space (AnnData, {data.n_obs:,} × "
        f"{data.n_vars:,})",
        tuple(facts),
        (
            ("scivae.pl.class_margin(path)", "how deep inside its class it runs"),
            ("joint = scivae.tl.embed(adata, path)", "on the map of the real cells"),
            ("scivae.tl.project(adata, path)", "where real cells lie along it"),
        ),
    )


def _augmented(data: AnnData, said: Mapping[str, Any]) -> Description:
    classes = said.get("classes")
    facts = [("values", f"{_values(said)} of {data.n_vars:,} variables in {_layers(data)}")]
    if classes is not None and len(classes):
        made = [f"{name} {int(n):,}" for name, n in classes["n"].items()]
        accepted = classes["n"].sum() / max(classes["n_drawn"].sum(), 1)
        facts = [
            ("cells", listed(made)),
            ("accepted", f"{accepted:.1%} of those drawn (see uns['civae']['classes'])"),
            *facts,
        ]
    facts.append(("z", f"obsm[{_keys.LATENT!r}]"))
    return Description(
        f"{counted(data.n_obs, 'synthetic cell')} (AnnData, {data.n_obs:,} × {data.n_vars:,})",
        tuple(facts),
        (
            ("scivae.pl.augmentation(adata, cells)", "among the real cells"),
            ("anndata.concat([adata, cells])", "add them to the real cells"),
        ),
    )


def _condition(data: AnnData, said: Mapping[str, Any]) -> Description:
    facts = [
        ("method", str(said.get("method"))),
        ("values", f"{_values(said)} of {data.n_vars:,} variables in {_layers(data)}"),
    ]
    weights, held_out = said.get("weights"), said.get("held_out")
    if weights is not None and len(weights):
        used = weights["weight"].sort_values(ascending=False)
        facts.append(("learned from", listed((f"{name} {w:.0%}" for name, w in used.items()), 4)))
    r2 = {} if held_out is None else held_out.groupby("method")["r2"].mean()
    error = ", ".join(f"R² of {name} {value:.2f}" for name, value in r2.items())
    facts.append(("left-out levels", error or "none: the error of the prediction is unknown"))
    return Description(
        f"{counted(data.n_obs, 'predicted cell')} (AnnData, {data.n_obs:,} × {data.n_vars:,})",
        tuple(facts),
        (("cells.var['change'].sort_values()", "predicted changes of genes, in log2"),),
    )


def _trends(data: AnnData, said: Mapping[str, Any]) -> Description:
    of_sets = said.get("of") == OF_SETS
    source, target = said.get("source"), said.get("target")
    way = f"{source} → {target}" if source is not None and target is not None else "along pairs"
    share = said.get("share_in_class")
    facts = [
        ("way", way + (f" in {said['label']}" if said.get("label") is not None else "")),
        ("sets" if of_sets else "genes", f"{listed(data.var_names)}, {said.get('scale')}"),
        ("layers", listed(layer_names(data), 4)),
    ]
    if "n_pairs" in said:
        paths = f"{said['n_pairs']:,} of {data.n_obs:,} steps, {said.get('method')}"
        facts.insert(1, ("paths", paths))
    if "n_used" in said:
        used, n_cells = int(said["n_used"]), int(said["n_cells"])
        facts.append(
            (
                "cells",
                f"{used:,} of {n_cells:,} near the path, {int(said['n_between']):,} in its middle "
                "half",
            )
        )
    if share is not None:
        facts.append(("stay in their class", f"{share:.0%} of the paths within a class"))
    if len(said.get("donors", ())):
        facts.append(("donors", listed(said["donors"])))
    steps = (
        ("genes = scivae.tl.rank_genes(trends)", "which genes differ"),
        ("scivae.pl.gene_trends(trends, genes.index[:6])", "curves of the first six"),
        ("scivae.pl.trend_heatmap(trends, genes)", "rising and falling, by position"),
    )
    if of_sets:
        steps = (
            ("scivae.pl.gene_trends(curves, curves.var_names[:6])", "curves of the first six"),
            ("scivae.pl.trend_heatmap(curves)", "rising and falling, by position"),
            ("scivae.tl.enrich(trends, net)", "which sets differ: these curves are no test"),
        )
    return Description(
        f"trends of {counted(data.n_vars, 'gene set' if of_sets else 'gene')} (AnnData, "
        f"{data.n_obs:,} steps × {data.n_vars:,})",
        tuple(facts),
        steps,
    )


def _pairs(data: Any) -> Description:
    said = data.attrs
    label = "" if said.get("label") is None else f" in {said['label']}"
    facts = [
        ("way", f"{said['groupby']}: {said['source']} → {said['target']}{label}"),
        ("method", f"{said['method']}, distances in obsm[{said['use_rep']!r}]"),
        ("cells", f"{data['source'].nunique():,} sources, {data['target'].nunique():,} targets"),
    ]
    if "donor" in data:
        facts.append(("donors", listed(data["donor"].unique())))
    return Description(
        f"{counted(len(data), 'pair')} of cells (DataFrame)",
        tuple(facts),
        (
            ("trends = scivae.tl.gene_trends(model, pairs)", "genes along all of them"),
            ("path = model.interpolate(*pairs.loc[0, ['source', 'target']])", "one of them"),
        ),
    )


def _sets(data: Any) -> Description:
    said = data.attrs
    found = data[data[_keys.columns_of_significance(data)[1]] <= 0.05]
    facts = [
        *_unit(said),
        ("change", f"{len(found):,} of {counted(len(data), 'set')} (false discovery rate 5 %)"),
        ("method", f"{said['method']} of decoupler, sets of at least {said['min_size']} genes"),
    ]
    if said.get("left_out"):
        facts.append(
            ("left out", f"{counted(said['left_out'], 'set')} with other numbers of genes")
        )
    return Description(
        f"{counted(len(data), 'gene set')} (DataFrame)",
        tuple(facts),
        (("scivae.pl.enrichment(sets)", "scores with their significance"),),
    )


def _unit(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The unit of a test, and the limits of its p-values if there are any."""
    facts = [("unit", f"{said['unit']}: {said['unit_text']}")]
    return [*facts, ("note", str(said["note"]))] if said.get("note") else facts


def _ranks(data: Any, column: str) -> Description:
    shown = data["shape"] == "transient"
    found = data[(data[column] <= 0.05) | shown]
    shapes = found["shape"].value_counts()
    said = data.attrs
    of, others = tested(data)
    facts = [
        *_unit(said),
        (
            "change",
            f"{len(found):,} of {of} (false discovery rate 5 %{others and '; ' + others})"
            + (
                ": " + ", ".join(f"{n:,} {s}" for s, n in shapes.items() if n) if len(found) else ""
            ),
        ),
        ("transient", str(said.get("transient"))),
        ("scale", str(said.get("scale"))),
    ]
    if check := permuted(data):
        facts.append(("check", f"{said['permutation']['called']:,} genes are called, and {check}"))
    return Description(
        f"{counted(len(data), 'ranked gene')} (DataFrame)",
        tuple(facts),
        (
            ("scivae.pl.gene_trends(trends, genes.index[:6])", "curves of the first six"),
            ("scivae.pl.trend_heatmap(trends, genes)", "rising and falling, by position"),
        ),
    )


# Classes that IPython shows through :func:`describe`, by module and name, so that none must be imported.
# anndata names its class "anndata" from 0.13 on, pandas its own "pandas" from 3 on.
_TYPES = (
    ("anndata", "AnnData"),
    ("anndata._core.anndata", "AnnData"),
    ("pandas", "DataFrame"),
    ("pandas.core.frame", "DataFrame"),
)


def register() -> None:
    """Register the formatters with a running IPython; do nothing elsewhere."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None:
        return
    formatters = shell.display_formatter.formatters
    for module, name in _TYPES:
        formatters["text/html"].for_type_by_name(module, name, _as_html)
        formatters["text/plain"].for_type_by_name(module, name, _as_text)


def _as_html(data: Any) -> str | None:
    """HTML of an object: the description, then the usual HTML of the object."""
    said = describe(data)
    own = getattr(data, "_repr_html_", None)
    shown = own() if own is not None else None
    if said is None:
        return shown
    return said._repr_html_() + (shown or "")


def _as_text(data: Any, printer: Any, cycle: bool) -> None:
    """Text of an object: the description, then the usual text of the object."""
    said = describe(data)
    own = repr(data)
    text = own if said is None else f"{said}\n\n{own}" if hasattr(data, "columns") else str(said)
    for i, line in enumerate(text.split("\n")):
        if i:
            printer.break_()
        printer.text(line)
