"""The 1.3B experiments: one corpus, 150 billion tokens (paper §2.2, Table 1 and Figure 3).

Command, in the workdir of a finished corpus (configs/corpus.py):
`python -m dsmath_jax.main --config=configs/pretrain_1b3.py --workdir=runs/corpus --config.data_dir=data`.
`configs/pretrain_1b3.py:openwebmath` and `:proof_pile_2` use the paper's other corpora, without a mined one.
`data` contains `deepseek-tokenizer/tokenizer.json` (102,400 ids). The paper starts from DeepSeek-LLM 1.3B, which is not
public; this config starts from scratch, or from your model: `--config.pretrain.init=hf:models/mine` (below `data`).

Hardware: 16 TPU v5p by default; `:v5e-16` and `:h100-8` set what another accelerator needs, `:openwebmath,h100-8`
together with a corpus. For others see `dsmath aot --config=pretrain_1b3 --topology=v6e-8 --suggest`.
Memory and time, computed and not measured: docs/aot.md.
Expected: the paper's 1.3B model reaches 23.8 % on GSM8K and 13.6 % on MATH (few-shot) after its corpus.
"""

from ml_collections import ConfigDict

from dsmath_jax.models.sizes import sizes
from dsmath_jax.variants import choose

TOKENS, SEQUENCES, LENGTH = 150_000_000_000, 1024, 4096  # 4 M tokens a step
MIXTURES = {
    "corpus": {"corpus": 1.0},
    "openwebmath": {"openwebmath": 1.0},
    "proof_pile_2": {"arxiv": 2 / 7, "openwebmath": 4 / 7, "algebraic_stack": 1 / 7},  # its authors' 2:4:1
}
ACCELERATORS = {
    "v5p-32": {"pretrain": {"grad_accum_steps": 8}},
    "v5e-16": {"pretrain": {"grad_accum_steps": 32}},
    "h100-8": {"pretrain": {"grad_accum_steps": 16}},
}


def get_config(variant: str = "") -> ConfigDict:
    mixture, accelerator = choose("configs/pretrain_1b3.py", variant, MIXTURES, ACCELERATORS)
    config = ConfigDict()
    config.seed = 0
    config.data_dir = "data"
    config.tokenizer = {"path": "deepseek-tokenizer"}
    config.model = sizes("1b3", remat="minimal")
    config.pretrain = {
        "mixture": MIXTURES[mixture], "mask_documents": True, "sequence_length": LENGTH, "batch_size": SEQUENCES,
        "steps": -(-TOKENS // (SEQUENCES * LENGTH)), "checkpoint_every": 500, "keep_checkpoints": 3,
        "eval_every": 1000, "eval_rows": 1024,
        "peak_lr": 5.3e-4, "warmup_steps": 2000, "schedule": "multi_step",
    }  # fmt: skip
    config.update(ACCELERATORS[accelerator])
    return config
