"""Bars come late, go at the end, and stay away when scvi-tools is told to be quiet.

Where there is no terminal they are a few lines, and in a notebook one.
"""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import scvi

from scivae import _progress, tl


@pytest.fixture
def loud(monkeypatch):
    """Bars at once, as after two seconds."""
    before = scvi.settings.verbosity
    scvi.settings.verbosity = logging.INFO
    monkeypatch.setattr(_progress, "DELAY", 0.0)
    yield
    scvi.settings.verbosity = before


@pytest.fixture
def bars(monkeypatch, loud):
    """Bars that are made: what, how much there is, how much was done, whether they were closed."""
    made = []

    class Bar:
        def __init__(self, description, total, unit="it", *, done=0, stays=False):
            self.description, self.total, self.done, self.closed = description, total, done, False
            made.append(self)

        def update(self, n):
            assert not self.closed
            self.done += n

        def close(self):
            self.closed = True

    monkeypatch.setattr(_progress, "bar", Bar)
    return made


def calls(trained):
    adata = trained.adata.copy()
    adata.obs["stage"] = np.array(["early", "late"])[(np.arange(120) // 3) % 2]
    adata.obsm["X_civae"] = trained.get_latent_representation(adata)
    adata.obsm["X_umap"] = adata.obsm["X_civae"][:, :2].copy()
    pairs = tl.pair_cells(adata, "stage", "early", "late")
    trends = tl.gene_trends(trained, pairs, n_steps=3, adata=adata)
    path = trained.interpolate(0, 3, n_steps=5, adata=adata)
    return {
        "decoding paths": lambda: trained.interpolate(0, 3, n_steps=7, adata=adata),
        "sampling bands": lambda: trained.interpolate(0, 3, n_samples=3, adata=adata),
        "finding paths": lambda: trained.interpolate(
            [0, 1], [3, 4], method="geodesic", adata=adata
        ),
        "encoding cells": lambda: trained.predict(adata, batch_size=32),
        "making cells": lambda: trained.augment({"alpha": 5, "beta": 6}, adata=adata),
        "transport plans": lambda: tl.pair_cells(
            adata, "stage", "early", "late", max_cells=20, n_pairs=60
        ),
        "following genes": lambda: tl.gene_trends(trained, pairs, n_steps=3, adata=adata),
        "shuffling groups": lambda: tl.rank_genes(trends),
        "finding neighbors": lambda: [tl.embed(adata, path), tl.project(adata, path)],
    }


@pytest.mark.parametrize(
    "what",
    [
        "decoding paths",
        "sampling bands",
        "finding paths",
        "encoding cells",
        "making cells",
        "transport plans",
        "following genes",
        "shuffling groups",
        "finding neighbors",
    ],
)
def test_everything_long_has_a_bar_that_runs_to_its_end(trained, bars, what, monkeypatch):
    for block in (
        "model._interpolation.VALUES_PER_BLOCK",
        "stats.permutation._VALUES_PER_BLOCK",
        "tl._project._ROWS",
    ):
        monkeypatch.setattr(f"scivae.{block}", 4)
    call = calls(trained)[what]
    bars.clear()
    call()
    own = [bar for bar in bars if bar.description == what]
    assert own
    for bar in bars:
        assert bar.closed
        assert bar.done == bar.total > 0


def test_a_bar_goes_when_the_call_fails(bars):
    def fail():
        with _progress.progress("failing", 3):
            _progress.advance()
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        fail()
    assert bars[0].closed
    assert bars[0].done == 1
    _progress.advance()  # there is no bar left to move
    assert bars[0].done == 1


class Terminal(io.StringIO):
    """What a bar is drawn in."""

    def isatty(self):
        return True


def test_a_terminal_has_a_bar(loud, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(_progress.track(range(30), "walking along")) == [*range(30)]
    *drawn, last = terminal.getvalue().split("\r")
    assert any("walking along" in text and "/30" in text for text in drawn)
    assert not last.strip()  # it has gone
    bar = _progress.bar("Training", 3, "epochs", stays=True)
    for _ in range(3):
        bar.note({"loss": 995.2431})
        bar.update(1)
    bar.close()
    last = terminal.getvalue().split("\r")[-1]
    assert last.endswith("\n")
    assert "Training: 100%" in last
    assert "loss 995.2" in last


@pytest.mark.parametrize(
    ("total", "done", "expected"),
    [
        (400, 0, [*range(40, 401, 40)]),
        (23, 0, [3, 5, 7, 10, 12, 14, 17, 19, 21, 23]),
        (3, 0, [1, 2, 3]),
        (400, 115, [120, *range(160, 401, 40)]),  # what was done before counts
    ],
)
def test_without_a_terminal_there_is_a_line_for_each_tenth(capfd, total, done, expected):
    bar = _progress.bar("Training", total, "epochs", done=done, stays=True)
    for i in range(done, total):
        bar.note({"loss": 1000.0 - i})
        bar.update(1)
    bar.close()
    out, err = capfd.readouterr()
    assert out == ""
    pattern = rf"Training: (\d+)/{total} epochs, loss ([\d.]+) \(\d+:\d+, \d+:\d+ left\)"
    lines = [re.fullmatch(pattern, line) for line in err.splitlines()]
    assert [int(match[1]) for match in lines] == expected
    assert [float(match[2]) for match in lines] == [1001.0 - i for i in expected]


def test_a_notebook_has_one_line_that_is_written_over(monkeypatch):
    """Shown anew as the call proceeds, and in the end what an exported notebook keeps."""
    shown = []

    class Handle:
        def update(self, data, raw):
            shown.append(data["text/plain"])

    def display(data, raw, display_id):
        shown.append(data["text/plain"])
        return Handle()

    notebook = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    monkeypatch.setattr(_progress, "REFRESH", 0.0)
    bar = _progress.bar("Training", 4, "epochs", stays=True)
    for _ in range(4):
        bar.note({"loss": 12.3456})
        bar.update(1)
    bar.close()
    assert len(shown) == 6
    assert shown[0].startswith("Training:   0%|")
    assert shown[3].startswith("Training:  75%|")
    assert shown[-1] == "Training: 4/4 epochs, loss 12.35"
    shown.clear()  # what takes no time is not shown
    assert list(_progress.track(range(3), "walking along")) == [0, 1, 2]
    assert shown == []


def test_a_process_without_an_error_stream(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    bar = _progress.bar("Training", 3, "epochs", stays=True)
    bar.update(3)
    bar.close()


@pytest.mark.parametrize("style", ["tqdm", "rich"])
def test_drawn_in_the_style_of_the_settings(loud, monkeypatch, capfd, style):
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, to rich
    monkeypatch.setattr(scvi.settings, "progress_bar_style", style)
    assert list(_progress.track(range(3), "walking along")) == [0, 1, 2]
    out, err = capfd.readouterr()
    assert "walking along" in out + err


@pytest.mark.parametrize("style", ["tqdm", "rich"])
def test_what_is_short_draws_nothing(loud, monkeypatch, capfd, style):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(scvi.settings, "progress_bar_style", style)
    monkeypatch.setattr(_progress, "DELAY", 2.0)
    assert list(_progress.track(iter("abc"), "walking along")) == ["a", "b", "c"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("level", [logging.WARNING, logging.ERROR, "WARNING"])
def test_quiet_when_told(loud, capfd, level):
    scvi.settings.verbosity = level
    assert list(_progress.track(range(3), "walking along")) == [0, 1, 2]
    with _progress.progress("more", 2):
        _progress.advance(2)
    assert capfd.readouterr() == ("", "")


def test_no_bar_needs_scvi_tools():
    code = (
        "import sys; from scivae import _progress; assert not _progress.is_hidden(); "
        "print(list(_progress.track(range(2), 'x')), 'scvi' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[0, 1] False"


def test_hidden_progress_stays_hidden_when_scvi_tools_sets_its_level():
    """Importing scvi-tools sets the level of its messages, which hides nothing any more."""
    import logging

    from scivae import _progress

    logger = logging.getLogger("scvi")
    before = logger.level
    try:
        with _progress.hidden():
            logger.setLevel(logging.INFO)
            assert _progress.is_hidden()
        assert not _progress.is_hidden()
    finally:
        logger.setLevel(before)
