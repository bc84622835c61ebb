"""Evaluates a model on tasks: dsmath evaluate --checkpoint=CHECKPOINT --tasks=gsm8k,cmath --out=FOLDER

CHECKPOINT is the folder of a stage that trains (RUN/sft, RUN/rl), or hf:DIR in Hugging Face's format. Use
--style=few_shot for a base model, and --style=chat for a model after instruction tuning: it is asked with the chat
template and the instruction of its training, in chat.json next to the model. Without that file the template is the
tokenizer's or --template, and the instruction is the paper's. The same command resumes a killed evaluation.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import jax

from dsmath_jax.compilation import use_compilation_cache
from dsmath_jax.data.chat import SETTINGS
from dsmath_jax.data.questions import Mode
from dsmath_jax.evaluation.answering import Settings, check_chat_settings
from dsmath_jax.evaluation.policy import Policy, with_chat_settings
from dsmath_jax.evaluation.registry import TASKS, Style, task
from dsmath_jax.evaluation.run import Provenance, run
from dsmath_jax.grading.sandbox import Sandbox
from dsmath_jax.processes import join_processes
from dsmath_jax.sampling.dtypes import DecodeDtypes
from dsmath_jax.sampling.thinking import check_max_thinking_tokens
from dsmath_jax.settings import field_specs
from dsmath_jax.sharding import AXES, Layout, MeshSettings, make_mesh
from dsmath_jax.training.model_files import load_model, local_checkpoint
from dsmath_jax.workdir import UserError, exit_code, local_path, lock

INSTRUCTION_DEFAULT = "(default: what the checkpoint was trained with; the paper's where that is unknown)"
DTYPES = ("bfloat16", "float32")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "dsmath evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="the folder of a stage, hf:DIR, or hf:OWNER/NAME[@REVISION] of the Hub")
    add(
        "--tasks",
        required=True,
        type=_names,
        help=f"of {', '.join(TASKS)}, data sets (toy/test), your own (mine.jsonl, folder/, hf:OWNER/NAME/SPLIT, "
        "package.module:TASK); joined by commas",
    )
    add("--data_dir", type=local_path, default=Path("data"), help="the folder of the data sets (default: data)")
    add("--out", type=local_path, required=True, help="the folder of the results")
    choices = {"mode": get_args(Mode), "style": get_args(Style)}
    for spec in [*field_specs(Settings, {}), *field_specs(DecodeDtypes, {})]:
        kind = type(spec.default)
        add(
            f"--{spec.name}",
            type=PARSERS.get(kind, kind),
            default=spec.default,
            choices=choices.get(spec.name),
            help=spec.field.metadata["help"],
        )
    add(
        "--instruction",
        help="below every question in a chat: a text, 'paper' for the paper's, '' for none " + INSTRUCTION_DEFAULT,
    )
    add("--template", help="Jinja chat template, or 'paper' for DeepSeekMath's (default: the model's)")
    add("--system", help="system message in a chat, '' for none (default: that of the training)")
    add(
        "--template_kwargs", type=_object, help="variables of the chat template, such as '{\"enable_thinking\": false}'"
    )
    add("--max_new_tokens", type=int, default=1024, help="length limit of a completion, or of a turn with tools")
    add("--decode_slots", type=int, default=256, help="completions that are decoded at a time")
    add("--tokenizer", default="", help="its file or folder (default: the model's)")
    add(
        "--dtype",
        choices=DTYPES,
        default="",
        help="to compute in (default: the stage's; Hugging Face: bfloat16, on CPUs float32)",
    )
    add("--mesh", type=_mesh, default={}, help="sizes of its axes, such as '{\"tensor\": 4}'; fsdp takes the rest")
    add("--compilation_cache", default="", help="folder of compiled programs, as config.compilation_cache has it")
    add("--allow-unsandboxed", action="store_true", help="run model-written programs even if nothing contains them")
    add("--distributed", action="store_true", help="this is one process of several, which JAX finds (TPU, SLURM)")
    add("--coordinator", default="", help="HOST:PORT of process 0, where JAX cannot find it by itself")
    add("--processes", type=int, default=0, help="the number of processes, with --coordinator")
    add("--process", type=int, default=-1, help="the number of this one, from 0, with --coordinator")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",")))


def _object(text: str, of: str = "") -> dict[str, Any]:
    """Parses a JSON object.

    Raises:
      argparse.ArgumentTypeError: the text is something else; the error says what it must consist `of`.
    """
    with contextlib.suppress(ValueError):
        if isinstance(value := json.loads(text), dict):
            return value
    raise argparse.ArgumentTypeError(f"'{text}' is not a JSON object{of}")


def _mesh(text: str) -> dict[str, int]:
    """Parses the sizes of mesh axes.

    Raises:
      argparse.ArgumentTypeError: the text is something else.
    """
    of = f" of integers by axis of {', '.join(AXES)}"
    sizes = _object(text, of)
    if not (sizes.keys() <= {*AXES} and all(type(size) is int for size in sizes.values())):
        raise argparse.ArgumentTypeError(f"'{text}' is not a JSON object{of}")
    return sizes


PARSERS: dict[type, Callable[[str], Any]] = {tuple: _names, dict: _object}  # of options, by their types


def evaluate(values: argparse.Namespace, command: str) -> None:
    """Runs an evaluation and prints its table, which contains `command`.

    Raises:
      UserError: an option, or something that it names, is invalid.
    """
    for name in ("max_new_tokens", "decode_slots"):
        if getattr(values, name) < 1:
            raise UserError(f"--{name} is {getattr(values, name)}; it must be at least 1.")
    try:
        settings = Settings(**{field.name: getattr(values, field.name) for field in dataclasses.fields(Settings)})
        check_max_thinking_tokens(settings.max_thinking_tokens, values.max_new_tokens)
        dtypes = DecodeDtypes(**{field.name: getattr(values, field.name) for field in dataclasses.fields(DecodeDtypes)})
    except UserError as error:
        raise UserError(f"--{error}") from None
    for name in values.tasks:
        task(name)  # reports a misspelled one before anything is read
    chat = {name: value for name in SETTINGS if (value := vars(values).get(name)) is not None}
    check_chat_settings(settings, chat)
    several = values.distributed or values.coordinator
    with join_processes(values.coordinator, values.processes, values.process) if several else contextlib.nullcontext():
        use_compilation_cache(values.compilation_cache, values.out)
        with lock(values.out, "--out") if jax.process_index() == 0 else contextlib.nullcontext():
            layout = Layout(make_mesh(MeshSettings(**values.mesh)))
            checkpoint = local_checkpoint(values.checkpoint, values.data_dir)
            model = load_model(checkpoint, layout, values.tokenizer, values.dtype)
            model = with_chat_settings(model, chat)
            policy = Policy.of(model, values.max_new_tokens, values.decode_slots, dtypes)
            make_sandbox = functools.partial(Sandbox, allow_unsandboxed=values.allow_unsandboxed)
            provenance = Provenance(values.checkpoint, command)
            page = run(policy, values.tasks, settings, values.data_dir, values.out, provenance, make_sandbox)
            if jax.process_index() == 0:
                print(page)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    arguments = [*(sys.argv[1:] if argv is None else argv)]
    values = _parser().parse_args(arguments)
    evaluate(values, shlex.join(["python", "-m", "dsmath_jax.evaluation", *arguments]))


if __name__ == "__main__":
    sys.exit(exit_code(main))
