"""GRPO on your model, your questions and your reward (paper §4.1): any family of docs/models.md, 0.5 to 8 B parameters.

Command, with the model's Hugging Face folder and your questions below `data`:
`dsmath run --config=grpo --workdir=runs/mine --config.rl.init=hf:Qwen2.5-1.5B-Instruct
--config.rl.data="('my_questions.jsonl',)" --config.rl.reward_fns="('correct', 'my_rewards:brief')"`.
A line of the file has `question` and, for the reward `correct`, `answer`. The tokenizer and the chat template are the
model's; `--config.chat.instruction=paper` puts the paper's instruction below every question.

Hardware: one H100 by default, for 1.5 B parameters; `grpo:h100-8` is for 7 B on eight. `grpo:v5e-1` and `grpo:t4` are
for 0.5 B on one chip, `grpo:v5e-8` for 3 B on eight. A T4 has no bfloat16: it computes in float32, without its matrix
units. For your model and device: `dsmath aot --config=grpo:v5e-8 --config.rl.init=hf:mine --topology=v5e-8
--stage=rl` reads its config.json and says whether it fits. `model` is what a variant was chosen for; of a model from
`init`, it decides only `compute_dtype`, `remat` and `attention`. Where memory is short, raise `grad_accum_steps`,
lower `decode_slots`, keep the reference on the host (`--config.rl.reference_memory=host`), train without one
(`--config.rl.kl_coef=0`), or train adapters (`--config.rl.lora.rank=16 --config.rl.reference_memory=device`).
Expected: `runs/mine/rl/metrics.jsonl` with the reward of each step, and the policy, which
`dsmath convert export --from=runs/mine/rl --to=mine_hf` writes in Hugging Face's format.
"""

from ml_collections import ConfigDict

from dsmath_jax.models.sizes import sizes
from dsmath_jax.variants import choose

ACCELERATORS = {
    "h100": {
        "model": sizes("qwen2.5-1.5b"), "rl": {"grad_accum_steps": 32, "decode_slots": 256},
    },
    "h100-8": {
        "model": sizes("qwen2.5-7b"), "rl": {"grad_accum_steps": 16, "decode_slots": 256},
    },
    "v5e-1": {
        "model": sizes("qwen2.5-0.5b", remat="full"),
        "rl": {"grad_accum_steps": 64, "decode_slots": 64, "reference_memory": "host"},
    },
    "v5e-8": {
        "model": sizes("qwen2.5-3b", remat="full"), "rl": {"grad_accum_steps": 32, "decode_slots": 64},
    },
    "t4": {
        "model": sizes("qwen2.5-0.5b", remat="full", compute_dtype="float32", attention="xla"),
        "rl": {"grad_accum_steps": 256, "decode_slots": 32, "reference_memory": "host"},
    },
}  # fmt: skip


def get_config(variant: str = "") -> ConfigDict:
    (accelerator,) = choose("configs/grpo.py", variant, ACCELERATORS)
    config = ConfigDict()
    config.seed = 0
    config.data_dir = "data"
    config.tokenizer = {}  # the model's
    config.rl = {
        "init": "hf:model", "data": ("gsm8k/train",), "reward_fns": ("correct",), "method": "grpo_rule",
        "prompts_per_step": 32, "group_size": 8, "max_prompt_tokens": 512, "max_new_tokens": 1024, "temperature": 1.0,
        "kl_coef": 0.001, "steps": 200, "checkpoint_every": 50, "eval_every": 50, "eval_problems": 256,
        "peak_lr": 1e-6, "warmup_steps": 10, "schedule": "constant", "weight_decay": 0.0,
    }  # fmt: skip
    config.update(ACCELERATORS[accelerator])
    return config
