"""The plots of the page: SVG in the page's colors, byte for byte the same for the same numbers."""

import dataclasses
import io
import re
from collections.abc import Callable
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from dsmath_jax.formatting import number, percent
from dsmath_jax.report.outputs import MODEL_LABELS, PHASES, SCORES, Run, series

# Placeholders that are replaced by the page's CSS variables, so that a plot suits a light and a dark page.
COLORS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    "#040404": "var(--first)",
    "#050505": "var(--second)",
    "#060606": "var(--third)",
}
INK, MUTED, LINE, *SERIES = COLORS

BASE_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud, and takes the page's font
    "svg.hashsalt": "dsmath_jax",
    "text.parse_math": False,  # names may contain a dollar sign
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}
STYLE = BASE_STYLE | {
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "grid.color": LINE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.columnspacing": 1.2,
    "legend.handlelength": 1.2,
}
WIDTH = 4.0  # inches; small, so that text stays readable when a phone shrinks the plot to its width
HEIGHT = 2.5
RAW_POINTS = 300  # a longer curve is averaged over this many bins
SPARSE_POINTS = 40  # a curve with no more points is drawn without a running mean


@dataclasses.dataclass(frozen=True)
class Plot:
    """A figure of the page; `description` is its text alternative."""

    title: str
    description: str
    svg: str


@dataclasses.dataclass(frozen=True)
class Curve:
    """A plot of a stage's metrics over its steps; `metrics` maps each metric to its name in the legend."""

    stage: str
    title: str
    axis: str
    metrics: dict[str, str]
    log: bool = False


CURVES = (
    Curve("pretrain", "Pre-training loss", "nats per token", {"loss": "training", "eval_loss": "held-out"}),
    Curve("sft", "Fine-tuning loss", "nats per token", {"loss": "training", "eval_loss": "held-out"}),
    Curve("reward_model", "Reward model accuracy", "fraction", {"accuracy": "accuracy"}),
    Curve("process_model", "Process reward model accuracy", "fraction", {"accuracy": "accuracy"}),
    Curve("rl", "Reward", "reward", {"reward": "mean", "reward_std": "standard deviation"}),
    Curve("rl", "Rule reward of the samples", "mean of a step", {"rule_reward": "rule reward"}),
    Curve("rl", "Greedy accuracy", "fraction of held-out problems", {"eval_greedy": "accuracy"}),
    Curve("rl", "KL to the reference", "nats per token", {"kl": "KL"}),
    Curve("rl", "Entropy", "nats per token", {"entropy": "entropy"}),
    Curve("rl", "Clipped tokens", "fraction", {"clip_low": "lower bound", "clip_high": "upper bound"}),
    Curve("rl", "Completion length", "tokens", {"completion_length": "length"}),
    Curve("rl", "Truncated completions", "fraction", {"frac_truncated": "cut at the length limit"}),
    Curve("rl", "Groups with zero reward std", "fraction", {"frac_reward_zero_std": "all rewards equal"}),
    Curve("rl", "Sampler against trainer", "nats per token", {"sampler_logprob_diff": "|difference|"}),
    Curve(
        "rl",
        "Completions without effect",
        "per step",
        {"reward_errors": "reward failed", "reward_abstained": "no function rewards it", "num_masked": "no weight"},
    ),
    Curve("rl", "Skipped steps", "1: no completion has weight", {"step_skipped": "skipped"}),
    Curve("rl", "Seconds by phase", "seconds", PHASES, log=True),
)
Measured = dict[str, tuple[list[int], list[float]]]  # name in the legend -> steps, values


def draw(run: Run) -> dict[str, list[Plot]]:
    """Returns the plots of what the run measured, by section of the page."""
    plots: dict[str, list[Plot]] = {}
    if run.report.get("evaluate"):
        plots["accuracy"] = [_accuracy(run.report["evaluate"])]
    if run.report.get("corpus"):
        plots["corpus"] = [_funnel(run.report["corpus"]["funnel"])]
    drawn: dict[str, list[Measured]] = {}
    for curve in CURVES:
        measured = _measured(curve, run)
        # Metrics that are always 0 (`zero_curves` lists them) and repetitions of an earlier curve are not drawn.
        if any(any(values) for _, values in measured.values()):
            earlier = drawn.setdefault(curve.stage, [])
            if not any(points in other.values() for points in measured.values() for other in earlier):
                plots.setdefault(curve.stage, []).append(_curve(curve, measured))
                earlier.append(measured)
    return plots


def zero_curves(run: Run) -> list[str]:
    """Returns the titles of the RL curves that are 0 at all steps and therefore not drawn."""
    curves = {curve.title: _measured(curve, run) for curve in CURVES if curve.stage == "rl"}
    return [title for title, data in curves.items() if data and not any(any(values) for _, values in data.values())]


def _measured(curve: Curve, run: Run) -> Measured:
    measured = {name: series(run.metrics.get(curve.stage, []), metric) for metric, name in curve.metrics.items()}
    return {name: points for name, points in measured.items() if points[1]}


def _accuracy(models: dict[str, dict[str, Any]]) -> Plot:
    def paint(axes: Axes) -> None:
        centers = np.arange(len(models))
        width = 0.8 / len(SCORES)
        for index, (score, name) in enumerate(SCORES.items()):
            heights = np.array([scores[score] for scores in models.values()])
            ends = np.array([scores[f"{score}_interval"] for scores in models.values()])
            spread = np.abs(ends.T - heights)
            left = centers + (index - 1) * width
            axes.bar(left, heights, width * 0.92, color=SERIES[index], label=name)
            axes.errorbar(left, heights, spread, fmt="none", color=INK, elinewidth=1, capsize=2.5)
        axes.set_xticks(centers, [MODEL_LABELS.get(model, model) for model in models])
        highest = max(scores[f"{score}_interval"][1] for scores in models.values() for score in SCORES)
        axes.set_ylim(0, min(1.0, 1.1 * highest) or 1.0)
        axes.set_ylabel("fraction of problems")
        axes.grid(axis="y")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)

    caption = "; ".join(
        f"{MODEL_LABELS.get(model, model)}: "
        + ", ".join(f"{name} {percent(scores[score])}" for score, name in SCORES.items())
        for model, scores in models.items()
    )
    return _plot("accuracy", "Accuracy by stage", f"{caption}. Bars show fractions, whiskers 95 % intervals.", paint)


def _funnel(funnel: list[tuple[str, int]]) -> Plot:
    names, counts = [name for name, _ in funnel], [count for _, count in funnel]

    def paint(axes: Axes) -> None:
        rows = np.arange(len(names))
        axes.barh(rows, counts, 0.45, color=SERIES[0])
        for row, (name, count) in enumerate(funnel):
            axes.text(0, row - 0.3, f"{name}: {number(count)}", va="bottom")
        axes.set_ylim(len(names) - 0.6, -0.9)
        axes.set_yticks([])
        axes.set_xlabel("pages")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.locator_params(axis="x", nbins=6)
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)

    caption = ", ".join(f"{number(count)} {name}" for name, count in funnel)
    return _plot("funnel", "Corpus funnel", f"Pages that each step leaves: {caption}.", paint, 0.7 + 0.42 * len(names))


def _curve(curve: Curve, measured: Measured) -> Plot:
    def paint(axes: Axes) -> None:
        for color, (name, (steps, values)) in zip(SERIES, measured.items(), strict=False):
            if len(values) <= SPARSE_POINTS:
                axes.plot(steps, values, color=color, marker="o", markersize=2.5, linewidth=1.4, label=name)
                continue
            x, y = _binned(np.array(steps, float)), _binned(np.array(values, float))
            axes.plot(x, y, color=color, linewidth=0.7, alpha=0.4)
            axes.plot(x, _running_mean(y, max(3, len(y) // 20)), color=color, linewidth=1.6, label=name)
        axes.set_xlabel("step")
        axes.set_ylabel(curve.axis)
        if curve.log:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
        axes.margins(x=0.02)
        axes.grid()
        if len(measured) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)

    caption = "; ".join(
        f"{name} {number(values[0])} at step {number(steps[0])}, {number(values[-1])} at step {number(steps[-1])}"
        for name, (steps, values) in measured.items()
    )
    if any(len(values) > SPARSE_POINTS for _, values in measured.values()):
        caption += ". The strong line is the running mean"
    return _plot("-".join((curve.stage, *curve.metrics)), curve.title, f"{caption}.", paint)


def _binned(values: np.ndarray) -> np.ndarray:
    """Averages `values` over at most `RAW_POINTS` bins of about equal length."""
    return np.array([part.mean() for part in np.array_split(values, min(RAW_POINTS, len(values)))])


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Averages over a centered window of `width` values, which is cut off at both ends."""
    window = np.ones(width)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def _plot(name: str, title: str, description: str, paint: Callable[[Axes], None], height: float = HEIGHT) -> Plot:
    document = render(paint, (WIDTH, height), STYLE, transparent=True)
    return Plot(title, description, _embed(document, name, title, description))


def render(
    paint: Callable[[Axes], None], size: tuple[float, float], style: dict[Any, Any], **savefig_options: Any
) -> str:
    """Returns the SVG document of a figure with one set of axes, `size` in inches."""
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", **savefig_options)
    return buffer.getvalue()


def _embed(document: str, name: str, title: str, description: str) -> str:
    """Turns an SVG document into an element of the page: without prolog, date and size, with unique ids and a title."""
    size = re.search(r'viewBox="([^"]+)"', document)
    if size is None:
        raise ValueError("Matplotlib wrote an SVG without a viewBox.")
    drawing = document[document.index('<g id="figure_1"') :]
    drawing = re.sub(r'\bid="', f'id="{name}-', drawing)
    drawing = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', drawing)
    drawing = drawing.replace("url(#", f"url(#{name}-")
    for color, variable in COLORS.items():
        drawing = drawing.replace(color, variable)
    return (
        f'<svg viewBox="{size[1]}" role="img" aria-labelledby="{name}-title {name}-description">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-description">{escape(description)}</desc>\n{drawing}'
    )
