"""Paper Figure 6 (§5.2.2): iterative GRPO with outcome supervision (Algorithm 1), on toy problems.

Two rounds with half of the steps each. After the first, the reward model is trained further on samples of the policy
with 10 % of the earlier data, and the policy becomes the reference. Everything else is as in
`fig5_rl_methods.py:grpo_os`, a single round with as many steps. Command, after the start of Figure 5:
`python -m dsmath_jax.main --config=configs/paper/fig6_iterative.py --workdir=runs/figures/grpo_iterative-0`.
Hardware: one CPU core, 4 GB. Time: below 10 minutes. Expected: docs/rl.md.
"""

from pathlib import Path

from ml_collections import ConfigDict

from dsmath_jax.command_line import load_config


def get_config() -> ConfigDict:
    config = load_config(f"{Path(__file__).with_name('fig5_rl_methods.py')}:grpo_os")
    config.rl.method = "grpo_iterative"
    config.rl.rounds = 2
    config.rl.retrain = {
        "problems": 300, "samples": 8, "max_new_tokens": 64, "batch_size": 64,
        "steps": 40, "checkpoint_every": 20, "peak_lr": 2e-4, "warmup_steps": 10, "schedule": "multi_step",
    }  # fmt: skip
    return config
