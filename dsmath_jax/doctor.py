"""Checks a model in Hugging Face's format in about a minute: dsmath doctor --model=hf:DIR

Imports the model, compares its logits, token ids and prompts with those of transformers where that is installed,
samples five answers, and runs five steps of SFT and of GRPO on built-in questions, in the stages of a recipe. Prints a
line for each check, and exits with code 1 if one failed. The model is a folder, or a name of the Hub, which is
downloaded into --data_dir.
"""

import argparse
import contextlib
import dataclasses
import datetime
import importlib
import importlib.util
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dsmath_jax import api
from dsmath_jax.data import chat as chats
from dsmath_jax.data import chat_template
from dsmath_jax.data.chat import ChatSource
from dsmath_jax.data.dataset_formats import Record
from dsmath_jax.data.hub import HUGGING_FACE
from dsmath_jax.data.settings import ChatSettings, TokenizerSettings
from dsmath_jax.formatting import duration
from dsmath_jax.models.decoder import lm_head, output_logits
from dsmath_jax.recipe import Recipe
from dsmath_jax.rl.diagnosis import MAX_LOGPROB_DIFF
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.training.model_files import LanguageModel, default_compute_dtype, local_checkpoint
from dsmath_jax.training.settings import SFTSettings
from dsmath_jax.workdir import UserError, exit_code, local_path, read_jsonl, write_jsonl

SUMS = [(n, n + 3) for n in range(2, 18)]
RECORDS = [
    Record(f"doctor/{a}", f"What is {a} + {b}?", f"{a} + {b} = {a + b}\nThe answer is {a + b}.", f"{a + b}")
    for a, b in SUMS
]
TEXTS = ("The answer is 42.", "f(x) = x**2 - 3*x", "Tom has 3 apples,\nand Ann has 4.", RECORDS[0].solution)
STEPS, ANSWERS, MAX_NEW_TOKENS = 5, 5, 32
MAX_LOGITS_ERROR = 1e-3  # relative to the largest logit; float32 of both gives 1e-5
PASSED, FAILED, SKIPPED = "passed", "FAILED", "skipped"


class Line(NamedTuple):
    """The outcome of a check, what it found, and its wall time."""

    check: str
    outcome: str
    finding: str
    seconds: float = 0.0


class Skipped(Exception):
    """A check cannot be made here; the message says why."""


def brief(completion: str, record: Record) -> float:
    """A reward that differs between completions of any model: shorter ones get more."""
    del record
    return -len(completion) / 100


def examine(folder: Path, workdir: Path) -> Iterator[Line]:
    """Yields the outcome of each check of the model in a folder; its runs are written to `workdir`."""
    own = chat_template.stored(folder)
    settings = ChatSettings(template="" if own else chat_template.PAPER)
    models: list[LanguageModel] = []

    def load() -> str:
        model = api.load_model(f"{HUGGING_FACE}{folder}", dtype="float32")
        models.append(model._replace(chat=chats.read(ChatSource(folder, settings))))
        return _sizes(model)

    yield _line("import", load)
    if not models:
        return
    yield _line("logits", lambda: compare_logits(models[0], folder))
    yield _line("tokenizer", lambda: check_tokenizer(models[0], folder))
    yield _line("template", lambda: check_template(models[0], folder, own))
    yield _line("sampling", lambda: sample(models[0]))
    config = models.pop().model.config  # training may not fit into memory with it
    recipe = make_recipe(folder, workdir / "data", settings, config.max_position_embeddings)
    yield _line("sft", lambda: run_sft(recipe, workdir, config.vocab_size))
    yield _line("grpo", lambda: run_grpo(recipe, workdir))


def _line(name: str, check: Callable[[], str]) -> Line:
    start = time.monotonic()
    try:
        return Line(name, PASSED, check(), time.monotonic() - start)
    except Skipped as reason:
        return Line(name, SKIPPED, str(reason))
    except Exception as error:  # a model that was never tried may fail anywhere, and the other checks still help
        problem = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return Line(name, FAILED, problem, time.monotonic() - start)


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise UserError(problem)


# --- the model, compared with transformers ---


def _sizes(model: LanguageModel) -> str:
    config, count = model.model.config, sum(leaf.size for leaf in jax.tree.leaves(model.params))
    return (
        f"{count:,} parameters, {config.num_hidden_layers} layers, {config.vocab_size:,} rows for "
        f"{model.tokenizer.vocab_size:,} ids, context {config.max_position_embeddings:,}"
    )


def _transformers() -> Any:
    """Imports transformers; raises `Skipped` where it or torch is not installed."""
    for name in ("transformers", "torch"):
        if importlib.util.find_spec(name) is None:
            raise Skipped(f"{name} is not installed: pip install transformers torch compares with it")
    return importlib.import_module("transformers")


def compare_logits(model: LanguageModel, folder: Path) -> str:
    """Compares the logits of a solution with those of transformers, both in float32."""
    transformers = _transformers()
    tokens = np.array([model.tokenizer.encode(RECORDS[0].solution)], np.int32)
    positions = np.arange(tokens.shape[1])[None]
    config = model.model.config
    with jax.default_matmul_precision("highest"):  # TPUs and GPUs would round the inputs of products
        hidden: Any = model.model.apply({"params": model.params}, tokens, positions, np.ones_like(tokens))
        logits = np.asarray(output_logits(hidden, lm_head(model.params, config), config))
    torch = importlib.import_module("torch")
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        expected = peer(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
    error = float(np.abs(logits - expected).max() / np.abs(expected).max())
    _require(error < MAX_LOGITS_ERROR, f"the logits differ from transformers' by {error:.1e} of the largest")
    return f"equal to transformers' up to {error:.1e} of the largest"


def _peer_tokenizer(folder: Path) -> Any:
    """Returns transformers' tokenizer of a `tokenizer.json`; raises `Skipped` without one.

    From a SentencePiece model alone transformers makes other ids than SentencePiece (docs/chat.md).
    """
    if not (folder / "tokenizer.json").is_file():
        raise Skipped("there is no tokenizer.json")
    return _transformers().AutoTokenizer.from_pretrained(folder)


def check_tokenizer(model: LanguageModel, folder: Path) -> str:
    """Checks that texts are decoded as they were encoded, and that transformers gives the same ids where it can."""
    for text in TEXTS:
        decoded = model.tokenizer.decode(model.tokenizer.encode(text))
        _require(decoded.strip() == text, f"{text!r} is encoded and decoded as {decoded!r}")
    found = f"{len(TEXTS)} texts are decoded as they were encoded"
    with contextlib.suppress(Skipped):
        peer = _peer_tokenizer(folder)
        for text in TEXTS:
            ids, expected = model.tokenizer.encode(text), peer(text, add_special_tokens=False)["input_ids"]
            _require(ids == expected, f"{text!r} has the ids {ids}, and {expected} by transformers")
        found += ", with transformers' ids"
    return found


def check_template(model: LanguageModel, folder: Path, own: str) -> str:
    """Checks that the template ends a solution's turn, and that transformers gives the same prompt where it can."""
    today = datetime.date.today().isoformat()  # transformers renders it
    chat, record = dataclasses.replace(model.chat, date=today), RECORDS[0]
    tokens = chat.solution(record)
    prompt, learned = chat.prompt_ids(record), sum(tokens.loss_mask)
    _require(0 < learned < len(tokens.ids), f"{learned} of {len(tokens.ids)} tokens of a solution have loss")
    found = f"{'its own' if own else 'none, so that of the paper'}: a prompt of {len(prompt)} tokens"
    with contextlib.suppress(Skipped):
        if own:
            peer = _peer_tokenizer(folder)
            messages = [{"role": "user", "content": record.question}]
            expected = peer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            _require(prompt == expected, f"the prompt has the ids {prompt}, and {expected} by transformers")
            found += ", the same by transformers"
    return f"{found}, and {learned} tokens of a solution with loss"


# --- sampling and training ---


def sample(model: LanguageModel) -> str:
    """Samples an answer to each of the first questions."""
    sampling = api.SamplingParams(temperature=0.7, seed=0)
    questions = [record.question for record in RECORDS[:ANSWERS]]
    answers = api.generate(model, questions, sampling, max_new_tokens=MAX_NEW_TOKENS, decode_slots=ANSWERS)
    filled = sum(bool(answer.strip()) for (answer,) in answers)
    _require(filled > 0, "all answers are empty")
    shown = [f"\n    {question} {answer!r}" for question, (answer,) in zip(questions, answers, strict=True)]
    return f"{filled} of {ANSWERS} answers have text" + "".join(shown)


def make_recipe(folder: Path, data_dir: Path, chat: ChatSettings, context: int) -> Recipe:
    """Writes the built-in questions; returns the recipe of five steps of SFT and of GRPO on them."""
    write_jsonl(data_dir / "sums.jsonl", map(dataclasses.asdict, RECORDS))
    shared: dict[str, Any] = {
        "steps": STEPS, "checkpoint_every": STEPS, "peak_lr": 1e-4, "weight_decay": 0.0, "data": ("sums.jsonl",),
        "init": f"{HUGGING_FACE}{folder}",
    }  # fmt: skip
    sft = SFTSettings(**shared, sequence_length=min(context, 256), batch_size=8, eval_rows=0)
    rl = RLSettings(
        **shared, prompts_per_step=2, group_size=4, max_prompt_tokens=context, max_new_tokens=MAX_NEW_TOKENS,
        reward_fns=(("correct", 1.0), ("dsmath_jax.doctor:brief", 0.1)),
    )  # fmt: skip
    return Recipe(data_dir=str(data_dir), tokenizer=TokenizerSettings(path=str(folder)), chat=chat, sft=sft, rl=rl)


def _run(recipe: Recipe, workdir: Path, stage: str) -> list[dict[str, Any]]:
    with contextlib.redirect_stdout(sys.stderr):
        api.run(recipe, workdir, ("tokenizer", stage))
    return [row for row in read_jsonl(workdir / stage / "metrics.jsonl") if "loss" in row]


def run_sft(recipe: Recipe, workdir: Path, vocab_size: int) -> str:
    """Checks that the loss falls in five steps of SFT, from at most twice that of a uniform guess."""
    rows = _run(recipe, workdir, "sft")
    first, last, norm = rows[0]["loss"], rows[-1]["loss"], max(row["grad_norm"] for row in rows)
    found = f"loss {first:.3f} -> {last:.3f} nats a token in {STEPS} steps, gradient norm at most {norm:.3g}"
    _require(0 < last < first < 2 * math.log(vocab_size) and 0 < norm < math.inf, found)
    return found


def run_grpo(recipe: Recipe, workdir: Path) -> str:
    """Checks that five steps of GRPO reward completions, and that sampler and trainer agree about them."""
    rows = _run(recipe, workdir, "rl")
    diff, kl = (max(row[name] for row in rows) for name in ("sampler_logprob_diff", "kl"))
    errors, skipped = (sum(row[name] for row in rows) for name in ("reward_errors", "step_skipped"))
    found = (
        f"reward {rows[0]['reward']:.3f} -> {rows[-1]['reward']:.3f}, KL at most {kl:.2g}, sampler and trainer differ "
        f"by {diff:.1e} nats a token"
    )
    _require(diff < MAX_LOGPROB_DIFF[default_compute_dtype()] and 0 <= kl < 1 and not errors, found)
    _require(not skipped, f"{found}; {skipped:.0f} of {STEPS} steps had rewards without differences")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line; raises `SystemExit` with code 1 where a check failed."""
    parser = argparse.ArgumentParser(
        "dsmath doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="hf:DIR or hf:OWNER/NAME; hf: may be left out")
    parser.add_argument("--data_dir", type=local_path, default=Path("data"), help="where the Hub's are downloaded to")
    values = parser.parse_args(argv)
    name = str(local_path(values.model, "--model")).removeprefix(HUGGING_FACE)
    checkpoint = local_checkpoint(f"{HUGGING_FACE}{name}", values.data_dir)
    outcomes = []
    with tempfile.TemporaryDirectory() as workdir:
        for line in examine(Path(checkpoint.removeprefix(HUGGING_FACE)).resolve(), Path(workdir)):
            print(f"{line.check:<10} {line.outcome:<8} {duration(line.seconds):>8}  {line.finding}", flush=True)
            outcomes.append(line.outcome)
    if FAILED in outcomes:
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(exit_code(main))
