"""Every stage asks a record with the same token ids: those of its model's chat settings, and nothing else."""

import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import pytest

import dsmath_jax as dm
from dsmath_jax.data import chat, datasets, instruction_rows, instructions, tokenizer
from dsmath_jax.data.chat import Chat
from dsmath_jax.data.datasets import Record
from dsmath_jax.data.settings import ChatSettings
from dsmath_jax.evaluation import __main__ as command
from dsmath_jax.evaluation import evaluate
from dsmath_jax.evaluation.settings import EvaluateSettings
from dsmath_jax.models.decoder import Decoder, initial_params
from dsmath_jax.rl import offline, trainer
from dsmath_jax.rl.reward_model import labels
from dsmath_jax.rl.reward_model.settings import SamplesSettings
from dsmath_jax.rl.rewards import RewardFunctions
from dsmath_jax.rl.rollouts import load_prompts
from dsmath_jax.rl.settings import RLSettings
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.settings import build
from dsmath_jax.sharding import Layout
from dsmath_jax.training import checkpoint, model_files
from dsmath_jax.training.lora import Trainable
from dsmath_jax.workdir import write_json, write_jsonl

SETTINGS = ChatSettings(
    template="{{ tone }}\n{% for m in messages %}[{{ m.role }}] {{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
    instruction="Answer in one line.", system="Be brief.", template_kwargs={"tone": "calm"},
)  # fmt: skip
MINE = (
    {"question": "Which is even?", "options": ["3", "4"], "answer": "B", "solution": "4 is twice 2."},
    {"question": "Is 4 even?", "options": ["Yes", "No"], "answer": "Yes", "solution": "It is twice 2."},
    {"question": "What is 1+1?", "answer": "2", "solution": "One and one.", "instruction": "Give a number."},
    {"question": "A half?", "answer": "1/2", "solution": "1/2", "prompt": "Write a half as a fraction."},
)
# Records of each kind, with options with and without letters; those that have solutions are SFT's data too.
NAMES = ("gsm8k/test", "sat/test", "bbh/test", "mbpp/test", "minif2f/test", "mine.jsonl")
SOLVED = ("gsm8k/test", "mbpp/test", "minif2f/test", "mine.jsonl")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("data")
    rows = [{"question": f"What is {n} + {n}?", "answer": f"It is {2 * n}.\n#### {2 * n}"} for n in range(2)]
    write_jsonl(data / "gsm8k" / "test.jsonl", rows)
    write_jsonl(data / "sat" / "test.jsonl", [{"question": "Which is odd?", "options": "A) 1 B) 2", "Answer": "A"}])
    task = {"input": "Is it back?\nOptions:\n- Yes\n- No", "target": "No"}
    write_json(data / "bbh" / "tasks" / "navigate.json", {"examples": [task]})
    program = {"text": "Write f.", "code": "def f():\n    return 1", "test_list": ["assert f() == 1"]}
    write_jsonl(data / "mbpp" / "mbpp.jsonl", [program | {"task_id": 11, "test_setup_code": ""}])
    theory = {"informal_statement": "Show $1$.", "informal_proof": "Clear.", "header": "theory x imports Main\nbegin"}
    theory |= {"formal_statement": 'theorem x:\n  shows "1 = 1"', "problem_name": "mathd_x"}
    write_jsonl(data / "minif2f" / "test.jsonl", [theory])
    write_jsonl(data / "mine.jsonl", MINE)
    return data


@pytest.fixture(scope="module")
def workdir(data: Path, tmp_path_factory: pytest.TempPathFactory, make_model: Any) -> Path:
    """A tokenizer and a decoder as the stage `sft` leaves them."""
    workdir = tmp_path_factory.mktemp("workdir")
    texts = [f"Tom has {i} apples.\nThe answer is {i}." for i in range(100)]
    tokenizer.train_sentencepiece(texts, workdir / "tokenizer" / "tokenizer.model", 300, chat.MARKERS)
    model = make_model(vocab_size=300, num_hidden_layers=1, tie_word_embeddings=True, max_position_embeddings=1024)
    params = jax.jit(lambda: initial_params(Decoder(model.config), jax.random.key(0)))()
    checkpoint.save(workdir / "sft" / "params", params)
    own = chat.read(chat.ChatSource(workdir / "tokenizer", SETTINGS))
    model_files.write_config(workdir / "sft", model.config, own)
    return workdir


@pytest.fixture(scope="module")
def own(workdir: Path) -> Chat:
    return chat.read(chat.ChatSource(workdir / "tokenizer", SETTINGS))


@pytest.fixture(scope="module")
def records(data: Path) -> list[Record]:
    return [record for name in NAMES for record in datasets.load(name, data)]


@pytest.fixture(scope="module")
def expected(own: Chat, records: Sequence[Record]) -> list[list[int]]:
    return [own.prompt_ids(record) for record in records]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The prompts that samplers are given; they answer nothing."""
    asked: list[list[int]] = []

    def generate(
        self: Sampler, params: Any, prompts: Sequence[Sequence[int]], sampling: SamplingParams, **_: Any
    ) -> Iterator[list[Completion]]:
        asked.extend(list(prompt) for prompt in prompts)
        for place in range(len(prompts)):
            yield [Completion(place, i, [self._stop_ids[0]], [0.0], [], "eos") for i in range(sampling.samples)]

    monkeypatch.setattr(Sampler, "generate", generate)
    return asked


def test_the_records_are_asked_with_all_that_belongs_to_them(own: Chat, records: Sequence[Record]) -> None:
    begin, below, end = "calm\n[system] Be brief.\n[user] ", "\nAnswer in one line.", "\n[assistant]"
    program = "Write f. Your code should pass these tests:\n\nassert f() == 1\nPut the program in a ```python block."
    assert [
        own.prompt(record).removeprefix(begin).removesuffix(end) for record in records if record.kind != "theory"
    ] == [
        f"What is 0 + 0?{below}",
        f"What is 1 + 1?{below}",
        f"Which is odd?\n(A) 1\n(B) 2{below}",
        'Is it back?\n- Yes\n- No\nThink step by step, and end with "So the answer is" and the answer.',
        program,
        f"Which is even?\n(A) 3\n(B) 4{below}",
        f"Is 4 even?\n- Yes\n- No{below}",
        "What is 1+1?\nGive a number.",
        f"Write a half as a fraction.{below}",
    ]
    assert [record.kind for record in records] == [
        "number", "number", "choice", "text", "program", "theory", "choice", "text", "math", "math"
    ]  # fmt: skip


def test_sft(own: Chat, data: Path) -> None:
    """Rows begin with the prompt, and the model learns what follows it."""
    for name in SOLVED:
        records = datasets.load(name, data)
        rows = [instruction_rows.example(own, one) for one in instructions.load(name, data)]
        offline_rows = offline.solution_rows(records, own, 1000)
        for record, row, (prompt, completion) in zip(records, rows, offline_rows, strict=True):
            ids = own.prompt_ids(record)
            end = len(ids) + len(completion)
            assert prompt == ids
            assert row.tokens[:end].tolist() == ids + completion
            assert row.loss_mask.tolist() == [len(ids) <= place < end for place in range(len(row.tokens))]


def test_rl(own: Chat, data: Path, expected: list[list[int]], asked: list[list[int]], workdir: Path, layout) -> None:
    fields = {"data": NAMES, "eval_data": NAMES, "eval_problems": 99, "max_prompt_tokens": 900, "max_new_tokens": 8}
    settings = build(RLSettings, fields, "rl.")
    assert load_prompts(settings, data, own.prompt_ids, 1024).ids == expected
    model = model_files.load_model(str(workdir / "sft"), layout)
    sampler = Sampler(model.model, layout, own.tokenizer.stop_ids, 8, 8)
    ctx: Any = types.SimpleNamespace(
        settings=settings, chat=own, sampler=sampler, model=model.model, trainable=Trainable(dict),
        make_environment=None,
    )  # fmt: skip
    with RewardFunctions((("correct", 1.0),), 10.0, 1) as correct:
        records = [one for name in NAMES for one in datasets.load(name, data)]
        trainer.greedy_accuracy(ctx, records, correct)({})
    assert asked == expected


def test_reward_models(
    workdir: Path, records: Sequence[Record], expected: list[list[int]], asked: list[list[int]], layout: Layout,
    tmp_path: Path,
) -> None:  # fmt: skip
    settings = SamplesSettings(data=NAMES, samples=1, max_new_tokens=8, decode_slots=8)
    model = model_files.load_model(str(workdir / "sft"), layout)
    labels.write_rows(tmp_path / "rows.jsonl", settings, model, records, seed=0)
    assert asked == expected


@pytest.mark.slow
def test_evaluation(
    workdir: Path, data: Path, expected: list[list[int]], asked: list[list[int]], layout: Layout, tmp_path: Path
) -> None:
    """By the stage, by the command and in code; each task is asked greedily, then for its samples."""
    settings = EvaluateSettings(models=("sft",), tasks=NAMES, samples=1, max_new_tokens=8, decode_slots=8)
    evaluate.run(settings, SETTINGS, workdir, data, layout, seed=0)
    by_stage = list(asked)
    assert [ids for place, ids in enumerate(by_stage) if place in greedy_places()] == expected
    common = [f"--data_dir={data}", "--style=chat", "--samples=1", "--max_new_tokens=8", "--decode_slots=8"]
    checkpoint = f"--checkpoint={workdir / 'sft'}"
    command.main([checkpoint, f"--tasks={','.join(NAMES)}", f"--out={tmp_path / 'out'}", *common])
    assert asked == by_stage * 2
    model = dm.load_model(str(workdir / "sft"))
    dm.evaluate(model, NAMES, data, tmp_path / "api", style="chat", samples=1, max_new_tokens=8, decode_slots=8)
    assert asked == by_stage * 3
    dm.generate(model, ["What is 0 + 0?"])  # of a question that is no more than its text
    assert asked[-1] == expected[0]


def greedy_places() -> set[int]:
    """Where the greedy completions are among the prompts: of each task all, then all again for the samples."""
    places, start = set(), 0
    for count in (2, 1, 1, 1, 1, len(MINE)):
        places |= set(range(start, start + count))
        start += 2 * count
    return places
