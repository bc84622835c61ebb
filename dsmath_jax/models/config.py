"""Sizes of the decoder."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A LLaMA-architecture decoder (paper §2.2, §2.3). Axis letters in brackets, see `llama.py`."""

    vocab_size: int  # V
    layers: int  # L
    width: int  # D
    heads: int  # N
    kv_heads: int  # K
    head_size: int  # H
    hidden: int  # F
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    tie_embeddings: bool = False
    context: int = 4096  # the longest sequence
    compute_dtype: str = "bfloat16"
    remat: str = "none"  # a key of llama.REMAT
