"""Figure style: legible in print, safe for colour-blind readers, byte-identical on every run."""

import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import matplotlib
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.transforms import ScaledTranslation

from justrl.config.paper import mark
from justrl.io import atomic_write

# Okabe and Ito's palette ("Color Universal Design", 2008) without its yellow, which is too faint on paper.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Series also differ by marker and dash, so that a figure is readable in black and white.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1)), (0, (8, 2)), (0, (1, 2)))
INK = "#222222"
MUTED = "#6B6B6B"
BAND = "#BDBDBD"
STAMP = "#B3261E"
# Inches below the axes for one line of small print.
FOOTER = 0.26

# A one-column figure for a phone: its width in inches, and the characters per line of title, subtitle and small print.
NARROW = 3.7
LETTERS = {"title": 36, "subtitle": 58, "footer": 66}
_narrow: ContextVar[bool] = ContextVar("narrow", default=False)


@dataclass
class _Margins:
    """Inches above and below the axes of a narrow figure, and how far the header has grown."""

    header: float
    footer: float
    grown: float = 0.0


_MARGINS: WeakKeyDictionary[Figure, _Margins] = WeakKeyDictionary()


def look(index: int) -> dict[str, Any]:
    """Color, dash and marker of the series with this number."""
    return {"color": COLORS[index % 7], "linestyle": DASHES[index % 7], "marker": MARKERS[index % 7]}


@contextmanager
def narrow() -> Iterator[None]:
    """Context manager: figures have one column of panels and the width of a phone's screen."""
    token = _narrow.set(True)
    try:
        yield
    finally:
        _narrow.reset(token)


@contextmanager
def house_style() -> Iterator[None]:
    """Context manager: draw and save in this style; matplotlib's global settings are restored afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rc_file(Path(__file__).with_name("figures.mplstyle"), use_default_template=False)
        yield


def new_figure(width: float, height: float, header: float = 0.62, footer: float = 0.0) -> Figure:
    """A figure of the given size in inches; its axes leave `header` inches above and `footer` inches below for text."""
    rect = (0.0, footer / height, 1.0, 1.0 - (header + footer) / height)
    width = NARROW if _narrow.get() else width
    engine = ConstrainedLayoutEngine(rect=rect, w_pad=0.08, h_pad=0.06, wspace=0.04, hspace=0.06)
    figure = Figure(figsize=(width, height), layout=engine)
    if _narrow.get():
        _MARGINS[figure] = _Margins(header, footer)
    return figure


def _grow(figure: Figure, above: float = 0.0, below: float = 0.0) -> None:
    """Make a narrow figure taller, without changing the height of its axes."""
    margins = _MARGINS[figure]
    margins.header += above
    margins.grown += above
    margins.footer += below
    height = figure.get_figheight() + above + below
    figure.set_figheight(height)
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0.0, margins.footer / height, 1.0, 1.0 - (margins.header + margins.footer) / height))


def _from_top(figure: Figure) -> Any:
    """Transform: inches from the upper left corner, which stay fixed to it when the figure grows."""
    return figure.dpi_scale_trans + ScaledTranslation(0, 1, figure.transFigure)  # type: ignore[arg-type]


def panel_grid(count: int, panel: tuple[float, float], narrowest: float, header: float, **options: Any):
    """A figure of `count` panels, three in a row, and its axes.

    Args:
        panel: width and height of a panel in inches.
        narrowest: smallest width of the figure in inches.
        header: inches above the panels.
        options: for `Figure.subplots`.
    """
    columns = 1 if _narrow.get() else min(3, count)
    lines = ceil(count / columns)
    width, height = max(panel[0] * columns, narrowest), panel[1] * lines + header + FOOTER
    figure = new_figure(width, height, header, FOOTER)
    axes = list(figure.subplots(lines, columns, squeeze=False, **options).flat)
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, axes[:count]


def add_legend(figure: Figure, handles: list, top: float, columns: int = 4, **spacing: float) -> None:
    """Add a legend at the left, `top` inches below the figure's upper edge."""
    common: dict[str, Any] = {"handles": handles, "loc": "upper left", "borderaxespad": 0, **spacing}
    columns = min(columns, len(handles))
    if margins := _MARGINS.get(figure):
        top += margins.grown
        _grow(figure, above=0.19 * (len(handles) - ceil(len(handles) / columns)))
        figure.legend(bbox_to_anchor=(0.04, -top), bbox_transform=_from_top(figure), fontsize=8, **common)
        return
    width, height = figure.get_size_inches()
    figure.legend(bbox_to_anchor=(0.04 / width, 1 - top / height), ncols=columns, fontsize=8.5, **common)


def add_header(figure: Figure, title: str, experiment: str, subtitle: str = "") -> None:
    """Add the title at the upper left, the subtitle below it, and the label of results that are not the paper's.

    A figure too narrow for title and label on one line becomes wider. In a figure for a phone each has its own lines.
    """
    if figure in _MARGINS:
        _add_narrow_header(figure, title, mark(experiment), subtitle)
        return
    width, height = figure.get_size_inches()
    texts = [figure.text(0, 1 - 0.10 / height, title, ha="left", va="top", fontsize=12, fontweight="bold")]
    if stamp := mark(experiment):
        box: dict[str, Any] = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": STAMP, "linewidth": 0.8}
        place = (1, 1 - 0.12 / height, stamp)
        texts.append(figure.text(*place, ha="right", va="top", fontsize=8, color=STAMP, bbox=box))
    # Half an inch for the margins, the box and the space between.
    width = max(width, sum(text.get_window_extent().width for text in texts) / figure.dpi + 0.5)
    figure.set_figwidth(width)
    for text, x in zip(texts, (0.12, width - 0.14), strict=False):
        text.set_x(x / width)
    if subtitle:
        figure.text(0.12 / width, 1 - 0.35 / height, subtitle, ha="left", va="top", fontsize=8.5, color=MUTED)


def _add_narrow_header(figure: Figure, title: str, stamp: str, subtitle: str) -> None:
    lines = [(line, 7.5, STAMP, 0.17) for line in textwrap.wrap(stamp, LETTERS["subtitle"])]
    lines += [(line, 10.5, INK, 0.2) for line in textwrap.wrap(title, LETTERS["title"])]
    small = [line for part in subtitle.split("\n") for line in textwrap.wrap(part, LETTERS["subtitle"])]
    lines += [(line, 7.5, MUTED, 0.15) for line in small]
    top = 0.1
    for text, size, color, height in lines:
        place: dict[str, Any] = {"transform": _from_top(figure), "ha": "left", "va": "top"}
        figure.text(0.1, -top, text, fontsize=size, color=color, fontweight="bold" if color == INK else None, **place)
        top += height
    # The height that callers reserve for one line of title and one of subtitle.
    _grow(figure, above=max(0.0, top - (0.5 if subtitle else 0.38)))


def add_footer(figure: Figure, text: str) -> None:
    """Add one line of small print at the lower left: how to read the figure, and the sources of published numbers."""
    if figure in _MARGINS:
        text = textwrap.fill(text, LETTERS["footer"])
        _grow(figure, below=0.13 * text.count("\n"))
        figure.text(0.1, 0.07, text, transform=figure.dpi_scale_trans, fontsize=6.8, color=MUTED, va="bottom")
        return
    width, height = figure.get_size_inches()
    figure.text(0.12 / width, 0.07 / height, text, ha="left", va="bottom", fontsize=7.5, color=MUTED)


def thousands(axis) -> None:
    """Format the ticks of an axis as whole numbers with a thousands separator."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}".replace("-", "−")))


def from_zero(axis) -> None:
    """Start the vertical axis of a non-negative quantity at 0 or above; markers at 0 are not clipped."""
    if axis.get_ylim()[0] < 0:
        axis.set_ylim(bottom=0)
        for line in axis.lines:
            line.set_clip_on(False)


def halo() -> list:
    """Path effects that keep small text legible where it crosses a line."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.5, foreground="white")]


def joined(names: list[str]) -> str:
    """Join names for running text: "a", "a and b", "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def save_figure(figure: Figure, png: str | Path | None, svg: str | Path | None) -> None:
    """Write the figure atomically, without dates or versions, so that equal input gives equal bytes."""
    for path, form, left_out in ((png, "png", ("Software",)), (svg, "svg", ("Date", "Creator"))):
        if path is not None:
            with atomic_write(path, "wb") as handle:
                figure.savefig(handle, format=form, metadata=dict.fromkeys(left_out))


def save_figures(outputs: Mapping[str, Path], draw: Callable[[], Figure]) -> None:
    """Draw and save a figure as .png, .svg and .narrow.svg (for a phone): those that are keys of `outputs`."""
    with house_style():
        if {".png", ".svg"} & outputs.keys():
            save_figure(draw(), outputs.get(".png"), outputs.get(".svg"))
        if ".narrow.svg" in outputs:
            with narrow():
                save_figure(draw(), None, outputs[".narrow.svg"])
