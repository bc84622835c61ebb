"""TRL's side of `benchmarks.grpo_iteration`."""

import json
import queue
import threading
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-not-found]
import numpy as np
import tokenizers
import torch  # type: ignore[import-not-found]
import transformers  # type: ignore[import-not-found]
import trl  # type: ignore[import-not-found]

from benchmarks import turns
from benchmarks.grpo_iteration_task import EOS, PAD, PhaseTimer, Task, lengths_of, prompts_of, reward_of, text_of


class Planned(transformers.LogitsProcessor):
    """Ends each row at its planned length, not before."""

    def __init__(self, lengths: list[int], prompt_tokens: int) -> None:
        self._lengths, self._start = torch.tensor(lengths), prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        eos = torch.full_like(scores, -torch.inf)
        eos[:, EOS] = 0.0
        ends = (input_ids.shape[1] - self._start + 1 >= self._lengths.to(scores.device))[:, None]
        never = scores.clone()
        never[:, EOS] = -torch.inf
        return torch.where(ends, eos, never)


class Timed(trl.GRPOTrainer):
    """The trainer, with planned lengths and a clock for its phases."""

    task: Task
    timer: PhaseTimer
    num_rollouts = 0

    def _generate_single_turn(self, *arguments: Any, **options: Any) -> Any:
        plan = Planned(lengths_of(self.task, self.num_rollouts), self.task.prompt_tokens)
        self.num_rollouts += 1
        generate = self.model.generate
        self.model.generate = lambda **given: generate(**given, logits_processor=[plan])
        self.timer.end("score")
        try:
            output = super()._generate_single_turn(*arguments, **options)
        finally:
            del self.model.generate
        self.timer.end("sample")
        self.timer.seconds["tokens"] += sum(map(len, output[0]))
        return output

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)
        self.timer.end("score")
        return output


class OnDemand(transformers.TrainerCallback):
    """Lets the training loop do one step per call; a call returns the times of the step."""

    def __init__(self, timer: PhaseTimer) -> None:
        self._timer = timer
        self.requests: queue.Queue[None] = queue.Queue()
        self.done: queue.Queue[dict | None] = queue.Queue()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.requests.get()
        self._timer.start()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._timer.end("update")
        self.done.put(dict(self._timer.seconds))

    def __call__(self) -> dict | None:
        self.requests.put(None)
        return self.done.get(timeout=600)


def word_tokenizer(vocabulary: int) -> transformers.PreTrainedTokenizerFast:
    special = {"<eos>": EOS, "<pad>": PAD}
    words = special | {text_of([token]): token for token in range(len(special), vocabulary)}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<pad>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, eos_token="<eos>", pad_token="<pad>", padding_side="left"
    )


def loss_and_norm(trainer: trl.GRPOTrainer, rollout: Any) -> list[float]:
    """Returns TRL's loss on a rollout, and the norm of its gradient."""
    inputs = {name: torch.from_numpy(rollout[name]).to(trainer.accelerator.device) for name in rollout.files}
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    loss = trainer._compute_loss(trainer.model, inputs)
    gradients = torch.autograd.grad(loss, list(trainer.model.parameters()))
    norms = [float(torch.linalg.vector_norm(each.double())) for each in gradients]
    return [float(loss.detach()), float(np.linalg.norm(norms))]


def prepare(folder: Path) -> tuple[dict, turns.Work]:
    """Computes the loss on the common rollout, and warms up the trainer by one iteration."""
    setup = json.loads((folder / "task.json").read_text())
    task = Task(**setup["task"])
    torch.set_float32_matmul_precision("highest")
    model = transformers.LlamaForCausalLM.from_pretrained(
        folder / "hf", dtype=torch.float32, attn_implementation="sdpa"
    )
    iterations = range(setup["turns"] + 2)
    rows = [{"prompt": text_of(prompt)} for number in iterations for prompt in prompts_of(task, number)]
    timer = PhaseTimer()
    on_demand = OnDemand(timer)
    settings = trl.GRPOConfig(
        output_dir=str(folder / "trl"), use_cpu=not torch.cuda.is_available(), bf16=False, report_to=[],
        disable_tqdm=True, logging_strategy="no", save_strategy="no", max_steps=len(iterations),
        gradient_checkpointing=False, per_device_train_batch_size=task.rows, gradient_accumulation_steps=1,
        num_generations=task.group_size, max_completion_length=task.new_tokens, shuffle_dataset=False,
        temperature=task.temperature, top_p=1.0, top_k=0, beta=task.kl_coef, epsilon=task.clip_eps, num_iterations=1,
        loss_type="grpo", scale_rewards="group", use_bias_correction_kl=False, learning_rate=task.learning_rate,
        lr_scheduler_type="constant", weight_decay=0.1, adam_beta2=0.95, max_grad_norm=1.0, optim="adamw_torch_fused",
    )  # fmt: skip
    trainer = Timed(
        model,
        lambda completions, **_: [reward_of(text) for text in completions],
        args=settings,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=word_tokenizer(task.vocabulary),
        callbacks=[on_demand],
    )
    trainer.task, trainer.timer = task, timer
    with np.load(folder / "rollout.npz") as rollout:
        values = loss_and_norm(trainer, rollout)
    errors: list[BaseException] = []

    def train() -> None:
        try:
            trainer.train()
        except BaseException as error:  # the main thread raises it
            errors.append(error)
            on_demand.done.put(None)

    threading.Thread(target=train, daemon=True).start()

    def run() -> dict:
        seconds = on_demand()
        if seconds is None:
            raise errors[0]
        return seconds

    run()
    version = f"TRL {trl.__version__}, torch {torch.__version__}, transformers {transformers.__version__}"
    return {"version": version, "values": values}, run
