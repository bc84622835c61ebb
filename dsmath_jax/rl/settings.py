"""Settings of the stage `rl`, with the paper's values (§4) where known."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from dsmath_jax.data.own_data import Columns
from dsmath_jax.data.settings import DataSettings
from dsmath_jax.environments.settings import EnvironmentSettings
from dsmath_jax.rl.algorithms import GRPO, Algorithm
from dsmath_jax.rl.builtin_rewards import BUILT_IN, ENVIRONMENT, OVERLONG_SHARE, Overlong
from dsmath_jax.rl.methods import REWARD_STAGES, REWARDS, Method, method_of
from dsmath_jax.rl.reward_model.settings import RetrainSettings
from dsmath_jax.sampling.dtypes import DecodeDtypes
from dsmath_jax.sampling.thinking import THINKING_HELP, check_max_thinking_tokens
from dsmath_jax.settings import INT32, MAX_TEMPERATURE, check_choice, setting
from dsmath_jax.training.settings import LORA_HELP, LoraSettings, TrainingSettings, stages_of
from dsmath_jax.workdir import UserError

DEFAULT_METHOD = "grpo_rule"
DAY = 86_400  # seconds; libraries refuse much longer timeouts
# Fields of rollouts. Methods without rollouts ignore them: their completions are in the data, or sampled once at
# temperature 1, without top_p and top_k, and graded by `correct`.
ROLLOUT_FIELDS = frozenset(
    (
        "reward_fns", "reward_mix", "overlong_cache_tokens", "top_p", "top_k", "num_updates", "minibatches",
        "old_logprobs", "rollout_filter", "max_gen_batches", "filtered_in_baseline", "curriculum", "log_samples",
        "environment", "rollouts_ahead", "oversample",
    )
)  # fmt: skip


def algorithm_of(fields: Mapping[str, Any]) -> type[Algorithm]:
    """Returns the algorithm class of the method in a recipe's section `rl`."""
    return method_of(fields.get("method", DEFAULT_METHOD)).algorithm


def with_method(fields: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Returns a recipe's section `rl` with another method, without the fields that were chosen for its old method.

    Those are fields that only the old method has, or that have another default with the new one.
    """
    left_out = _fields_of_method(fields) - _fields_of_method({"method": method})
    old, new = (_defaults(algorithm_of(each)) for each in (fields, {"method": method}))
    left_out |= {name for name, value in new.items() if name in old and value != old[name]}
    return {name: value for name, value in fields.items() if name not in left_out} | {"method": method}


def _defaults(algorithm: type[Algorithm]) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(algorithm)}


@functools.cache
def _one_of_equal(algorithm: Algorithm) -> Algorithm:
    """Returns the first of equal algorithms: the train step of its `objective` is compiled once."""
    return algorithm


def _fields_of_method(fields: Mapping[str, Any]) -> set[str]:
    """Returns the fields that a method has and others may lack: its algorithm's own, and those of rollouts."""
    classes = algorithm_of(fields), RLSettings
    algorithm, shared = ({field.name for field in dataclasses.fields(cls)} for cls in classes)
    online = method_of(fields.get("method", DEFAULT_METHOD)).completions == "policy"
    return (algorithm - shared) | ROLLOUT_FIELDS if online else algorithm - shared - ROLLOUT_FIELDS


def with_weights(reward_fns: Any) -> Any:
    """Returns reward functions as (name, weight) pairs; a name alone, or one of several, has weight 1."""
    pairs = (reward_fns,) if isinstance(reward_fns, str) else reward_fns
    if not isinstance(pairs, list | tuple):
        return pairs
    return tuple((pair, 1.0) if isinstance(pair, str) else pair for pair in pairs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RLSettings(TrainingSettings, DataSettings, DecodeDtypes):
    """Settings of stage `rl`. The algorithm's own are next to these in the recipe: `rl.kl_coef`, `rl.beta`.

    Where both have a field (`temperature`, `max_new_tokens`), the algorithm gets the value from here.
    """

    steps: int = setting(9000, "optimizer steps (the paper's 144 thousand questions, 16 at a time)", ge=1, le=INT32)
    peak_lr: float = setting(1e-6, "learning rate at the schedule's peak (paper: 1e-6)", ge=0)
    method: str = setting(DEFAULT_METHOD, "a row of METHODS (docs/rl.md), or your own package.module:NAME")
    algorithm: Algorithm = setting(GRPO(), "the settings of the method's algorithm", fields_of=algorithm_of)
    init: str = setting(
        "sft", "initial policy and reference model: a stage's, or hf:DIR below data_dir or of the Hub",
        local=True,
    )  # fmt: skip
    reference_model: str = setting(
        "", "reference model, where it is not the initial policy: a stage's, or hf:DIR, with the policy's tokenizer",
        local=True,
    )  # fmt: skip
    teacher: str = setting(
        "", "teacher of method=distill: a stage's model, or hf:DIR, with the policy's tokenizer", local=True
    )
    data: tuple[str, ...] = setting(
        ("toy/rl",), "questions: data sets, your files and folders, hf:OWNER/NAME/SPLIT (docs/data.md)", nonempty=True
    )
    prompts_per_step: int = setting(16, "prompts of a rollout, P", ge=1)
    group_size: int = setting(64, "completions of each prompt, G", ge=2)
    oversample: int = setting(
        0, "completions of each prompt started beyond group_size; the last to end are dropped, which favors short ones",
        ge=0,
    )  # fmt: skip
    max_prompt_tokens: int = setting(512, "longer prompts are dropped; their number is logged", ge=1)
    max_new_tokens: int = setting(1024, "length limit of a completion, tokens", ge=1)
    max_thinking_tokens: int = setting(0, THINKING_HELP, ge=0)
    temperature: float = setting(1.0, "of the sampling; RFT and DPO sample their data at 1", gt=0, le=MAX_TEMPERATURE)
    top_p: float = setting(
        1.0, "nucleus sampling: the most likely tokens with this total probability; 1 for all", gt=0, le=1
    )
    top_k: int = setting(0, "sample from the k most likely tokens; 0 for all", ge=0, le=INT32)
    decode_slots: int = setting(0, "completions decoded at a time; 0 for all that a rollout starts", ge=0)
    environment: EnvironmentSettings | None = setting(
        None, "completions in turns: the environment that replies to each (docs/rl.md); None: one turn"
    )
    reward: str = setting("", "rule, outcome or process: replaces the method's own reward", choices=("", *REWARDS))
    reward_fns: tuple[tuple[str, float], ...] = setting(
        (("correct", 1.0),),
        f"the rule reward: weights of {', '.join(BUILT_IN)}, package.module:function",
        nonempty=True,
    )
    overlong_cache_tokens: int = setting(
        0, f"tokens before max_new_tokens over which soft_overlong falls; 0 for 1/{OVERLONG_SHARE} of it (DAPO)", ge=0
    )
    reward_seconds: float = setting(5.0, "time limit of one call of a reward function, seconds", gt=0, le=DAY)
    reward_workers: int = setting(1, "processes that grade; 0 for one per processor", ge=0)
    step_rewards: str = setting(
        "model", "rewards of steps with reward=process: model (process_model), monte_carlo or package.module:function"
    )
    step_completions: int = setting(8, "continuations of each step with step_rewards=monte_carlo", ge=1)
    step_delimiter: str = setting("\n", "text between the steps of a completion", nonempty=True)
    reward_mix: float = setting(
        0.0, "share of the rule reward, given at the last token, in the reward of outcomes or steps", ge=0, le=1
    )
    num_updates: int = setting(1, "passes over each rollout, mu", ge=1)
    minibatches: int = setting(
        1, "optimizer steps of a pass, each on its share of the groups; `steps` counts all of them", ge=1
    )
    rollouts_ahead: int = setting(
        0, "1: the next rollout is sampled before the updates on this one, and graded during them; 0: after them",
        ge=0, le=1,
    )  # fmt: skip
    rounds: int = setting(1, "rounds of iterative GRPO (Algorithm 1), over which `steps` is spread evenly", ge=1)
    retrain: RetrainSettings | None = setting(None, "how the reward model is retrained between two rounds")
    old_logprobs: str = setting(
        "trainer", "whose log-probabilities the ratio divides by: trainer or sampler", choices=("trainer", "sampler")
    )
    filtered_in_baseline: bool = setting(
        True, "completions without loss (rollout_filter) count in the mean and deviation of their group"
    )
    log_samples: str = setting(
        "extremes",
        "completions in samples.jsonl: extremes (best and worst of a rollout's first prompt), group (all of it) or all",
        choices=("extremes", "group", "all"), changes_result=False,
    )  # fmt: skip
    reference_memory: str = setting(
        "device", "where the parameters of reference model and teacher are between uses: device or host",
        choices=("device", "host"),
    )  # fmt: skip
    lora: LoraSettings | None = setting(None, f"{LORA_HELP}; the reference model shares their base")
    offline_prompts: int = setting(
        0, "questions that RFT, DPO and curriculum=init sample from, drawn evenly over `data`; 0 for all", ge=0
    )
    curriculum: str = setting(
        "none", "leaves out questions by pass rates: of samples of the initial policy (init), or in the run (run)",
        choices=("none", "init", "run"),
    )  # fmt: skip
    min_pass_rate: float = setting(0.1, "curriculum: questions that are solved less often are left out", ge=0, le=1)
    max_pass_rate: float = setting(0.9, "curriculum: questions that are solved more often are left out", ge=0, le=1)
    eval_data: tuple[str, ...] = setting((), "data sets evaluated greedily every `eval_every` steps")
    eval_problems: int = setting(256, "number of questions, drawn evenly over `eval_data`; 0 for all", ge=0)
    patience: int = setting(
        0, "the stage ends after this number of evaluations without a better `eval_greedy`; 0: never", ge=0
    )  # fmt: skip
    allow_overlap: bool = setting(
        False, "questions of `eval_data` that are trained on are counted, not refused", changes_result=False
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "reward_fns", with_weights(self.reward_fns))
        super().__post_init__()
        check_max_thinking_tokens(self.max_thinking_tokens, self.max_new_tokens)
        if self.overlong_cache_tokens > self.max_new_tokens:
            raise UserError(
                f"overlong_cache_tokens is {self.overlong_cache_tokens}; it must be at most "
                f"max_new_tokens={self.max_new_tokens}."
            )
        if self.environment and self.environment.max_turn_tokens > self.max_new_tokens:
            raise UserError(
                f"environment.max_turn_tokens is {self.environment.max_turn_tokens}; it must be at most "
                f"max_new_tokens={self.max_new_tokens}, the limit of a whole dialogue."
            )
        one_turn = {
            "reward=process": self.reward_source == "process", "curriculum=init": self.curriculum == "init",
            f"method={self.method}": self.method_row.iterative or self.algorithm.has_values,
        }  # fmt: skip
        if self.environment and any(one_turn.values()):
            first = next(name for name, applies in one_turn.items() if applies)
            raise UserError(f"environment is set, but {first} is for completions of one turn; leave one of them out.")
        if self.environment and self.oversample:
            raise UserError(
                f"oversample is {self.oversample}, but dialogues with an environment cannot be dropped; leave one out."
            )
        names = [name for name, _ in self.reward_fns]
        if ENVIRONMENT in names and not self.environment:
            raise UserError("reward_fns has environment, but there is none; set environment.name.")
        if len(set(names)) < len(names):
            raise UserError(f"reward_fns names {max(names, key=names.count)} twice; give each function one weight.")
        if self.patience and not (self.eval_data and self.eval_every):
            raise UserError(
                f"patience is {self.patience}, but nothing is evaluated during training; give eval_data and eval_every."
            )
        method = self.method_row
        if self.algorithm == GRPO() and not isinstance(self.algorithm, method.algorithm):  # the default of the field
            object.__setattr__(self, "algorithm", method.algorithm())
        if not isinstance(self.algorithm, method.algorithm):
            raise UserError(
                f"algorithm is {type(self.algorithm).__name__}; method={self.method} needs {method.algorithm.__name__}."
            )
        if self.reward and method.completions != "policy" and self.reward != method.reward:
            raise UserError(f"reward is {self.reward}, which method={self.method} cannot take; leave it empty.")
        for part in (self, self.algorithm) if method.completions != "policy" else ():
            for field in dataclasses.fields(part):
                value = getattr(part, field.name)
                if field.name in ROLLOUT_FIELDS and value != field.default:
                    raise UserError(
                        f"{field.name} is {value!r}, but method={self.method} has no rollouts of the policy and "
                        "ignores it; leave it out."
                    )
        if method.iterative != (self.rounds > 1):
            wanted = "at least 2" if method.iterative else "1"
            raise UserError(f"rounds is {self.rounds}; method={self.method} takes {wanted}.")
        if method.iterative and self.reward_source == "rule":
            raise UserError("reward is rule, but method=grpo_iterative trains a reward model; give outcome or process.")
        if method.iterative and self.retrain is None:
            raise UserError("retrain is missing; method=grpo_iterative trains the reward model further with it.")
        if self.lora and self.reference_memory == "host" and not self.teacher and not self.reference_model:
            raise UserError(
                "reference_memory is host, but with lora the reference model is the base itself; leave it out."
            )
        if self.steps % self.rounds or self.steps // self.rounds % self.steps_per_rollout:
            raise UserError(
                f"steps is {self.steps}, which is not divisible into rounds={self.rounds} of whole rollouts of "
                f"num_updates={self.num_updates} x minibatches={self.minibatches} steps; change one of them."
            )
        if self.prompts_per_step % self.minibatches:
            raise UserError(
                f"prompts_per_step is {self.prompts_per_step}, which is not divisible by minibatches="
                f"{self.minibatches}; a minibatch has whole groups."
            )
        credit = getattr(self.algorithm, "process_credit", "sum")
        if credit != "sum" and self.reward_source != "process":
            raise UserError(
                f"process_credit is {credit}, but the reward of method={self.method} has no steps; set reward=process."
            )
        if self.min_pass_rate > self.max_pass_rate:
            raise UserError(
                f"min_pass_rate is {self.min_pass_rate:g}, above max_pass_rate={self.max_pass_rate:g}; swap them."
            )
        if self.reward_mix and self.reward_source not in REWARD_STAGES:
            raise UserError("reward_mix is for other rewards than the rule's; set reward=outcome or reward=process.")
        if self.step_rewards != "model" and (self.reward_source != "process" or method.iterative):
            raise UserError(
                f"step_rewards is {self.step_rewards!r}, which method={self.method} with reward={self.reward_source} "
                "does not use; leave it out."
            )
        if self.step_rewards != "monte_carlo" and self.step_completions != 8:
            raise UserError("step_completions is only used with step_rewards=monte_carlo; leave it out.")
        if ":" not in self.step_rewards:
            check_choice("step_rewards", self.step_rewards, ("model", "monte_carlo"))
        if self.teacher and not self.algorithm.needs_teacher:
            raise UserError(f"teacher is {self.teacher!r}, which method={self.method} does not use; leave it out.")
        if self.reference_model and (method.iterative or not self.algorithm.needs_reference):
            raise UserError(
                f"reference_model is {self.reference_model!r}, which method={self.method} does not use; leave it out."
            )
        if self.old_logprobs == "sampler" and getattr(self.algorithm, "sampler_correction", "none") != "none":
            raise UserError("sampler_correction needs the trainer's log-probabilities; set old_logprobs=trainer.")

        own = {field.name for field in dataclasses.fields(self)}
        shared = own & {field.name for field in dataclasses.fields(self.algorithm)}
        algorithm = dataclasses.replace(self.algorithm, **{name: getattr(self, name) for name in shared})
        object.__setattr__(self, "algorithm", _one_of_equal(algorithm))

    @property
    def method_row(self) -> Method:
        """The row of the method in the table, or the user's own."""
        return method_of(self.method)

    @property
    def user_code(self) -> tuple[str, ...]:
        """The names of the user's own method and functions, but for reward functions, as package.module:NAME."""
        parts = (getattr(self.algorithm, name, "") for name in ("loss", "advantage"))
        environment = (self.environment.name,) if self.environment else ()
        names = (self.method, self.step_rewards, *parts, *self.algorithm.rollout_filter, *environment)
        return tuple(name for name in names if ":" in name)

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps on each rollout: mu passes over its minibatches."""
        return self.num_updates * self.minibatches

    @property
    def overlong(self) -> Overlong:
        """The parameters of the reward function `soft_overlong`."""
        limit = self.max_new_tokens
        return Overlong(limit, self.overlong_cache_tokens or max(1, limit // OVERLONG_SHARE))

    @property
    def reward_source(self) -> str:
        """The source of rewards: "rule", "outcome", "process", or "" for a method without rewards."""
        return self.reward or self.method_row.reward

    @property
    def reward_stage(self) -> str | None:
        """The stage of the reward model, None without one."""
        has_model = self.reward_source != "process" or self.step_rewards == "model"
        return REWARD_STAGES.get(self.reward_source) if has_model else None

    @property
    def model_stages(self) -> tuple[str, ...]:
        """The stages whose models this one reads: the policy's, unless it is `hf:DIR`, and the reward model's."""
        return (*stages_of(self.models), *([self.reward_stage] if self.reward_stage else []))

    @property
    def models(self) -> tuple[str, ...]:
        """The initial policy and, if they are other models, reference model and teacher: a stage, or `hf:DIR`."""
        return (self.init, *filter(None, (self.reference_model, self.teacher)))

    @property
    def retrain_data(self) -> tuple[str, ...]:
        """The data sets that the reward model is retrained on between rounds, () for one round."""
        return () if self.retrain is None else self.retrain.data or self.data

    @property
    def retrain_columns(self) -> Columns:
        """The columns of `retrain_data`."""
        return self.retrain.columns if self.retrain and self.retrain.data else self.columns

    @property
    def computes_old_logprobs(self) -> bool:
        """Whether the trainer computes the log-probabilities of a rollout by the policy that sampled it."""
        several_policies = self.steps_per_rollout > 1 or self.rollouts_ahead > 0
        return self.old_logprobs == "trainer" and (several_policies or self.algorithm.needs_old_logprobs)

    def sampled_at(self, number: int) -> int:
        """Returns the step before which a rollout is sampled; the first of a round is sampled by the round's start."""
        first_of_round = number - number % (self.steps // self.rounds // self.steps_per_rollout)
        return max(number - self.rollouts_ahead, first_of_round) * self.steps_per_rollout

    @property
    def samples_per_step(self) -> int:
        """Completions of a rollout, P x G."""
        return self.prompts_per_step * self.group_size

    @property
    def started_per_prompt(self) -> int:
        """Completions of each prompt that are started."""
        return self.group_size + self.oversample

    @property
    def rows_per_step(self) -> int:
        """Completions of an optimizer step: those of a minibatch."""
        return self.samples_per_step // self.minibatches

    @property
    def num_decode_slots(self) -> int:
        """Completions that are decoded at a time."""
        return self.decode_slots or self.prompts_per_step * self.started_per_prompt
