"""Shared style of all figures: sizes, colors, and axes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colorbar import Colorbar

# Width of a single-column figure (8.5 cm), in inches.
WIDTH: Final = 3.35
HEIGHT: Final = 2.6
# Smallest font size in points that is legible in print.
SMALLEST: Final = 5.5
# A place of a grid without axes.
EMPTY: Final = -1

# Okabe and Ito's eight colors, which can be distinguished with all common types of color blindness.
OKABE_ITO: Final = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
    "#F0E442",
    "#000000",
)
# Sixteen more. Each is the color (of moderate chroma) farthest in CIELAB from all previous ones,
# white and pale gray, under normal vision and the three types of color blindness. Among the first
# 20, the smallest distance is 7/8 of the smallest distance within Okabe and Ito's under red-green
# blindness.
MORE: Final = (
    "#603000",
    "#8F0060",
    "#20308F",
    "#9FEF8F",
    "#605040",
    "#8FAF50",
    "#8F7040",
    "#500060",
    "#20DF9F",
    "#808FEF",
    "#AFBFDF",
    "#303030",
    "#70AF70",
    "#8F5000",
    "#506080",
    "#807080",
)
TRAIN, VALIDATION = OKABE_ITO[0], OKABE_ITO[3]
GRAY: Final = "#9A9A9A"
PALE: Final = "#D9D9D9"
T_CMAP: Final = "viridis"
VALUE_CMAP: Final = "cividis"
SIGNED_CMAP: Final = "RdBu_r"

# In every figure: a name with two dollar signs is no formula.
PLAIN: Final[Any] = {"text.parse_math": False}
# Style of new figures; axes passed by the user keep the user's style.
STYLE: Final[Any] = {
    **PLAIN,
    "figure.dpi": 150,
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "axes.linewidth": 0.6,
    "axes.grid": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.borderaxespad": 0.2,
    "legend.handletextpad": 0.5,
    "figure.constrained_layout.h_pad": 0.04,
    "figure.constrained_layout.w_pad": 0.02,
}


@contextmanager
def _style(style: Any = STYLE) -> Iterator[None]:
    """Apply a style while a figure is drawn.

    :func:`matplotlib.rc_context` is not used because it restores all parameters. In a notebook, the
    first figure loads the backend, which turns on interactive mode; restoring would turn it off
    again, and later figures would not be shown.
    """
    import matplotlib as mpl

    before: Any = {name: mpl.rcParams[name] for name in style}
    mpl.rcParams.update(style)
    try:
        yield
    finally:
        mpl.rcParams.update(before)


@contextmanager
def drawing(
    ax: Axes | None,
    *,
    size: tuple[float, float] = (WIDTH, HEIGHT),
    projection: str | None = None,
    show: bool = False,
) -> Iterator[Axes]:
    """Yield the user's axes, or the axes of a new figure, which is closed if drawing fails.

    Parameters
    ----------
    ax
        Axes passed by the user, or ``None``.
    size
        Size of a new figure, in inches.
    projection
        ``"3d"`` or ``None``.
    show
        Show the figure at the end.
    """
    given = None if ax is None else np.array([ax], dtype=object)
    with panels(given, 1, n_cols=1, panel=size, projection=projection, show=show) as axes:
        yield axes[0]


@contextmanager
def panels(
    axes: Any,
    n: int,
    *,
    n_cols: int = 2,
    panel: tuple[float, float] = (WIDTH / 2, 1.25),
    shared: float = 0.0,
    places: np.ndarray | None = None,
    projection: str | None = None,
    show: bool = False,
) -> Iterator[np.ndarray]:
    """Like :func:`drawing`, for ``n`` axes; yields an array of shape ``(n,)``.

    ``shared`` is the height in inches of labels and legends shared by all panels. ``places`` is the
    grid of new axes: each place has the number of the axes that cover it. Default: one place each.
    """
    from matplotlib import pyplot as plt

    if axes is not None:
        given = checked_axes(axes, n, projection)
        before = {id(text): text.get_text() for text in _texts(given)}
        with _style(PLAIN):
            yield given
        for text in _texts(given):  # titles and tick labels that were there before
            if before.get(id(text)) != text.get_text():
                text.set_parse_math(False)
        if show:
            plt.show()
        return
    if places is None:
        n_cols = min(n_cols, n)
        places = np.arange(-(-n // n_cols) * n_cols).reshape(-1, n_cols)
        places[places >= n] = EMPTY
    n_rows, n_cols = places.shape
    mosaic: Any = places.tolist()
    with _style():
        figure, grid = plt.subplot_mosaic(
            mosaic,
            empty_sentinel=EMPTY,
            figsize=(panel[0] * n_cols, panel[1] * n_rows + shared),
            layout="constrained",
            subplot_kw={"projection": projection},
        )
        try:
            own = np.array([grid[i] for i in range(n)], dtype=object)
            for one in own:
                fix_tick_labels(one)
            yield own
            # The layout of axes with a fixed aspect ratio needs a second pass.
            figure.get_layout_engine().execute(figure)
        except BaseException:
            plt.close(figure)
            raise
        if show:
            plt.show()


def _texts(axes: np.ndarray) -> Iterator[Any]:
    """Every text of some axes."""
    from matplotlib.text import Text

    for ax in axes:
        yield from ax.findobj(Text)


def checked_axes(axes: Any, n: int, projection: str | None = None) -> np.ndarray:
    """The user's axes as an array of shape ``(n,)``; raise unless there are exactly ``n``."""
    from matplotlib.axes import Axes

    given = np.atleast_1d(np.asarray(axes, dtype=object)).ravel()
    for one in given:
        if not isinstance(one, Axes):
            raise TypeError(
                f"ax must be matplotlib Axes, got {type(one).__name__}; make them with "
                "matplotlib.pyplot.subplots()."
            )
        if projection == "3d" and one.name != "3d":
            raise ValueError(
                "ax must be three-dimensional for three components, got two-dimensional Axes; make "
                "them with figure.add_subplot(projection='3d')."
            )
    if len(given) != n:
        raise ValueError(
            f"ax must have one Axes for each of {n} panels, got {len(given)}; pass {n} Axes, or "
            "ax=None."
        )
    return given


def fix_tick_labels(ax: Axes) -> None:
    """Fix the tick style now, because matplotlib creates ticks later, outside the style context."""
    import matplotlib as mpl

    style: Any = mpl.rcParams
    axes: tuple[Literal["x", "y"], ...] = ("x", "y")
    for axis in axes:
        size, length, width = (
            style[f"{axis}tick.{k}"] for k in ("labelsize", "major.size", "major.width")
        )
        ax.tick_params(axis=axis, labelsize=size, length=length, width=width)


def colorbar(mappable: ScalarMappable, ax: Axes, label: str, **kwargs: Any) -> Colorbar:
    """Draw a narrow color bar next to the axes."""
    figure: Any = ax.get_figure()
    if "cax" not in kwargs:
        kwargs = {"ax": ax, "aspect": 25, "pad": 0.03, "shrink": 0.8, **kwargs}
    bar = figure.colorbar(mappable, label=label, **kwargs)
    bar.outline.set_visible(False)
    fix_tick_labels(bar.ax)
    return bar


def legend_below(ax: Axes, handles: list, *, own: bool, ncols: int = 1, **look: Any) -> None:
    """Draw a legend below new axes, or inside axes passed by the user."""
    if own:
        figure: Any = ax.get_figure()
        figure.legend(
            handles=handles, loc="outside lower left", ncols=ncols, columnspacing=1.0, **look
        )
    else:
        ax.legend(handles=handles, fontsize="x-small")


def label_outer(axes: Sequence[Axes], *, x: str | None = None, y: str | None = None) -> None:
    """Label only the outer axes of a grid; label all axes that are not in a grid.

    Parameters
    ----------
    axes
        Axes passed by the user.
    x, y
        Axis labels; ``None`` for no label.
    """
    specs = [ax.get_subplotspec() for ax in axes]
    for ax, spec in zip(axes, specs, strict=True):
        others = [s for s in specs if s is not None and spec is not None and s is not spec]
        below = [s for s in others if s.colspan.start == spec.colspan.start]  # type: ignore[union-attr]
        beside = [s for s in others if s.rowspan.start == spec.rowspan.start]  # type: ignore[union-attr]
        if x is not None and not any(s.rowspan.start > spec.rowspan.start for s in below):  # type: ignore[union-attr]
            ax.set_xlabel(x)
        if y is not None and not any(s.colspan.start < spec.colspan.start for s in beside):  # type: ignore[union-attr]
            ax.set_ylabel(y)


def width_in_points(ax: Axes) -> float:
    """Width of axes in points, before layout."""
    figure: Any = ax.get_figure()
    return float(ax.get_window_extent().width * 72 / figure.dpi)


def height_in_points(ax: Axes) -> float:
    """Height of axes in points, before layout."""
    figure: Any = ax.get_figure()
    return float(ax.get_window_extent().height * 72 / figure.dpi)


def n_ticks(ax: Axes, letters: float, most: int = 5) -> int:
    """Number of tick labels with this many letters that fit, from two to ``most``."""
    size = float(ax.xaxis.get_ticklabels()[0].get_fontsize())
    return max(2, min(most, int(width_in_points(ax) / (0.6 * size * (letters + 0.4)))))


def lettering() -> list:
    """White outline that keeps text and lines legible on top of points."""
    from matplotlib import patheffects

    return [patheffects.Stroke(linewidth=2, foreground="white"), patheffects.Normal()]


def palette(n: int) -> list[str]:
    """Colors for n categories: Okabe and Ito's, then :data:`MORE`; above 24, the turbo colormap."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    colors = [*OKABE_ITO, *MORE]
    if n <= len(colors):
        return colors[:n]
    return [to_hex(c) for c in colormaps["turbo"](np.linspace(0.02, 0.98, n))]


def category_colors(
    categories: Sequence[Any], uns: Mapping[str, Any] | None = None, key: str | None = None
) -> dict[Any, str]:
    """Color of each category: ``uns[key + "_colors"]`` if present, otherwise :func:`palette`."""
    saved = None if uns is None else uns.get(f"{key}_colors")
    if saved is not None and not isinstance(saved, str) and len(saved) >= len(categories):
        return dict(zip(categories, [str(c) for c in saved], strict=False))
    return dict(zip(categories, palette(len(categories)), strict=True))


def spread(y: Iterable[float], gap: float) -> np.ndarray:
    """Positions closest to ``y`` (least squares, same order) that are at least ``gap`` apart.

    Parameters
    ----------
    y
        Desired positions, shape ``(n,)``.
    gap
        Smallest distance between neighbors.
    """
    wished = np.asarray(list(y), dtype=float)
    order = np.argsort(wished, kind="stable")
    steps = np.arange(len(wished)) * gap
    # Pool adjacent violators: labels that would overlap move as one block around their mean.
    blocks: list[list[float]] = []  # mean, size
    for value in wished[order] - steps:
        blocks.append([value, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, size = blocks.pop()
            total = blocks[-1][1] + size
            blocks[-1] = [(blocks[-1][0] * blocks[-1][1] + mean * size) / total, total]
    flat = np.concatenate([np.full(int(size), mean) for mean, size in blocks] or [np.empty(0)])
    placed = np.empty(len(wished))
    placed[order] = flat + steps
    return placed
