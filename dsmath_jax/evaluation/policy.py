"""Generates completions as text from prompts as text."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

from dsmath_jax.data import chat as chats
from dsmath_jax.data import questions
from dsmath_jax.data.chat import Chat
from dsmath_jax.data.dataset_formats import Record
from dsmath_jax.data.settings import ChatSettings
from dsmath_jax.data.tokenizer import decode_after
from dsmath_jax.environments.dialogues import Dialogues
from dsmath_jax.environments.protocol import Environment
from dsmath_jax.sampling.completions import Completion, FinishReason
from dsmath_jax.sampling.dtypes import COMPUTE_DTYPE, DecodeDtypes
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sampling.turns import TurnLimits
from dsmath_jax.training.model_files import LanguageModel


class TextCompletion(NamedTuple):
    """A completion as text, without EOS but with a stop string that ended it, and its finish reason."""

    text: str
    finish: FinishReason


NO_ROOM = TextCompletion("", "length")  # after a prompt that fills the context


GREEDY = SamplingParams(temperature=0.0)
NO_CHANGES: Mapping[str, Any] = {}  # of chat settings


def with_chat_settings(model: LanguageModel, changes: Mapping[str, Any] = NO_CHANGES) -> LanguageModel:
    """Returns a model with the settings for its evaluation in a chat.

    Args:
      changes: fields of `ChatSettings`; the others are those of its training. Where that is unknown (a base model,
        another project's checkpoint), the instruction is the paper's.

    Raises:
      UserError: a setting is invalid.
    """
    default = {} if model.chat_stored else {"instruction": questions.PAPER}
    settings = ChatSettings(**{**model.chat.settings, **default, **changes})
    return model._replace(chat=Chat(model.tokenizer, **chats.checked(settings)))


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """A model with its chat template and its sampler.

    Attributes:
      context: the maximum number of tokens of a prompt and its completion.
      max_new_tokens: the length limit of a completion.
      dtypes: of the sampler's KV cache and weights.
      fingerprint: a hash of the parameters and the tokenizer.
    """

    params: Any
    chat: Chat
    sampler: Sampler
    context: int
    max_new_tokens: int
    dtypes: DecodeDtypes = COMPUTE_DTYPE
    fingerprint: str = ""

    @classmethod
    def of(
        cls, language_model: LanguageModel, max_new_tokens: int, decode_slots: int,
        dtypes: DecodeDtypes = COMPUTE_DTYPE,
    ) -> Self:  # fmt: skip
        """Builds a policy that draws completions of at most `max_new_tokens` tokens, `decode_slots` at a time."""
        config, stop_ids = language_model.model.config, language_model.chat.stop_ids
        sampler = Sampler(language_model.model, language_model.layout, stop_ids, max_new_tokens, decode_slots, dtypes)
        context, fingerprint = config.max_position_embeddings, language_model.fingerprint
        return cls(language_model.params, language_model.chat, sampler, context, max_new_tokens, dtypes, fingerprint)

    @property
    def max_prompt_tokens(self) -> int:
        """The maximum number of prompt tokens that leave room for a whole completion."""
        return self.context - self.max_new_tokens

    def encode(self, prompt: str) -> list[int]:
        """Encodes a rendered text (`Chat.render`, `Chat.plain`)."""
        return self.chat.encode(prompt)

    def complete(
        self,
        prompts: Sequence[str],
        sampling: SamplingParams = GREEDY,
        *,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[list[TextCompletion]]:
        """Yields each prompt's completions in order; empty ones with "length" where the prompt fills the context.

        Args:
          prompts: rendered texts.
          sampling: the sampling parameters.
          numbers: `prompt_ids` of `Sampler.generate`.
        """
        encoded = [self.encode(prompt) for prompt in prompts]
        numbers = range(len(prompts)) if numbers is None else numbers
        fitting = self._fitting(encoded)
        for prompt, group in zip(encoded, self._sample(encoded, fitting, numbers, sampling), strict=True):
            found = [TextCompletion(self._text(prompt, c.tokens), c.finish_reason) for c in group]
            yield found or [NO_ROOM] * sampling.samples

    def converse(
        self, prompts: Sequence[str], records: Sequence[Record], make: Callable[[], Environment], max_turns: int,
        sampling: SamplingParams, numbers: Sequence[int],
    ) -> Iterator[list[tuple[TextCompletion, str | None]]]:  # fmt: skip
        """Yields the dialogues about each prompt in order, and the texts that answers are extracted from.

        They are empty, with "length", where the prompt fills the context. `max_new_tokens` limits a turn, the context a
        dialogue.

        Args:
          prompts: rendered texts.
          records: their problems.
          make: returns a new environment.
          max_turns: of the model.
          sampling: the sampling parameters.
          numbers: `prompt_ids` of `Sampler.generate`.
        """
        encoded = [self.encode(prompt) for prompt in prompts]
        fitting, limits = self._fitting(encoded), TurnLimits(max_turns, self.max_new_tokens, self.context)
        asked = [records[i] for i in fitting], [encoded[i] for i in fitting]
        with Dialogues(make, *asked, self.chat, limits) as dialogues:
            sampling = dataclasses.replace(sampling, partner=dialogues)
            for prompt, group in zip(encoded, self._sample(encoded, fitting, numbers, sampling), strict=True):
                texts = [TextCompletion(self._text(prompt, c.tokens), c.finish_reason) for c in group]
                answers = [dialogues.results[c.prompt, c.sample].answer_text for c in group]
                yield list(zip(texts, answers, strict=True)) or [(NO_ROOM, None)] * sampling.samples

    def _fitting(self, encoded: Sequence[Sequence[int]]) -> list[int]:
        """Returns which prompts leave room in the context."""
        return [i for i, prompt in enumerate(encoded) if len(prompt) < self.context]

    def _sample(
        self, encoded: Sequence[Sequence[int]], fitting: Sequence[int], numbers: Sequence[int], sampling: SamplingParams
    ) -> Iterator[list[Completion]]:
        """Yields the completions of each prompt in order, none of those that are not fitting."""
        groups = self.sampler.generate(
            self.params, [encoded[i] for i in fitting], sampling,
            prompt_ids=[numbers[i] for i in fitting], decode=self.chat.tokenizer.decode,
        )  # fmt: skip
        for prompt in encoded:
            yield next(groups) if len(prompt) < self.context else []

    def _text(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """Decodes the tokens of a completion in their context, without EOS."""
        return decode_after(self.chat.tokenizer, prompt, self.chat.without_eos(tokens))
