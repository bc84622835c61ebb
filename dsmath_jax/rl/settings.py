"""Settings of the stage `rl`, with the paper's values (§4) where known."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from dsmath_jax.data.own_data import Columns
from dsmath_jax.data.settings import DataSettings
from dsmath_jax.models.config import DTYPES
from dsmath_jax.rl.algorithms import GRPO, METHODS, REWARD_STAGES, REWARDS, Algorithm
from dsmath_jax.rl.reward_model.settings import RetrainSettings
from dsmath_jax.sampling.thinking import THINKING_HELP, check_max_thinking_tokens
from dsmath_jax.settings import INT32, MAX_TEMPERATURE, check_choice, setting
from dsmath_jax.training.settings import LORA_HELP, LoraSettings, TrainingSettings, stages_of
from dsmath_jax.workdir import UserError

DEFAULT_METHOD = "grpo_rule"
DAY = 86_400  # seconds; libraries refuse much longer timeouts
# Fields of rollouts. Methods without rollouts ignore them: their completions are in the data, or sampled once at
# temperature 1, without top_p and top_k, and graded by `correct`.
ROLLOUT_FIELDS = frozenset(
    ("reward_fns", "top_p", "top_k", "num_updates", "old_logprobs", "mask_truncated", "filter_zero_std_groups")
)


def algorithm_of(fields: Mapping[str, Any]) -> type[Algorithm]:
    """Returns the algorithm class of the method in a recipe's section `rl`."""
    method = fields.get("method", DEFAULT_METHOD)
    check_choice("rl.method", method, METHODS)
    return METHODS[method].algorithm


def with_method(fields: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Returns a recipe's section `rl` with another method, without the fields that only its old method has."""
    left_out = _fields_of_method(fields) - _fields_of_method({"method": method})
    return {name: value for name, value in fields.items() if name not in left_out} | {"method": method}


@functools.cache
def _one_of_equal(algorithm: Algorithm) -> Algorithm:
    """Returns the first of equal algorithms: the train step of its `loss` is compiled once."""
    return algorithm


def _fields_of_method(fields: Mapping[str, Any]) -> set[str]:
    """Returns the fields that a method has and others may lack: its algorithm's own, and those of rollouts."""
    classes = algorithm_of(fields), RLSettings
    algorithm, shared = ({field.name for field in dataclasses.fields(cls)} for cls in classes)
    completions = METHODS[fields.get("method", DEFAULT_METHOD)].completions
    return algorithm - shared | (ROLLOUT_FIELDS if completions == "policy" else frozenset())


def with_weights(reward_fns: Any) -> Any:
    """Returns reward functions as (name, weight) pairs; a name alone, or one of several, has weight 1."""
    pairs = (reward_fns,) if isinstance(reward_fns, str) else reward_fns
    if not isinstance(pairs, list | tuple):
        return pairs
    return tuple((pair, 1.0) if isinstance(pair, str) else pair for pair in pairs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RLSettings(TrainingSettings, DataSettings):
    """Settings of stage `rl`. The algorithm's own are next to these in the recipe: `rl.kl_coef`, `rl.beta`.

    Where both have a field (`temperature`, `max_new_tokens`), the algorithm gets the value from here.
    """

    steps: int = setting(9000, "optimizer steps (the paper's 144 thousand questions, 16 at a time)", ge=1, le=INT32)
    peak_lr: float = setting(1e-6, "learning rate at the schedule's peak (paper: 1e-6)", ge=0)
    method: str = setting(DEFAULT_METHOD, f"a row of Table 10: {', '.join(METHODS)}", choices=METHODS)
    algorithm: Algorithm = setting(GRPO(), "the settings of the method's algorithm", fields_of=algorithm_of)
    init: str = setting(
        "sft", "initial policy and reference model: a stage's, or hf:DIR below data_dir or of the Hub",
        local=True,
    )  # fmt: skip
    data: tuple[str, ...] = setting(
        ("toy/rl",), "questions: data sets, your files and folders, hf:OWNER/NAME/SPLIT (docs/data.md)", nonempty=True
    )
    prompts_per_step: int = setting(16, "prompts of a rollout, P", ge=1)
    group_size: int = setting(64, "completions of each prompt, G", ge=2)
    max_prompt_tokens: int = setting(512, "longer prompts are dropped; their number is logged", ge=1)
    max_new_tokens: int = setting(1024, "length limit of a completion, tokens", ge=1)
    max_thinking_tokens: int = setting(0, THINKING_HELP, ge=0)
    temperature: float = setting(1.0, "of the sampling; RFT and DPO sample their data at 1", gt=0, le=MAX_TEMPERATURE)
    top_p: float = setting(
        1.0, "nucleus sampling: the most likely tokens with this total probability; 1 for all", gt=0, le=1
    )
    top_k: int = setting(0, "sample from the k most likely tokens; 0 for all", ge=0, le=INT32)
    decode_slots: int = setting(0, "completions decoded at a time; 0 for all of a rollout", ge=0)
    cache_dtype: str = setting("", "dtype of the KV cache, '' for the compute dtype", choices=("", *DTYPES))
    reward: str = setting("", "rule, outcome or process: replaces the method's own reward", choices=("", *REWARDS))
    reward_fns: tuple[tuple[str, float], ...] = setting(
        (("correct", 1.0),),
        "the rule reward, a weighted sum: correct, format or package.module:function",
        nonempty=True,
    )
    reward_seconds: float = setting(5.0, "time limit of one reward function on one completion, seconds", gt=0, le=DAY)
    reward_workers: int = setting(1, "processes that grade; 0 for one per processor", ge=0)
    step_delimiter: str = setting("\n", "text between the steps of a completion", nonempty=True)
    num_updates: int = setting(1, "optimizer steps on each rollout, mu; `steps` counts all of them", ge=1)
    rounds: int = setting(1, "rounds of iterative GRPO (Algorithm 1), over which `steps` is spread evenly", ge=1)
    retrain: RetrainSettings | None = setting(None, "how the reward model is retrained between two rounds")
    old_logprobs: str = setting(
        "trainer", "whose log-probabilities the ratio divides by: trainer or sampler", choices=("trainer", "sampler")
    )
    mask_truncated: bool = setting(False, "completions cut at the length limit carry no loss (DAPO)")
    filter_zero_std_groups: bool = setting(False, "groups whose rewards are all equal carry no loss (DAPO)")
    reference: str = setting(
        "device", "where the reference model's parameters are between uses: device or host", choices=("device", "host")
    )
    lora: LoraSettings | None = setting(None, f"{LORA_HELP}; the reference model shares their base")
    offline_prompts: int = setting(
        0, "questions that RFT and DPO sample from, drawn evenly over `data`; 0 for all", ge=0
    )
    eval_data: tuple[str, ...] = setting((), "data sets evaluated greedily every `eval_every` steps")
    eval_problems: int = setting(256, "number of questions, drawn evenly over `eval_data`; 0 for all", ge=0)
    allow_overlap: bool = setting(
        False, "questions of `eval_data` that are trained on are counted, not refused", changes_result=False
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "reward_fns", with_weights(self.reward_fns))
        super().__post_init__()
        check_max_thinking_tokens(self.max_thinking_tokens, self.max_new_tokens)
        names = [name for name, _ in self.reward_fns]
        if len(set(names)) < len(names):
            raise UserError(f"reward_fns names {max(names, key=names.count)} twice; give each function one weight.")
        method = METHODS[self.method]
        if not isinstance(self.algorithm, method.algorithm):
            raise UserError(
                f"algorithm is {type(self.algorithm).__name__}; method={self.method} needs {method.algorithm.__name__}."
            )
        if self.reward and method.completions != "policy" and self.reward != method.reward:
            raise UserError(f"reward is {self.reward}, which method={self.method} cannot take; leave it empty.")
        for field in dataclasses.fields(self) if method.completions != "policy" else ():
            value = getattr(self, field.name)
            if field.name in ROLLOUT_FIELDS and value != field.default:
                raise UserError(
                    f"{field.name} is {value!r}, but method={self.method} has no rollouts of the policy and ignores "
                    "it; leave it out."
                )
        if method.iterative != (self.rounds > 1):
            wanted = "at least 2" if method.iterative else "1"
            raise UserError(f"rounds is {self.rounds}; method={self.method} takes {wanted}.")
        if method.iterative and self.reward_source == "rule":
            raise UserError("reward is rule, but method=grpo_iterative trains a reward model; give outcome or process.")
        if method.iterative and self.retrain is None:
            raise UserError("retrain is missing; method=grpo_iterative trains the reward model further with it.")
        if self.lora and self.reference == "host":
            raise UserError("reference is host, but with lora the reference model is the base itself; leave it out.")
        if self.steps % self.rounds or self.steps // self.rounds % self.num_updates:
            raise UserError(
                f"steps is {self.steps}, which is not divisible into rounds={self.rounds} of whole rollouts of "
                f"num_updates={self.num_updates} steps; change one of them."
            )

        own = {field.name for field in dataclasses.fields(self)}
        shared = own & {field.name for field in dataclasses.fields(self.algorithm)}
        algorithm = dataclasses.replace(self.algorithm, **{name: getattr(self, name) for name in shared})
        object.__setattr__(self, "algorithm", _one_of_equal(algorithm))

    @property
    def reward_source(self) -> str:
        """The source of rewards: "rule", "outcome", "process", or "" for a method without rewards."""
        return self.reward or METHODS[self.method].reward

    @property
    def reward_stage(self) -> str | None:
        """The stage of the reward model, None without one."""
        return REWARD_STAGES.get(self.reward_source)

    @property
    def model_stages(self) -> tuple[str, ...]:
        """The stages whose models this one reads: the policy's, unless it is `hf:DIR`, and the reward model's."""
        return (*stages_of(self.models), *([self.reward_stage] if self.reward_stage else []))

    @property
    def models(self) -> tuple[str, ...]:
        """The model that the policy starts from: a stage, or `hf:DIR`."""
        return (self.init,)

    @property
    def retrain_data(self) -> tuple[str, ...]:
        """The data sets that the reward model is retrained on between rounds, () for one round."""
        return () if self.retrain is None else self.retrain.data or self.data

    @property
    def retrain_columns(self) -> Columns:
        """The columns of `retrain_data`."""
        return self.retrain.columns if self.retrain and self.retrain.data else self.columns

    @property
    def samples_per_step(self) -> int:
        """Completions of a rollout, P x G."""
        return self.prompts_per_step * self.group_size

    @property
    def num_decode_slots(self) -> int:
        """Completions that are decoded at a time."""
        return self.decode_slots or self.samples_per_step
