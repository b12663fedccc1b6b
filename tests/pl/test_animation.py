from __future__ import annotations

import shutil

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt

import scivae


@pytest.mark.parametrize(("bounce", "n_frames"), [(True, 8), (False, 5)])
def test_gif_has_a_frame_for_each_step(images, tmp_path, bounce, n_frames):
    from PIL import Image

    scivae.pl.animate(images, filename=tmp_path / "walk.gif", bounce=bounce, fps=20)
    with Image.open(tmp_path / "walk.gif") as gif:
        assert gif.n_frames == n_frames
        assert gif.info["duration"] == 50
        # The middle of the image grows brighter with t.
        gray = []
        for step in range(5):
            gif.seek(step)
            frame = np.asarray(gif.convert("L"))
            gray.append(frame[frame.shape[0] // 2 + 8, frame.shape[1] // 2])
    assert (np.diff(np.array(gray, dtype=int)) > 20).all()
    assert plt.get_fignums() == []


def test_html(images, tmp_path):
    scivae.pl.animate(images, filename=tmp_path / "walk.html", bounce=False)
    text = (tmp_path / "walk.html").read_text(encoding="utf-8")
    assert text.count("data:image/png;base64") == 5


def test_points_travel_over_an_embedding(joint, tmp_path):
    figure, ax = plt.subplots()
    animation = scivae.pl.animate(
        joint, basis="umap", paths=None, ax=ax, filename=tmp_path / "a.gif"
    )
    *trails, heads, _title = animation._func(8)
    ends = joint.obsm["X_umap"][[68, 77]]
    np.testing.assert_allclose(heads.get_offsets(), ends)
    np.testing.assert_allclose([trail.get_xydata()[-1] for trail in trails], ends)
    assert plt.get_fignums() == [figure.number]


@pytest.mark.parametrize("n_genes", [1, 3])
def test_markers_travel_along_curves_of_genes(joint, trends, n_genes):
    genes = ["late", "early", "middle"][:n_genes]
    animation = scivae.pl.animate(
        joint, basis="umap", paths=None, color="cell_type", trends=trends, genes=genes
    )
    animation._draw_was_started = True  # it is looked at here, not played
    figure = animation._fig
    assert [ax.get_title(loc="left") for ax in figure.axes[1:]] == genes
    for step in (0, 5, 8):
        *_, title = (p for p in animation._func(step) if isinstance(p, mpl.text.Text))
        markers = animation._func(step)[-n_genes:]
        t = step / 8
        assert title.get_text() == f"t = {t:.2f}"
        at = trends.obs["civae_t"].to_numpy()
        for gene, marker in zip(genes, markers, strict=True):
            column = trends.var_names.get_loc(gene)
            level = np.interp(t, at, trends.layers["fit"][:, column])
            np.testing.assert_allclose(marker.get_xydata(), [[t, level]])
    labels = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert labels == ["normal", "tumor"]


def test_genes_are_drawn_in_axes_that_are_given(joint, trends):
    figure, axes = plt.subplots(1, 3)
    options = {"basis": "umap", "trends": trends, "genes": ["late", "early"]}
    animation = scivae.pl.animate(joint, **options, ax=axes)
    animation._draw_was_started = True
    assert [ax.get_title(loc="left") for ax in axes] == ["", "late", "early"]
    with pytest.raises(ValueError, match="one Axes for each of 3 panels, got 1"):
        scivae.pl.animate(joint, **options, ax=axes[0])
    assert plt.get_fignums() == [figure.number]


def test_a_video_is_written_with_ffmpeg(images, tmp_path, monkeypatch):
    from matplotlib.animation import FuncAnimation

    saved = []
    monkeypatch.setattr("matplotlib.animation.writers.is_available", lambda name: name == "ffmpeg")
    monkeypatch.setattr(FuncAnimation, "save", lambda self, file, **how: saved.append((file, how)))
    animation = scivae.pl.animate(images, filename=tmp_path / "walk.mp4", fps=7)
    animation._draw_was_started = True
    assert saved == [(tmp_path / "walk.mp4", {"writer": "ffmpeg", "fps": 7})]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_video(images, tmp_path):
    scivae.pl.animate(images, filename=tmp_path / "walk.mp4")
    assert (tmp_path / "walk.mp4").read_bytes()[4:8] == b"ftyp"


def test_bad_input(images, joint, trends, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="must end in .gif, .mp4 or .html, got 'walk.avi'"):
        scivae.pl.animate(images, filename=tmp_path / "walk.avi")
    monkeypatch.setattr("matplotlib.animation.writers.is_available", lambda name: False)
    with pytest.raises(RuntimeError, match="an .mp4 file needs ffmpeg, .* or write a .gif"):
        scivae.pl.animate(images, filename=tmp_path / "walk.mp4")
    with pytest.raises(ValueError, match="passed together, got only genes and basis; pass all"):
        scivae.pl.animate(joint, basis="umap", genes="late")
    with pytest.raises(KeyError, match="genes must be"):
        scivae.pl.animate(joint, basis="umap", trends=trends, genes="lat")
    with pytest.raises(ValueError, match="genes must name at most 6 genes, got 7"):
        scivae.pl.animate(joint, basis="umap", trends=trends, genes=["late"] * 7)
    with pytest.raises(ValueError, match="pass shape="):
        scivae.pl.animate(joint)
    with pytest.raises(ValueError, match="generated must contain a path"):
        scivae.pl.animate(joint[:60].copy(), basis="umap")
    assert plt.get_fignums() == []
