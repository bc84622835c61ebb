"""The result of `aot` as one self-contained HTML page."""

import importlib.resources
from typing import Any

import jinja2

from dsmath_jax.aot.text import bounds_of, devices_text, gib, notes, programs_of, run_lines, unseen

COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")


def page(result: dict[str, Any]) -> str:
    """Returns the page: memory by kind against the device's, the bounds by phase, and transfers by mesh axis."""
    sent = {name: program["collectives"] for name, program in programs_of(result).items()}
    memory = result.get("phases") or {"the step": _parts(result)}
    largest = max(result["chip_bytes"], *(sum(parts.values()) for parts in memory.values()))
    bounds = bounds_of(result)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    source = (importlib.resources.files(__package__) / "page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        result=result,
        devices=devices_text(result),
        memory=memory,
        scale=1.02 * largest,
        colors=COLORS,
        bounds=bounds,
        run=run_lines(result, bounds),
        collectives={name: rows for name, rows in sent.items() if rows},
        notes=notes(result),
        note=unseen(result),
        gib=gib,
    )


def _parts(result: dict[str, Any]) -> dict[str, int]:
    """Returns the peak of a step by kind: what is not arguments or code is temporary."""
    if result["memory"] is None:
        return {"needed": result["hbm_bytes"]}
    fixed = {name: result["memory"][name] for name in ("arguments", "code")}
    return fixed | {"temporaries at the peak": max(0, result["hbm_bytes"] - sum(fixed.values()))}
