"""Labels by the rule reward: of outcomes, and of steps by the continuations of their prefixes; and their file."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dsmath_jax.data.chat import Chat
from dsmath_jax.data.datasets import Record
from dsmath_jax.data.special_tokens import Encoded, encode_parts
from dsmath_jax.grading import grade
from dsmath_jax.models.decoder import Decoder
from dsmath_jax.rl.reward_model import labels
from dsmath_jax.rl.reward_model.labels import label_completions, write_rows
from dsmath_jax.rl.reward_model.settings import SamplesSettings
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sampling.sampler import SamplingParams
from dsmath_jax.settings import build
from dsmath_jax.sharding import Layout
from dsmath_jax.training.model_files import LanguageModel
from dsmath_jax.workdir import UserError, read_jsonl, write_jsonl

ALPHABET = "^ abcdefghijklmnopqrstuvwxyzTUA0123456789.:?+=\n$"
EOS = len(ALPHABET) - 1


class Characters:
    """A tokenizer of single characters; $ is EOS and ^ is BOS, and neither is text."""

    vocab_size, bos_id, eos_id, stop_ids = len(ALPHABET), 0, EOS, (EOS,)
    control_ids = {"^": 0, "$": EOS}  # noqa: RUF012
    special_tokens = {"bos_token": "^", "eos_token": "$"}  # noqa: RUF012

    def encode(self, text: str) -> list[int]:
        return [ALPHABET.index(character) for character in text]

    def encode_marked(self, text: str) -> Encoded:
        return encode_parts(text, self.control_ids, lambda part, _: (self.encode(part), [*range(len(part))]))

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(ALPHABET[i] for i in ids).strip("^$")


RECORDS = [Record("x/0", "1 + 1", "", "2"), Record("x/1", "2 + 2", "", "4")]
PROMPTS = [(0, [0, 5, 6]), (1, [0, 7])]
CORRECT, INCORRECT = "The answer is 2.$", "The answer is 3.$"


def settings(**changes: Any) -> SamplesSettings:
    given = {"kind": "process", "problems": 9, "samples": 2, "completions": 3, "max_new_tokens": 60}
    return build(SamplesSettings, given | changes, "process_model.")


def correct(completions: Sequence[tuple[int, Sequence[int]]]) -> list[bool]:
    return [grade.is_correct(Characters().decode(tokens), RECORDS[n].answer, "number") for n, tokens in completions]


class Scripted:
    """A policy with scripted completions for each prompt's text, which records the prompts that it is given."""

    def __init__(self, script: dict[str, list[str]]):
        self.script, self.asked, self.begun = script, [], {}

    def __call__(
        self, prompts: Sequence[Sequence[int]], samples: int, ids: Sequence[int], begun: Sequence[int]
    ) -> Iterable[list[Completion]]:
        self.begun |= zip(map(Characters().decode, prompts), begun, strict=True)
        for place, (prompt, number) in enumerate(zip(prompts, ids, strict=True)):
            text = Characters().decode(prompt)
            self.asked.append((text, samples, number))
            completions = [Characters().encode(one) for one in self.script[text]]
            assert len(completions) == samples
            yield [Completion(place, i, tokens, [], [], "eos") for i, tokens in enumerate(completions)]


A, B = (Characters().decode(prompt) for _, prompt in PROMPTS)
SCRIPT = {
    A: ["a\nb\n" + CORRECT, "a\nc\n" + INCORRECT],  # both begin with the step a
    B: ["The answer is 4.$", "d\nThe answer is 5.$"],
    A + "a\n": [CORRECT, INCORRECT, INCORRECT],
    A + "a\nb\n": [CORRECT, CORRECT, INCORRECT],
    A + "a\nc\n": [INCORRECT, INCORRECT, "2$"],
    B + "d\n": ["The answer is 4.$", "The answer is 4.0$", "The answer is 04"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("estimation", "expected"),
    [
        ("hard", [[1, 1, 1], [1, 0, 0], [1], [1, 0]]),
        ("soft", [[1 / 3, 2 / 3, 1], [1 / 3, 0, 0], [1], [1, 0]]),
    ],
)
def test_steps_are_labeled_by_the_completions_of_their_prefixes(estimation: str, expected: list[list[float]]) -> None:
    policy = Scripted(SCRIPT)
    rows = label_completions(PROMPTS, Characters(), settings(estimation=estimation), policy, correct)
    assert [row["labels"] for row in rows] == expected
    assert [row["problem"] for row in rows] == [0, 0, 1, 1]
    assert [row["prompt"] for row in rows] == [PROMPTS[0][1]] * 2 + [PROMPTS[1][1]] * 2
    for row in rows:
        text = Characters().decode(row["completion"])
        steps = [Characters().decode(row["completion"][: end + 1]) for end in row["ends"]]
        assert steps[-1] == text
        assert all(step.endswith("\n") for step in steps[:-1])
        assert len(steps) == text.count("\n") + 1


def test_equal_prefixes_are_completed_once_and_keep_their_number() -> None:
    policy = Scripted(SCRIPT)
    label_completions(PROMPTS, Characters(), settings(), policy, correct)
    assert [asked[:2] for asked in policy.asked] == [
        (A, 2), (B, 2), (A + "a\n", 3), (A + "a\nb\n", 3), (A + "a\nc\n", 3), (B + "d\n", 3)
    ]  # fmt: skip
    assert policy.begun == {A: 0, B: 0, A + "a\n": 2, A + "a\nb\n": 4, A + "a\nc\n": 4, B + "d\n": 2}
    numbers = {text: number for text, _, number in policy.asked}
    assert len(set(numbers.values())) == 6
    assert all(0 <= number < 2**31 for number in numbers.values())
    alone = Scripted(SCRIPT)
    label_completions(PROMPTS[1:], Characters(), settings(), alone, correct)
    assert all(numbers[text] == number for text, _, number in alone.asked)


def test_outcomes_need_no_prefixes() -> None:
    policy = Scripted(SCRIPT)
    rows = label_completions(PROMPTS, Characters(), settings(kind="pointwise"), policy, correct)
    assert [row["labels"] for row in rows] == [[1], [0], [1], [0]]
    assert [row["ends"] for row in rows] == [[len(row["completion"]) - 1] for row in rows]
    assert len(policy.asked) == 2


def test_tokens_beyond_the_length_limit_do_not_count() -> None:
    """A completion of the policy itself would end there."""
    short = settings(max_new_tokens=len("a\n" + CORRECT) - 3)
    policy = Scripted(SCRIPT | {A: ["a\n" + CORRECT] * 2})
    rows = label_completions(PROMPTS[:1], Characters(), short, policy, correct)
    assert [row["labels"] for row in rows] == [[0, 1]] * 2


def test_a_completion_of_nothing_but_eos_is_one_incorrect_step() -> None:
    rows = label_completions(PROMPTS[:1], Characters(), settings(), Scripted({A: ["$", "$"]}), correct)
    assert [(row["ends"], row["labels"]) for row in rows] == [([0], [0.0])] * 2


class Fake:
    """Stands in for the sampler: a completion depends on the prompt's number, the seed and the step alone."""

    calls = 0

    def __init__(self, *args: Any):
        del args

    def generate(
        self, params: Any, prompts: Sequence[Sequence[int]], sampling: SamplingParams, *, step: int,
        prompt_ids: Sequence[int], begun: Sequence[int],
    ) -> Iterable[list[Completion]]:  # fmt: skip
        del params
        type(self).calls += len(prompts)
        for place, number in enumerate(prompt_ids):
            texts = [f"a\nThe answer is {(number + i + sampling.seed + step) % 3}.$" for i in range(sampling.samples)]
            yield [Completion(place, i, Characters().encode(text), [], [], "eos") for i, text in enumerate(texts)]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    monkeypatch.setattr(labels, "Sampler", Fake)
    monkeypatch.setattr(labels, "CHUNK", 3)
    monkeypatch.setattr(Fake, "calls", 0)
    return Fake


def write(path: Path, model: Decoder, layout: Layout, count: int = 8, step: int = 0, **changes: Any) -> list[dict]:
    records = [Record(f"x/{i}", "1", "", str(i % 3)) for i in range(count)]
    policy = LanguageModel(model, None, Chat(Characters()), layout)
    write_rows(path, settings(max_new_tokens=20, decode_slots=2, **changes), policy, records, 0, step)
    return list(read_jsonl(path))


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "done", [pytest.param([], marks=SLOW), pytest.param([0], marks=SLOW), [0, 3], pytest.param([0, 3, 6], marks=SLOW)]
)
def test_a_killed_run_resumes_with_the_same_rows(
    tmp_path: Path, model: Decoder, layout: Layout, fake: type[Fake], done: list[int]
) -> None:
    whole = write(tmp_path / "whole" / "rows.jsonl", model, layout)
    assert len(whole) == 16
    assert [row["problem"] for row in whole[::2]] == list(range(8))
    assert fake.calls == 8 + 8  # the problems, and the one prefix of each
    killed = tmp_path / "killed" / "rows.jsonl"
    for start in done:  # chunks that were finished before the kill, and one that was not
        write_jsonl(killed.with_name("rows.jsonl.parts") / f"{start:08d}.jsonl", whole[2 * start : 2 * (start + 3)])
    fake.calls = 0
    assert write(killed, model, layout) == whole
    assert fake.calls == 2 * sum(min(3, 8 - start) for start in (0, 3, 6) if start not in done)
    assert [path.name for path in killed.parent.iterdir()] == ["rows.jsonl"]
    fake.calls = 0
    assert write(killed, model, layout) == whole
    assert fake.calls == 0


def test_another_step_samples_other_completions(
    tmp_path: Path, model: Decoder, layout: Layout, fake: type[Fake]
) -> None:
    first, second = (write(tmp_path / f"{step}.jsonl", model, layout, step=step) for step in (0, 1))
    assert first != second
    assert fake.calls


@pytest.mark.slow
def test_kill_9_between_chunks_loses_nothing(tmp_path: Path, model: Decoder, layout: Layout, fake: type[Fake]) -> None:
    """The process kills itself when the second chunk is to be written; the same command then ends as uninterrupted."""
    files = [tmp_path / name / "rows.jsonl" for name in ("uninterrupted", "killed")]
    command = [sys.executable, __file__]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    assert write(files[0], model, layout)
    assert fake.calls
    assert subprocess.run([*command, str(files[1]), "3"], env=environment, check=False).returncode == -signal.SIGKILL
    assert not files[1].exists()
    assert sorted(path.name for path in files[1].with_name("rows.jsonl.parts").iterdir()) == ["00000000.jsonl"]
    assert subprocess.run([*command, str(files[1])], env=environment, check=False).returncode == 0
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, r"^process_model\.samples is 0; it must be at least 1"),
        ({"kind": "pairwise", "samples": 1}, r"^process_model\.samples is 1; kind=pairwise needs at least 2"),
        ({"completions": 0}, r"^process_model\.completions is 0; it must be at least 1"),
        ({"estimation": "mean"}, r"^process_model\.estimation must be one of 'hard', 'soft'; got 'mean'"),
        ({"step_delimiter": ""}, r"^process_model\.step_delimiter is empty; give it a string\."),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings(**changes)


def test_records_without_answers_or_room_are_reported(
    tmp_path: Path, model: Decoder, layout: Layout, fake: type[Fake], caplog: pytest.LogCaptureFixture
) -> None:
    path, one_sample = tmp_path / "rows.jsonl", settings(max_new_tokens=20, samples=1)
    policy = LanguageModel(model, None, Chat(Characters()), layout)
    without_answer = [*RECORDS, Record("x/2", "what?", "", " ")]
    with pytest.raises(UserError, match=r"The record x/2 has no answer to grade completions by; add it, or use other"):
        write_rows(path, one_sample, policy, without_answer, 0)
    long = Record("x/2", "a" * 30, "", "1")
    with pytest.raises(UserError, match=r"None of 1 prompts fits the model's context of 64 with 39 sampled tokens"):
        write_rows(path, one_sample, policy, [long], 0)
    write_rows(path, one_sample, policy, [long, Record("x/3", "1", "", "0")], 0)
    assert "1 of 2 prompts exceed 25 tokens and are left out" in caplog.text
    assert [row["problem"] for row in read_jsonl(path)] == [1]
    assert fake.calls


if __name__ == "__main__":  # FILE [CHUNK]: writes rows with the stand-in sampler, and dies before writing that chunk
    from dsmath_jax.models.config import ModelConfig
    from dsmath_jax.sharding import make_mesh

    sizes = {
        "vocab_size": 49, "num_hidden_layers": 1, "hidden_size": 4, "num_attention_heads": 1, "head_dim": 4,
        "intermediate_size": 4, "max_position_embeddings": 64,
    }  # fmt: skip
    labels.Sampler, labels.CHUNK = Fake, 3  # type: ignore[misc, assignment]
    if len(sys.argv) > 2:
        whole = labels.write_jsonl

        def dying(path: Path, rows: list[dict]) -> None:
            if path.name.startswith(f"{int(sys.argv[2]):08d}"):
                os.kill(os.getpid(), signal.SIGKILL)
            whole(path, rows)

        labels.write_jsonl = dying  # type: ignore[assignment]
    write(Path(sys.argv[1]), Decoder(ModelConfig(**sizes)), Layout(make_mesh()))
