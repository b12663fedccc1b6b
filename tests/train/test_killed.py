import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked off")
def test_whatever_is_killed_leaves_the_old_or_the_new(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.killed", tmp_path],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "new killed at" in done.stdout
    assert "replaced killed at" in done.stdout
    assert "training 6 epochs" in done.stdout
