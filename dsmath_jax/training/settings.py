"""Settings of the training loop, the optimizer, and the stages `pretrain` (paper §2.2) and `sft` (§3)."""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

from dsmath_jax.data.hub import HUGGING_FACE
from dsmath_jax.data.settings import DataSettings
from dsmath_jax.models.config import DTYPES
from dsmath_jax.models.lora import MATRICES, targeted
from dsmath_jax.settings import INT32, Settings, setting
from dsmath_jax.workdir import UserError

SCHEDULES = ("multi_step", "constant")  # the keys of optimizer.SCHEDULES


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings(Settings):
    """Settings of AdamW 0.9/0.95 and its learning-rate schedule (paper §2.2)."""

    peak_lr: float = setting(1e-4, "learning rate at the schedule's peak", ge=0)
    warmup_steps: int = setting(0, "steps of linear warm-up to the peak", ge=0, le=INT32)
    schedule: str = setting(
        "constant", "after the warm-up: constant, or multi_step (the paper's three steps)", choices=SCHEDULES
    )
    weight_decay: float = setting(0.1, "decoupled weight decay of matrices, not of norms and biases", ge=0)
    clip_norm: float = setting(1.0, "gradients are scaled down to this global norm", gt=0)
    state_dtype: str = setting("float32", "dtype in which both moments are stored between steps", choices=DTYPES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopSettings(Settings):
    """Settings of the training loop: steps, checkpoints, evaluations, logs."""

    steps: int = setting(1000, "optimizer steps", ge=1, le=INT32)
    checkpoint_every: int = setting(100, "steps between checkpoints", ge=1)
    keep_checkpoints: int = setting(2, "checkpoints kept", ge=1, changes_result=False)
    eval_every: int = setting(0, "steps between evaluations; 0: only before the first step and after the last", ge=0)
    grad_accum_steps: int = setting(1, "micro-batches whose gradients are summed in a step", ge=1, changes_result=False)
    profile: tuple[int, ...] = setting(
        (), "first and last step of a profiler trace, from 0; () for none", ge=0, changes_result=False
    )
    wandb: str = setting("", "project of Weights & Biases, '' for none", changes_result=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.profile) not in (0, 2) or list(self.profile) != sorted(self.profile):
            raise UserError(f"profile is {self.profile}; give () or the first and the last step, as (10, 12).")
        if self.profile and self.profile[1] >= self.steps:
            raise UserError(
                f"profile is {self.profile}, but the run's steps are 0 to {self.steps - 1}; give steps of the run."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraSettings(Settings):
    """Settings of LoRA (arXiv 2106.09685): adapters of some matrices are trained, all other parameters are frozen."""

    rank: int = setting(16, "rank r of the adapters", ge=1, le=INT32)
    alpha: float = setting(32.0, "the product of a pair of adapters is multiplied by alpha / rank", gt=0)
    targets: str = setting(
        "layers/(q|k|v|o|gate|up|down)",
        "regular expression that matches the paths of the matrices with adapters: layers/q, k, v, o, gate, up, down",
        nonempty=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            matched = targeted(self.targets)
        except re.error as error:
            raise UserError(f"targets is {self.targets!r}, which is no regular expression ({error}).") from None
        if not matched:
            paths = ", ".join(f"layers/{name}" for name in MATRICES)
            raise UserError(f"targets is {self.targets!r}, which matches no matrix; the paths are {paths}.")

    @property
    def scale(self) -> float:
        """The factor of the adapters' product."""
        return self.alpha / self.rank


LORA_HELP = "trains adapters in place of all parameters (docs/training.md)"


def stages_of(models: Iterable[str]) -> tuple[str, ...]:
    """Returns the stages among the names of models; the others are `hf:DIR`."""
    return tuple(dict.fromkeys(name for name in models if not name.startswith(HUGGING_FACE)))


def hugging_face_folder(init: str, data_dir: Path) -> Path | None:
    """Returns the folder of a model to start from that is given as `hf:DIR`; None for a stage's name or ""."""
    return data_dir / init.removeprefix(HUGGING_FACE) if init.startswith(HUGGING_FACE) else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSettings(LoopSettings, OptimizerSettings):
    """Settings of every training stage: the loop and the optimizer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedSettings(TrainingSettings):
    """Settings of next-token training on packed rows."""

    init: str = setting(
        "", "the model to start from: '', or hf:DIR below data_dir or of the Hub, in Hugging Face's format", local=True
    )
    sequence_length: int = setting(4096, "tokens of a row, T", ge=1)
    batch_size: int = setting(256, "rows of a step", ge=1)
    mask_documents: bool = setting(True, "attention and loss stay within the documents of a row")
    eval_rows: int = setting(64, "held-out rows in an evaluation, at most", ge=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_micro_batches(self.batch_size, self.grad_accum_steps)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that the stage reads: stages, or `hf:DIR`."""
        return (self.init,) if self.init else ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainSettings(PackedSettings):
    """Settings of stage `pretrain` (paper §2.2, §2.3); without `init`, parameters are random."""

    steps: int = setting(47_684, "optimizer steps (paper §2.3: 500 billion tokens, 10 million a step)", ge=1, le=INT32)
    batch_size: int = setting(2560, "rows of a step", ge=1)
    peak_lr: float = setting(4.2e-4, "learning rate at the schedule's peak (paper §2.3: 4.2e-4)", ge=0)
    warmup_steps: int = setting(2000, "steps of linear warm-up to the peak (paper §2.2)", ge=0, le=INT32)
    schedule: str = setting(
        "multi_step", "after the warm-up: constant, or multi_step (the paper's three steps)", choices=SCHEDULES
    )
    mixture: dict[str, float] = setting(
        {"corpus": 1.0}, "weight of each source by its name in data/sources.py", gt=0, nonempty=True
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTSettings(PackedSettings, DataSettings):
    """Settings of stage `sft` (paper §3); without `init`, it starts from the stage `pretrain`."""

    steps: int = setting(500, "optimizer steps (paper: 500)", ge=1, le=INT32)
    peak_lr: float = setting(5e-5, "learning rate at the schedule's peak (paper: 5e-5)", ge=0)
    data: tuple[str, ...] = setting(
        ("toy/train",),
        "instructions: data sets, your files and folders, hf:OWNER/NAME/SPLIT (docs/data.md)",
        nonempty=True,
    )
    lora: LoraSettings | None = setting(None, LORA_HELP)

    @property
    def models(self) -> tuple[str, ...]:
        return super().models or ("pretrain",)


def check_micro_batches(batch_size: int, grad_accum_steps: int) -> None:
    """Raises a `UserError` where a batch is not divisible into `grad_accum_steps` micro-batches."""
    if batch_size % grad_accum_steps:
        raise UserError(f"batch_size is {batch_size}; it must be a multiple of grad_accum_steps={grad_accum_steps}.")
