"""The layout of the package: who may import what, what public functions owe, where names are spelled."""

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

from scivae import _scvi

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "scivae"
FILES = sorted(SOURCE.rglob("*.py"))
# Folders in the order in which they may import each other. ARRAYS and datasets import no other folder.
ARRAYS = ("geometry", "metrics", "stats", "nb")
ORDER = (*ARRAYS, "module", "data", "train", "model", "tl", "pl", "report")
FOLDERS = (*ARRAYS, "datasets", *ORDER[len(ARRAYS) :], "commands")
MAY_IMPORT = {name: set(ORDER[: ORDER.index(name)]) for name in ORDER if name not in ARRAYS}
MAY_IMPORT |= dict.fromkeys((*ARRAYS, "datasets"), set())
MAY_IMPORT["commands"] = {*ORDER, "datasets"}
# Files beside the folders: every folder may use them.
COMMON = {
    "_display",
    "_errors",
    "_keys",
    "_names",
    "_parts",
    "_progress",
    "_quiet",
    "_random",
    "_ranked",
    "_scvi",
    "_storage",
    "_validate",
}
# Packages that these folders do without.
FOREIGN = {
    "geometry": {"anndata", "scvi", "matplotlib", "scanpy"},
    "metrics": {"anndata", "scvi", "matplotlib", "scanpy", "torch"},
    "stats": {"anndata", "scvi", "matplotlib", "scanpy", "torch"},
    "datasets": {"scvi", "torch", "matplotlib"},
    "nb": {"anndata", "lightning", "matplotlib", "scanpy"},
    "module": {"anndata", "lightning", "matplotlib", "scanpy"},
    "data": {"matplotlib", "scanpy"},
    "train": {"matplotlib", "scanpy"},
    "model": {"matplotlib", "scanpy"},
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


def folder(file: Path) -> str:
    parts = file.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else ""


def imports_of_folder(name: str):
    """Each file of a folder with each of its imports."""
    return [(f, parts) for f in FILES if folder(f) == name for parts in imports(f)]


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_import_one_way(name):
    for file, parts in imports_of_folder(name):
        if parts[0] == "scivae" and len(parts) > 1 and parts[1] != name:
            assert parts[1] in MAY_IMPORT[name] | COMMON, f"{file.name} imports {parts}"
        assert parts[0] not in FOREIGN.get(name, ()), f"{file.name} imports {parts[0]}"


def test_the_table_of_folders_is_in_the_order_of_imports():
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`(\w+)/`", row)]
    assert [name for name in listed if name in FOLDERS] == list(FOLDERS)


@pytest.mark.parametrize("name", FOLDERS)
def test_only_public_names_of_other_folders_are_imported(name):
    for file, parts in imports_of_folder(name):
        if parts[0] == "scivae" and len(parts) > 2 and parts[1] not in COMMON | {name}:
            private = [part for part in parts[1:] if part.startswith("_")]
            assert not private, f"{file} imports {'.'.join(parts)}"


def test_private_names_stay_in_their_file():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level and node.module:
                private = [a.name for a in node.names if a.name.startswith("_")]
                modules = [name for name in private if (file.parent / f"{name}.py").exists()]
                assert private == modules, f"{file} imports {private} from {node.module}"


def test_no_imports_form_a_circle():
    """Those inside functions and for type checkers are imports, too."""
    modules = {}
    for file in FILES:
        parts = ("scivae", *file.relative_to(SOURCE).with_suffix("").parts)
        modules[parts[:-1] if parts[-1] == "__init__" else parts] = file
    needs = {
        name: {m for i in imports(file) for m in (i, i[:-1]) if m in modules and m != name}
        for name, file in modules.items()
    }
    # a package is what its files are: importing a name from it is no import of the file that asks
    needs = {name: {m for m in found if m != name[: len(m)]} for name, found in needs.items()}
    done: set[tuple[str, ...]] = set()

    def visit(name: tuple[str, ...], path: tuple[tuple[str, ...], ...]) -> None:
        assert name not in path, " -> ".join(".".join(m) for m in (*path, name))
        if name not in done:
            for other in sorted(needs[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in sorted(modules):
        visit(name, ())


def test_private_parts_of_other_packages_are_imported_in_one_file():
    for file in FILES:
        private = {
            parts
            for parts in imports(file)
            if parts[0] in ("scvi", "lightning", "anndata")
            and any(part.startswith("_") for part in parts)
        }
        assert not private or file.name == "_scvi.py", f"{file} imports {private}"


def defined() -> set[str]:
    """Every name with an underscore that the package itself defines or sets."""
    found = set()
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)
            elif isinstance(node, ast.Assign):
                found |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    return found


def test_private_attributes_of_other_packages_are_used_in_one_file():
    named_tuple = {"_asdict", "_fields", "_replace"}
    others = {
        "sys": {"_getframe"},
        "matplotlib": {"_axinfo"},
        "torch": {"_NormBase", "_DropoutNd", "_linear_pointwise"},
    }
    known = named_tuple | set().union(*others.values(), *_scvi.HOOKS.values())
    known |= set(_scvi.SET_BY_INIT) | defined()
    for file in FILES:
        if file.name == "_scvi.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr):
                assert node.attr in known, f"{file}:{node.lineno} uses {ast.unparse(node)}"


def test_private_methods_that_are_overridden_are_listed():
    for file in FILES:
        module = ".".join(file.relative_to(SOURCE.parent).with_suffix("").parts)
        if file.name in ("__init__.py", "annbatch.py", "triton_kernels.py"):
            continue
        for cls in vars(import_module(module)).values():
            if not inspect.isclass(cls) or cls.__module__ != module:
                continue
            for base in cls.__mro__[1:]:
                if base.__module__.partition(".")[0] not in ("scvi", "lightning", "anndata"):
                    continue
                listed = {
                    name
                    for path, names in _scvi.HOOKS.items()
                    if issubclass(cls, _imported(path))
                    for name in names
                }
                both = {n for n in vars(cls) if re.match(r"_[^_]", n)} & set(vars(base))
                assert both <= listed | {"_abc_impl"}, f"{cls} overrides {both - listed}"


def _imported(path: str) -> type:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("path", _scvi.HOOKS)
def test_private_methods_that_are_listed_exist(path):
    for name in _scvi.HOOKS[path]:
        assert hasattr(_imported(path), name), f"{path} has no {name} any more"


def test_long_files_are_those_that_the_note_names():
    note = (ROOT / "CONTRIBUTING.md").read_text()
    note = note[note.index("longer than 400 lines") :].split("\n- ")[0].split("\n\n")[0]
    named = set(re.findall(r"`(\w+/\w+\.py)`", note)) - {"tests/test_layout.py"}
    long = {
        str(file.relative_to(SOURCE)) for file in FILES if len(file.read_text().splitlines()) > 400
    }
    assert named == long


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
    for name in ("geometry", "metrics", "stats", "model", "tl", "pl", "report", "datasets"):
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


def test_folders_import_nothing_that_scvi_tools_does_not():
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


@pytest.mark.parametrize(
    "name", ["commands", "datasets", "geometry", "metrics", "pl", "report", "stats", "tl"]
)
def test_folders_that_need_no_network_do_not_wait_for_torch(name):
    heavy = "{'torch', 'scvi', 'scanpy', 'matplotlib', 'ot', 'umap', 'sklearn', 'statsmodels', 'jinja2'}"
    code = f"import sys, scivae.{name}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_needs_numpy_alone():
    """Which takes a twentieth of a second; pandas would take half a second."""
    code = """
import sys
from scivae.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
new = {name.partition(".")[0] for name in sys.modules if "." not in name} - set(sys.stdlib_module_names)
print([name for name in new if getattr(sys.modules[name], "__file__", None) and name[0] != "_"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: scivae" in done.stdout
    assert set(ast.literal_eval(done.stdout.splitlines()[-1])) == {"numpy", "scivae"}


def test_the_first_line_of_the_demo_comes_before_heavy_imports(tmp_path):
    """They take five seconds, in which it would not be clear that anything happens."""
    code = """
import sys
from scivae.cli import main
from scivae.commands.log import Log

def first(log, text):
    print(text)
    print(sorted({'torch', 'scvi', 'scanpy', 'anndata', 'matplotlib', 'numba', 'sklearn'} & set(sys.modules)))
    raise SystemExit

Log.say = first
main(["demo", "--out", "demo"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.splitlines() == ["Loading pbmc …", "[]"]


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
    assert ' -e ".[test,docs]" -c constraints.txt' in ci
