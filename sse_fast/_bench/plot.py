"""The plot of `sse-fast bench`: bars on a logarithmic scale, a panel for each column."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sse_fast._bench.javascript import JAVASCRIPT
from sse_fast._bench.measure import FLOOR, Cell

# The background is opaque, so that the plot looks the same on dark pages. The bars differ in
# lightness or hatching, so that they can be told apart in print.
_PAPER, _LINE, _INK, _FAINT = "#fcfcfb", "#d8d8d3", "#1c1c1c", "#5f5f5f"
_OURS = {"facecolor": "#0b4fb3", "edgecolor": "#0b4fb3"}
_OTHER = {"facecolor": "#b9bfc9", "edgecolor": "#b9bfc9"}
_SCRIPT = {"facecolor": "#eceef1", "edgecolor": "#8d95a3", "hatch": "////"}
_FLOOR = {"facecolor": _PAPER, "edgecolor": _INK}

# An SVG keeps text as text, and the same numbers give the same bytes.
_SETTINGS: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "svg.fonttype": "none",
    "svg.hashsalt": "sse_fast",
    "hatch.linewidth": 0.6,
}
_CHUNKS = {"whole": "the whole stream"}
# In inches.
_LABELS, _BARS, _NUMBERS, _EDGE = 2.2, 2.85, 1.25, 0.2
_TITLE, _ROW, _SCALE = 0.62, 0.19, 0.3


def draw(
    path: Path,
    cells: Sequence[Cell],
    labels: Mapping[str, str],
    streams: Mapping[str, str],
    notes: Sequence[str],
) -> None:
    """Draw the results into a file, whose ending gives the format.

    Args:
        path: the file.
        cells: the results, a panel each.
        labels: parser -> label of its bar; the first is that of sse_fast.
        streams: name of a stream -> description.
        notes: lines of text below the legend.
    """
    rows = [name for name in (*labels, FLOOR) if any(name in cell.times for cell in cells)]
    legend = ["Shorter is better; the scale is logarithmic."]
    legend.append(f"In brackets: how many times as long as {next(iter(labels))}.")
    if not JAVASCRIPT.keys().isdisjoint(rows):
        legend.append("Hatched: JavaScript, run by Node.")
    if FLOOR in rows:
        legend.append(f"{FLOOR}: the same lists, events and texts, without parsing.")
    panel = _ROW * len(rows)
    down = _TITLE + panel + _SCALE
    width = 2 * (_LABELS + _BARS + _EDGE)
    height = (len(cells) // 2 + 1) * down

    times = [cell.per_event(name) for cell in cells for name in rows if name in cell.times]
    most = max(times, default=10)
    # A logarithmic scale has no zero: it begins at the power of ten below the least time.
    decade = math.floor(math.log10(min(times, default=1) / 1.5))
    left = 10.0**decade
    limits = (left, left * (most / left) ** (_BARS / (_BARS - _NUMBERS)))
    ticks = [10.0**power for power in range(decade, math.floor(math.log10(most)) + 1)]

    with matplotlib.rc_context(_SETTINGS):
        figure = Figure((width, height), facecolor=_PAPER, edgecolor=_LINE, linewidth=2)

        def write(x: float, y: float, text: str, **style: Any) -> None:
            figure.text(x / width, y / height, text, **{"size": 9, "color": _FAINT, **style})

        strong = {"color": _INK, "weight": "bold"}
        write(_EDGE, height - 0.4, "Nanoseconds per event", **{**strong, "size": 15})
        write(_EDGE, height - 0.65, "\n".join([*legend, "", *notes]), va="top", linespacing=1.5)
        # The title takes the place of the first panel.
        for place, cell in enumerate(cells, 1):
            x = place % 2 * width / 2
            top = height - place // 2 * down
            write(x + _EDGE, top - 0.32, f"{cell.stream}: {streams[cell.stream]}", **strong)
            write(x + _EDGE, top - 0.52, f"{_CHUNKS.get(cell.chunking, cell.chunking)} per chunk")
            bottom = top - _TITLE - panel
            axes = figure.add_axes(
                ((x + _LABELS) / width, bottom / height, _BARS / width, panel / height),
                facecolor="none",
                xscale="log",
                xlim=limits,
                ylim=(len(rows) - 0.4, -0.6),
                axisbelow=True,
            )
            axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks], size=7, color=_FAINT)
            axes.set_xticks([], minor=True)
            axes.set_yticks([])
            axes.tick_params(length=0)
            axes.grid(axis="x", color=_LINE, linewidth=0.6)
            axes.spines[:].set_visible(False)
            for position, name in enumerate(rows):
                _draw_bar(axes, position, name, cell, labels)
        # Without these, an SVG says when it was made, and by which version of matplotlib.
        metadata: Any = {"Date": None, "Creator": None} if path.suffix.lower() == ".svg" else None
        figure.savefig(path, dpi=160, metadata=metadata)


def _draw_bar(axes: Axes, position: int, name: str, cell: Cell, labels: Mapping[str, str]) -> None:
    ours = next(iter(labels))
    left = axes.get_xlim()[0]
    end, text = left, "gives wrong events" if name in cell.wrong else "-"
    if name in cell.times:
        end = cell.per_event(name)
        text = f"{end:,.0f}"
        if name not in (ours, FLOOR) and ours in cell.times:
            ratio = cell.ratio(name, ours)
            text += f"  ({ratio:,.{1 if ratio < 9.95 else 0}f} times)"
        styles = {ours: _OURS, FLOOR: _FLOOR, **dict.fromkeys(JAVASCRIPT, _SCRIPT)}
        style: Any = styles.get(name, _OTHER)
        axes.barh(position, end - left, 0.7, left, linewidth=0.7, **style)
    line: Any = {
        "textcoords": "offset points",
        "size": 8,
        "weight": "bold" if name == ours else "normal",
        "color": _INK,
        "va": "center_baseline",
    }
    axes.annotate(text, (end, position), (4, 0), ha="left", **line)
    axes.annotate(labels.get(name, name), (left, position), (-5, 0), ha="right", **line)
