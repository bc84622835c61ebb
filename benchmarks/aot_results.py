"""Results of `dsmath aot`, as rows of the tables in docs/aot.md."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dsmath_jax.aot.text import GIB, bounds_of
from dsmath_jax.formatting import duration


def compile_for(*arguments: str) -> dict[str, Any] | None:
    """Returns the JSON of `dsmath aot` with these arguments; None where the settings are refused.

    A separate process gives the memory of the compiler back. What a refused command says goes to stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "aot.json"
        command = [sys.executable, "-m", "dsmath_jax.aot", f"--json={out}", *arguments]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        return json.loads(out.read_text(encoding="utf-8")) if done.returncode == 0 else None


def cells(found: dict[str, Any]) -> list[str]:
    """Returns the cells of a result: peak memory, the bound, what is busiest, the MFU that it allows, the whole run.

    The bound is that of a step, or of a rollout and its updates.
    """
    bounds = bounds_of(found)
    peak = f"{found['hbm_bytes'] / GIB:.1f} of {found['chip_bytes'] / GIB:.1f}"
    if not bounds:
        return [peak, "", "", "", ""]
    seconds = sum(bound.overlapped for bound in bounds.values())
    limits = ", ".join(dict.fromkeys(bound.limit for bound in bounds.values()))
    rate = found["chip"]["peak_flops"]
    mfu = f"{100 * found['model_flops'] / rate / seconds:.0f} %" if rate and "model_flops" in found else ""
    runs = found["rollouts"] if "rollouts" in found else found["steps"]
    return [peak, f"{seconds:.3g} s", limits, mfu, duration(runs * seconds)]
