"""Settings of the stages `reward_model` and `process_model`, and of the samples that they learn from."""

import dataclasses

from dsmath_jax.settings import check_choice, check_least, setting
from dsmath_jax.training.settings import TrainingSettings
from dsmath_jax.workdir import UserError

KINDS = ("pointwise", "pairwise", "process")
ESTIMATIONS = ("hard", "soft")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplesSettings:
    """What is sampled from the policy, and how it is labelled (paper §4.1.2, §4.1.3)."""

    data: tuple[str, ...] = setting(("toy/train",), "benchmarks whose questions are sampled from")
    kind: str = setting("pointwise", "pointwise (cross-entropy), pairwise (Bradley-Terry) or process (per step)")
    problems: int = setting(15_000, "number of questions, drawn evenly over `data` (data/draw.py)")
    samples: int = setting(8, "completions of each question")
    completions: int = setting(8, "completions of each prefix of steps, N of Math-Shepherd")
    estimation: str = setting("hard", "a step's label: hard (any of them is correct) or soft (the share that is)")
    step_delimiter: str = setting("\n", "splits a completion into its steps")
    max_new_tokens: int = setting(1024, "length limit of a completion, tokens")
    decode_slots: int = setting(256, "completions that are decoded at a time")

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        check_choice("estimation", self.estimation, ESTIMATIONS)
        for name in ("problems", "max_new_tokens", "decode_slots", "completions"):
            check_least(name, getattr(self, name), 1)
        check_least("samples", self.samples, 2 if self.kind == "pairwise" else 1)
        if not self.step_delimiter:
            raise UserError("step_delimiter is empty; give what splits a completion into its steps.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardModelSettings(TrainingSettings, SamplesSettings):
    """A reward model (paper §4.1.2-4.1.4): the samples, and the training on them."""

    peak_lr: float = setting(2e-5, "learning rate at the schedule's peak (paper §4.2: 2e-5)")
    init: str = setting("pretrain", "the stage whose model it is trained from: pretrain (paper §4.2) or sft")
    replay: float = setting(0.1, "share of a batch drawn from the data of earlier rounds (paper §4.1.4)")
    batch_size: int = setting(256, "rows of a training step; pairs of rows for pairwise")

    def __post_init__(self) -> None:
        TrainingSettings.__post_init__(self)
        SamplesSettings.__post_init__(self)
        check_least("batch_size", self.batch_size, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrainSettings(RewardModelSettings):
    """How a reward model is trained further between two rounds of iterative GRPO (Algorithm 1)."""

    data: tuple[str, ...] = setting((), "benchmarks whose questions are sampled from; () for those of rl.data")
