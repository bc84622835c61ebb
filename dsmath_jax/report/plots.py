"""The plots of the page: SVG in the page's colours, the same to the byte for the same numbers."""

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

from dsmath_jax.report.outputs import PHASES, SCORES, Run, series
from dsmath_jax.report.words import label, number, percent

# Drawn in colours that nothing else uses, then replaced by the page's CSS variables: so a plot is right on a light and
# on a dark page.
COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    "#040404": "var(--first)",
    "#050505": "var(--second)",
    "#060606": "var(--third)",
}
INK, MUTED, LINE, *SERIES = COLOURS

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be found, read aloud, and takes the page's font
    "svg.hashsalt": "dsmath_jax",
    "text.parse_math": False,  # names may hold a dollar sign
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.columnspacing": 1.2,
    "legend.handlelength": 1.2,
}
WIDTH = 4.0  # inches; small, so that text stays readable when a phone shrinks the plot to its width
HEIGHT = 2.5
RAW_POINTS = 300  # a longer curve is shown by the means of this many stretches
SPARSE_POINTS = 40  # a curve with no more points is drawn as it is, without a running mean


@dataclasses.dataclass(frozen=True)
class Plot:
    """One figure of the page; `description` says in words what is to be seen."""

    title: str
    description: str
    svg: str


@dataclasses.dataclass(frozen=True)
class Curve:
    """A plot of metrics by step: which stage, and which metrics under which names."""

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
        "a step",
        {"reward_errors": "reward failed", "reward_abstained": "no function rewards it", "num_masked": "no weight"},
    ),
    Curve("rl", "Skipped steps", "1: no completion has weight", {"step_skipped": "skipped"}),
    Curve("rl", "Seconds by phase", "seconds", PHASES, log=True),
)
Measured = dict[str, tuple[list[int], list[float]]]  # name in the legend -> steps, values
SCORE_LABELS = dict(zip(SCORES, ("greedy", "maj@k", "pass@k"), strict=True))


def draw(run: Run) -> dict[str, list[Plot]]:
    """Section of the page -> its plots, for what the run has measured."""
    plots: dict[str, list[Plot]] = {}
    if run.report.get("evaluate"):
        plots["accuracy"] = [_accuracy(run.report["evaluate"])]
    if run.report.get("corpus"):
        plots["corpus"] = [_funnel(run.report["corpus"]["funnel"])]
    drawn: dict[str, list[Measured]] = {}
    for curve in CURVES:
        measured = _measured(curve, run)
        # Nothing is to be seen of what is 0 throughout (`flat` names it), nor of what an earlier curve has shown.
        if any(any(values) for _, values in measured.values()):
            before = drawn.setdefault(curve.stage, [])
            if not any(points in earlier.values() for points in measured.values() for earlier in before):
                plots.setdefault(curve.stage, []).append(_curve(curve, measured))
                before.append(measured)
    return plots


def flat(run: Run) -> list[str]:
    """Titles of the curves of RL that were 0 at all steps, and so are not drawn."""
    curves = {curve.title: _measured(curve, run) for curve in CURVES if curve.stage == "rl"}
    return [title for title, found in curves.items() if found and not any(any(values) for _, values in found.values())]


def _measured(curve: Curve, run: Run) -> Measured:
    """A curve's names with the steps and values of what was measured."""
    found = {name: series(run.metrics.get(curve.stage, []), metric) for metric, name in curve.metrics.items()}
    return {name: points for name, points in found.items() if points[1]}


def _accuracy(models: dict[str, dict[str, Any]]) -> Plot:
    def paint(axes: Axes) -> None:
        centres = np.arange(len(models))
        width = 0.8 / len(SCORES)
        for place, (score, name) in enumerate(SCORE_LABELS.items()):
            heights = np.array([scores[score] for scores in models.values()])
            ends = np.array([scores[f"{score}_interval"] for scores in models.values()])
            spread = np.abs(ends.T - heights)
            left = centres + (place - 1) * width
            axes.bar(left, heights, width * 0.92, color=SERIES[place], label=name)
            axes.errorbar(left, heights, spread, fmt="none", color=INK, elinewidth=1, capsize=2.5)
        axes.set_xticks(centres, [label(model) for model in models])
        highest = max(scores[f"{score}_interval"][1] for scores in models.values() for score in SCORES)
        axes.set_ylim(0, min(1.0, 1.1 * highest) or 1.0)
        axes.set_ylabel("fraction of problems")
        axes.grid(axis="y")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)

    caption = "; ".join(
        f"{label(model)}: " + ", ".join(f"{name} {percent(scores[score])}" for score, name in SCORE_LABELS.items())
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
        for colour, (name, (steps, values)) in zip(SERIES, measured.items(), strict=False):
            if len(values) <= SPARSE_POINTS:
                axes.plot(steps, values, color=colour, marker="o", markersize=2.5, linewidth=1.4, label=name)
                continue
            x, y = _stretches(np.array(steps, float)), _stretches(np.array(values, float))
            axes.plot(x, y, color=colour, linewidth=0.7, alpha=0.4)
            axes.plot(x, _running_mean(y, max(3, len(y) // 20)), color=colour, linewidth=1.6, label=name)
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


def _stretches(values: np.ndarray) -> np.ndarray:
    """Means of at most `RAW_POINTS` stretches of about equal length."""
    return np.array([part.mean() for part in np.array_split(values, min(RAW_POINTS, len(values)))])


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over the `width` values around each place; at the ends, over those that are there."""
    window = np.ones(width)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def _plot(name: str, title: str, description: str, paint: Callable[[Axes], None], height: float = HEIGHT) -> Plot:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True)
    return Plot(title, description, _embed(buffer.getvalue(), name, title, description))


def _embed(document: str, name: str, title: str, description: str) -> str:
    """The drawing of an SVG file as an element of the page: no prolog, date or outer size, ids of its own, a title."""
    size = re.search(r'viewBox="([^"]+)"', document)
    if size is None:
        raise ValueError("Matplotlib wrote an SVG without a viewBox.")
    drawing = document[document.index('<g id="figure_1"') :]
    drawing = re.sub(r'\bid="', f'id="{name}-', drawing)
    drawing = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', drawing)
    drawing = drawing.replace("url(#", f"url(#{name}-")
    for colour, variable in COLOURS.items():
        drawing = drawing.replace(colour, variable)
    return (
        f'<svg viewBox="{size[1]}" role="img" aria-labelledby="{name}-title {name}-description">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-description">{escape(description)}</desc>\n{drawing}'
    )
