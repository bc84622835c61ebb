"""The frequencies of rotary embeddings (Su et al. 2021, arXiv 2104.09864), by rope type.

They are NumPy arrays, constants of the compiled program. Component j of a head's first half and component j of its
second half are a pair, which is rotated by position x frequency j (radians).
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from dsmath_jax.models.config import ModelConfig

Frequencies = Float[np.ndarray, " H/2"]


def frequencies(config: ModelConfig) -> Frequencies:
    """Returns the frequencies (radians per token) by the config's rope type, float64."""
    return RULES[config.rope_scaling.rope_type](unscaled(config.rope_theta, config.head_dim), config)


def local_frequencies(config: ModelConfig) -> Frequencies:
    """Returns the frequencies of layers with a sliding window: as in the others, unless they have their own base."""
    base = config.rope_local_base_freq
    return unscaled(base, config.head_dim) if base else frequencies(config)


def attention_scaling(config: ModelConfig) -> float:
    """Returns the factor of rotated queries and keys: 1, except with yarn (Peng et al. 2023, arXiv 2309.00071, Eq. 22).

    mscale and mscale_all_dim are DeepSeek-V2's coefficients of the formula.
    """
    scaling = config.rope_scaling
    if scaling.rope_type != "yarn":
        return 1.0
    if scaling.attention_factor:
        return scaling.attention_factor

    def temperature(coefficient: float) -> float:
        return 0.1 * coefficient * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0

    if scaling.mscale and scaling.mscale_all_dim:
        return temperature(scaling.mscale) / temperature(scaling.mscale_all_dim)
    return temperature(1.0)


def unscaled(base: float, head_dim: int) -> Frequencies:
    """Returns `base ** (-2 j / H)` for j from 0 to H/2 - 1."""
    return base ** (-np.arange(0, head_dim, 2) / head_dim)


def _default(plain: Frequencies, config: ModelConfig) -> Frequencies:
    """No scaling. Dynamic NTK scaling, too, begins only beyond `max_position_embeddings`, where nothing here goes."""
    del config
    return plain


def _linear(plain: Frequencies, config: ModelConfig) -> Frequencies:
    """Position interpolation (Chen et al. 2023, arXiv 2306.15595): positions are divided by the factor."""
    return plain / config.rope_scaling.factor


def _llama3(plain: Frequencies, config: ModelConfig) -> Frequencies:
    """Llama 3.1: long wavelengths are stretched, short ones are not, and those between in part."""
    scaling = config.rope_scaling
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    rotations = scaling.original_max_position_embeddings * plain / (2 * math.pi)
    unstretched = np.clip((rotations - low) / (high - low), 0.0, 1.0)
    return plain * (unstretched + (1 - unstretched) / scaling.factor)


def _yarn(plain: Frequencies, config: ModelConfig) -> Frequencies:
    """YaRN (Peng et al. 2023, arXiv 2309.00071, §3.2): a linear ramp over j between the two bounds of rotations."""
    scaling, half = config.rope_scaling, len(plain)
    context = scaling.original_max_position_embeddings or config.max_position_embeddings

    def index(rotations: float) -> float:
        """Returns the j whose pairs rotate this often in the original context."""
        return half * math.log(context / (2 * math.pi * rotations)) / math.log(config.rope_theta)

    first, last = index(scaling.beta_fast), index(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, config.head_dim - 1)
    stretched = np.clip((np.arange(half) - first) / (last - first or 1e-3), 0.0, 1.0)
    return plain * (1 - stretched + stretched / scaling.factor)


RULES: dict[str, Callable[[Frequencies, ModelConfig], Frequencies]] = {
    "default": _default, "linear": _linear, "dynamic": _default, "yarn": _yarn, "llama3": _llama3,
}  # fmt: skip
