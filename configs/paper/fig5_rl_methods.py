"""Paper Figure 5 (§5.2.2): RFT, Online RFT, GRPO with outcome and with process supervision, on toy problems.

The paper trains DeepSeekMath-Instruct 1.3B and plots accuracy over steps; it finds RFT < Online RFT < GRPO+OS <
GRPO+PS. Here a 1 M parameter model answers word problems of three to five steps; `grpo_rule` (GRPO with the exact
answer as its reward) is added. Commands, one shared start and then any method and seed:
`python -m dsmath_jax.main --config=configs/paper/fig5_rl_methods.py:start --workdir=runs/figures/start`
`python -m dsmath_jax.main --config=configs/paper/fig5_rl_methods.py:grpo_ps --workdir=runs/figures/grpo_ps-0`;
all methods with tables and plots: `python launch/paper_figures.py runs/figures`.
Hardware: one CPU core, 4 GB. Time: the start 40 minutes, a method 5 to 7. Expected: docs/rl.md. Sizes and rates were
chosen on `toy/dev`; the figure is measured on `toy/test`.
"""

from ml_collections import ConfigDict

from dsmath_jax.models.sizes import sizes
from dsmath_jax.variants import choose

STEPS, PROMPTS, GROUP = 40, 16, 8
METHODS = ("grpo_ps", "grpo_os", "grpo_rule", "rft", "online_rft")


def get_config(variant: str = "") -> ConfigDict:
    (variant,) = choose("configs/paper/fig5_rl_methods.py", variant, (*METHODS, "start"))
    config = ConfigDict()
    config.seed = 0
    config.data_dir = "toy"
    config.evaluate = {
        "tasks": ("toy/test",), "problems": 500, "samples": 8, "temperature": 0.7, "max_new_tokens": 64,
        "decode_slots": 128, "models": ("rl",), "examples": ("toy/train",), "shots": 2,
    }  # fmt: skip
    if variant == "start":
        start(config)
        config.evaluate.models = ("sft",)
        return config
    config.start = "runs/figures/start"
    config.rl = {
        "method": variant, "data": ("toy/rl",), "prompts_per_step": PROMPTS, "group_size": GROUP,
        "max_prompt_tokens": 120, "max_new_tokens": 64,
        "offline_prompts": STEPS * PROMPTS,  # RFT samples as many completions as the online methods
        "eval_data": ("toy/test",), "eval_problems": 300, "eval_every": 10, "steps": STEPS, "checkpoint_every": 20,
        "peak_lr": 1e-4, "warmup_steps": 5, "weight_decay": 0.0,
    }  # fmt: skip
    if variant.startswith("grpo"):
        config.rl.kl_coef = 0.3  # with the paper's 0.04 these small reward models are over-optimized in 20 steps
    return config


def start(config: ConfigDict) -> None:
    """Adds the stages that all methods share: the SFT model and both reward models.

    Unlike in the paper, reward models start from the SFT model, since so small a base model cannot solve problems; and
    a step's label is the fraction of correct completions, since with few possible answers one may be a lucky guess.
    """
    config.toy = {
        "problems": {"train": 1500, "rl": 4000, "dev": 200, "test": 500}, "steps": (3, 4, 5), "largest": 20,
        "pages": 800,
    }  # fmt: skip
    config.corpus = {
        "input": "crawl/*.warc.gz", "labels": "crawl/labels.jsonl", "benchmarks": ("toy/rl", "toy/dev", "toy/test"),
        "iterations": 3, "top_tokens": 200_000, "ablation_tokens": (), "min_score": 0.5,
        "fasttext": {"dim": 64, "lr": 0.5, "min_count": 1, "epochs": 25, "bucket": 50_000},
    }  # fmt: skip
    config.tokenizer = {"vocab_size": 1024}
    config.model = sizes("1m")
    config.pretrain = {
        "mixture": {"corpus/en": 0.9, "corpus/zh": 0.1}, "sequence_length": 256, "batch_size": 4,
        "steps": 2000, "checkpoint_every": 200, "eval_every": 200,
        "peak_lr": 3e-3, "warmup_steps": 20, "schedule": "multi_step",
    }  # fmt: skip
    config.sft = {
        "data": ("toy/train",), "sequence_length": 256, "batch_size": 8,
        "steps": 800, "checkpoint_every": 100, "eval_every": 100, "peak_lr": 1e-3, "warmup_steps": 20,
    }  # fmt: skip
    training = {
        "init": "sft", "data": ("toy/rl",), "problems": 4000, "max_new_tokens": 64, "batch_size": 64,
        "steps": 400, "checkpoint_every": 50, "peak_lr": 3e-4, "warmup_steps": 10, "schedule": "multi_step",
    }  # fmt: skip
    config.reward_model = {**training, "samples": 4}
    config.process_model = {**training, "kind": "process", "samples": 2, "completions": 4, "estimation": "soft"}
