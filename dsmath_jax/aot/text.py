"""Formats results of `aot` for the terminal."""

from typing import Any

from dsmath_jax.aot.bound import Bound
from dsmath_jax.aot.costs import TRIP_COUNT
from dsmath_jax.formatting import duration

GIB = 2**30


def result_text(result: dict[str, Any]) -> str:
    """Formats the result of `compile_step`, `compile_rl` or `compile_sampler`."""
    memory = _rl_memory if "programs" in result else _step_memory
    lines = [f"{result['stage']} on {result['topology']}: {description(result)}", "", *memory(result)]
    fits = "fits" if result["fits"] else "DOES NOT FIT"
    lines += [f"{'at the peak':<28}{gib(result['hbm_bytes']):>14} of {gib(result['chip_bytes'])}: {fits}"]
    lines += [f"({note})"] if (note := unseen(result)) else []
    lines += ["", *bounds_lines(result)]
    lines += [f"not counted: {note}" for note in notes(result)]
    if result["full_rematerializations"]:
        lines += [f"arrays gathered whole to reshard them: {result['full_rematerializations']}"]
    return "\n".join(lines)


def unseen(result: dict[str, Any]) -> str:
    """Returns what the memory of a result does not include; "" for nothing."""
    if result["device_kind"].startswith("TPU"):
        return ""
    return "without the workspace of cuDNN and cuBLAS and the buffers of NCCL, which XLA does not plan"


def description(result: dict[str, Any]) -> str:
    """Returns the devices with their mesh, the work and what compiling took: `16 x TPU v5, fsdp 16; ...`."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in result["mesh"].items() if size > 1) or "one device"
    if "programs" in result:
        work = f"{result['rows']:,} completions of up to {result['new_tokens']:,} tokens"
    else:
        work = (
            f"{result['tokens']:,} tokens a step in {result['grad_accum_steps']} micro-batches, "
            f"remat {result['model']['remat']}"
        )
    seconds = sum(program["seconds"] for program in programs_of(result).values())
    return f"{result['devices']} x {result['device_kind']}, {mesh}; {work}; compiled in {duration(seconds)}"


def _step_memory(result: dict[str, Any]) -> list[str]:
    if result["memory"] is None:
        return ["XLA refuses to compile it: not enough memory."]
    return [f"{name:<28}{gib(size):>14}" for name, size in result["memory"].items()]


def _rl_memory(result: dict[str, Any]) -> list[str]:
    lines = []
    for name, program in result["programs"].items():
        memory = program["memory"]
        parts = ", ".join(f"{part} {gib(size)}" for part, size in memory.items()) if memory else "refused"
        lines += [f"{name:<28}{gib(program['hbm_bytes']):>14} at its peak ({parts})"]
    for phase, parts in result["phases"].items():
        lines += ["", f"phase {phase}: {gib(sum(parts.values()))}, the sum of"]
        lines += [f"  {part:<28}{gib(size):>14}" for part, size in parts.items()]
    return [*lines, ""]


def bounds_of(result: dict[str, Any]) -> dict[str, Bound]:
    """Returns the bounds of a result's phases: those of RL, or of the step; none if a program was refused."""
    if "bounds" in result:
        return {phase: Bound(**bound) for phase, bound in result["bounds"].items()}
    return {"step": Bound(**result["bound"])} if result["bound"] else {}


def bounds_lines(result: dict[str, Any]) -> list[str]:
    """Formats the bounds of the phases as a table, and what follows from them for the run."""
    bounds = bounds_of(result)
    if not bounds:
        return []
    columns = ("compute", "memory", "links", "network")
    names = "".join(f"{name:>10}" for name in (*columns, "at least", "serial"))
    lines = [f"{'seconds, at least':<18}{names}  limit"]
    for phase, bound in bounds.items():
        values = "".join(f"{seconds:>10.3g}" for seconds in (*bound, bound.overlapped, bound.serial))
        lines += [f"{phase:<18}{values}  {bound.limit}"]
    return [*lines, "", *run_lines(result, bounds)]


def run_lines(result: dict[str, Any], bounds: dict[str, Bound]) -> list[str]:
    """Returns what the bounds allow: tokens per second, MFU and the time of the whole run."""
    seconds, serial = (sum(getattr(b, name) for b in bounds.values()) for name in ("overlapped", "serial"))
    if not seconds:
        return []
    if "programs" in result:
        tokens = result["rows"] * result["new_tokens"]
        least = f"{duration(seconds)}, {duration(serial)} without overlap"
        full = f"if every completion has {result['new_tokens']:,} tokens"
        lines = [f"a rollout and its updates take at least {least}, {full}"]
        lines += [f"at most {tokens / seconds:,.0f} sampled tokens per second"]
        repeats, what = result.get("rollouts", 0), "such rollouts"
    else:
        peak = result["chip"]["peak_flops"]  # None of a user's GPU that is not in the table
        mfu = f" and {100 * result['model_flops'] / peak / seconds:.0f} % MFU" if peak else ""
        lines = [f"a step takes at least {duration(seconds)}, {duration(serial)} without overlap"]
        lines += [f"at most {result['tokens'] / seconds:,.0f} tokens per second{mfu}"]
        lines += [f"FLOPs: {result['flops_ratio']:.2f} times the formula's"]
        repeats, what = result["steps"], "steps"
    return [*lines, f"all {repeats:,} {what}: at least {duration(repeats * seconds)}"] if repeats else lines


def notes(result: dict[str, Any]) -> list[str]:
    """Returns what was not counted in any program; loops only by their number, since a program may have dozens."""
    found = {note for program in programs_of(result).values() for note in program["notes"]}
    loops = {note for note in found if note.startswith(TRIP_COUNT)}
    counted = [f"{TRIP_COUNT} {len(loops)} loops, which depends on data"] if loops else []
    return sorted(found - loops) + counted


def programs_of(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the programs of a result by name; "" is that of a train step."""
    return result.get("programs", {"": result})


def gib(size: float) -> str:
    """Formats bytes as GiB."""
    return f"{size / GIB:.3f} GiB"
