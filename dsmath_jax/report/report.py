"""Stage `report`: writes a run's results as `report.json` and as one self-contained page, `index.html`."""

import importlib.resources
import json
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from dsmath_jax.formatting import duration, interval, number, percent
from dsmath_jax.report import outputs, plots
from dsmath_jax.workdir import atomic_write, write_json

DOMAINS_SHOWN = 15  # further hosts are collapsed
CHARS_SHOWN = 300  # of a sample; longer ones are collapsed
ITERATION_COLUMNS = (
    "iteration",
    "positives",
    "negatives",
    "threshold",
    "pages",
    "tokens",
    "overlap",
    "new_domains",
    "precision",
    "recall",
)


def write(workdir: Path) -> dict[str, Any]:
    """Reads the outputs of the stages, then writes `report/report.json` and `report/index.html`.

    Returns:
      The contents of `report.json`; its `definitions` say how its numbers are computed. Except for `seconds` they are
      equal for all runs with the same seed on one machine.

    Raises:
      UserError: no stage has finished, or a stage's file is missing, broken or lacks a field.
    """
    run = outputs.read(workdir)
    page = _render(workdir.resolve().name, run)
    write_json(workdir / "report" / "report.json", run.report)
    with atomic_write(workdir / "report" / "index.html") as file:
        file.write(page)
    return run.report


def summary_table(report: dict[str, Any]) -> str:
    """Returns the plain-text table printed at the end of a run: accuracy by model, corpus, reward and time."""
    lines = []
    models = report.get("evaluate", {})
    rows = [
        row
        for model, scores in models.items()
        for tasks in [scores["tasks"]]
        for row in [
            (outputs.MODEL_LABELS.get(model, model), scores),
            *((f"  {name}", tasks[name]) for name in tasks if len(tasks) > 1),
        ]
    ]
    width = max([8, *(len(name) + 1 for name, _ in rows)])
    if models:
        lines.append(f"{'model':<{width}}{'greedy':>9}  {'95 % interval':<17}{'maj@k':>9}{'pass@k':>9}{'k':>5}{'n':>7}")
    for name, scores in rows:
        greedy, maj, pass_ = (percent(scores[score], "–") for score in outputs.SCORES)
        ends = f"{interval(scores['greedy_interval'])} %" if scores["greedy_interval"] else ""
        lines.append(f"{name:<{width}}{greedy:>9}  {ends:<17}{maj:>9}{pass_:>9}{scores['k']:>5}{scores['n']:>7}")
    if "corpus" in report:
        precision, recall = (percent(report["corpus"][field]) for field in ("precision", "recall"))
        documents = number(report["corpus"]["documents_kept"])
        lines.append(f"corpus  {documents} documents kept, precision {precision}, recall {recall}")
    if "reward_first" in report.get("rl", {}):
        lines.append(f"reward  {report['rl']['reward_first']:.3f} -> {report['rl']['reward_last']:.3f}")
    lines.append(f"time    {duration(sum(report['seconds'].values()))}")
    return "\n".join(lines)


def _render(name: str, run: outputs.Run) -> str:
    template = importlib.resources.files(__package__).joinpath("index.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "duration": duration,
        "interval": interval,
        "json": lambda value: json.dumps(value, indent=1, ensure_ascii=False),
        "number": number,
        "percent": percent,
        "svg": Markup,  # the plots escape the text in them
    }
    return environment.from_string(template).render(
        name=name,
        report=run.report,
        plots=plots.draw(run),
        training=list(run.metrics),
        iteration_columns=ITERATION_COLUMNS,
        domains=run.domains,
        domains_shown=DOMAINS_SHOWN,
        completions=run.completions,
        samples=run.samples,
        findings=[finding for finding in run.findings if not finding["normal"]],
        notes=[finding["message"] for finding in run.findings if finding["normal"]],
        chars_shown=CHARS_SHOWN,
        zero_curves=plots.zero_curves(run),
        manifests=run.manifests,
        stage_labels=outputs.STAGE_LABELS,
        model_labels=outputs.MODEL_LABELS,
        scores=outputs.SCORES,
    )
