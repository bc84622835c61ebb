"""GRPO on your model, your questions and your reward (paper §4.1): any family of docs/models.md, 0.5 to 8 B parameters.

Command, with the model's Hugging Face folder and your questions below `data`:
`dsmath run --config=grpo --workdir=runs/mine --config.rl.init=hf:Qwen2.5-0.5B-Instruct
--config.rl.data="('my_questions.jsonl',)" --config.rl.reward_fns="('correct', 'my_rewards:brief')"`.
A line of the file has `question` and, for the reward `correct`, `answer`. The tokenizer and the chat template are the
model's; `--config.chat.instruction=paper` puts the paper's instruction below every question.

Hardware: one device that holds the parameters four times in float32 (policy, AdamW's two moments, reference), or
several that share them. Without a KL penalty (`--config.rl.kl_coef=0`) there is no reference. Where memory is short,
raise `grad_accum_steps` and lower `decode_slots`.
Expected: `runs/mine/rl/metrics.jsonl` with the reward of each step, and the policy, which
`dsmath convert export --from=runs/mine/rl --to=mine_hf` writes in Hugging Face's format.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.data_dir = "data"
    config.tokenizer = {}  # the model's
    config.rl = {
        "init": "hf:model", "data": ("gsm8k/train",), "reward_fns": ("correct",), "method": "grpo_rule",
        "prompts_per_step": 32, "group_size": 8, "max_prompt_tokens": 512, "max_new_tokens": 1024, "temperature": 1.0,
        "kl_coef": 0.001, "steps": 200, "checkpoint_every": 50, "eval_every": 50, "eval_problems": 256,
        "grad_accum_steps": 8, "peak_lr": 1e-6, "warmup_steps": 10, "schedule": "constant", "weight_decay": 0.0,
    }  # fmt: skip
    return config
