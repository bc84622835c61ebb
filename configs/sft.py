"""SFT of your model on your conversations (paper §3): any family of docs/models.md, 0.5 to 8 B parameters.

Command, with the model's Hugging Face folder and your file below `data`:
`dsmath run --config=sft --workdir=runs/mine --config.sft.init=hf:Qwen2.5-1.5B --config.sft.data="('my_chats.jsonl',)"`.
A line of the file has `messages`, or a question and its solution under the names that docs/data.md lists. Loss is on
the assistant's turns only. The tokenizer and the chat template are the model's; a model without a template needs
`--config.chat.template=paper` or your own.

Hardware: one H100 by default, for 1.5 B parameters. `sft:h100-8` is for 7 B on eight. `sft:v5e-1` and `sft:t4` are
for 0.5 B on one chip, `sft:v5e-8` for 3 B on eight. A T4 has no bfloat16: it computes in float32, without its matrix
units. For your model and device: `dsmath aot --config=sft:v5e-8 --config.sft.init=hf:mine --topology=v5e-8` reads its
config.json and says whether it fits. `model` is what a variant was chosen for; of a model from `init`, it decides
only `compute_dtype`, `remat` and `attention`. Where memory is short, raise `grad_accum_steps` or lower
`sequence_length`.
Expected: `runs/mine/sft/metrics.jsonl` with the loss of each step, and the model, which
`dsmath convert export --from=runs/mine/sft --to=mine_hf` writes in Hugging Face's format.
"""

from ml_collections import ConfigDict

from dsmath_jax.models.sizes import sizes
from dsmath_jax.variants import choose

ACCELERATORS = {
    "h100": {"model": sizes("qwen2.5-1.5b"), "sft": {"grad_accum_steps": 16}},
    "h100-8": {"model": sizes("qwen2.5-7b"), "sft": {"grad_accum_steps": 4}},
    "v5e-1": {"model": sizes("qwen2.5-0.5b", remat="full"), "sft": {"grad_accum_steps": 32}},
    "v5e-8": {"model": sizes("qwen2.5-3b", remat="full"), "sft": {"grad_accum_steps": 8}},
    "t4": {
        "model": sizes("qwen2.5-0.5b", remat="full", compute_dtype="float32", attention="xla"),
        "sft": {"grad_accum_steps": 64},
    },
}  # fmt: skip


def get_config(variant: str = "") -> ConfigDict:
    (accelerator,) = choose("configs/sft.py", variant, ACCELERATORS)
    config = ConfigDict()
    config.seed = 0
    config.data_dir = "data"
    config.tokenizer = {}  # the model's
    config.sft = {
        "init": "hf:model", "data": ("gsm8k/train",), "sequence_length": 2048, "batch_size": 64,
        "steps": 500, "checkpoint_every": 100, "eval_every": 100, "eval_rows": 64,
        "peak_lr": 1e-5, "warmup_steps": 20, "schedule": "constant",
    }  # fmt: skip
    config.update(ACCELERATORS[accelerator])
    return config
