"""Settings of the stages `reward_model` and `process_model`, and of their samples."""

import dataclasses

from dsmath_jax.data.settings import DataSettings
from dsmath_jax.sampling.dtypes import DecodeDtypes
from dsmath_jax.sampling.thinking import THINKING_HELP, check_max_thinking_tokens
from dsmath_jax.settings import setting
from dsmath_jax.training.settings import LORA_HELP, LoraSettings, TrainingSettings, check_micro_batches
from dsmath_jax.workdir import UserError

KINDS = ("pointwise", "pairwise", "process")
ESTIMATIONS = ("hard", "soft")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplesSettings(DataSettings, DecodeDtypes):
    """Settings of samples of the policy and their labels (paper §4.1.2, §4.1.3)."""

    data: tuple[str, ...] = setting(("toy/train",), "questions that are sampled from: as rl.data", nonempty=True)
    kind: str = setting(
        "pointwise", "pointwise (cross-entropy), pairwise (Bradley-Terry) or process (per step)", choices=KINDS
    )
    problems: int = setting(15_000, "number of questions, sampled evenly over `data` (data/subsample.py)", ge=1)
    samples: int = setting(8, "completions of each question", ge=1)
    completions: int = setting(8, "completions of each prefix of steps, N of Math-Shepherd", ge=1)
    estimation: str = setting(
        "hard", "a step's label: hard (any of them is correct) or soft (the share that is)", choices=ESTIMATIONS
    )
    step_delimiter: str = setting("\n", "text between the steps of a completion", nonempty=True)
    max_new_tokens: int = setting(1024, "length limit of a completion, tokens", ge=1)
    max_thinking_tokens: int = setting(0, THINKING_HELP, ge=0)
    decode_slots: int = setting(256, "completions decoded at a time", ge=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_max_thinking_tokens(self.max_thinking_tokens, self.max_new_tokens)
        if self.kind == "pairwise" and self.samples < 2:
            raise UserError(f"samples is {self.samples}; kind=pairwise needs at least 2, which it compares.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardTrainingSettings(TrainingSettings, SamplesSettings):
    """Settings of training on samples and their labels, in a stage or between the rounds of RL."""

    peak_lr: float = setting(2e-5, "learning rate at the schedule's peak (paper §4.2: 2e-5)", ge=0)
    replay: float = setting(0.1, "share of a batch drawn from the data of earlier rounds (paper §4.1.4)", ge=0, le=1)
    batch_size: int = setting(256, "completions of a training step; pairs of them for pairwise", ge=1)
    lora: LoraSettings | None = setting(None, f"{LORA_HELP}, with the whole reward head")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_micro_batches(self.batch_size, self.grad_accum_steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardModelSettings(RewardTrainingSettings):
    """Settings of a reward model (paper §4.1.2-4.1.4): its models, the samples and the training."""

    init: str = setting(
        "pretrain", "the model it is trained from: a stage's (paper §4.2: pretrain) or hf:DIR",
        local=True,
    )  # fmt: skip
    policy: str = setting("sft", "the model whose completions are labeled: a stage's, or hf:DIR", local=True)

    @property
    def models(self) -> tuple[str, ...]:
        """The policy and the model that the stage starts from: stages, or `hf:DIR`."""
        return (self.policy, self.init)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessModelSettings(RewardModelSettings):
    """Settings of a process reward model (paper §4.1.3)."""

    kind: str = setting("process", "process: a score for each step", choices=("process",))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrainSettings(RewardTrainingSettings):
    """Settings of retraining the reward model between rounds of iterative GRPO (Algorithm 1)."""

    data: tuple[str, ...] = setting((), "questions that are sampled from, as rl.data; () for those of rl.data")
