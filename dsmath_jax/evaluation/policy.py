"""A model that is asked in words: text to completions as text."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

from dsmath_jax.data import questions
from dsmath_jax.data.chat import Chat
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.sampling.completions import FinishReason
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sharding import Layout
from dsmath_jax.training.model_files import LanguageModel, build_model

BEFORE = 8  # tokens of the prompt that are decoded with a completion, so that its first ones keep their white space


class Said(NamedTuple):
    """A completion as text, with the stop string that may have ended it, and what it ended with."""

    text: str
    finish: FinishReason


GREEDY = SamplingParams(temperature=0.0)


def instructed(model: LanguageModel, instruction: str | None = None) -> LanguageModel:
    """A model with the instruction that it is evaluated with in a chat.

    That is the given one or, for None, what it was trained with; a model of which nobody knows that (a Hugging Face
    folder that others made, a base model) is asked with the paper's instruction, as the paper's chat models are.
    """
    if instruction is None:
        instruction = model.chat.instruction if model.chat_stored else questions.PAPER
    return model._replace(chat=dataclasses.replace(model.chat, instruction=instruction))


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """A model, how it is read, and what draws from it.

    Attributes:
      context: the tokens that the model was trained to see at once; a prompt and its completion have no more.
      max_new_tokens: the length limit of a completion.
      identity: stands for the parameters and the tokenizer: other ones have another.
    """

    params: Any
    chat: Chat
    sampler: Sampler
    context: int
    max_new_tokens: int
    identity: str = ""

    @classmethod
    def of(cls, language_model: LanguageModel, max_new_tokens: int, decode_slots: int) -> Self:
        """What draws completions of at most `max_new_tokens` tokens from a model, `decode_slots` at a time."""
        config, stop_ids = language_model.model.config, tuple(language_model.chat.tokenizer.stop_ids)
        sampler = _sampler(config, language_model.layout, stop_ids, max_new_tokens, decode_slots)
        context, identity = config.max_position_embeddings, language_model.identity
        return cls(language_model.params, language_model.chat, sampler, context, max_new_tokens, identity)

    @property
    def room(self) -> int:
        """Tokens of a prompt that leave a whole completion in the context."""
        return self.context - self.max_new_tokens

    def ids(self, prompt: str) -> list[int]:
        """The token ids of a rendered text (`Chat.render`, `Chat.plain`)."""
        return self.chat.encode(prompt)

    def complete(
        self,
        prompts: Sequence[str],
        sampling: SamplingParams = GREEDY,
        *,
        step: int = 0,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[list[Said]]:
        """Yields each prompt's completions in order; empty ones, cut by "length", where it fills the context.

        Args:
          prompts: rendered texts.
          sampling: how completions are drawn.
          step, numbers: `step` and `prompt_ids` of `Sampler.generate`.
        """
        asked = [self.ids(prompt) for prompt in prompts]
        numbers = range(len(prompts)) if numbers is None else numbers
        fitting = [i for i, prompt in enumerate(asked) if len(prompt) < self.context]
        groups = self.sampler.generate(
            self.params, [asked[i] for i in fitting], sampling,
            step=step, prompt_ids=[numbers[i] for i in fitting], decode=self.chat.tokenizer.decode,
        )  # fmt: skip
        for prompt in asked:
            if len(prompt) < self.context:
                yield [Said(self._text(prompt, c.tokens), c.finish_reason) for c in next(groups)]
            else:
                yield [Said("", "length")] * sampling.samples

    def _text(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """The tokens' text where it stands: alone, SentencePiece would take white space from its beginning."""
        before = prompt[-BEFORE:]
        decode = self.chat.tokenizer.decode
        start, whole = decode(before), decode([*before, *tokens])
        return whole.removeprefix(start) if whole.startswith(start) else decode(tokens)


@functools.lru_cache(maxsize=4)
def _sampler(
    config: ModelConfig, layout: Layout, stop_ids: tuple[int, ...], max_new_tokens: int, decode_slots: int
) -> Sampler:
    """One sampler for models of one shape: what it compiles serves all of them."""
    return Sampler(build_model(config, layout), layout, stop_ids, max_new_tokens, decode_slots)
