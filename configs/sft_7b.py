"""DeepSeekMath-Instruct 7B: chains of thought, programs and tool-integrated reasoning, 500 steps (paper §3).

Command: `python -m dsmath_jax.main --config=configs/sft_7b.py --workdir=runs/sft_7b --config.data_dir=data`.
`data` contains `deepseek-math-7b-base/` (the Hugging Face folder with its tokenizer); the instructions are downloaded
into it unless they are mirrored there. In the workdir of configs/pretrain_7b.py, `--config.sft.init=` with that
config's `--config.tokenizer.path` starts from its model. The paper's 776 thousand examples are not public: these are
open data sets of the same kinds, and `--config.sft.data` can add your files.

Hardware: 16 TPU v5p by default (`:v5p-32`); `:v5e-16`, `:v6e-8` and `:h100-8` set what another accelerator needs. For
others see `dsmath aot --config=sft_7b --topology=v4-32 --suggest`.
Memory and time, computed and not measured: docs/aot.md.
Expected: the paper's model reaches 82.9 % on GSM8K and 46.8 % on MATH (chains of thought) with its own examples.
"""

from ml_collections import ConfigDict

from dsmath_jax.models.sizes import sizes
from dsmath_jax.variants import choose

ACCELERATORS = {
    "v5p-32": {"sft": {"grad_accum_steps": 4}},
    "v5e-16": {"model": {"remat": "full"}, "sft": {"grad_accum_steps": 16}},
    "v6e-8": {"model": {"remat": "full"}, "sft": {"grad_accum_steps": 32}},
    "h100-8": {"sft": {"grad_accum_steps": 16}},
}


def get_config(variant: str = "") -> ConfigDict:
    (accelerator,) = choose("configs/sft_7b.py", variant, ACCELERATORS)
    config = ConfigDict()
    config.seed = 0
    config.data_dir = "data"
    config.tokenizer = {"path": "deepseek-math-7b-base"}
    config.chat = {"template": "paper", "instruction": "paper"}
    config.model = sizes("7b", remat="minimal")
    config.sft = {
        "init": "hf:deepseek-math-7b-base",
        "data": ("gsm8k/train", "math/train", "mathinstruct", "numina_tir", "belle_math_zh"),
        "sequence_length": 4096, "batch_size": 256,
        "steps": 500, "checkpoint_every": 100, "eval_every": 100, "eval_rows": 256,
        "peak_lr": 5e-5, "schedule": "constant",
    }  # fmt: skip
    config.update(ACCELERATORS[accelerator])
    return config
