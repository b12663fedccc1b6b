"""The room as a whole: its examples run, and it imports numpy alone."""

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


DEFAULTS = {
    "calibration_error": {"classes": None, "n_bins": 15},
    "classifier_two_sample_test": {
        "n_folds": 5,
        "n_trees": 200,
        "max_points": None,
        "seed": 0,
        "n_jobs": None,
    },
    "conformal_p_values": {},
    "conformal_thresholds": {"level": 0.9, "min_cells": 20, "seed": None},
    "copying_test": {},
    "cycle_consistency": {"average": "cells"},
    "density_coverage": {"k": 5},
    "energy_distance": {"max_points": None, "seed": 0},
    "expected_calibration_error": {"classes": None, "n_bins": 15},
    "f1_per_class": {},
    "fit_judges": {"kinds": ("logistic", "random_forest"), "seed": 0, "n_jobs": None},
    "gene_gene_correlation": {"method": "pearson"},
    "interpolation_smoothness": {},
    "linear_separability": {
        "z_test": None,
        "y_test": None,
        "protocol": "train-test",
        "inverse_penalty": 1.0,
        "max_iter": 2000,
    },
    "log_fold_change_agreement": {"min_observed": 0.0},
    "macro_f1": {},
    "maximum_mean_discrepancy": {
        "bandwidth": None,
        "unbiased": True,
        "max_points": None,
        "seed": 0,
    },
    "path_purity": {"x_real": None, "y_real": None, "paths": None},
    "precision_recall": {"k": 3},
    "reconstruction_error": {"value_range": None},
    "set_coverage": {},
    "wasserstein_1": {"max_points": None, "seed": 0},
}


def test_defaults_stay_or_published_numbers_change_in_silence():
    found = {}
    for name in scivae.metrics.__all__:
        thing = getattr(scivae.metrics, name)
        if not isinstance(thing, type):
            parameters = inspect.signature(thing).parameters.values()
            found[name] = {p.name: p.default for p in parameters if p.default is not p.empty}
    assert found == DEFAULTS
