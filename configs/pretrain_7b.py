"""DeepSeekMath-Base 7B: continued pre-training of DeepSeek-Coder-Base-v1.5 7B, 500 billion tokens (paper §2.3).

Command, in the workdir of a finished corpus (configs/corpus.py):
`python -m dsmath_jax.main --config=configs/pretrain_7b.py --workdir=runs/corpus --config.data_dir=data`.
`data` contains `deepseek-coder-7b-base-v1.5/` (the Hugging Face folder with its tokenizer); the public sources are
downloaded into it unless they are mirrored there.

Hardware: 128 TPU v5p by default (`:v5p-256`); `:v5p-32` is for 16 of them and `:h100-8x8` for 8 hosts of 8 H100. For
others see `dsmath aot --config=pretrain_7b --topology=v6e-64 --suggest`.
Memory and time, computed and not measured: docs/aot.md.
Expected: the paper's model reaches 64.2 % on GSM8K and 36.2 % on MATH (few-shot).
"""

from ml_collections import ConfigDict

from dsmath_jax.models.sizes import sizes
from dsmath_jax.variants import choose

TOKENS, SEQUENCES, LENGTH = 500_000_000_000, 2560, 4096  # 10 M tokens a step
ACCELERATORS = {
    # 4 x 32 of the 128 chips: with fsdp 128, XLA turns gathers into all-reduces and sends twice the bytes.
    "v5p-256": {"mesh": {"replica": 4}, "pretrain": {"grad_accum_steps": 5}},
    "v5p-32": {"pretrain": {"grad_accum_steps": 40}},
    "h100-8x8": {"mesh": {"replica": 8}, "pretrain": {"grad_accum_steps": 20}},  # between hosts only gradients
}


def get_config(variant: str = "") -> ConfigDict:
    (accelerator,) = choose("configs/pretrain_7b.py", variant, ACCELERATORS)
    config = ConfigDict()
    config.seed = 0
    config.data_dir = "data"
    config.tokenizer = {"path": "deepseek-coder-7b-base-v1.5"}
    config.model = sizes("7b", remat="minimal")
    config.pretrain = {
        "init": "hf:deepseek-coder-7b-base-v1.5",
        "mixture": {
            "corpus": 0.56, "algebraic_stack": 0.04, "arxiv": 0.10, "github_code": 0.20,
            "fineweb": 0.05, "skypile": 0.05,  # natural language, English and Chinese
        },
        "mask_documents": True, "sequence_length": LENGTH, "batch_size": SEQUENCES,
        "steps": -(-TOKENS // (SEQUENCES * LENGTH)), "checkpoint_every": 250, "keep_checkpoints": 3,
        "eval_every": 1000, "eval_rows": 2560,
        "peak_lr": 4.2e-4, "warmup_steps": 2000, "schedule": "multi_step",
    }  # fmt: skip
    config.update(ACCELERATORS[accelerator])
    return config
