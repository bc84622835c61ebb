"""Compiles a stage for a TPU slice, without TPUs, and reports whether it fits.

dsmath aot --config=pretrain_7b --topology=v5p:4x4x8

The exit code is 0 whether it fits or not.

The stages are pretrain and sft (the train step), rl (all of its programs, and the memory of each phase) and sample
(only the sampler, by the section rl). The default is the first of pretrain, sft and rl that the config has.

`--config.pretrain.grad_accum_steps=4` sets a field of the config.
"""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from dsmath_jax.formatting import duration

STAGES = ("pretrain", "sft", "rl")
# Read when JAX and libtpu are loaded: no TPU is searched for, several processes may use libtpu at once, and libtpu
# prints warnings, which `aot.step` counts.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_MIN_LOG_LEVEL": "1",
    "TPU_STDERR_LOG_LEVEL": "1",
}


def main(argv: Sequence[str]) -> None:
    """Compiles the stage of the command line and prints its costs.

    Raises:
      UserError: the command line, the config or the topology is invalid, or libtpu is missing.
    """
    from absl import flags

    from dsmath_jax.aot.rl import compile_rl, compile_sampler
    from dsmath_jax.aot.step import compile_step
    from dsmath_jax.command_line import HELP, define_config, help_text, parse
    from dsmath_jax.workdir import UserError, local_path, write_json

    def define() -> flags.FlagValues:
        values = flags.FlagValues()
        flags.DEFINE_string("topology", None, "The slice: v5e:4x4, v5p:4x4x8, 2xv5p:4x4x4 (two slices).", values)
        flags.DEFINE_enum("stage", "", ["", *STAGES, "sample"], "What to compile.", values)
        flags.DEFINE_string("json", "", "A JSON file for the numbers; --json alone prints them.", values)
        define_config(values)
        return values

    argv = ["--json=-" if argument == "--json" else argument for argument in argv]
    if HELP & set(argv):
        print(help_text(__doc__ or "", argv, define()))
        return
    values, recipe = parse(argv, define, "dsmath aot")
    if values.topology is None:
        raise UserError("--topology is missing; give the TPU slice as --topology=v5p:4x4x8.")
    stage = values.stage or next((name for name in STAGES if getattr(recipe, name) is not None), STAGES[0])
    compiler = {"rl": compile_rl, "sample": compile_sampler}.get(stage)
    result = compiler(recipe, values.topology) if compiler else compile_step(recipe, stage, values.topology)
    if values.json == "-":
        print(json.dumps(result, indent=1))
        return
    if values.json:
        write_json(local_path(values.json, "--json"), result)
    print(step_text(result) if compiler is None else programs_text(result))


def programs_text(result: dict[str, Any]) -> str:
    """Formats the result of `compile_rl` or `compile_sampler`."""
    lines = [_heading(result) + f"; {result['rows']:,} completions of up to {result['new_tokens']:,} tokens", ""]
    for name, program in result["programs"].items():
        memory = program["memory"]
        parts = ", ".join(f"{part} {gib(size).strip()}" for part, size in memory.items()) if memory else "refused"
        peak, seconds = gib(program["hbm_bytes"]), duration(program["compile_seconds"])
        lines.append(f"{name:<16}{peak} at its peak ({parts}); {seconds}")
    for phase, parts in result["phases"].items():
        lines += ["", f"phase {phase}: {gib(sum(parts.values())).strip()}, the sum of"]
        lines += [f"  {part:<28}{gib(size)}" for part, size in parts.items()]
    fits = "fits" if result["fits"] else "DOES NOT FIT"
    lines += ["", f"at most {gib(result['hbm_bytes']).strip()} of {gib(result['chip_bytes']).strip()}: {fits}"]
    if result["full_rematerializations"]:
        lines += [f"arrays gathered whole to reshard them: {result['full_rematerializations']}"]
    return "\n".join(lines)


def _heading(result: dict[str, Any]) -> str:
    mesh = " x ".join(f"{axis} {size}" for axis, size in result["mesh"].items() if size > 1) or "one device"
    return f"{result['stage']} on {result['topology']}: {result['devices']} x {result['device_kind']}, {mesh}"


def step_text(result: dict[str, Any]) -> str:
    """Formats the result of `compile_step`."""
    lines = [
        _heading(result) + f"; {result['tokens']:,} tokens a step in {result['grad_accum_steps']} micro-batches, "
        f"remat {result['model']['remat']}",
    ]
    if result["memory"] is None:
        lines += ["XLA refuses to compile it: not enough memory."]
    else:
        lines += [f"{name:<12}{gib(size)}" for name, size in result["memory"].items()]
    lines += [
        f"{'at the peak':<12}{gib(result['hbm_bytes'])} of {gib(result['chip_bytes']).strip()}: "
        + ("fits" if result["fits"] else "DOES NOT FIT"),
    ]
    if result["memory"] is not None:
        lines += [
            f"FLOPs a step and device: {result['flops']:.3e} compiled, {result['model_flops']:.3e} by the formula: "
            f"{result['flops_ratio']:.2f} times (rematerialization, and masked halves of attention)",
            *(
                f"{kind:<20}{total['count']:>8,} times {gib(total['bytes'])} sent by each device"
                for kind, total in result["collectives"].items()
            ),
        ]
    if result["full_rematerializations"]:
        lines += [f"arrays gathered whole to reshard them: {result['full_rematerializations']}"]
    lines += [f"not counted: {note}" for note in result["notes"]]
    lines += [
        f"at {100 * result['expected_mfu']:.0f} % MFU (assumed): {result['step_seconds']:.3g} s a step, "
        f"{result['run_days']:.3g} days for {result['steps']:,} steps",
        f"compiled in {duration(result['compile_seconds'])} after {duration(result['lower_seconds'])} of tracing",
    ]
    return "\n".join(lines)


def gib(size: float) -> str:
    """Formats bytes as GiB, right-aligned."""
    return f"{size / 2**30:>10.3f} GiB"


if __name__ == "__main__":
    os.environ |= ENVIRONMENT
    from dsmath_jax.workdir import exit_code

    sys.exit(exit_code(lambda: main(sys.argv)))
