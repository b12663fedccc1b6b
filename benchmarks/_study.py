"""One harness for every study: a data set, a split, methods and measures become one tidy table.

A study says how a split is prepared and how one method is measured on it; see ``Study``. The harness
goes through seeds, settings and methods, skips the rows that the table has already, writes the table
after every row, and says how long the rest will take. Each row bears a key of the settings, versions and data
that it was measured with. A row whose key is another than today's is measured again.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replace_fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scvi
from _common import DOCS, PACKAGES, command_of, machine, spread
from _data import FILES, data_path
from _methods import Unavailable, fingerprint
from _rules import paired_differences, unequal_rules, void
from filelock import FileLock

# In the name of a row whose labels say nothing.
PERMUTED = "labels permuted"
STUDY_PACKAGES = (*PACKAGES, "scikit-learn")
# Column that says which versions and machine a row was measured with.
MEASURED_WITH = "measured with"


# Arguments that choose which rows are measured, and where they go, but do not change a row.
NOT_IN_KEY = frozenset(
    [
        "seeds",
        "first_seed",
        "methods",
        "only",
        "datasets",
        "restart",
        "write",
        "merge",
        "out",
        "argv",
    ]
    + ["data", "quick"]
    + ["claims", "networks", "accelerator", "limit", "half", "together"]
)


@dataclass(frozen=True)
class Study:
    """What is measured, on what, and of which methods.

    Attributes
    ----------
    name
        Of the table: ``docs/evidence/<name>.csv`` and ``.md``.
    title, text
        Heading of the table, and what one must know to read it.
    methods
        ``{name of the row: function that makes the method}``; a study may also put there whatever its
        ``measure`` understands.
    prepare
        ``prepare(setting, seed, args)`` gives the split and all that is fitted on real cells: it is
        called once for all methods, and must not know of any.
    measure
        ``measure(make, data, seed, args)`` gives the columns of one row.
    settings
        Each a dict of columns, such as ``{"data": "pbmc_kang", "kept": 5}``: one table for each.
    skip
        ``skip(setting, name)`` is true where a method has no meaning.
    options
        Adds arguments of the study's own to the parser.
    finish
        ``finish(rows, folder)`` is called at the end, with the whole table.
    quick
        Arguments that ``--quick`` sets.
    time
        Column with the seconds that a row took; filled in where ``measure`` leaves it out.
    of_file
        ``of_file(name, args)`` gives the settings for a file of one's own (``--data``). ``None``: those
        of the study, with the name of the file in place of each data set.
    judged
        Columns that judge classes. Beside ``chance``, rows with :data:`PERMUTED` in their name say
        whether they are void.
    reference
        Row that every other is compared with, paired by seed, in the columns ``compared``.
    rules
        ``rules()`` gives ``{method: {rule: value}}``; the table names those that methods do not share.
    compared
        See ``reference``. Rows need the columns ``cells learned from`` and ``cells scored``.
    protocol
        Raise it when ``prepare`` or ``measure`` change what they measure: all rows are measured again.
    """

    name: str
    title: str
    text: str
    methods: Mapping[str, Any]
    prepare: Callable[[Mapping[str, Any], int, argparse.Namespace], Any]
    measure: Callable[[Any, Any, int, argparse.Namespace], dict[str, Any]]
    settings: Sequence[Mapping[str, Any]] = ({},)
    skip: Callable[[Mapping[str, Any], str], bool] = lambda setting, name: False
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    finish: Callable[[pd.DataFrame, Path], None] = lambda rows, folder: None
    quick: Mapping[str, Any] = field(default_factory=dict)
    time: str = "time, s"
    of_file: Callable[[str, argparse.Namespace], Sequence[Mapping[str, Any]]] | None = None
    judged: Sequence[str] = ()
    reference: str | None = None
    compared: Sequence[str] = ()
    rules: Callable[[], Mapping[str, Mapping[str, Any]]] | None = None
    protocol: int = 1

    def on_file(self, name: str, args: argparse.Namespace) -> Study:
        """The same study of a file of one's own."""
        if self.of_file is not None:
            settings = list(self.of_file(name, args))
        elif "data" in self.settings[0]:
            every = [{**setting, "data": name} for setting in self.settings]
            settings = [x for i, x in enumerate(every) if x not in every[:i]]
        else:
            raise SystemExit(f"{self.name} takes no --data: it has one data set of its own kind.")
        return replace_fields(self, settings=settings)

    def key(self, setting: Mapping[str, Any], name: str, args: argparse.Namespace) -> str:
        """What a row was measured with: protocol, options, method, versions, data."""
        options = {k: v for k, v in vars(args).items() if k not in NOT_IN_KEY}
        data = data_path(setting["data"]) if "data" in setting and not args.quick else None
        parts = (self.protocol, sorted(options.items()), dict(setting), name)
        told = repr((*parts, fingerprint(self.methods[name]), _digest(data)))
        return "k" + hashlib.sha256(told.encode()).hexdigest()[:10]

    @property
    def by(self) -> list[str]:
        """Columns that name a group of seeds."""
        return [*self.settings[0], "method"]


def run(study: Study, argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Measure what is not measured yet; gives the whole table."""
    study, args = _arguments(study, sys.argv[1:] if argv is None else list(argv))
    warnings.simplefilter("ignore")
    scvi.settings.verbosity = logging.ERROR
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    table = Table(study, args)
    if args.restart:
        table.forget(args.methods)
    if args.merge:
        table.merge(args.merge)
    before = len(table.rows())
    todo = [
        (seed, setting, name)
        for seed in range(args.first_seed, args.first_seed if args.write else args.seeds)
        for setting in study.settings
        if all(str(setting[column]) in values for column, values in args.only.items())
        for name in args.methods
        if not study.skip(setting, name) and not table.has(setting, name, seed)
    ]
    again = sum(table.outdated(setting, name, seed) for seed, setting, name in todo)
    print(f"{study.name}: {len(todo)} rows to do, {before} there, in {table.csv}")
    if again:
        print(f"{again} rows were measured with other settings or versions, and are measured again")
    prepared: tuple[Any, Any] = (None, None)
    failed = 0
    for i, (seed, setting, name) in enumerate(todo):
        if table.has(setting, name, seed):  # by another process, meanwhile
            continue
        if prepared[0] != (seed, setting):
            prepared = ((seed, setting), study.prepare(setting, seed, args))
        start = time.perf_counter()
        try:
            row = study.measure(study.methods[name], prepared[1], seed, args)
        except Unavailable as error:
            print(f"{name}: left out, {error}")
            continue
        except Exception:  # noqa: BLE001  # one method that fails must not cost a night of the others
            traceback.print_exc()
            failed += 1
            continue
        seconds = time.perf_counter() - start
        row.setdefault(study.time, seconds)
        table.seconds.setdefault(name, []).append(seconds)
        key = study.key(setting, name, args)
        named = {**setting, "method": name, "seed": seed, "key": key}
        table.add({**named, **row, MEASURED_WITH: machine(STUDY_PACKAGES)})
        shown = {k: v if isinstance(v, str) else round(float(v), 4) for k, v in row.items()}
        place = ", ".join([*map(str, setting.values()), name, f"seed {seed}"])
        left = table.seconds_left([name for _, _, name in todo[i + 1 :]])
        print(f"[{i + 1}/{len(todo)}] {place}: {shown}; about {_duration(left)} left", flush=True)
    table.describe()
    study.finish(table.rows(), table.folder)
    if failed:
        raise SystemExit(f"{failed} of {len(todo)} rows failed, see above; the others are written.")
    return table.rows()


class Table:
    """Rows of a study, in a file that several processes may write to."""

    def __init__(self, study: Study, args: argparse.Namespace):
        self.study = study
        self.args = args
        self.folder = Path(args.out)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.csv = self.folder / f"{study.name}.csv"
        self.command = command_of(args.argv)
        self.seconds: dict[str, list[float]] = {}  # what rows took in this process
        self.lock = FileLock(
            Path(tempfile.gettempdir()) / f"scivae_{study.name}_{os.getuid()}.lock"
        )

    def rows(self) -> pd.DataFrame:
        """All rows that are written."""
        if not self.csv.exists():
            return pd.DataFrame(columns=[*self.study.by, "seed", "key"])
        return _read(self.csv)

    def has(self, setting: Mapping[str, Any], name: str, seed: int) -> bool:
        """Whether a row is there that was measured with the settings and versions of today."""
        return bool(self._keys(setting, name, seed) == {self.study.key(setting, name, self.args)})

    def outdated(self, setting: Mapping[str, Any], name: str, seed: int) -> bool:
        """Whether a row is there that was measured with others."""
        return bool(self._keys(setting, name, seed)) and not self.has(setting, name, seed)

    def _keys(self, setting: Mapping[str, Any], name: str, seed: int) -> set[str]:
        rows = self.rows()
        same = self._same(rows, {**setting, "method": name, "seed": seed})
        return set(rows.loc[same, "key"].astype(str)) if same.any() else set()

    def _same(self, rows: pd.DataFrame, row: Mapping[str, Any]) -> np.ndarray:
        """Rows of the same setting, method and seed."""
        same = np.ones(len(rows), dtype=bool)
        for column in (*self.study.by, "seed"):
            same &= (rows[column] == row[column]).to_numpy()
        return same

    def add(self, row: Mapping[str, Any]) -> None:
        """Write one more row, in place of one that was measured with other settings, and the means."""
        with self.lock:
            before = self.rows()
            before = before[~self._same(before, row)]
            frame = pd.DataFrame([row])
            self._write(pd.concat([before, frame], ignore_index=True) if len(before) else frame)

    def merge(self, files: Sequence[Path]) -> None:
        """Take rows that were measured elsewhere, in place of those of the same setting and seed.

        Rows whose key is not today's are left out, and the table loses those that it has.
        """
        with self.lock:
            before = self.rows()
            new = pd.concat([_read(file) for file in files], ignore_index=True)
            taken = self._of_today(new)
            taken = taken.drop_duplicates([*self.study.by, "seed"], keep="last")
            kept = self._of_today(before)
            names = pd.MultiIndex.from_frame(kept[[*self.study.by, "seed"]])
            replaced = names.isin(pd.MultiIndex.from_frame(taken[[*self.study.by, "seed"]]))
            print(
                f"{len(taken)} of {len(new)} rows are taken, {replaced.sum()} rows give way to them; "
                f"{len(new) - len(taken)} and {len(before) - len(kept)} were measured with other "
                "settings or versions, or twice, and are left out"
            )
            parts = [part for part in (kept[~replaced], taken) if len(part)]
            self._write(pd.concat(parts, ignore_index=True) if parts else before[:0])

    def _of_today(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows whose key is that of today's settings and versions."""
        today = {
            (*setting.values(), name): self.study.key(setting, name, self.args)
            for setting in self.study.settings
            for name in self.study.methods
        }
        keys = [today.get(tuple(row)) for row in rows[self.study.by].itertuples(index=False)]
        return rows[rows["key"].to_numpy() == np.array(keys, dtype=object)]

    def forget(self, names: Sequence[str]) -> None:
        """Drop the rows of some methods."""
        with self.lock:
            rows = self.rows()
            if len(rows):
                self._write(rows[~rows["method"].isin(names)])

    def describe(self) -> None:
        """Write the means again: text, order of the rows and command are those of today."""
        with self.lock:
            self._write(self.rows())

    def seconds_left(self, names: Sequence[str]) -> float:
        """How long rows of these methods will take, by what earlier ones took."""
        rows = self.rows()
        mean = rows.groupby("method")[self.study.time].mean().to_dict()
        mean |= {name: float(np.mean(took)) for name, took in self.seconds.items()}
        return sum(mean.get(name, rows[self.study.time].mean()) for name in names)

    def _write(self, rows: pd.DataFrame) -> None:
        """Both files at once: a run that is cut short leaves them whole."""
        replace(self.csv, rows.to_csv(index=False, float_format="%.6g"))
        replace(self.csv.with_suffix(".md"), markdown(self.study, rows, self.command))


def _read(file: Path) -> pd.DataFrame:
    """Rows of a table; of a time before there were keys, too."""
    rows = pd.read_csv(file)
    return rows if "key" in rows else rows.assign(key="")


def markdown(study: Study, rows: pd.DataFrame, command: str) -> str:
    """A page: mean ± standard deviation over seeds, a line for each method and setting.

    One seed has no ±. Each data set has a table of its own; what is the same in all its lines stands above it. Columns
    that are void say so above the tables; below them stand the differences to the reference.
    """
    if not len(rows):
        return f"# {study.title}\n\n{study.text}\n"
    foot = (
        f"Mean ± standard deviation over seeds. `{command}` · {_measured_with(rows)} · "
        f"all rows together {_duration(rows[study.time].sum())}"
    )
    parts = [
        f"# {study.title}",
        study.text,
        *_void_columns(study, rows),
        *_tables(study, rows),
        *_not_run(study, rows),
        foot,
    ]
    return "\n\n".join([*parts, *_differences(study, rows), *_unequal(study)]) + "\n"


def _tables(study: Study, rows: pd.DataFrame) -> list[str]:
    """The tables of a page, one for each data set, each with what all its lines share."""
    data = list(dict.fromkeys(s["data"] for s in study.settings)) if "data" in study.by else []
    data = [name for name in data if (rows["data"] == name).any()]
    if len(data) < 2:
        return _table(study, rows)
    parts = []
    for name in data:
        parts += [f"## {name}", *_table(study, rows[rows["data"] == name])]
    return parts


def _table(study: Study, rows: pd.DataFrame) -> list[str]:
    """What all lines share, and a table whose lines begin with the method."""
    order = [{**setting, "method": name} for setting in study.settings for name in study.methods]
    matches = {
        i: np.logical_and.reduce([(rows[c] == v).to_numpy() for c, v in key.items()])
        for i, key in enumerate(order)
    }
    groups = [(order[i], rows[same]) for i, same in matches.items() if same.any()]
    columns = [c for c in rows.select_dtypes("number") if c not in (*study.by, "seed")]
    columns = [c for c in columns if rows[c].notna().any()]
    shared = [c for c in columns if c != study.time and len(rows) > 1 and _constant(rows[c])]
    settings = [c for c in study.by if c != "method"]
    same = [c for c in settings if rows[c].nunique() == 1 and c != "data"]
    head = ["method", *(c for c in settings if rows[c].nunique() > 1), "seeds"]
    shown = [c for c in columns if c not in shared]
    lines = [
        "| " + " | ".join([*head, *shown]) + " |",
        "|" + "---|" * (len(head) + len(shown)),
    ]
    for key, group in groups:
        cells = [str({**key, "seeds": len(group)}[c]) for c in head]
        cells += [spread(group[c].mean(), group[c].std()) for c in shown]
        lines.append("| " + " | ".join(cells) + " |")
    told = [f"{c}: {rows[c].iloc[0]}" for c in same]
    told += [f"{c}: {spread(rows[c].mean())}" for c in shared]
    return [*([f"The same in all rows: {'; '.join(told)}."] if told else []), "\n".join(lines)]


def _constant(column: pd.Series) -> bool:
    """Whether all values are there and the same, but for rounding."""
    values = column.to_numpy(float)
    return bool(np.allclose(values, values[0], rtol=1e-9, atol=0))


def _measured_with(rows: pd.DataFrame) -> str:
    """Versions and machine; where rows have several, how many rows each."""
    told = rows[MEASURED_WITH] if MEASURED_WITH in rows else pd.Series(np.nan, rows.index)
    sizes = told.fillna("versions that were not noted").value_counts()
    if len(sizes) == 1:
        return str(sizes.index[0])
    return "; ".join(f"{n} rows: {name}" for name, n in sizes.items())


def _unequal(study: Study) -> list[str]:
    """The rules that methods do not share, as a table: the value that most have, and who has another."""
    unequal = unequal_rules(study.rules()) if study.rules is not None else {}
    lines = []
    for rule, values in unequal.items():
        by_value: dict[Any, list[str]] = {}
        for method, value in values.items():
            by_value.setdefault(value, []).append(method)
        usual = max(by_value, key=lambda value: len(by_value[value]))
        others = [
            f"{value}: {', '.join(f'*{name}*' for name in of)}"
            for value, of in by_value.items()
            if value != usual
        ]
        lines.append(f"| {rule} | {usual} | {'; '.join(others)} |")
    if not lines:
        return []
    head = "| rule | most methods | others |\n|---|---|---|\n"
    return ["## Rules that methods do not share", head + "\n".join(lines)]


def _not_run(study: Study, rows: pd.DataFrame) -> list[str]:
    """A paragraph that names what is missing: up to three settings by name, of more their number."""
    missing: dict[str, list[str]] = {}  # settings, as text: methods
    for name in study.methods:
        asked = [x for x in study.settings if not study.skip(x, name)]
        of = rows[rows["method"] == name]
        done = (
            of[list(study.settings[0])].to_dict("records") if study.settings[0] else [{}] * len(of)
        )
        left = [" · ".join(map(str, x.values())) for x in asked if x not in done]
        if left:
            some = ", ".join(left) if len(left) <= 3 else f"{len(left)} of {len(asked)} settings"
            missing.setdefault("" if len(left) == len(asked) else some, []).append(name)
    said = [
        ", ".join(f"*{name}*" for name in names) + (f" ({left})" if left else "")
        for left, names in missing.items()
    ]
    return [f"Not run yet: {'; '.join(said)}."] if said else []


def _digest(path: Path | None) -> str:
    """Of the contents of a file, or of a folder."""
    if path is None or not path.exists():
        return ""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(_file_digest(file, file.stat().st_mtime_ns))
    return digest.hexdigest()


@lru_cache
def _file_digest(file: Path, changed: int) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _void_columns(study: Study, rows: pd.DataFrame) -> list[str]:
    """A paragraph for each setting and column that permuted labels void."""
    found = []
    for setting in study.settings:
        matches = np.ones(len(rows), dtype=bool)  # a study may have one setting without a name
        for name, value in setting.items():
            matches &= (rows[name] == value).to_numpy()
        of = rows[matches]
        if "data" in setting and not of["method"].str.contains(PERMUTED, regex=False).any():
            of = rows[(rows["data"] == setting["data"]).to_numpy()]  # one setting speaks for all
        for column in study.judged if matches.any() else ():
            reason = void(of, column, permuted=PERMUTED)
            if reason:
                found.append(f"**Void** ({', '.join(map(str, setting.values()))}): {reason}.")
    return found


def _differences(study: Study, rows: pd.DataFrame) -> list[str]:
    """The table of the differences to the reference."""
    if study.reference is None or study.reference not in set(rows["method"]):
        return []
    by = list(study.settings[0])
    keys = [(*x.values(), name) for x in study.settings for name in study.methods]
    place = {key: i for i, key in enumerate(keys) if PERMUTED not in key[-1]}
    places = np.array([place.get(row, -1) for row in rows[study.by].itertuples(index=False)])
    rows = rows.iloc[np.argsort(places, kind="stable")[(places < 0).sum() :]]  # as in the tables
    table = paired_differences(rows, by, study.compared, study.reference)
    if not len(table):
        return []
    head = [c for c in (*by, "column") if table[c].nunique() > 1]
    lines = [
        "| " + " | ".join([*head, "method", "seeds", "difference", "95 % interval"]) + " |",
        "|" + "---|" * (len(head) + 4),
    ]
    for _, row in table.iterrows():
        interval = "–" if np.isnan(row["low"]) else f"{row['low']:+.3f} to {row['high']:+.3f}"
        cells = [*row[head], row["method"], row["seeds"], f"{row['mean']:+.3f}"]
        lines.append("| " + " | ".join([*map(str, cells), interval]) + " |")
    of = "" if "column" in head else f" in {table['column'].iloc[0]}"
    text = (
        f"Difference{of} to *{study.reference}*, paired by seed; intervals by the corrected resampled "
        "t of Nadeau and Bengio, since splits share cells."
    )
    return ["## Differences", text, "\n".join(lines)]


def text_of(doc: str) -> str:
    """The explanation in a study's docstring: its paragraphs after the command."""
    return "\n\n".join(" ".join(part.split()) for part in doc.strip().split("\n\n")[2:])


def _arguments(study: Study, argv: list[str]) -> tuple[Study, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=study.title)
    parser.add_argument("--quick", action="store_true", help="seconds, on little data; no evidence")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="to divide the work")
    parser.add_argument("--methods", nargs="+", default=list(study.methods), metavar="METHOD")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="COLUMN=VALUE", help="settings, to divide the work"
    )
    parser.add_argument(
        "--datasets", nargs="+", default=[], metavar="NAME", help="of its data sets"
    )
    parser.add_argument("--epochs", type=int, default=None, help="None: by the number of cells")
    parser.add_argument("--restart", action="store_true", help="forget the rows of these methods")
    parser.add_argument("--write", action="store_true", help="the table again; measure nothing")
    parser.add_argument(
        "--merge",
        type=Path,
        nargs="+",
        default=[],
        metavar="CSV",
        help="take rows that were measured elsewhere with these settings; measure nothing",
    )
    parser.add_argument("--out", default=None, help="folder of the table; docs/evidence")
    parser.add_argument("--data", type=Path, default=None, help="an h5ad or zarr file of your own")
    parser.add_argument("--labels-key", default="cell_type", help="column of obs with its classes")
    parser.add_argument("--donor-key", default=None, help="column of obs with its donors")
    study.options(parser)
    if "--quick" in argv:
        own = any(a.split("=")[0] == "--data" for a in argv)  # has other settings to choose from
        quick = {k: v for k, v in study.quick.items() if not (own and k == "only")}
        parser.set_defaults(**{"seeds": 1, "epochs": 2, **quick})
    args = parser.parse_args(argv)
    unknown = sorted(set(args.methods) - set(study.methods))
    if unknown:
        parser.error(f"--methods must be of {list(study.methods)}, got {unknown}")
    if args.data is not None:
        if not args.data.exists():
            parser.error(f"--data must be an h5ad or zarr file, but {args.data} is not there")
        FILES[args.data.stem] = (args.data.absolute(), args.labels_key, args.donor_key)
        study = study.on_file(args.data.stem, args)
    only: dict[str, set[str]] = {}
    for part in args.only:
        column, _, value = part.partition("=")
        if value not in {str(setting.get(column)) for setting in study.settings}:
            parser.error(f"--only must be COLUMN=VALUE of {list(study.settings)}, got {part!r}")
        only.setdefault(column, set()).add(value)
    known = {str(setting.get("data")) for setting in study.settings}
    if set(args.datasets) - known:
        parser.error(f"--datasets must be of {sorted(known)}, got {args.datasets}")
    if args.datasets:
        only["data"] = set(args.datasets)
    args.only = only
    args.write = args.write or bool(args.merge)
    args.argv = [a for a in argv if a not in ("--write", "--merge", *map(str, args.merge))]
    if args.out is None:
        args.out = tempfile.mkdtemp(prefix=f"{study.name}_") if args.quick else DOCS
        if args.data is not None and not args.quick:  # not among the tables of the documentation
            args.out = Path(f"{study.name}_{args.data.stem}")
    return study, args


def replace(path: Path, text: str) -> None:
    """Write a file such that it is whole at every moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _duration(seconds: float) -> str:
    if not np.isfinite(seconds):
        return "?"
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
