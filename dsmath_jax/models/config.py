"""Sizes of the decoder."""

import dataclasses

from dsmath_jax.workdir import UserError

CHOICES: dict[str, tuple[str, ...]] = {
    "compute_dtype": ("bfloat16", "float32", "float64"),
    "remat": ("none", "full", "dots", "minimal"),  # the keys of llama.REMAT
    "attention": ("auto", "xla", "splash", "cudnn"),
}
WHOLE = ("vocab_size", "layers", "width", "heads", "kv_heads", "head_size", "hidden", "context")
POSITIVE = (*WHOLE, "rope_theta", "rope_scaling", "norm_eps")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A LLaMA-architecture decoder (paper §2.2, §2.3). Axis letters in brackets, see `llama.py`.

    Raises:
      UserError: sizes that make no decoder; the first wrong field is named.
    """

    vocab_size: int  # V
    layers: int  # L
    width: int  # D
    heads: int  # N
    kv_heads: int  # K; N/K query heads share one
    head_size: int  # H; N x H need not be D
    hidden: int  # F
    rope_theta: float = 10_000.0
    rope_scaling: float = 1.0  # linear: positions are divided by it, Hugging Face's rope type "linear" with that factor
    norm_eps: float = 1e-6
    tie_embeddings: bool = False
    context: int = 4096  # the longest sequence
    compute_dtype: str = "bfloat16"
    remat: str = "minimal"  # what the backward pass makes again: a key of llama.REMAT
    attention: str = "auto"  # by which program training attends; auto: the best one that the devices have

    def __post_init__(self) -> None:
        for name in POSITIVE:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int if name in WHOLE else int | float) or value <= 0:
                kind = "whole number" if name in WHOLE else "number"
                raise UserError(f"The model's {name} is {value!r}; give a {kind} above zero.")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"The model's {name} is {getattr(self, name)!r}; give one of {', '.join(choices)}.")
        if self.heads % self.kv_heads:
            raise UserError(
                f"The model's heads {self.heads} are no multiple of its kv_heads {self.kv_heads}; each key/value head "
                "serves equally many query heads, so change one of them."
            )
        if self.head_size % 2:
            raise UserError(
                f"The model's head_size {self.head_size} is odd; rotary embeddings pair the two halves of a head, so "
                "give an even one."
            )
