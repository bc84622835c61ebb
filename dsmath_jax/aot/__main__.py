"""Compiles a recipe's stage for a TPU slice, without TPUs, and prints whether it fits: `dsmath aot
--config=pretrain_7b --topology=v5p:4x4x8`. The exit code is 0 when it could be compiled, whether it fits or not.

The stages are pretrain and sft (the train step), rl (all of its programs, and what it holds in each phase) and sample
(the sampler alone, by the fields of the part rl). By default the first of pretrain, sft and rl that the config has.

Any field of the config may be set on the command line: `--config.pretrain.grad_accum_steps=4`.
"""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

STAGES = ("pretrain", "sft", "rl")
# JAX and libtpu read these as they are loaded: no TPU is looked for, several processes may use libtpu at once, and
# libtpu warns, of which `aot.step` makes a count.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_MIN_LOG_LEVEL": "1",
    "TPU_STDERR_LOG_LEVEL": "1",
}


def main(argv: Sequence[str]) -> None:
    """Compiles what the command line asks for and prints what it needs.

    Raises:
      UserError: something the user can fix.
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
        flags.DEFINE_string("json", "", "A file for the raw numbers; --json alone prints them.", values)
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
    compiled = {"rl": compile_rl, "sample": compile_sampler}.get(stage)
    found = compiled(recipe, values.topology) if compiled else compile_step(recipe, stage, values.topology)
    if values.json == "-":
        print(json.dumps(found, indent=1))
        return
    if values.json:
        write_json(local_path(values.json, "--json"), found)
    print(told(found) if compiled is None else told_programs(found))


def told_programs(found: dict[str, Any]) -> str:
    """The numbers of `compile_rl` and `compile_sampler` as lines to read."""
    lines = [_heading(found) + f"; {found['rows']:,} completions of up to {found['new_tokens']:,} tokens", ""]
    for name, program in found["programs"].items():
        memory = program["memory"]
        parts = ", ".join(f"{part} {gib(size).strip()}" for part, size in memory.items()) if memory else "refused"
        lines.append(f"{name:<16}{gib(program['hbm_bytes'])} at its peak ({parts}); {program['compile_seconds']:.0f} s")
    for phase, parts in found["phases"].items():
        lines += ["", f"phase {phase}: {gib(sum(parts.values())).strip()}, the sum of"]
        lines += [f"  {part:<28}{gib(size)}" for part, size in parts.items()]
    fits = "fits" if found["fits"] else "DOES NOT FIT"
    lines += ["", f"at most {gib(found['hbm_bytes']).strip()} of {gib(found['chip_bytes']).strip()}: {fits}"]
    if found["full_rematerializations"]:
        lines += [f"arrays gathered whole to be laid out anew: {found['full_rematerializations']}"]
    return "\n".join(lines)


def _heading(found: dict[str, Any]) -> str:
    mesh = " x ".join(f"{axis} {size}" for axis, size in found["mesh"].items() if size > 1) or "one device"
    return f"{found['stage']} on {found['topology']}: {found['devices']} x {found['device_kind']}, {mesh}"


def told(found: dict[str, Any]) -> str:
    """The numbers of `compile_step` as lines to read."""
    lines = [
        _heading(found) + f"; {found['tokens']:,} tokens a step in {found['grad_accum_steps']} parts, "
        f"remat {found['model']['remat']}",
    ]
    if found["memory"] is None:
        lines += ["XLA refuses to compile it for its memory."]
    else:
        lines += [f"{name:<12}{gib(size)}" for name, size in found["memory"].items()]
    lines += [
        f"{'at the peak':<12}{gib(found['hbm_bytes'])} of {gib(found['chip_bytes']).strip()}: "
        + ("fits" if found["fits"] else "DOES NOT FIT"),
    ]
    if found["memory"] is not None:
        lines += [
            f"FLOPs a step and device: {found['flops']:.3e} compiled, {found['model_flops']:.3e} by the formula: "
            f"{found['flops_ratio']:.2f} times (what remat does again, and masked halves of attention)",
            *(
                f"{kind:<20}{total['count']:>8,} times {gib(total['bytes'])} sent by each device"
                for kind, total in found["collectives"].items()
            ),
        ]
    if found["full_rematerializations"]:
        lines += [f"arrays gathered whole to be laid out anew: {found['full_rematerializations']}"]
    lines += [f"not counted: {note}" for note in found["notes"]]
    lines += [
        f"at {100 * found['expected_mfu']:.0f} % MFU (supposed): {found['step_seconds']:.3g} s a step, "
        f"{found['run_days']:.3g} days for {found['steps']:,} steps",
        f"compiled in {found['compile_seconds']:.0f} s after {found['lower_seconds']:.0f} s of tracing",
    ]
    return "\n".join(lines)


def gib(size: float) -> str:
    return f"{size / 2**30:>10.3f} GiB"


if __name__ == "__main__":
    os.environ |= ENVIRONMENT
    from dsmath_jax.workdir import exit_code

    sys.exit(exit_code(lambda: main(sys.argv)))
