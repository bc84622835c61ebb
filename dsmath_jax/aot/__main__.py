"""Compiles a stage ahead of time for TPUs or GPUs: its peak memory, and a lower bound of its time.

dsmath aot --config=pretrain_7b --topology=v5p:4x4x8
dsmath aot --config=grpo_7b --stage=rl --topology=h100:8

The exit code is 0 whether it fits or not.

The stages are pretrain, sft, reward_model and process_model (the train step), rl (all of its programs, and the memory
of each phase) and sample (only the sampler, by the section rl). The default is the first of pretrain, sft and rl that
the config has.

`--config.pretrain.grad_accum_steps=4` sets a field of the config. Of a model that the stage starts from as `hf:DIR`,
only `config.json` is read.
"""

import json
import os
import sys
from collections.abc import Sequence

STAGES = ("pretrain", "sft", "rl")
# Read when JAX and libtpu are loaded: no TPU is searched for, several processes may use libtpu at once, and libtpu
# prints warnings, which `aot.program` counts.
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

    from dsmath_jax.aot.page import page
    from dsmath_jax.aot.reward_model import STAGES as REWARD_STAGES
    from dsmath_jax.aot.reward_model import compile_reward_step
    from dsmath_jax.aot.rl import compile_rl, compile_sampler
    from dsmath_jax.aot.step import compile_step, with_initial_model
    from dsmath_jax.aot.suggest import suggest, suggestion_text
    from dsmath_jax.aot.text import result_text
    from dsmath_jax.command_line import HELP, define_config, help_text, parse
    from dsmath_jax.workdir import UserError, atomic_write, local_path, write_json

    def define() -> flags.FlagValues:
        values = flags.FlagValues()
        flags.DEFINE_string("topology", None, "v5e:4x4, v5p-32, 2xv5p:4x4x4 (slices), h100:8, h100:4x8.", values)
        flags.DEFINE_enum("stage", "", ["", *STAGES, *REWARD_STAGES, "sample"], "What to compile.", values)
        flags.DEFINE_string("json", "", "A JSON file for the numbers; --json alone prints them.", values)
        flags.DEFINE_string("page", "", "An HTML page for the result.", values)
        flags.DEFINE_bool("suggest", False, "Search mesh, micro-batches, remat and decode slots.", values)
        define_config(values)
        return values

    argv = ["--json=-" if argument == "--json" else argument for argument in argv]
    if HELP & set(argv):
        print(help_text(__doc__ or "", argv, define()))
        return
    values, recipe = parse(argv, define, "dsmath aot")
    if values.topology is None:
        raise UserError("--topology is missing; give it as --topology=v5p:4x4x8 or --topology=h100:8.")
    if values.suggest and values.stage not in ("", *STAGES):
        raise UserError("--suggest searches for pretrain, sft or rl; give one of these as --stage.")
    if values.suggest and (values.json or values.page):
        raise UserError(
            "--suggest prints a table; remove --json and --page, or give them with the settings that it finds."
        )
    stage = values.stage or next((name for name in STAGES if getattr(recipe, name) is not None), STAGES[0])
    recipe = with_initial_model(recipe, "rl" if stage == "sample" else stage)
    if values.suggest:
        print(suggestion_text(*suggest(recipe, stage, values.topology), stage))
        return
    if stage in ("rl", "sample"):
        result = (compile_rl if stage == "rl" else compile_sampler)(recipe, values.topology)
    else:
        result = (compile_reward_step if stage in REWARD_STAGES else compile_step)(recipe, stage, values.topology)
    if values.json == "-":
        print(json.dumps(result, indent=1))
        return
    if values.json:
        write_json(local_path(values.json, "--json"), result)
    if values.page:
        with atomic_write(local_path(values.page, "--page")) as file:
            file.write(page(result))
    print(result_text(result))


if __name__ == "__main__":
    os.environ |= ENVIRONMENT
    from dsmath_jax.workdir import exit_code

    sys.exit(exit_code(lambda: main(sys.argv)))
