"""The plots of a comparison (paper Figures 5, 6 and 7): SVG on white, byte for byte the same for the same numbers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from dsmath_jax.report.plots import BASE_STYLE, render

STYLE = BASE_STYLE | {"axes.grid": True, "grid.color": "#dddddd"}
COLORS = ("#4c4c4c", "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#b8a800")
SIZE = (5.2, 3.4)  # inches
Row = Mapping[str, Any]


def accuracy(rows: Sequence[Row]) -> str:
    """Returns the plot of greedy accuracy over the RL steps, with bands from the lowest to the highest seed.

    A method that was not evaluated during training is a dashed horizontal line. If none was, the plot shows bars with
    intervals over problems.
    """
    return _svg(_training if any(row["training"]["step"] for row in rows) else _bars, rows)


def votes(rows: Sequence[Row]) -> str:
    """Returns the plot of maj@k (solid lines) and pass@k (dotted lines) over k.

    Bands go from the lowest to the highest seed; a single run has its interval over problems instead.
    """
    return _svg(_votes, rows)


def _training(axes: Axes, rows: Sequence[Row]) -> None:
    for number, row in enumerate(rows):
        training, color = row["training"], COLORS[number % len(COLORS)]
        if not training["step"]:
            axes.axhline(100 * row["greedy"]["mean"], color=color, linestyle="--", linewidth=1.2, label=row["method"])
            continue
        axes.plot(training["step"], _percent(training["accuracy"]), color=color, linewidth=1.6, label=row["method"])
        _band(axes, training["step"], training["ends"], color)
    axes.set_xlabel("RL step")
    axes.set_ylabel("greedy accuracy, %")
    _legend(axes)


def _bars(axes: Axes, rows: Sequence[Row]) -> None:
    for number, row in enumerate(rows):
        mean, (low, high) = 100 * row["greedy"]["mean"], _percent(row["greedy"]["over_problems"])
        color = COLORS[number % len(COLORS)]
        axes.bar(number, mean, 0.7, yerr=[[mean - low], [high - mean]], capsize=3, color=color, ecolor="#222222")
    axes.set_xticks(range(len(rows)), [row["method"] for row in rows], rotation=20, ha="right")
    axes.set_ylabel("greedy accuracy, %")
    axes.grid(visible=False, axis="x")


def _votes(axes: Axes, rows: Sequence[Row]) -> None:
    for number, row in enumerate(rows):
        curve, color = row["curve"], COLORS[number % len(COLORS)]
        for name, line in (("maj", "-"), ("pass", ":")):
            label = f"{row['method']} {name}@k"
            axes.plot(curve["k"], _percent(curve[name]), line, color=color, marker="o", markersize=2.5, label=label)
            _band(axes, curve["k"], curve[f"{name}_ends"], color)
    ks = max((row["curve"]["k"] for row in rows), key=len)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, map(str, ks))
    axes.set_xlabel("k")
    axes.set_ylabel("problems solved, %")
    _legend(axes)


def _percent(fractions: Sequence[float]) -> list[float]:
    return [100 * fraction for fraction in fractions]


def _band(axes: Axes, x: Sequence[float], ends: Sequence[Sequence[float]], color: str) -> None:
    lows, highs = zip(*ends, strict=True)
    axes.fill_between(x, _percent(lows), _percent(highs), color=color, alpha=0.15, linewidth=0)


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0.2)


def _svg(paint: Callable[[Axes, Sequence[Row]], None], rows: Sequence[Row]) -> str:
    return render(lambda axes: paint(axes, rows), SIZE, STYLE, facecolor="white", metadata={"Date": None})
