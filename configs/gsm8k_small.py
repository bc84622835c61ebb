"""All stages on real data, small enough for a CPU: a real crawl, GSM8K's training set and its test questions.

Paper: sections 2.1 to 4, at a size that learns only the answer format. Commands, with a mirror folder as data_dir:
`python -m dsmath_jax.main --config=configs/gsm8k_small.py --workdir=runs/gsm8k_small --config.data_dir=data`;
`configs/gsm8k_small.py:stories260k` starts from the trained checkpoint `checkpoints/stories260k_hf` and its tokenizer.
Hardware: 2 CPU cores, 4 GB. Time: below 20 minutes. Expected: an accuracy near zero.
"""

from ml_collections import ConfigDict

from dsmath_jax.models.sizes import sizes
from dsmath_jax.variants import choose

STORIES = "checkpoints/stories260k_hf"


def get_config(variant: str = "") -> ConfigDict:
    (variant,) = choose("configs/gsm8k_small.py", variant, ("scratch", "stories260k"))
    stories = variant == "stories260k"
    length = 512 if stories else 384
    config = ConfigDict()
    config.seed = 0
    config.data_dir = "../shared/data"
    config.corpus = {
        "input": "crawl/crawl-0*.warc.gz", "labels": "crawl/labels-public.jsonl",
        "annotations": "crawl/annotations.jsonl", "benchmarks": ("gsm8k/train", "gsm8k/test", "cmath/test"),
        "top_tokens": 1_500_000, "ablation_tokens": (),
        "fasttext": {"dim": 64, "lr": 0.5, "epochs": 25, "bucket": 200_000},
    }  # fmt: skip
    config.tokenizer = {"path": STORIES if stories else "", "vocab_size": 4096}
    config.chat = {"template": "paper"}  # the checkpoint has none
    config.model = sizes(
        "1m", hidden_size=192, num_attention_heads=6, intermediate_size=512, max_position_embeddings=1024
    )
    config.pretrain = {
        "init": f"hf:{STORIES}" if stories else "", "mixture": {"corpus/en": 0.9, "corpus/zh": 0.1},
        "sequence_length": length, "batch_size": 8,
        "steps": 150, "checkpoint_every": 50, "eval_every": 50, "eval_rows": 32,
        "peak_lr": 1e-3, "warmup_steps": 20, "schedule": "multi_step",
    }  # fmt: skip
    config.sft = {
        "data": ("gsm8k/train",), "sequence_length": length, "batch_size": 8,
        "steps": 150, "checkpoint_every": 50, "eval_every": 50, "eval_rows": 32, "peak_lr": 5e-4, "warmup_steps": 20,
    }  # fmt: skip
    # No reward model: with hardly any correct samples it cannot learn to distinguish them.
    config.rl = {
        "method": "grpo_rule", "data": ("gsm8k/train",), "prompts_per_step": 4, "group_size": 16,
        "max_prompt_tokens": 192, "max_new_tokens": 96, "steps": 10, "checkpoint_every": 5,
        "peak_lr": 1e-4, "warmup_steps": 2, "weight_decay": 0.0,
    }  # fmt: skip
    config.evaluate = {
        "tasks": ("gsm8k",), "problems": 200, "samples": 4, "temperature": 0.7, "max_new_tokens": 128,
        "decode_slots": 64, "models": ("base", "sft", "rl"),
    }  # fmt: skip
    return config
