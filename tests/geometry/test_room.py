from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from scivae import geometry

files = sorted(Path(geometry.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", files, ids=lambda path: path.name)
def test_importing_the_room_imports_numpy_alone(path):
    """scipy and torch are imported where they are used; nothing else of scivae ever is."""
    allowed = {"__future__", "collections", "numpy", "typing"}
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.Import):
            assert {name.name.split(".")[0] for name in statement.names} <= allowed
        elif isinstance(statement, ast.ImportFrom) and statement.level == 0:
            assert statement.module.split(".")[0] in allowed
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 1


def test_no_file_hides_behind_a_function_of_its_name():
    assert not {path.stem for path in files} & set(geometry.__all__)


def test_defaults_stay_or_published_paths_change_in_silence():
    found = {}
    for name in geometry.__all__:
        thing = getattr(geometry, name)
        if not isinstance(thing, type):
            parameters = inspect.signature(thing).parameters.values()
            defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
            found |= {name: defaults} if defaults else {}
    nothing = dict.fromkeys(("decoder", "data", "classes", "label", "dtype"))
    numbers = {"n_iter": 100, "tol": 1e-3, "strength": 5.0, "n_neighbors": 10, "max_data": 2000}
    assert found == {
        "geodesic": {"metric": "pullback", "margin": 0.0, "seed": 0, **numbers, **nothing},
        "project_to_class": {"margin": 0.0},
        "project_to_polyline": {"chunk": 2**17},
    }
