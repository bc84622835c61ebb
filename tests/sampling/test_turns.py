"""Completions in turns: replies are given as they are, the cache is kept, and the schedule changes nothing."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.models.decoder import Decoder, lm_head
from dsmath_jax.sampling import scheduler
from dsmath_jax.sampling.completions import Completion
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sampling.thinking import Marks, ThinkingBudget
from dsmath_jax.sampling.turns import Reply, Turn, TurnLimits
from dsmath_jax.sharding import Layout

STOPS, WIDTH = (2, 5), 64
LIMITS = TurnLimits(turns=4, turn_tokens=6, tokens=40)
PROMPTS = [[1, 7, 3], [1, 9], [1, 4, 4, 8, 20, 11], [1, 13, 7, 7]]


class Scripted:
    """Replies with tokens that depend on the turn alone; ends completions whose turn ends with the stop id 5."""

    def __init__(self, drops_eos: bool = False, limits: TurnLimits = LIMITS, stop_strings: Sequence[str] = ()) -> None:
        self.drops_eos, self.size, self.stop_strings, self.limits = drops_eos, 3, stop_strings, limits
        self.turns: list[Turn] = []
        self._asked: list[Turn] = []

    def reply(self, turn: Turn) -> list[int]:
        # With stop ids among them, which end nothing here.
        return [*(11 + (sum(turn.tokens) + i) % 7 for i in range(self.size - 1)), 2]

    def ask(self, turns: Sequence[Turn]) -> None:
        assert turns
        assert not self._asked, "the last turns have no replies yet"
        self._asked = list(turns)
        self.turns += turns

    def replies(self) -> list[Reply | None]:
        asked, self._asked = self._asked, []
        return [None if turn.tokens[-1] == 5 else Reply(self.reply(turn), self.drops_eos) for turn in asked]


@pytest.fixture(scope="module")
def expected(model: Decoder, params: Any) -> Callable[[Sequence[int], Completion, float], np.ndarray]:
    """The log-probabilities of a completion's tokens, in one pass over the prompt and all of its turns."""

    @jax.jit
    def forward(tokens: jax.Array) -> jax.Array:
        hidden = model.apply({"params": params}, tokens, jnp.arange(WIDTH)[None], jnp.ones_like(tokens))
        return hidden[0] @ lm_head(params, model.config)

    def logprobs(prompt: Sequence[int], completion: Completion, temperature: float) -> np.ndarray:
        row = np.zeros((1, WIDTH), np.int32)
        whole = [*prompt, *completion.tokens]
        row[0, : len(whole)] = whole
        logits = np.float64(forward(row)) / temperature
        shifted = logits - logits.max(axis=-1, keepdims=True)
        table = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        return table[np.arange(len(prompt) - 1, len(whole) - 1), completion.tokens]

    return logprobs


def text(ids: Sequence[int]) -> str:
    return "".join(chr(97 + i % 26) for i in ids)


def generate(
    model: Decoder, params: Any, layout: Layout, partner: Scripted, decode_slots: int = 12, chunk: int = 4, **how: Any
) -> list[Completion]:
    sampler = Sampler(model, layout, STOPS, 6, decode_slots=decode_slots, chunk=chunk)
    sampling = SamplingParams(**{"samples": 6, "temperature": 1.5, "seed": 3, "partner": partner} | how)
    groups = list(sampler.generate(params, PROMPTS, sampling, decode=text))
    return [completion for group in groups for completion in group]


@pytest.mark.parametrize("drops_eos", [False, True])
def test_turns_are_sampled_from_all_that_came_before(
    model: Decoder, params: Any, layout: Layout, expected: Callable[..., np.ndarray], drops_eos: bool
) -> None:
    partner = Scripted(drops_eos)
    completions = generate(model, params, layout, partner)
    for completion in completions:
        turns = [t for t in partner.turns if (t.prompt, t.sample) == (completion.prompt, completion.sample)]
        assert [turn.number for turn in turns] == list(range(len(turns)))
        whole: list[int] = []
        inserted: list[int] = []
        for turn, later in zip(turns, [*turns[1:], None], strict=True):
            whole += turn.tokens
            if later is not None:
                del whole[len(whole) - (drops_eos and turn.finish_reason == "eos") :]
                inserted += range(len(whole), len(whole) + partner.size)
                whole += partner.reply(turn)
        assert completion.tokens == whole
        assert completion.inserted == tuple(inserted)
        values = expected(PROMPTS[completion.prompt], completion, 1.5)
        values[inserted] = 0.0
        np.testing.assert_allclose(completion.logprobs, values, atol=2e-5)
    assert len({turn.number for turn in partner.turns}) == 4
    assert {c.finish_reason for c in completions} >= {"eos", "rounds"}


@pytest.mark.parametrize(
    ("decode_slots", "chunk"),
    [(24, 2), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((5, 16), (1, 4), (7, 1)))],
)
def test_slots_chunks_and_rings_change_no_token(
    model: Decoder, params: Any, layout: Layout, decode_slots: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [c.tokens for c in generate(model, params, layout, Scripted(), decode_slots=64)]
    monkeypatch.setattr(scheduler, "MIN_CACHE_LENGTH", 6)
    assert [c.tokens for c in generate(model, params, layout, Scripted(), decode_slots, chunk)] == found


def test_each_prompt_is_prefilled_once(
    model: Decoder, params: Any, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefilled: list[int] = []
    admit = scheduler.Scheduler.admit

    def observed(self: scheduler.Scheduler) -> list[scheduler.PrefillBatch]:
        batches = admit(self)
        slots = np.concatenate([batch.prompt_slots for batch in batches] or [np.zeros(0, np.int32)])
        prefilled.extend(slots[slots < self.shape.prompt_slots].tolist())
        return batches

    monkeypatch.setattr(scheduler.Scheduler, "admit", observed)
    partner = Scripted()
    generate(model, params, layout, partner, decode_slots=24)
    assert len(partner.turns) > 24
    assert sorted(prefilled) == list(range(len(PROMPTS)))


def test_limits_of_turns_and_of_completions(model: Decoder, params: Any, layout: Layout) -> None:
    partner = Scripted(limits=TurnLimits(9, 4, 17))
    completions = generate(model, params, layout, partner)
    assert {len(turn.tokens) for turn in partner.turns} == {1, 2, 3, 4}
    for completion in completions:
        assert len(completion.tokens) <= 17
        own = [t for t in partner.turns if (t.prompt, t.sample) == (completion.prompt, completion.sample)]
        assert [turn.is_last for turn in own[:-1]] == [False] * (len(own) - 1)
        if completion.finish_reason == "length":
            assert len(completion.tokens) + partner.size >= 17
            assert not completion.finished
    assert "length" in {c.finish_reason for c in completions}
    (one,) = {
        c.finish_reason
        for c in generate(model, params, layout, Scripted(limits=TurnLimits(1, 6, 40)))
        if c.tokens[-1] != 5
    }
    assert one == "rounds"


def test_a_stop_string_in_a_reply_ends_no_turn(model: Decoder, params: Any, layout: Layout) -> None:
    """The replies end with the stop string, which the first token of a turn after them does not complete again."""
    partner = Scripted(stop_strings=("c",))  # the text of 2, the last token of each reply
    generate(model, params, layout, partner, temperature=1.0)
    assert {turn.finish_reason for turn in partner.turns if turn.number} == {"eos", "length"}


def test_a_thinking_budget_counts_the_replies_and_ends_no_thought_within_one(
    model: Decoder, params: Any, layout: Layout
) -> None:
    """An opened thought is ended after 8 tokens, or with the first token of a turn after them."""
    marks, partner = Marks(9, 10), Scripted()
    for completion in generate(model, params, layout, partner, thinking=ThinkingBudget(8, marks, opened=True)):
        turns = [t for t in partner.turns if (t.prompt, t.sample) == (completion.prompt, completion.sample)]
        own = [i for i in range(len(completion.tokens)) if i not in completion.inserted]
        is_open, expected = True, []
        begin = 0
        for turn in turns:
            for i, token in enumerate(turn.tokens, start=begin):
                if is_open and i >= 8:
                    expected.append(i)
                    assert token == marks.close_id
                is_open = token == marks.open_id or (is_open and token != marks.close_id)
            begin += len(turn.tokens) + partner.size
        given = {i for i in completion.inserted if i not in expected}
        assert set(expected) == {i for i in completion.inserted if completion.tokens[i] == marks.close_id}
        assert len(given) % partner.size == 0
        assert len(own) + len(completion.inserted) == len(completion.tokens)
