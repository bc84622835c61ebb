"""All stages on a laptop CPU without downloads: a generated web, generated problems, a 1 M parameter model.

Paper: all of it, at toy size. Command: `make demo`, or
`python -m dsmath_jax.main --config=configs/tiny.py --workdir=runs/tiny`.
Hardware: 2 CPU cores, 4 GB. Time: about 8 minutes. Expected (seed 0): SFT answers 41 % of the held-out problems,
GRPO 14 points more (README, Results).

`configs/tiny.py:sft_continued` is the control: instead of RL, SFT continues for the floating-point operations of the RL
stage, with an annealed learning rate (stages corpus, tokenizer, pretrain, sft, evaluate, report).

`configs/tiny.py:tools` has a calculator in the loop of RL: the numbers are too large for the model, some of the
solutions that SFT sees call the calculator, and GRPO makes that a habit (docs/rl.md).
"""

from ml_collections import ConfigDict

from dsmath_jax.models.sizes import sizes
from dsmath_jax.variants import choose

# RL's cost in SFT steps of 1,024 tokens. An RL step has 16 x 8 rows of about 70 tokens: forward passes to sample and of
# the reference (2 + 2 of SFT's 6 units per token), then forward and backward (6): 220 x 128 x 70 x 10 / (1,024 x 6).
RL_AS_SFT_STEPS = 3208


def get_config(variant: str = "") -> ConfigDict:
    (variant,) = choose("configs/tiny.py", variant, ("full", "sft_continued", "tools"))
    config = ConfigDict()
    config.seed = 0
    config.data_dir = "toy"  # generated below the workdir
    config.toy = {
        "problems": {"train": 600, "rl": 4000, "test": 300}, "steps": (1, 2, 3), "largest": 15, "pages": 800,
    }  # fmt: skip
    config.corpus = {
        "input": "crawl/*.warc.gz", "labels": "crawl/labels.jsonl", "benchmarks": ("toy/rl", "toy/test"),
        "iterations": 3, "top_tokens": 200_000, "ablation_tokens": (50_000, 100_000), "min_score": 0.5,
        "fasttext": {"dim": 64, "lr": 0.5, "min_count": 1, "epochs": 25, "bucket": 50_000},
    }  # fmt: skip
    config.tokenizer = {"vocab_size": 1536}
    config.model = sizes("1m")
    config.pretrain = {
        "mixture": {"corpus/en": 0.9, "corpus/zh": 0.1}, "sequence_length": 128, "batch_size": 8,
        "steps": 2000, "checkpoint_every": 200, "eval_every": 200,
        "peak_lr": 3e-3, "warmup_steps": 20, "schedule": "multi_step",
    }  # fmt: skip
    config.sft = {
        "data": ("toy/train",), "sequence_length": 128, "batch_size": 8,
        "steps": 350, "checkpoint_every": 50, "eval_every": 50, "peak_lr": 1e-3, "warmup_steps": 20,
    }  # fmt: skip
    config.reward_model = {
        "init": "sft", "data": ("toy/train",), "problems": 400, "samples": 4, "max_new_tokens": 42, "batch_size": 32,
        "steps": 60, "checkpoint_every": 30, "peak_lr": 3e-4, "warmup_steps": 10,
    }  # fmt: skip
    config.rl = {
        "method": "grpo_rule", "data": ("toy/rl",), "prompts_per_step": 16, "group_size": 8, "max_prompt_tokens": 64,
        "max_new_tokens": 42, "steps": 220, "checkpoint_every": 20,
        "peak_lr": 1.5e-4, "warmup_steps": 5, "schedule": "multi_step", "weight_decay": 0.0,
    }  # fmt: skip
    config.evaluate = {
        "tasks": ("toy/test",), "problems": 300, "samples": 8, "temperature": 0.7, "max_new_tokens": 42,
        "decode_slots": 100, "models": ("base", "sft", "rl"), "examples": ("toy/train",), "shots": 2,
    }  # fmt: skip
    if variant == "sft_continued":
        config.sft.steps += RL_AS_SFT_STEPS
        config.sft.schedule = "multi_step"
        config.evaluate.models = ("base", "sft")
    if variant == "tools":
        config.toy.update({"steps": (1, 2), "largest": 999, "calculator": 0.3})
        config.rl.update({
            "environment": {"name": "calculator", "max_turns": 4}, "max_new_tokens": 48, "steps": 120,
            "eval_data": ("toy/test",), "eval_every": 20, "eval_problems": 0,
        })  # fmt: skip
        del config.reward_model, config.evaluate  # which samples without the calculator
    return config
