"""The pictures of the data card as small SVG elements.

The style sheet of the page colors the classes: `first`, `second` and `third` fill, `line` and `ink` stroke.
"""

import math
from collections.abc import Sequence
from html import escape

import numpy as np

WIDTH = 400  # of a picture, in units of its view box
SERIES = ("first", "second", "third")
Interval = Sequence[float] | None  # low, high


def funnel(name: str, title: str, description: str, steps: Sequence[tuple[str, int]]) -> str:
    """Draws a horizontal bar for each (step, count), labeled above."""
    most = max((count for _, count in steps), default=0) or 1
    parts = []
    for row, (step, count) in enumerate(steps):
        top = 40 * row
        parts.append(_text(0, top + 14, f"{step}: {count:,}"))
        parts.append(_bar(0, top + 20, WIDTH * count / most, 12, "first"))
    return _svg(name, title, description, 40 * len(steps), parts)


def histogram(name: str, title: str, description: str, counts: dict[str, np.ndarray], threshold: float | None) -> str:
    """Draws overlaid histograms (counts [bins] of values from 0 to 1) on a logarithmic axis, and a dashed threshold."""
    left, top, width, height = 44, 40, WIDTH - 56, 160
    most = max(int(values.max()) for values in counts.values())
    bins = len(next(iter(counts.values())))
    scale = height / math.log10(1 + max(most, 1))
    parts = _legend(list(counts))
    tick = 1
    while tick <= max(most, 1):
        y = top + height - scale * math.log10(1 + tick)
        parts += [_line(left, y, left + width, y, "line"), _text(left - 5, y + 4, f"{tick:,}", "end")]
        tick *= 10
    step = width / bins
    for index, both in enumerate(zip(*(values.tolist() for values in counts.values()), strict=True)):
        for count, color in sorted(zip(both, SERIES, strict=False), reverse=True):  # the lower bar in front
            tall = scale * math.log10(1 + count)
            parts.append(_bar(left + step * (index + 0.1), top + height - tall, 0.8 * step, tall, color))
    parts.append(_line(left, top + height, left + width, top + height, "ink"))
    parts += [_text(left + width * at, top + height + 16, f"{at:g}", "middle") for at in (0, 0.25, 0.5, 0.75, 1)]
    parts.append(_text(left + width / 2, top + height + 34, "score", "middle"))
    if threshold is not None:
        x = left + width * threshold
        parts.append(_line(x, top - 6, x, top + height, "ink dashed"))
        parts.append(_text(x - 5, top - 2, f"threshold {threshold:.3g}", "end" if threshold > 0.4 else "start"))
    return _svg(name, title, description, top + height + 42, parts)


def curves(
    name: str, title: str, description: str, iterations: Sequence[int], series: dict[str, list[tuple[float, Interval]]]
) -> str:
    """Draws fractions by iteration, a curve for each series, with error bars."""
    left, top, width, height = 34, 32, WIDTH - 46, 160
    parts = _legend(list(series))
    for fraction in (0, 0.25, 0.5, 0.75, 1):
        y = top + height * (1 - fraction)
        parts += [_line(left, y, left + width, y, "line"), _text(left - 5, y + 4, f"{fraction:g}", "end")]
    step = width / len(iterations)
    for number, iteration in enumerate(iterations):
        parts.append(_text(left + step * (number + 0.5), top + height + 16, str(iteration), "middle"))
    parts.append(_text(left + width / 2, top + height + 34, "iteration", "middle"))
    for shift, (values, color) in enumerate(zip(series.values(), SERIES, strict=False)):
        points = []
        for number, (value, interval) in enumerate(values):
            x = left + step * (number + 0.5) + 9 * (shift - (len(series) - 1) / 2)
            y = top + height * (1 - value)
            points.append(f"{x:.1f},{y:.1f}")
            if interval:
                low, high = (top + height * (1 - end) for end in interval)
                parts.append(_line(x, low, x, high, f"stroke-{color}"))
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="{color}"/>')
        parts.append(f'<polyline points="{" ".join(points)}" class="curve stroke-{color}"/>')
    return _svg(name, title, description, top + height + 42, parts)


def _legend(names: Sequence[str]) -> list[str]:
    parts, x = [], 0.0
    for name, color in zip(names, SERIES, strict=False):
        parts += [_bar(x, 2, 10, 10, color), _text(x + 15, 12, name)]
        x += 30 + 7 * len(name)
    return parts


def _bar(x: float, y: float, width: float, height: float, color: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{color}"/>'


def _line(x: float, y: float, to_x: float, to_y: float, color: str) -> str:
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" class="{color}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(name: str, title: str, description: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-labelledby="{name}-title {name}-words">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-words">{escape(description)}</desc>\n'
        + "\n".join(parts)
        + "\n</svg>"
    )
