"""All of ``scivae.metrics``: its examples run, and it imports numpy alone."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import sys
from pathlib import Path

import pytest

import scivae.metrics

MODULES = [info.name for info in pkgutil.iter_modules(scivae.metrics.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(f"scivae.metrics.{name}")
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("name", scivae.metrics.__all__)
def test_public_functions_have_examples(name):
    thing = getattr(scivae.metrics, name)
    if not isinstance(thing, type):
        for section in ("Parameters", "Returns", "Raises", "Examples"):
            # Python removes the indent from 3.13 on.
            assert f"{section}\n---" in inspect.getdoc(thing), section


@pytest.mark.parametrize("name", MODULES)
def test_only_numpy_is_imported_at_import(name):
    tree = ast.parse(Path(importlib.import_module(f"scivae.metrics.{name}").__file__).read_text())
    roots = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            roots.add(node.module.split(".")[0])
    assert roots <= {"numpy"} | set(sys.stdlib_module_names)


def test_all_is_sorted_and_complete():
    public = scivae.metrics.__all__
    assert public == sorted(public, key=lambda name: (not name[0].isupper(), name))
    assert all(hasattr(scivae.metrics, name) for name in public)
