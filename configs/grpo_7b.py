"""DeepSeekMath-RL 7B: GRPO from DeepSeekMath-Instruct 7B on the questions of GSM8K and MATH (paper §4.2).

Command, in the workdir of configs/sft_7b.py, or in another one with `--config.start=runs/sft_7b`:
`python -m dsmath_jax.main --config=configs/grpo_7b.py --workdir=runs/sft_7b --config.data_dir=data`.
A variant is the method: `configs/grpo_7b.py:grpo_ps` (steps scored by a process reward model, the default),
`:grpo_os` (completions scored by an outcome reward model), `:grpo_iterative` (three rounds of it), `:grpo_rule`
(reward by the exact answer, no reward model), `:ppo` and `:online_rft`. The reward models are trained first, in their
own stages, from the stage `pretrain` (DeepSeekMath-Base, as in the paper); `--config.process_model.init=sft` starts
from the SFT model instead. The paper uses 144 thousand questions of its SFT data, which are not public. Here the data
are the two training sets, 15 thousand questions, for as many steps as 144 thousand questions need. If a test question
is also in a training set, the run stops; `--config.rl.allow_overlap=True` and `--config.evaluate.allow_overlap=True`
only count them.

Hardware: 16 TPU v5p by default (`:v5p-32`); `:v5p-8` and `:h100-8` set what another accelerator needs,
`:grpo_os,h100-8` together with a method. They are chosen for `grpo_ps`; PPO, with its value model, needs more memory.
For others see `dsmath aot --config=grpo_7b --stage=rl --topology=v6e-16 --suggest`; `model.remat` is only for this
check. Memory and time, computed and not measured: docs/aot.md.
Expected: the paper's model reaches 88.2 % on GSM8K and 51.7 % on MATH (chains of thought), from 82.9 % and 46.8 %.
"""

from ml_collections import ConfigDict

from dsmath_jax.models.sizes import sizes
from dsmath_jax.rl.algorithms import GRPO
from dsmath_jax.rl.methods import METHODS, REWARD_STAGES
from dsmath_jax.variants import choose

QUESTIONS, PROMPTS, GROUP, LENGTH = 144_000, 16, 64, 1024  # 16 x 64 completions are the paper's batch of 1,024
ROUNDS = 3  # of the iterative variant
DATA = ("gsm8k/train", "math/train")
KINDS = {"reward_model": "pointwise", "process_model": "process"}
DEFAULT = "grpo_ps"
ONLINE = [name for name, method in METHODS.items() if method.completions == "policy" and name != "distill"]
VARIANTS = [DEFAULT, *(name for name in ONLINE if name != DEFAULT)]
ACCELERATORS = {
    "v5p-32": {"rl": {"grad_accum_steps": 8, "decode_slots": 1024}},
    "v5p-8": {"rl": {"grad_accum_steps": 64, "decode_slots": 128}},
    "h100-8": {"rl": {"grad_accum_steps": 32, "decode_slots": 256}},
}


def get_config(variant: str = "") -> ConfigDict:
    name, accelerator = choose("configs/grpo_7b.py", variant, VARIANTS, ACCELERATORS)
    method, hardware = METHODS[name], ACCELERATORS[accelerator]
    config = ConfigDict()
    config.seed = 0
    config.data_dir = "data"
    config.chat = {"template": "paper", "instruction": "paper"}
    config.model = sizes("7b", remat="minimal")
    reward_model = {
        "data": DATA, "problems": 15_000, "samples": 8, "max_new_tokens": LENGTH,
        "steps": 400, "checkpoint_every": 100, "peak_lr": 2e-5,
        "grad_accum_steps": hardware["rl"]["grad_accum_steps"] // 2,  # half the rows of RL's micro-batch
    }  # fmt: skip
    if stage := REWARD_STAGES.get(method.reward):
        config[stage] = {**reward_model, "kind": KINDS[stage]}
    config.rl = {
        "method": name, "data": DATA, "prompts_per_step": PROMPTS, "group_size": GROUP, "max_prompt_tokens": 512,
        "max_new_tokens": LENGTH, "num_updates": 1, "rounds": ROUNDS if method.iterative else 1, "reward_workers": 16,
        "eval_data": ("gsm8k/test", "math/test"), "eval_problems": 512, "eval_every": 100,
        "steps": QUESTIONS // PROMPTS, "checkpoint_every": 50,
        "peak_lr": 1e-6, "schedule": "constant", "weight_decay": 0.0,
    }  # fmt: skip
    if method.algorithm is GRPO:
        config.rl.kl_coef = 0.04  # as in the paper
    if method.iterative:
        config.rl.retrain = {**reward_model, "problems": 2_000, "steps": 50, "checkpoint_every": 25}
    config.evaluate = {
        "tasks": ("gsm8k", "math"), "samples": 1, "temperature": 0.0, "max_new_tokens": LENGTH,
        "decode_slots": hardware["rl"]["decode_slots"], "models": ("sft", "rl"),
    }  # fmt: skip
    config.update(hardware)
    return config
