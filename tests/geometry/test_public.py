from __future__ import annotations

import ast
from pathlib import Path

import pytest

from scivae import geometry

files = sorted(Path(geometry.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", files, ids=lambda path: path.name)
def test_importing_geometry_imports_numpy_alone(path):
    """scipy and torch are imported where they are used; of scivae, its checks only."""
    allowed = {"__future__", "collections", "numpy", "typing"}
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.Import):
            assert {name.name.split(".")[0] for name in statement.names} <= allowed
        elif isinstance(statement, ast.ImportFrom) and statement.level == 0:
            assert statement.module.split(".")[0] in allowed
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 1 or statement.module.split(".")[0] == "_validate"


def test_no_file_hides_behind_a_function_of_its_name():
    assert not {path.stem for path in files} & set(geometry.__all__)
