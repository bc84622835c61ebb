"""The result of `aot` as one self-contained HTML page."""

import importlib.resources
from typing import Any

import jinja2

from dsmath_jax.aot.text import bounds_of, description, notes, programs_of, run_lines, unseen
from dsmath_jax.formatting import number

COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999", "#ee8866", "#44bb99")
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def page(result: dict[str, Any]) -> str:
    """Returns the page: memory by kind against the device's, the bounds by phase, and transfers by mesh axis."""
    programs = programs_of(result)
    memory = result.get("phases") or {"the step": _parts(result)}
    parts = dict.fromkeys(part for phase in memory.values() for part in phase)
    largest = max(result["chip_bytes"], *(sum(phase.values()) for phase in memory.values()))
    bounds = bounds_of(result)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    source = (importlib.resources.files(__package__) / "page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        result=result,
        description=description(result),
        memory=memory,
        scale=1.02 * largest,
        colors={part: COLORS[i % len(COLORS)] for i, part in enumerate(parts)},
        bounds=bounds,
        longest=max((bound.overlapped for bound in bounds.values()), default=0.0),
        bar=COLORS[0],
        run=run_lines(result, bounds),
        programs=programs,
        sent={name: program["collectives"] for name, program in programs.items() if program["collectives"]},
        notes=notes(result),
        note=unseen(result),
        size=size,
        number=number,
    )


def size(count: float) -> str:
    """Formats bytes with three significant digits: `1.62 GiB`, `812 KiB`."""
    value, unit = float(count), 0
    while value >= 1000 and unit < len(UNITS) - 1:
        value, unit = value / 1024, unit + 1
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits if unit else 0}f} {UNITS[unit]}"


def _parts(result: dict[str, Any]) -> dict[str, int]:
    """Returns the peak of a step by kind: what is not arguments or code is temporary."""
    if result["memory"] is None:
        return {"needed": result["hbm_bytes"]}
    fixed = {name: result["memory"][name] for name in ("arguments", "code")}
    return fixed | {"temporaries at the peak": max(0, result["hbm_bytes"] - sum(fixed.values()))}
