"""The command `dsmath`, also `python -m dsmath_jax`: each subcommand runs a module as `python -m MODULE` does."""

import os
import runpy
import sys
from typing import NamedTuple

from dsmath_jax.settings import nearest
from dsmath_jax.version import __version__
from dsmath_jax.workdir import UserError, exit_code


class Command(NamedTuple):
    """A subcommand: the module that it runs, a line of help, and arguments that precede those of the user."""

    module: str
    help: str
    arguments: tuple[str, ...] = ()


COMMANDS = {
    "run": Command("dsmath_jax.main", "run the stages of a recipe: corpus, tokenizer, training, evaluation, report"),
    "evaluate": Command("dsmath_jax.evaluation", "evaluate a checkpoint on tasks"),
    "grade": Command("dsmath_jax.grading", "grade completions from any source"),
    "mine": Command("dsmath_jax.main", "run a recipe's stage corpus: web crawl to mathematics", ("--stages=corpus",)),
    "doctor": Command("dsmath_jax.doctor", "check a Hugging Face model: import, tokenizer, template, SFT and GRPO"),
    "aot": Command("dsmath_jax.aot", "compile a stage for a TPU slice and print its memory, FLOPs and traffic"),
    "convert": Command("dsmath_jax.models.huggingface", "import and export checkpoints in Hugging Face's format"),
    "report": Command("dsmath_jax.report.comparison", "compare finished runs in tables and plots"),
    "rollouts": Command("dsmath_jax.report.rollouts", "write a page of a run's rollouts, with rewards and advantages"),
}
HELP = "\n".join(
    [
        "usage: dsmath COMMAND [ARGUMENT ...]",
        "",
        *(f"  {name:<10}{command.help}" for name, command in COMMANDS.items()),
        "",
        "dsmath COMMAND --help lists a command's arguments; dsmath --version prints the version.",
    ]
)


def main() -> int:
    """Runs the subcommand of `sys.argv` and returns the exit code."""
    return exit_code(_run)


def _run() -> None:
    name, *arguments = sys.argv[1:] or [""]
    if name in ("-h", "--help"):
        print(HELP)
    elif name == "--version":
        print(f"dsmath {__version__}")
    elif name in COMMANDS:
        command = COMMANDS[name]
        sys.argv[1:] = [*command.arguments, *arguments]
        sys.path.insert(0, os.getcwd())  # as `python -m` does: recipes name reward functions of the user's modules
        runpy.run_module(command.module, run_name="__main__", alter_sys=True)
    else:
        what = f"Unknown command '{name}'{nearest(name, COMMANDS)}" if name else "The command is missing"
        raise UserError(f"{what}; the commands are {', '.join(COMMANDS)}, see dsmath --help.")


if __name__ == "__main__":
    sys.exit(main())
