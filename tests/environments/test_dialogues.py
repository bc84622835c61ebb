"""Dialogues: texts to environments, replies to tokens, errors, and the log from which a resumed run repeats them."""

import asyncio
import json
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsmath_jax.data import chat_template, tokenizer
from dsmath_jax.data.chat import Chat
from dsmath_jax.data.dataset_formats import Record
from dsmath_jax.environments import dialogues as module
from dsmath_jax.environments.dialogues import DialogueResult, Dialogues
from dsmath_jax.environments.protocol import Environment, Step, TextTurn
from dsmath_jax.environments.replies import ReplyLog
from dsmath_jax.sampling.turns import Reply, Turn, TurnLimits
from dsmath_jax.workdir import UserError

LIMITS = TurnLimits(4, 20, 100)
RECORDS = [Record("x/0", "One?"), Record("x/1", "Two?")]


class Echo:
    """Repeats what was said; its reward is the number of turns that it has seen."""

    mode = "cot"
    stop_strings: Sequence[str] = ("?",)

    def __init__(self, **step: Any) -> None:
        self.seen: list[str] = []
        self._step = step

    def reset(self, record: Record) -> str:
        return record.question

    async def step(self, turn: TextTurn) -> Step:
        self.seen.append(turn.text)
        await asyncio.sleep(0)
        return Step(f"{turn.text}!", reward=float(len(self.seen)), **self._step)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Chat:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    tokenizer.train_sentencepiece(20 * ["What is it? It is three! User: 4 of 5."], path, 290)
    return Chat(tokenizer.load(path), chat_template.DEEPSEEK_MATH)


def hold(
    chat: Chat, make: Callable[[], Environment], turns: Sequence[tuple[int, int, int, str]], finish: str = "stop",
    **options: Any,
) -> tuple[list[Reply | None], Dialogues]:  # fmt: skip
    prompts = [chat.encode(chat.plain(record.question)) for record in RECORDS]
    asked = [
        Turn(prompt, sample, number, chat.tokenizer.encode(text), finish, False)  # type: ignore[arg-type]
        for prompt, sample, number, text in turns
    ]
    with Dialogues(make, RECORDS, prompts, chat, LIMITS, **options) as dialogues:
        dialogues.ask(asked)
        return dialogues.replies(), dialogues


def test_replies_are_in_the_order_of_the_turns_and_results_by_dialogue(chat: Chat) -> None:
    replies, dialogues = hold(chat, Echo, [(1, 0, 0, "It is?"), (0, 2, 0, "three?")])
    texts = [chat.tokenizer.decode(reply.tokens) for reply in replies if reply]
    assert [text.strip() for text in texts] == ["It is?!", "three?!"]
    assert dialogues.results == {(1, 0): DialogueResult(1, 1.0, None), (0, 2): DialogueResult(1, 1.0, None)}
    assert dialogues.stop_strings == ("?",)


def test_a_reply_is_encoded_as_it_stands_after_the_turn(chat: Chat) -> None:
    """SentencePiece would put a blank before it: the tokens after those of the turn decode to the text."""
    ([reply], _) = hold(chat, Echo, [(0, 0, 0, "What?")])
    assert reply is not None
    before = chat.tokenizer.encode("What?")
    assert chat.tokenizer.decode([*before, *reply.tokens]) == "What?What?!"


def test_a_message_ends_the_turn_and_begins_the_next(chat: Chat) -> None:
    """After an EOS of the model the end of the turn is there already."""
    make = lambda: Echo(is_message=True)  # noqa: E731
    ([cut], _) = hold(chat, make, [(0, 0, 0, "What?")])
    ([ended], _) = hold(chat, make, [(0, 0, 0, "What?")], finish="eos")
    assert cut is not None
    assert ended is not None
    assert cut.tokens == [chat.tokenizer.eos_id, *ended.tokens]
    assert "User: What?!" in chat.tokenizer.decode(cut.tokens)
    assert chat.tokenizer.decode(cut.tokens).endswith("Assistant:")


def test_a_step_that_fails_ends_its_dialogue_alone(chat: Chat, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Echo):
        async def step(self, turn: TextTurn) -> Step:
            if "three" in turn.text:
                raise RuntimeError("no reply")
            if "it" in turn.text:
                await asyncio.sleep(60)
            return await super().step(turn)

    turns = [(0, 0, 0, "three?"), (0, 1, 0, "What is it?"), (1, 0, 0, "4?")]
    replies, dialogues = hold(chat, Failing, turns, seconds=0.3)
    assert [reply is None for reply in replies] == [True, True, False]
    assert [dialogues.results[key].failed for key in ((0, 0), (0, 1), (1, 0))] == [True, True, False]
    assert dialogues.results[1, 0].reward == 1.0
    assert "x/0 failed: RuntimeError('no reply')" in caplog.text
    assert "x/0 failed: took too long" in caplog.text


def test_ordinary_functions_run_at_the_same_time_and_must_return_a_step(
    chat: Chat, caplog: pytest.LogCaptureFixture
) -> None:
    class Slow(Echo):
        def step(self, turn: TextTurn) -> Any:
            time.sleep(0.2)
            return Step("4") if "4" in turn.text else "4"

    started = time.monotonic()
    replies, _ = hold(chat, Slow, [(0, i, 0, "4?") for i in range(4)] + [(1, 0, 0, "5?")])
    assert [reply is None for reply in replies] == [False] * 4 + [True]
    assert "must return a Step whose texts are strings" in caplog.text
    assert time.monotonic() - started < 5  # a hang, not a measurement


def test_an_ordinary_function_that_hangs_does_not_keep_the_process(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_THREADS", 1)

    class Hanging(Echo):
        def step(self, turn: TextTurn) -> Any:
            threading.Event().wait(20 if "4" in turn.text else 0)
            return Step("5")

    replies, _ = hold(chat, Hanging, [(0, 0, 0, "4?"), (1, 0, 0, "5?")], seconds=0.5)
    assert replies[0] is None
    hung = [thread for thread in threading.enumerate() if thread.name.endswith("(run)")]
    assert all(thread.daemon for thread in hung)
    replies, _ = hold(chat, Hanging, [(1, 0, 0, "5?")])
    assert replies != [None]


def test_a_resumed_run_repeats_the_replies_and_goes_on(chat: Chat, tmp_path: Path) -> None:
    """The environment sees the turns of the log before the first that is not in it."""
    made: list[Echo] = []

    def make() -> Echo:
        made.append(Echo())
        return made[-1]

    path = tmp_path / "log.jsonl"
    with ReplyLog(path) as log:
        (first, _) = hold(chat, make, [(0, 0, 0, "What?"), (1, 0, 0, "5?")], log=log)
    whole = path.read_bytes()
    assert whole.count(b"\n") == 2
    path.write_bytes(whole + b'[[0, 0, 1], ["cut o')
    made.clear()
    with ReplyLog(path) as log:
        (again, _) = hold(chat, make, [(0, 0, 0, "What?"), (1, 0, 0, "5?")], log=log)
        assert again == first
        assert [echo.seen for echo in made if echo.seen] == []
        with Dialogues(make, RECORDS, [[1], [1]], chat, LIMITS, log=log) as dialogues:
            for turns in ([(0, 0, 0, "What?")], [(0, 0, 1, "three?")]):
                dialogues.ask([Turn(p, s, n, chat.tokenizer.encode(text), "stop", False) for p, s, n, text in turns])
                dialogues.replies()
            assert dialogues.results[0, 0] == DialogueResult(2, 2.0, None)
    assert path.read_bytes().startswith(whole)
    assert path.read_bytes().count(b"\n") == 3
    assert [echo.seen for echo in made if echo.seen] == [["What?", "three?"]]


def test_a_turn_that_said_something_else_is_asked_again(chat: Chat, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for text in ("What?", "three?"):
        with ReplyLog(path) as log:
            ([reply], _) = hold(chat, Echo, [(0, 0, 0, text)], log=log)
            assert reply is not None
            assert chat.tokenizer.decode(reply.tokens).strip() == f"{text}!"
    assert len(path.read_text().splitlines()) == 2


def test_a_damaged_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps([[0, 0, 0]]) + "\n")
    with pytest.raises(UserError, match="line 1 is damaged; remove the file"):
        ReplyLog(tmp_path / "log.jsonl")


def test_a_log_is_on_disk_before_a_reply_is_used(chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, found = tmp_path / "log.jsonl", []
    broadcast = module.broadcast_json
    monkeypatch.setattr(
        module, "broadcast_json", lambda value: found.append(path.read_bytes().count(b"\n")) or broadcast(value)
    )
    with ReplyLog(path) as log:
        hold(chat, Echo, [(0, 0, 0, "What?"), (1, 0, 0, "5?")], log=log)
    assert found == [2]


def test_the_example_of_the_docs_gives_four_guesses(chat: Chat) -> None:
    page = (Path(__file__).parents[2] / "docs" / "rl.md").read_text()
    code = page.partition("environment.name=my_environments:Guess\n")[2].partition("\n\n`mode` is how")[0]
    names: dict[str, Any] = {}
    exec(textwrap.dedent(code), names)
    record = Record("x/0", "One?", answer="5")
    guess = names["Guess"]()
    assert guess.reset(record) == "One?"
    (again, right) = (guess.step(TextTurn(text, "eos", False)) for text in ("It is 4.", "It is 5."))
    assert (again.is_message, again.reward, bool(again.observation)) == (True, 0.0, True)
    assert (right.observation, right.reward) == ("", 0.5)


@pytest.mark.parametrize(
    "reply",
    [lambda: Step(5), lambda: Step("4", reward="x"), lambda: next(iter(())), sys.exit],  # type: ignore[arg-type]
    ids=["observation", "reward", "StopIteration", "SystemExit"],
)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_bad_reply_ends_its_dialogue_alone(
    chat: Chat, reply: Callable[[], Any], is_async: bool, tmp_path: Path
) -> None:
    class Bad(Echo):
        def step(self, turn: TextTurn) -> Any:
            return Step("6") if "5" in turn.text else reply()

    class AsyncBad(Echo):
        async def step(self, turn: TextTurn) -> Any:
            return Step("6") if "5" in turn.text else reply()

    with ReplyLog(tmp_path / "log.jsonl") as log:
        turns = [(0, 0, 0, "4?"), (1, 0, 0, "5?")]
        replies, dialogues = hold(chat, AsyncBad if is_async else Bad, turns, seconds=20.0, log=log)
    assert [reply is None for reply in replies] == [True, False]
    assert dialogues.results[0, 0].failed


def test_numbers_of_numpy_are_rewards(chat: Chat, tmp_path: Path) -> None:
    class Numpy(Echo):
        def step(self, turn: TextTurn) -> Any:
            return Step("6\ud800", reward=np.float32(0.5))  # type: ignore[arg-type]

    with ReplyLog(tmp_path / "log.jsonl") as log:
        _, dialogues = hold(chat, Numpy, [(0, 0, 0, "4?")], log=log)
    assert dialogues.results[0, 0] == DialogueResult(1, 0.5, None)
