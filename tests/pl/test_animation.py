from __future__ import annotations

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


def test_bad_input(images, joint, tmp_path):
    with pytest.raises(ValueError, match="must end in .gif or .html, got 'walk.mp4'"):
        scivae.pl.animate(images, filename=tmp_path / "walk.mp4")
    with pytest.raises(ValueError, match="pass shape="):
        scivae.pl.animate(joint)
    with pytest.raises(ValueError, match="generated must contain a path"):
        scivae.pl.animate(joint[:60].copy(), basis="umap")
    assert plt.get_fignums() == []
