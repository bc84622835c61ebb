"""A model that can be asked in words: its parameters and tokenizer, from a stage's folder or a Hugging Face one."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax

from dsmath_jax.data import tokenizer
from dsmath_jax.data.tokenizer import Tokenizer
from dsmath_jax.models import huggingface
from dsmath_jax.models.llama import Llama
from dsmath_jax.sampling.completions import Finish
from dsmath_jax.sampling.sampler import Sampler, SamplingParams
from dsmath_jax.sharding import Layout
from dsmath_jax.training import checkpoint
from dsmath_jax.training.model_files import build_model, find_tokenizer, import_params, read_model, read_params
from dsmath_jax.workdir import UserError, hash_json, stamp

HUGGING_FACE = "hf:"
BEFORE = 8  # tokens of the prompt that are decoded with a completion, so that its first ones keep their white space


class Said(NamedTuple):
    """A completion as text, with the stop string that may have ended it, and what it ended with."""

    text: str
    finish: Finish


GREEDY = SamplingParams(temperature=0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """A model, how it is read, and what draws from it.

    Attributes:
      context: the tokens that the model was trained to see at once.
      max_new_tokens: the length limit of a completion.
      identity: stands for the parameters and the tokenizer: other ones have another.
    """

    params: Any
    tokenizer: Tokenizer
    sampler: Sampler
    context: int
    max_new_tokens: int
    identity: str = ""

    @classmethod
    def load(
        cls, checkpoint: str, layout: Layout, max_new_tokens: int, rows: int, tokenizer_path: str = "", dtype: str = ""
    ) -> Self:
        """Opens `hf:DIR`, or the folder of a stage that trains.

        Args:
          checkpoint: what to open.
          layout: its devices hold the parameters.
          max_new_tokens: the length limit of a completion.
          rows: completions in the making at a time.
          tokenizer_path: a file or folder; "" for the model's own.
          dtype: to compute in; "" for the stage's own, and bfloat16 for Hugging Face's (float32 on CPUs).

        Raises:
          UserError: there is no model, no tokenizer, or one that is another model's.
        """
        folder = Path(checkpoint.removeprefix(HUGGING_FACE))
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder}; give that of a stage, or hf:DIR, as --checkpoint.")
        found = tokenizer.find(Path(tokenizer_path)) if tokenizer_path else find_tokenizer(folder)
        if found is None:
            where = tokenizer_path or f"{folder} or beside it"
            raise UserError(f"There is no tokenizer in {where}; give its .model or tokenizer.json as --tokenizer.")
        text_tokenizer = tokenizer.load(found)
        opened = _hugging_face if checkpoint.startswith(HUGGING_FACE) else _stage
        model, params, files = opened(folder, layout, dtype)
        tokenizer.vocabulary_fits(text_tokenizer, model.config.vocab_size, str(folder))
        identity = hash_json([stamp(path) for path in (*files, found)] + [model.config.compute_dtype])
        sampler = Sampler(model, layout, text_tokenizer.stop_ids, max_new_tokens, rows)
        return cls(params, text_tokenizer, sampler, model.config.max_position_embeddings, max_new_tokens, identity)

    @property
    def room(self) -> int:
        """Tokens of a prompt that leave a whole completion in the context."""
        return self.context - self.max_new_tokens

    def ids(self, prompt: str) -> list[int]:
        """BOS and the prompt."""
        return [self.tokenizer.bos_id, *self.tokenizer.encode(prompt)]

    def complete(
        self,
        prompts: Sequence[str],
        sampling: SamplingParams = GREEDY,
        *,
        step: int = 0,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[list[Said]]:
        """Yields each prompt's completions in order.

        Args:
          prompts: texts, without BOS.
          sampling: how completions are drawn.
          step, numbers: `step` and `prompt_ids` of `Sampler.generate`.
        """
        asked = [self.ids(prompt) for prompt in prompts]
        groups = self.sampler.generate(
            self.params, asked, sampling, step=step, prompt_ids=numbers, decode=self.tokenizer.decode
        )
        for prompt, group in zip(asked, groups, strict=True):
            yield [Said(self._text(prompt, c.tokens), c.finish) for c in group]

    def _text(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """The tokens' text where it stands: alone, SentencePiece would take white space from its beginning."""
        before = prompt[-BEFORE:]
        start, whole = self.tokenizer.decode(before), self.tokenizer.decode([*before, *tokens])
        return whole.removeprefix(start) if whole.startswith(start) else self.tokenizer.decode(tokens)


def _hugging_face(folder: Path, layout: Layout, dtype: str) -> tuple[Llama, Any, list[Path]]:
    sizes = huggingface.read_config(folder, dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16"))
    params = import_params(folder, sizes, layout, sizes.compute_dtype)
    return build_model(sizes, layout), params, sorted(folder.glob("*.safetensors"))


def _stage(folder: Path, layout: Layout, dtype: str) -> tuple[Llama, Any, list[Path]]:
    if not (folder / "model.json").is_file():
        raise UserError(
            f"{folder} has no model.json; give the folder of a stage that trains and is done, such as RUN/rl, or "
            f"{HUGGING_FACE}DIR for one in Hugging Face's format."
        )
    model = read_model(folder, layout)
    if dtype:
        model = build_model(dataclasses.replace(model.config, compute_dtype=dtype), layout)
    return model, read_params(folder, model.config, layout), [checkpoint.hashes_path(folder / "params")]
