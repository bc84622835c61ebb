"""The dtypes of what every decode step reads: the settings of the stages that sample, and of the sampler."""

import dataclasses

from dsmath_jax.models.config import DTYPES
from dsmath_jax.models.quantization import INT8
from dsmath_jax.settings import Settings, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeDtypes(Settings):
    """The dtypes of KV cache and weights. Adapters of LoRA are not quantized, nor is the embedding table."""

    cache_dtype: str = setting(
        "", "of the KV cache: int8, bfloat16, float32, float64; '' for the compute dtype", choices=("", *DTYPES, INT8)
    )
    decode_weight_dtype: str = setting(
        "", "of the matrices while sampling: int8; '' for the compute dtype", choices=("", INT8)
    )

    @property
    def decode_dtypes(self) -> "DecodeDtypes":
        """These settings without those of a subclass, for what is compiled once for equal settings."""
        return DecodeDtypes(cache_dtype=self.cache_dtype, decode_weight_dtype=self.decode_weight_dtype)


COMPUTE_DTYPE = DecodeDtypes()
