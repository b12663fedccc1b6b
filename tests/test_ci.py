"""The script of CI stops at what fails, and removes what it made; with stand-ins for all that it calls."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# ``python -m venv FOLDER`` makes commands that write down how they are called. Those named by
# FAIL (environment and command) fail.
PYTHON = """#!/usr/bin/env bash
mkdir -p "$3/bin"
for command in pip ruff mypy pytest chromedriver; do
    printf '%s\\n' '#!/usr/bin/env bash' \\
        'here="$(basename "$(dirname "$(dirname "$0")")") $(basename "$0")"' \\
        'echo "$here $*" >>"$LOG"' 'case "$here" in $FAIL) exit 1 ;; esac' >"$3/bin/$command"
    chmod +x "$3/bin/$command"
done
"""


@pytest.fixture
def run_ci(tmp_path):
    """Run the script; how it ended, and the commands that it called."""
    python, log, scratch = tmp_path / "python", tmp_path / "log", tmp_path / "scratch"
    python.write_text(PYTHON, encoding="utf-8")
    python.chmod(0o755)
    scratch.mkdir()

    def run(fail="none", newest=None):
        log.write_text("", encoding="utf-8")
        variables = {"PYTHON": str(python), "PYTHON_NEWEST": newest or str(python)}
        variables |= {"LOG": str(log), "FAIL": fail, "TMPDIR": str(scratch)}
        done = subprocess.run(
            ["bash", ".ci/run", "-x"],
            cwd=ROOT,
            env=os.environ | variables,
            capture_output=True,
            encoding="utf-8",
        )
        assert not list(scratch.iterdir()), "an environment was left behind"
        return done, log.read_text(encoding="utf-8").splitlines()

    return run


def test_the_last_run_is_the_command_of_the_readme(run_ci):
    done, called = run_ci()
    assert done.returncode == 0, done.stderr
    install = "pip install --quiet --no-compile -e"
    assert f"tested {install} .[test,docs] -c constraints.txt" in called
    runs = [line for line in called if " pytest " in line]
    assert [line.split()[0] for line in runs] == ["newest", "tested"]
    assert all(line.endswith(" -x") for line in runs)
    assert "--ignore" not in runs[1]
    assert f"newest {install} .[test]" in called


@pytest.mark.parametrize(
    "fail", [f"{env} {name}" for env in ("tested", "newest") for name in ("pip", "pytest")]
    + ["tested ruff", "tested mypy"],
)  # fmt: skip
def test_whatever_fails_fails_the_script(run_ci, fail):
    """No tests are run after it, so that pytest's last line tells the result."""
    done, called = run_ci(fail)
    assert done.returncode != 0
    runs = [line.split(" -")[0] for line in called if " pytest " in line]
    order = ["newest pytest", "tested pytest"]
    assert runs == (order[: order.index(fail) + 1] if fail in order else [])


def test_without_a_newer_python_the_script_says_what_is_not_tested(run_ci):
    done, called = run_ci(newest="none")
    assert done.returncode == 0
    assert "the newest versions are not tested. Install one" in done.stdout
    assert {line.split()[0] for line in called} == {"tested"}


def test_what_is_left_out_exists():
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    names = [line.split("=", 1)[1].split()[0] for line in text.splitlines() if "--ignore=" in line]
    assert names
    assert all((ROOT / name).exists() for name in names)
