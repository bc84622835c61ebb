"""DeepSeekMath-Base 7B: continued pre-training of DeepSeek-Coder-Base-v1.5 7B, 500 billion tokens (paper §2.3).

Command, in the workdir of a finished corpus (configs/corpus.py):
`python -m dsmath_jax.main --config=configs/pretrain_7b.py --workdir=runs/corpus --config.data_dir=data`.
`data` contains `deepseek-coder-7b-base-v1.5/` (the Hugging Face folder with its tokenizer); the public sources are
downloaded into it unless they are mirrored there.

Hardware: 128 TPU v5p (`v5p:4x4x8`). To fit another slice, change `grad_accum_steps` and `model.remat` and compile for
it:
`python -m dsmath_jax.aot --config=configs/pretrain_7b.py --topology=v5e:4x8`.
Time: 10.3 days on 128 v5p, computed for 40 % MFU, not measured. Memory: 52.2 GiB per chip (docs/aot.md).
Expected: the paper's model reaches 64.2 % on GSM8K and 36.2 % on MATH (few-shot).
"""

from ml_collections import ConfigDict

from dsmath_jax.models.sizes import sizes

TOKENS, SEQUENCES, LENGTH = 500_000_000_000, 2560, 4096  # 10 M tokens a step


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.data_dir = "data"
    # 4 x 32 of the 128 chips: with fsdp 128, XLA turns gathers into all-reduces and sends twice the bytes.
    config.mesh = {"replica": 4}
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
        "eval_every": 1000, "eval_rows": 2560, "grad_accum_steps": 5,
        "peak_lr": 4.2e-4, "warmup_steps": 2000, "schedule": "multi_step",
    }  # fmt: skip
    return config
