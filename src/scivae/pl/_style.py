"""The look that all figures share: sizes, colors, and axes made or borrowed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colorbar import Colorbar

# Half a column is 8.5 cm wide.
WIDTH: Final = 3.35
HEIGHT: Final = 2.6
# Points: smaller letters are not read in print.
SMALLEST: Final = 5.5

# Okabe and Ito's eight colors, told apart under all common kinds of color blindness.
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
# Sixteen more: each in turn the color (of moderate chroma) that lies farthest, in CIELAB, from all before
# it, from white and from pale gray, seen with normal vision and without red, green or blue cones. No two of
# 20 are closer than the closest two of Okabe and Ito's are under red-green blindness, less an eighth.
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

# Holds while a figure of our own is drawn; axes that the user gives keep the user's style.
STYLE: Final[Any] = {
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
def _style() -> Iterator[None]:
    """Our style, while a figure is drawn.

    Not :func:`matplotlib.rc_context`, which puts back all parameters: in a notebook the first figure
    loads the backend, which switches interactive mode on, and no later figure would be shown.
    """
    import matplotlib as mpl

    before = {name: mpl.rcParams[name] for name in STYLE}
    mpl.rcParams.update(STYLE)
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
    """The user's axes, or those of a new figure; a figure of our own goes if drawing fails.

    Parameters
    ----------
    ax
        Axes that the user gave, or ``None``.
    size
        Of a new figure, in inches.
    projection
        ``"3d"`` or ``None``.
    show
        Show the figure in the end.
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
    projection: str | None = None,
    show: bool = False,
) -> Iterator[np.ndarray]:
    """As :func:`drawing`, for ``n`` axes; yields an array of shape ``(n,)``.

    ``shared`` is the height, in inches, of labels and legends that the panels have in common.
    """
    from matplotlib import pyplot as plt

    if axes is not None:
        yield checked_axes(axes, n, projection)
        if show:
            plt.show()
        return
    n_cols = min(n_cols, n)
    n_rows = -(-n // n_cols)
    with _style():
        figure, grid = plt.subplots(
            n_rows,
            n_cols,
            figsize=(panel[0] * n_cols, panel[1] * n_rows + shared),
            layout="constrained",
            squeeze=False,
            subplot_kw={"projection": projection},
        )
        try:
            for one in grid.ravel()[n:]:
                one.remove()
            own = grid.ravel()[:n]
            for one in own:
                fix_tick_labels(one)
            yield own
            # The layout of axes with a fixed aspect fits only the second time.
            figure.get_layout_engine().execute(figure)  # type: ignore[union-attr]
        except BaseException:
            plt.close(figure)
            raise
        if show:
            plt.show()


def checked_axes(axes: Any, n: int, projection: str | None = None) -> np.ndarray:
    """Axes of the user as an array of shape ``(n,)``; raise unless they are as many as needed."""
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
                "three components need axes in three dimensions, got flat ones; make them with "
                "figure.add_subplot(projection='3d')."
            )
    if len(given) != n:
        raise ValueError(f"this figure has {n} panels, got {len(given)} axes for them.")
    return given


def fix_tick_labels(ax: Axes) -> None:
    """Keep the sizes of today's style for ticks that are only made when the figure is drawn."""
    import matplotlib as mpl

    style: Any = mpl.rcParams
    axes: tuple[Literal["x", "y"], ...] = ("x", "y")
    for axis in axes:
        size, length, width = (
            style[f"{axis}tick.{k}"] for k in ("labelsize", "major.size", "major.width")
        )
        ax.tick_params(axis=axis, labelsize=size, length=length, width=width)


def colorbar(mappable: ScalarMappable, ax: Axes, label: str, **kwargs: Any) -> Colorbar:
    """A slim color bar beside the axes."""
    figure: Any = ax.get_figure()
    if "cax" not in kwargs:
        kwargs = {"ax": ax, "aspect": 25, "pad": 0.03, "shrink": 0.8, **kwargs}
    bar = figure.colorbar(mappable, label=label, **kwargs)
    bar.outline.set_visible(False)
    fix_tick_labels(bar.ax)
    return bar


def legend_below(ax: Axes, handles: list, *, own: bool, ncols: int = 1) -> None:
    """A legend under our own axes, and inside of the user's, whose neighbors are theirs."""
    if own:
        figure: Any = ax.get_figure()
        figure.legend(handles=handles, loc="outside lower left", ncols=ncols, columnspacing=1.0)
    else:
        ax.legend(handles=handles, fontsize="x-small")


def label_outer(axes: Sequence[Axes], *, x: str | None = None, y: str | None = None) -> None:
    """Name what axes in a grid have in common once for each column and row; each, if in no grid.

    Parameters
    ----------
    axes
        Axes that the user gave.
    x, y
        Names; ``None`` for none.
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
    """Width of axes in points, as they are before the layout is done."""
    figure: Any = ax.get_figure()
    return float(ax.get_window_extent().width * 72 / figure.dpi)


def height_in_points(ax: Axes) -> float:
    """Height of axes in points, as they are before the layout is done."""
    figure: Any = ax.get_figure()
    return float(ax.get_window_extent().height * 72 / figure.dpi)


def n_ticks(ax: Axes, letters: float, most: int = 5) -> int:
    """How many tick labels of so many letters stand side by side, from two to ``most``."""
    size = float(ax.xaxis.get_ticklabels()[0].get_fontsize())
    return max(2, min(most, int(width_in_points(ax) / (0.6 * size * (letters + 0.4)))))


def lettering() -> list:
    """A white rim that keeps letters and lines legible on points."""
    from matplotlib import patheffects

    return [patheffects.Stroke(linewidth=2, foreground="white"), patheffects.Normal()]


def palette(n: int) -> list[str]:
    """Colors for n categories: Okabe and Ito's, then :data:`MORE`; beyond 24 a rainbow."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    colors = [*OKABE_ITO, *MORE]
    if n <= len(colors):
        return colors[:n]
    return [to_hex(c) for c in colormaps["turbo"](np.linspace(0.02, 0.98, n))]


def category_colors(
    categories: Sequence[Any], uns: Mapping[str, Any] | None = None, key: str | None = None
) -> dict[Any, str]:
    """Color of every category: the user's in ``uns[key + "_colors"]``, else :func:`palette`."""
    saved = None if uns is None else uns.get(f"{key}_colors")
    if saved is not None and not isinstance(saved, str) and len(saved) >= len(categories):
        return dict(zip(categories, [str(c) for c in saved], strict=False))
    return dict(zip(categories, palette(len(categories)), strict=True))


def spread(y: Iterable[float], gap: float) -> np.ndarray:
    """The places nearest to ``y`` (least squares, same order) that are at least ``gap`` apart.

    Parameters
    ----------
    y
        Places wished for, shape ``(n,)``.
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
