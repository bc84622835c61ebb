"""The settings of the stage `evaluate`."""

import dataclasses

from dsmath_jax.data import datasets
from dsmath_jax.data.hub import HUGGING_FACE
from dsmath_jax.data.settings import DataSettings
from dsmath_jax.evaluation import registry
from dsmath_jax.evaluation.statistics import MAX_SAMPLES
from dsmath_jax.sampling.dtypes import DecodeDtypes
from dsmath_jax.sampling.thinking import THINKING_HELP, check_max_thinking_tokens
from dsmath_jax.settings import MAX_TEMPERATURE, check_choice, find_same, setting
from dsmath_jax.workdir import UserError, folder_name

# The models of a run: the stage that makes each, and whether it is asked with few-shot examples.
MODELS = {"base": ("pretrain", True), "sft": ("sft", False), "rl": ("rl", False)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateSettings(DataSettings, DecodeDtypes):
    """The stage `evaluate`: greedy accuracy, maj@k and pass@k of the models of a run (section 5.2.2)."""

    tasks: tuple[str, ...] = setting(
        help="tasks (gsm8k), data sets (toy/test), your files and folders/, hf:OWNER/NAME/SPLIT, package.module:TASK",
        nonempty=True,
    )
    problems: int = setting(
        0, "maximum number of problems of each task, drawn evenly over its subjects and levels; 0 for all", ge=0
    )
    samples: int = setting(
        8, "K: completions of each problem, in addition to the greedy one (section 5.2.2)", ge=1, le=MAX_SAMPLES
    )
    temperature: float = setting(0.7, "sampling temperature (section 5.2.2)", ge=0, le=MAX_TEMPERATURE)
    max_new_tokens: int = setting(1024, "length limit of a completion, in tokens", ge=1)
    max_thinking_tokens: int = setting(0, THINKING_HELP, ge=0)
    decode_slots: int = setting(256, "completions that are decoded at a time, on all devices", ge=1)
    models: tuple[str, ...] = setting(
        ("base", "sft", "rl"),
        f"models to evaluate: of {', '.join(MODELS)}, or hf:DIR below data_dir or of the Hub",
        nonempty=True,
        local=True,
    )
    examples: tuple[str, ...] = setting(
        (), "data sets or files of a base model's few-shot examples; () for the task's own"
    )
    shots: int = setting(
        0, "few-shot examples before a question to a base model; 0 for the task's number, or all of a file", ge=0
    )
    allow_overlap: bool = setting(
        False, "count questions of `tasks` that a model was trained on instead of refusing them", changes_result=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_max_thinking_tokens(self.max_thinking_tokens, self.max_new_tokens)
        for number, name in enumerate(self.models):
            if not name.startswith(HUGGING_FACE):
                check_choice(f"models[{number}]", name, [*MODELS, f"{HUGGING_FACE}DIR"])
        if same := find_same(self.models, folder_name):
            raise UserError(f"models: the results of {' and '.join(same)} would have one folder; remove one.")
        for name in self.tasks:
            try:
                registry.task(name)
            except UserError as error:
                raise UserError(f"tasks: {error}") from None
        for name in self.examples:
            if not datasets.is_own(name) and not self.shots:
                raise UserError(f"shots is 0, but examples names the data set '{name}'; give the number of examples.")
