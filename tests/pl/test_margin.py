from __future__ import annotations

import numpy as np
import pytest
from tests.pl import conftest as make

import scivae


def crossings(ax) -> list[float]:
    return [
        float(x) for line in ax.get_lines() if line.get_marker() == "o" for x in line.get_xdata()
    ]


@pytest.mark.parametrize("data", [make.make_path, make.make_written_back])
def test_margins_and_crossings(data):
    ax = scivae.pl.class_margin(data(), paths=0)
    (line,) = [one for one in ax.get_lines() if len(one.get_xdata()) == 6]
    np.testing.assert_allclose(line.get_ydata(), 2 - 5 * np.linspace(0, 1, 6))
    # The margin 2 − 5t is zero at 0.4, on a step for one and between two classes for both.
    assert crossings(ax) == pytest.approx([0.4])
    assert line.get_label() == "a → b\nat 0.40: A → B"
    assert any((np.asarray(one.get_ydata()) == 0).all() for one in ax.get_lines())
    assert ax.get_ylabel() == "margin (log-odds)"
    assert ax.get_title(loc="left") == "A"


def test_a_path_within_its_class_has_no_crossing():
    ax = scivae.pl.class_margin(make.make_path(), paths="c → d")
    assert crossings(ax) == []


def test_a_real_walk_is_drawn_as_it_was_written_back(trained):
    adata = trained.adata.copy()
    a, b = (adata.obs_names[adata.obs["cell_type"] == c][0] for c in ("alpha", "beta"))
    path = trained.interpolate(a, b, adata=adata, n_steps=201)
    exact = crossings(scivae.pl.class_margin(adata))
    assert exact == pytest.approx(
        adata.uns["civae"]["paths"][f"{a} → {b}"]["crossings"]["t"].tolist()
    )
    assert crossings(scivae.pl.class_margin(path)) == pytest.approx(exact, abs=0.005)


def test_many_paths_are_thin_lines_without_names():
    path = make.make_path()
    path.obs["civae_path"] = np.repeat([f"p{i}" for i in range(6)], 2)
    ax = scivae.pl.class_margin(path)
    assert not ax.get_figure().legends
    assert sum(len(line.get_xdata()) == 2 and line.get_lw() < 0.7 for line in ax.get_lines()) == 6


def test_bad_input(joint, trends):
    with pytest.raises(ValueError, match="without the obs column 'civae_margin'"):
        scivae.pl.class_margin(joint)
    with pytest.raises(
        ValueError, match=r"or an AnnData with a path stored in uns\['civae'\]\['paths'\]"
    ):
        scivae.pl.class_margin(trends)
    with pytest.raises(KeyError, match="got 'a → c'; available: 'a → b'.*Did you mean"):
        scivae.pl.class_margin(make.make_written_back(), paths="a → c")
    with pytest.raises(IndexError, match=r"in \[0, 1\] as positions, got 2"):
        scivae.pl.class_margin(make.make_path(), paths=2)
