"""Generates completions as text from prompts as text."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

from dsmath_jax.data import chat as chats
from dsmath_jax.data import questions
from dsmath_jax.data.chat import Chat
from dsmath_jax.data.settings import ChatSettings
from dsmath_jax.sampling.completions import FinishReason
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.training.model_files import LanguageModel

CONTEXT_TOKENS = 8  # prompt tokens decoded together with a completion, so that its first tokens keep their white space


class TextCompletion(NamedTuple):
    """A completion as text, without EOS but with a stop string that ended it, and its finish reason."""

    text: str
    finish: FinishReason


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
      fingerprint: a hash of the parameters and the tokenizer.
    """

    params: Any
    chat: Chat
    sampler: Sampler
    context: int
    max_new_tokens: int
    fingerprint: str = ""

    @classmethod
    def of(cls, language_model: LanguageModel, max_new_tokens: int, decode_slots: int) -> Self:
        """Builds a policy that draws completions of at most `max_new_tokens` tokens, `decode_slots` at a time."""
        config, stop_ids = language_model.model.config, language_model.chat.stop_ids
        sampler = Sampler(language_model.model, language_model.layout, stop_ids, max_new_tokens, decode_slots)
        context, fingerprint = config.max_position_embeddings, language_model.fingerprint
        return cls(language_model.params, language_model.chat, sampler, context, max_new_tokens, fingerprint)

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
        step: int = 0,
        numbers: Sequence[int] | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Iterator[list[TextCompletion]]:
        """Yields each prompt's completions in order; empty ones with "length" where the prompt fills the context.

        Args:
          prompts: rendered texts.
          sampling: the sampling parameters.
          step, numbers: `step` and `prompt_ids` of `Sampler.generate`.
          lengths: the number of tokens of each prompt before the beginning of its completion, for the thinking budget;
            None where no prompt has such a beginning.
        """
        encoded = [self.encode(prompt) for prompt in prompts]
        numbers = range(len(prompts)) if numbers is None else numbers
        lengths = [len(prompt) for prompt in encoded] if lengths is None else lengths
        fitting = [i for i, prompt in enumerate(encoded) if len(prompt) < self.context]
        groups = self.sampler.generate(
            self.params, [encoded[i] for i in fitting], sampling,
            step=step, prompt_ids=[numbers[i] for i in fitting], begun=[len(encoded[i]) - lengths[i] for i in fitting],
            decode=self.chat.tokenizer.decode,
        )  # fmt: skip
        for prompt in encoded:
            if len(prompt) < self.context:
                yield [TextCompletion(self._text(prompt, c.tokens), c.finish_reason) for c in next(groups)]
            else:
                yield [TextCompletion("", "length")] * sampling.samples

    def _text(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """Decodes tokens in their context, without EOS: alone, SentencePiece would drop white space at their start."""
        before, tokens = prompt[-CONTEXT_TOKENS:], self.chat.without_eos(tokens)
        decode = self.chat.tokenizer.decode
        start, whole = decode(before), decode([*before, *tokens])
        return whole.removeprefix(start) if whole.startswith(start) else decode(tokens)
