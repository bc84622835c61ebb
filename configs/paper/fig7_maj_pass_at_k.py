"""Paper Figure 7 (§5.2.2): maj@k and pass@k over k of the SFT and the RL model at temperature 0.7, on toy problems.

The paper finds that RL improves maj@k but not pass@k: correct answers that the model could already give become more
likely. Command, after a run of Figure 5 (`--config.start` selects another one):
`python -m dsmath_jax.main --config=configs/paper/fig7_maj_pass_at_k.py --workdir=runs/figures/votes-0`.
Hardware: one CPU core, 4 GB. Time: about 3 minutes. Expected: docs/rl.md.
"""

from pathlib import Path

from ml_collections import ConfigDict

from dsmath_jax.command_line import load_config


def get_config() -> ConfigDict:
    whole = load_config(f"{Path(__file__).with_name('fig5_rl_methods.py')}:grpo_ps")
    config = ConfigDict({name: whole[name] for name in ("seed", "data_dir", "evaluate")})
    config.start = "runs/figures/grpo_ps-0"
    config.evaluate.models = ("sft", "rl")
    config.evaluate.problems, config.evaluate.samples = 200, 32
    return config
