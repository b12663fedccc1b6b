"""The house itself: which room may import which, what public functions owe, where names are spelled."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import warnings
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "scivae"
FILES = sorted(SOURCE.rglob("*.py"))
ROOMS = (
    "geometry",
    "metrics",
    "stats",
    "nb",
    "module",
    "data",
    "train",
    "model",
    "tl",
    "pl",
    "datasets",
)
# What each room may import of the package. Every room may spell slots, phrase errors, say what a thing
# holds and show how far it is.
_ORDER = ("geometry", "metrics", "stats", "nb", "module", "data", "train", "model", "tl", "pl")
MAY_IMPORT = {name: set(_ORDER[: _ORDER.index(name)]) for name in _ORDER[4:]}
MAY_IMPORT |= dict.fromkeys(("geometry", "metrics", "stats", "nb", "datasets"), set())
COMMON = {
    "_keys",
    "_names",
    "_storage",
    "_errors",
    "_display",
    "_progress",
    "_random",
    "_quiet",
    "_scvi",
}
# Packages that rooms of plain mathematics know nothing of.
FOREIGN = {
    "geometry": {"anndata", "scvi", "matplotlib", "scanpy"},
    "metrics": {"anndata", "scvi", "matplotlib", "scanpy", "torch"},
    "stats": {"anndata", "scvi", "matplotlib", "scanpy", "torch"},
    "datasets": {"scvi", "torch", "matplotlib"},
    "nb": {"anndata", "matplotlib", "scanpy", "lightning"},
    "module": {"anndata", "matplotlib", "scanpy"},
}


def imports(file: Path) -> set[tuple[str, ...]]:
    """Absolute dotted names that a file imports."""
    package = file.relative_to(SOURCE.parent).with_suffix("").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            found |= {(*base, alias.name) for alias in node.names}
    return found


def room(file: Path) -> str:
    parts = file.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else ""


@pytest.mark.parametrize("name", ROOMS)
def test_rooms_import_one_way(name):
    for file in FILES:
        if room(file) != name:
            continue
        for parts in imports(file):
            if parts[0] == "scivae" and len(parts) > 1 and parts[1] != name:
                assert parts[1] in MAY_IMPORT[name] | COMMON, f"{file.name} imports {parts}"
            assert parts[0] not in FOREIGN.get(name, ()), f"{file.name} imports {parts[0]}"


def test_private_parts_of_scvi_tools_are_reached_into_in_one_file():
    for file in FILES:
        private = {
            parts
            for parts in imports(file)
            if parts[0] == "scvi" and any(part.startswith("_") for part in parts)
        }
        assert not private or file.name == "_scvi.py", f"{file} imports {private}"


def test_slot_names_are_spelled_once():
    pattern = re.compile(r"""^(X_civae|civae_\w+)$""")
    for file in FILES:
        if file.name == "_keys.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not pattern.match(node.value), f"{file}:{node.lineno} spells {node.value!r}"


def test_no_file_is_read_by_running_it():
    """One function reads what could name code; test_untrusted.py gives it hostile files."""
    running = re.compile(
        r"(eval|exec|.*\b(pickle|np|numpy|torch|joblib)\.loads?|.*\.read_pickle|.*\.extract(all)?"
        r"|.*\.unpack_archive)$"
    )
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and running.match(ast.unparse(node.func)):
                assert file.parts[-2:] == ("data", "files.py"), f"{file}:{node.lineno}"


def test_no_warning_or_error_is_made_and_thrown_away():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                name = getattr(node.value.func, "id", "")
                assert not name.endswith(("Warning", "Error")), f"{file}:{node.lineno}"


def test_errors_and_warnings_are_one_line():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            warned = isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn"
            if not (warned or isinstance(node, ast.Raise)):
                continue
            for part in ast.walk(node):
                text = part.value if isinstance(part, ast.Constant) else ""
                broken = isinstance(text, str) and "\n" in text
                assert not broken, f"{file}:{node.lineno} breaks its message into lines"


@pytest.mark.parametrize("category", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
def test_a_deprecated_call_of_ours_is_an_error(category):
    """A library that warns of its caller, once called from a module of the package."""
    library = {"warn": partial(warnings.warn, "deprecated", category)}
    exec("def renamed():\n    warn(stacklevel=2)", library)
    ours = {"__name__": "scivae.tl._trends", **library}
    with pytest.raises(category, match="deprecated"):
        exec("renamed()", ours)


def public() -> dict[str, object]:
    """Every public function and class, and every public method that the package itself defines."""
    found = {}
    for name in ("geometry", "metrics", "stats", "model", "tl", "pl", "datasets"):
        module = import_module(f"scivae.{name}")
        for attribute in module.__all__:
            thing = getattr(module, attribute)
            if not callable(thing):
                continue
            found[f"{name}.{attribute}"] = thing
            if not inspect.isclass(thing):
                continue
            for cls in thing.__mro__:
                if not cls.__module__.startswith("scivae"):
                    continue
                for method, value in vars(cls).items():
                    function = getattr(value, "__func__", value)
                    own = getattr(function, "__module__", "").startswith("scivae")
                    if own and not method.startswith("_") and inspect.isfunction(function):
                        found[f"{name}.{attribute}.{method}"] = function
    return found


PUBLIC = public()


def parameters(thing) -> list[inspect.Parameter]:
    if inspect.isclass(thing) and issubclass(thing, tuple):  # fields are attributes
        return []
    return [
        p
        for p in inspect.signature(thing).parameters.values()
        if p.name not in ("self", "cls") and not p.name.startswith("_")
    ]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_things_are_documented(name):
    thing = PUBLIC[name]
    text = inspect.getdoc(thing) or ""
    assert len(text.splitlines()[0]) < 100
    assert text.splitlines()[0].endswith(".")
    documented = {
        part.strip().lstrip("*")
        for line in text.splitlines()
        if re.match(r"^[\w*, ]+$", line)
        for part in line.split(",")
    }
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return
    for parameter in parameters(thing):
        assert parameter.name in documented, f"{name} does not document {parameter.name}"


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_have_examples(name):
    if name.count(".") > 1 and not name.startswith("model.CIVAE."):  # the class shows them
        return
    assert "Examples\n--------\n" in inspect.getdoc(PUBLIC[name]), f"{name} has no example"


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_take_few_positional_arguments(name):
    conventional = {"model.CIVAE", "model.CIVAE.setup_anndata", "model.CIVAE.predict"}
    if name in conventional or inspect.isclass(PUBLIC[name]):
        return
    positional = [p for p in parameters(PUBLIC[name]) if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert len(positional) <= 4, f"{name} takes {[p.name for p in positional]} by position"


def test_nothing_heavy_is_imported_before_it_is_used():
    code = "import sys, scivae; print(sorted({'torch', 'scvi', 'scanpy', 'matplotlib', 'ot', 'umap'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rooms_import_nothing_that_scvi_tools_does_not():
    """All of scivae costs its own files beyond ``import scvi``: no plots, no UMAP, no statistics."""
    code = """
import sys, scvi
before = set(sys.modules)
import scivae
for name in scivae.__all__:
    getattr(scivae, name)
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new - {"scivae"} - set(sys.stdlib_module_names)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("room", ["datasets", "geometry", "metrics", "pl", "stats", "tl"])
def test_rooms_that_need_no_network_do_not_wait_for_torch(room):
    heavy = "{'torch', 'scvi', 'scanpy', 'matplotlib', 'ot', 'umap', 'sklearn', 'statsmodels'}"
    code = f"import sys, scivae.{room}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_are_there_all_the_same():
    import scivae

    assert set(scivae.__all__) <= set(dir(scivae))
    for name in scivae.__all__:
        assert getattr(scivae, name)
    with pytest.raises(AttributeError, match="no attribute 'modle'"):
        _ = scivae.modle


def test_readme_example_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert blocks
    code = "\n".join(blocks)
    # A tenth of the training, for the sake of time; all else as it stands.
    code = code.replace("model.train()", "model.train(max_epochs=10, enable_progress_bar=False)")
    exec(compile(code, "README.md", "exec"), {})


def test_ci_runs_the_commands_of_the_readme():
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    assert "pip install . -c constraints.txt && scivae demo" in readme
    assert 'pip install -e ".[test,docs]" -c constraints.txt && pytest' in readme
    assert 'pip install -e ".[test,docs]" -c constraints.txt' in ci
