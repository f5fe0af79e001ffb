"""How every figure looks: colours that the colour-blind tell apart, and that differ in grey; titles; files."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: colour-blind safe (Okabe and Ito), ordered so that neighbours differ in grey as well; yellow is too pale for lines
COLOURS = ("#000000", "#e69f00", "#0072b2", "#56b4e9", "#d55e00", "#009e73", "#cc79a7", "#808080")
MARKERS = "osD^vPX*"
DASHES = ("-", "--", "-.", ":")
SIZE, DPI = (8.0, 5.0), 150  # inches, dots an inch: 1200 x 750 pixels
NOTE_WIDTH = 118  # characters of a line of small print

#: of each format, what would differ between two files of one figure: the date, and an SVG's random names
_DATES: dict[str, dict[str, Any]] = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


def line_style(number: int) -> dict[str, Any]:
    """Colour, marker and dashes of line `number`: no two alike among the first 32."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": DASHES[(number // len(COLOURS)) % len(DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 6,
    }


@contextmanager
def styled() -> Iterator[None]:
    """Figures that are made and saved within look alike."""
    import matplotlib

    plain: Any = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}
    plain |= {"svg.hashsalt": "lopbench", "text.parse_math": False}  # a variant's name may hold dollar signs
    with matplotlib.rc_context(plain), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # its box is seen in the figure
        yield


def new_figure(width: float = SIZE[0], height: float = SIZE[1]) -> Figure:
    """An empty figure, of a size in inches; without pyplot: no window, no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def encoded(figure: Figure, kind: str) -> bytes:
    """A figure as "png", "pdf" or "svg": of the same figure the same bytes."""
    sink = io.BytesIO()
    with styled():
        figure.savefig(sink, format=kind, dpi=DPI, metadata=_DATES[kind])
    return sink.getvalue()


def set_title(axes: Axes, title: str, below: Sequence[str]) -> None:
    """A title in bold, and lines in small print under it."""
    axes.set_title(title, loc="left", fontweight="bold", pad=8 + 12 * len(below))
    place: dict[str, Any] = {"xy": (0, 1), "xytext": (0, 6), "xycoords": "axes fraction"}
    axes.annotate("\n".join(below), **place, textcoords="offset points", fontsize=9, color="0.3")


def legend_columns(labels: Iterable[str]) -> int:
    """How many columns of a legend fit the width of a figure."""
    longest = max(map(len, labels), default=0)
    return next((columns for columns, fits in ((3, 30), (2, 48)) if longest <= fits), 1)


def wrapped(notes: Sequence[str]) -> list[str]:
    """Notes as lines of small print that fit the width of a figure."""
    return [line for note in notes for line in textwrap.wrap(note, NOTE_WIDTH)]


def small_print(figure: Figure, notes: Sequence[str], legend: Mapping[str, Any] | None = None) -> None:
    """Notes at the foot of a figure, and below them a legend, of these arguments, if there is one."""
    text = "\n".join(wrapped(notes))
    if legend is not None:
        head = {"title": text, "title_fontsize": 8} if text else {}
        figure.legend(loc="outside lower left", alignment="left", fontsize=9, frameon=False, **head, **legend)
    elif text:
        figure.supxlabel(text, x=0.01, ha="left", fontsize=8, color="0.3")


def capitalised(text: str) -> str:
    """The first letter in upper case, the others as they are; a tag stays as it is."""
    return text if "/" in text else text[:1].upper() + text[1:]
