"""GRPO with Python in the loop (paper §3.1 and §4.1): the model writes programs, reads their output, and continues.

Command, with the model's Hugging Face folder and GSM8K below `data`:
`dsmath run --config=grpo_tools --workdir=runs/tools --config.rl.init=hf:Qwen2.5-Math-1.5B-Instruct`.
The rollouts are dialogues with the sandbox: a turn of the model ends at "```output", its last Python block is run, and
the output follows. Tokens of outputs have no loss. `--config.rl.environment.name=package.module:NAME` is your own
environment, `calculator` the built-in one (docs/rl.md). GRPO cannot teach programs to a model that never
writes one: begin with one that was instruction-tuned on tool-integrated solutions (`sft`).

Hardware: one H100 by default, for 1.5 B parameters; `grpo_tools:h100-8` is for 7 B on eight. Expected: in
`runs/tools/rl/metrics.jsonl` the reward, `turns` of a dialogue and the share of tokens that are outputs
(`frac_inserted`); the programs and their outputs are in `samples.jsonl` (`dsmath rollouts`).
"""

from ml_collections import ConfigDict

from dsmath_jax.models.sizes import sizes
from dsmath_jax.variants import choose

ACCELERATORS = {
    "h100": {"model": sizes("qwen2.5-1.5b"), "rl": {"grad_accum_steps": 64, "decode_slots": 256}},
    "h100-8": {"model": sizes("qwen2.5-7b"), "rl": {"grad_accum_steps": 16, "decode_slots": 256}},
}


def get_config(variant: str = "") -> ConfigDict:
    (accelerator,) = choose("configs/grpo_tools.py", variant, ACCELERATORS)
    config = ConfigDict()
    config.seed = 0
    config.data_dir = "data"
    config.tokenizer = {}  # the model's
    config.chat = {"instruction": "paper"}  # which asks for programs
    config.rl = {
        "init": "hf:model", "data": ("gsm8k/train",), "method": "grpo_rule",
        "environment": {"name": "python", "max_turns": 5},
        "prompts_per_step": 32, "group_size": 8, "max_prompt_tokens": 512, "max_new_tokens": 2048, "temperature": 1.0,
        "kl_coef": 0.001, "steps": 200, "checkpoint_every": 50,
        "eval_data": ("gsm8k/test",), "eval_every": 50, "eval_problems": 256,
        "peak_lr": 1e-6, "warmup_steps": 10, "schedule": "constant", "weight_decay": 0.0,
    }  # fmt: skip
    config.update(ACCELERATORS[accelerator])
    return config
