"""DeepSeekMath-Instruct 7B: chains of thought, programs and tool-integrated reasoning, 500 steps (paper §3).

Command: `python -m dsmath_jax.main --config=configs/sft_7b.py --workdir=runs/sft_7b --config.data_dir=data`.
`data` contains `deepseek-math-7b-base/` (the Hugging Face folder with its tokenizer); the instructions are downloaded
into it unless they are mirrored there. In the workdir of configs/pretrain_7b.py, `--config.sft.init=` with that
config's `--config.tokenizer.path` starts from its model. The paper's 776 thousand examples are not public: these are
open data sets of the same kinds, and `--config.sft.data` can add your files.

Hardware: 16 TPU v5p (`v5p:2x2x4`); 4, 8, 32 or 64 work as well. To fit another slice, change `grad_accum_steps` and
`model.remat` and compile for it:
`python -m dsmath_jax.aot --config=configs/sft_7b.py --topology=v5e:4x8`.
Time: 2.1 hours on 16 v5p, computed for 40 % MFU, not measured. Memory: 56.4 GiB per chip (docs/aot.md).
Expected: the paper's model reaches 82.9 % on GSM8K and 46.8 % on MATH (chains of thought) with its own examples.
"""

from ml_collections import ConfigDict

from dsmath_jax.models.sizes import sizes


def get_config() -> ConfigDict:
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
        "steps": 500, "checkpoint_every": 100, "eval_every": 100, "eval_rows": 256, "grad_accum_steps": 4,
        "peak_lr": 5e-5, "schedule": "constant",
    }  # fmt: skip
    return config
