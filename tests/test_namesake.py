"""Another project on the package index has the same import."""

import os
import subprocess
import sys

import scivae


def imported(path) -> str:
    """What Python says when scivae is imported beside what is installed in a folder."""
    code = "import sys; sys.path.append(sys.argv[1]); import scivae; import scivae"
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", env=os.environ, check=True
    )
    return done.stderr


def test_the_other_project_is_named_once_with_the_cure(tmp_path):
    assert imported(tmp_path) == ""
    metadata = tmp_path / "scivae-0.3.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: scivae\nVersion: 0.3\n", encoding="utf-8")
    said = imported(tmp_path)
    assert said.count("UserWarning") == 1
    assert f"scivae-tools {scivae.__version__} (this package) and scivae 0.3" in said
    assert "pip uninstall scivae scivae-tools" in said
