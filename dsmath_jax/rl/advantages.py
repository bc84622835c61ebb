"""From rewards to advantages (paper §4.1), in float64 on the host."""

import numpy as np
from jaxtyping import Float

Rewards = Float[np.ndarray, "P G"]


def group_normalised(rewards: Rewards, ddof: int = 1, epsilon: float = 1e-6) -> Rewards:
    """Outcome supervision (paper §4.1.2): (r - mean) / (std + epsilon) within each prompt's group of G completions.

    A group of equal rewards gives exactly zero.
    """
    rewards = np.asarray(rewards, np.float64)
    spread = rewards - rewards.mean(axis=1, keepdims=True)
    normalised = spread / (rewards.std(axis=1, ddof=ddof, keepdims=True) + epsilon)
    return np.where(np.ptp(rewards, axis=1, keepdims=True) == 0, 0.0, normalised)


def reward_itself(rewards: Rewards) -> Rewards:
    """The reward as the weight: with a 0/1 rule only correct completions count (Online RFT, paper Eq. 9 to 11)."""
    return np.asarray(rewards, np.float64)
