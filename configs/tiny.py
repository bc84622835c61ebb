"""The whole path on a laptop CPU, without any download: generated web, generated problems, a 1 M parameter model.

Paper: all of it, at toy size. Command: `make demo`, or
`python -m dsmath_jax.main --config=configs/tiny.py --workdir=runs/tiny`.
Hardware: 2 CPU cores, 4 GB. Time: some 8 minutes. Expected (seed 0): SFT answers 46 % of the held-out problems,
GRPO 10 points more (README, Results).

`configs/tiny.py:sft_continued` is the control: in place of RL, SFT goes on for as many floating-point operations as
the RL stage takes, its learning rate annealed (stages corpus, tokenizer, pretrain, sft, evaluate, report).
"""

from ml_collections import ConfigDict

from dsmath_jax.corpus.settings import CorpusSettings, FastTextSettings
from dsmath_jax.models.sizes import sizes
from dsmath_jax.rl.reward_stage import reward_model_fields
from dsmath_jax.rl.settings import rl_fields
from dsmath_jax.settings import to_dict
from dsmath_jax.training.loop import loop_fields
from dsmath_jax.training.optimizer import adamw
from dsmath_jax.workdir import UserError

# RL's cost in SFT steps of 1,024 tokens. A step of RL handles 16 x 8 rows of some 70 tokens: forward to sample and to
# ask the reference (2 + 2 of SFT's 6 units a token), then forward and backward (6): 220 x 128 x 70 x 10 over 1,024 x 6.
RL_AS_SFT_STEPS = 3208


def get_config(variant: str = "full") -> ConfigDict:
    if variant not in ("full", "sft_continued"):
        raise UserError(f"configs/tiny.py has no variant '{variant}'; it has full and sft_continued.")
    config = ConfigDict()
    config.seed = 0
    config.data_dir = "toy"  # generated below the workdir
    config.mesh = {"replica": 1, "fsdp": -1, "context": 1, "tensor": 1}
    config.toy = {
        "problems": {"train": 600, "rl": 4000, "test": 300},
        "steps": (1, 2, 3),
        "largest": 15,
        "pages": 800,
        "templates": "default",
    }
    config.corpus = to_dict(CorpusSettings(
        input="crawl/*.warc.gz", labels="crawl/labels.jsonl", benchmarks=("toy/rl", "toy/test"), iterations=3,
        top_tokens=200_000, ablation_tokens=(50_000, 100_000), min_score=0.5,
        fasttext=FastTextSettings(dim=64, lr=0.5, min_count=1, epochs=25, bucket=50_000),
    ))  # fmt: skip
    config.tokenizer = {"path": "", "vocab_size": 1536}
    config.model = sizes("1m")
    config.pretrain = {
        "init": "", "mixture": {"corpus/en": 0.9, "corpus/zh": 0.1}, "sequence_length": 128, "batch_size": 8,
        **loop_fields(2000, checkpoint_every=200, eval_every=200), **adamw(3e-3, 20, "multi_step"),
    }  # fmt: skip
    config.sft = {
        "data": ("toy/train",), "sequence_length": 128, "batch_size": 8,
        **loop_fields(350, checkpoint_every=50, eval_every=50), **adamw(1e-3, 20),
    }  # fmt: skip
    config.reward_model = {
        **reward_model_fields(("toy/train",), "pointwise", 400, 4, init="sft", max_new_tokens=42, batch_size=32),
        **loop_fields(60, checkpoint_every=30), **adamw(3e-4, 10),
    }  # fmt: skip
    config.rl = {
        **rl_fields(
            ("toy/rl",), "grpo_rule", prompts=16, group_size=8, max_prompt_tokens=64, max_new_tokens=42,
        ),
        **loop_fields(220, checkpoint_every=20), **adamw(1.5e-4, 5, "multi_step", weight_decay=0.0),
    }  # fmt: skip
    config.evaluate = {
        "data": ("toy/test",), "problems": 300, "samples": 8, "temperature": 0.7, "max_new_tokens": 42,
        "decode_slots": 100, "models": ("base", "sft", "rl"), "examples": ("toy/train",), "shots": 2,
    }  # fmt: skip
    if variant == "sft_continued":
        config.sft.steps += RL_AS_SFT_STEPS
        config.sft.schedule = "multi_step"
        config.evaluate.models = ("base", "sft")
    return config
