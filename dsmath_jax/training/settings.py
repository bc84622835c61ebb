"""Settings of the training loop, the optimizer, and the stages `pretrain` (paper §2.2) and `sft` (§3)."""

import dataclasses

from dsmath_jax.settings import check_choice, check_least, setting
from dsmath_jax.workdir import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW 0.9/0.95 with a learning-rate schedule (paper §2.2)."""

    peak_lr: float = setting(1e-4, "learning rate at the schedule's peak")
    warmup_steps: int = setting(0, "steps of linear warm-up to the peak")
    schedule: str = setting("constant", "after the warm-up: constant, or multi_step (the paper's three steps)")
    weight_decay: float = setting(0.1, "decoupled weight decay of matrices; norms and biases have none")
    clip_norm: float = setting(1.0, "gradients are scaled down to this global norm")
    state_dtype: str = setting("float32", "dtype in which both moments are stored between steps")

    def __post_init__(self) -> None:
        check_choice("schedule", self.schedule, ("multi_step", "constant"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """The training loop: how long, how often it saves, what it logs."""

    steps: int = setting(1000, "optimizer steps")
    checkpoint_every: int = setting(100, "steps between checkpoints")
    keep_checkpoints: int = setting(2, "checkpoints kept", changes_result=False)
    eval_every: int = setting(0, "steps between evaluations; 0: only before the first step and after the last")
    grad_accum_steps: int = setting(1, "micro-batches whose gradients are summed in a step", changes_result=False)
    profile: tuple[int, ...] = setting((), "first and last step of a profiler trace, () for none", changes_result=False)
    wandb: str = setting("", "project of Weights & Biases, '' for none", changes_result=False)

    def __post_init__(self) -> None:
        check_least("keep_checkpoints", self.keep_checkpoints, 1)
        if len(self.profile) not in (0, 2) or list(self.profile) != sorted(self.profile):
            raise UserError(f"profile is {self.profile}; give () or the first and the last step, as (10, 12).")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSettings(LoopSettings, OptimizerSettings):
    """What every training stage has: the loop and the optimizer."""

    def __post_init__(self) -> None:
        LoopSettings.__post_init__(self)
        OptimizerSettings.__post_init__(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedSettings(TrainingSettings):
    """Next-token training on packed rows."""

    init: str = setting("", "the model to start from: '' or hf:DIR below data_dir, in Hugging Face's format")
    sequence_length: int = setting(4096, "tokens of a row, T")
    batch_size: int = setting(256, "rows of a step")
    mask_documents: bool = setting(True, "attention and loss stay within the documents of a row")
    eval_rows: int = setting(64, "held-out rows in an evaluation, at most")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainSettings(PackedSettings):
    """Stage `pretrain` (paper §2.2, §2.3); without `init` it starts from random parameters of the part `model`."""

    steps: int = setting(47_684, "optimizer steps (paper §2.3: 500 billion tokens, 10 million a step)")
    batch_size: int = setting(2560, "rows of a step")
    peak_lr: float = setting(4.2e-4, "learning rate at the schedule's peak (paper §2.3: 4.2e-4)")
    warmup_steps: int = setting(2000, "steps of linear warm-up to the peak (paper §2.2)")
    schedule: str = setting("multi_step", "after the warm-up: constant, or multi_step (the paper's three steps)")
    mixture: dict[str, float] = setting({"corpus": 1.0}, "weight of each source by its name in data/sources.py")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTSettings(PackedSettings):
    """Stage `sft` (paper §3); without `init` it starts from the stage `pretrain`."""

    steps: int = setting(500, "optimizer steps (paper: 500)")
    peak_lr: float = setting(5e-5, "learning rate at the schedule's peak (paper: 5e-5)")
    data: tuple[str, ...] = setting(("toy/train",), "instruction data: names and paths, see data/instructions.py")
