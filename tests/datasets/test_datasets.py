"""All of ``scivae.datasets``: imports, examples and descriptions."""

from __future__ import annotations

import doctest
import inspect

import pytest

from scivae import datasets


def test_import_is_light(helpers):
    out = helpers.light_run("""
        import sys
        import scivae.datasets
        heavy = ["scanpy", "sklearn", "pooch", "anndata", "requests", "filelock", "torch", "scvi"]
        print([name for name in heavy if name in sys.modules])
        """)
    assert out.strip() == "[]"


def test_nothing_else_of_scivae_is_imported(helpers):
    out = helpers.light_run("""
        import sys
        from scivae import datasets
        datasets.synthetic(50, 10), datasets.digits()
        names = {name.split(".")[1] for name in sys.modules if name.startswith("scivae.")}
        print(sorted(names), "scvi" in sys.modules)
        """)
    assert (
        out.strip() == "['_progress', 'datasets'] False"
    )  # _progress needs nothing of the package


PUBLIC = [getattr(datasets, name) for name in datasets.__all__]
FUNCTIONS = [item for item in PUBLIC if inspect.isfunction(item)]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_signature_and_docstring(function):
    parameters = inspect.signature(function).parameters.values()
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert len(positional) <= 3
    text = inspect.getdoc(function)
    for section in ("Raises", "Examples"):
        assert f"{section}\n{'-' * len(section)}" in text
    for parameter in parameters:
        assert parameter.name in text


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_examples_run(function):
    finder = doctest.DocTestFinder(recurse=False)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    (test,) = finder.find(function, function.__name__, globs={})
    assert test.examples
    assert runner.run(test).failed == 0
