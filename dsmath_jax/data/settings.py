"""Settings of the tokenizer and of the chat template."""

import dataclasses
import datetime
from pathlib import Path

from dsmath_jax.data import documents
from dsmath_jax.data.dataset_formats import FIELDS
from dsmath_jax.data.hub import HUGGING_FACE
from dsmath_jax.settings import INT32, Settings, find_same, nearest, setting
from dsmath_jax.workdir import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings(Settings):
    """Base class of the settings of stages that read records."""

    columns: dict[str, str] = setting(
        {}, "columns of your own files by field of a record: {'question': 'problem', 'answer': 'final'}"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, column in self.columns.items():
            if field not in FIELDS:
                raise UserError(
                    f"columns.{field} is not a field of a record{nearest(field, FIELDS)}; give one of "
                    f"{', '.join(FIELDS)}."
                )
            if not column:
                raise UserError(f"columns.{field} is empty; give the name of a column, or remove it.")
        data = dict.fromkeys(getattr(self, "data", ()))
        if same := find_same(data, lambda name: documents.stem(name).rstrip("/")):
            raise UserError(f"data: the records of {' and '.join(same)} would have the same ids; rename one of them.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerSettings(Settings):
    """Settings of stage `tokenizer`: an existing tokenizer, or SentencePiece trained on the corpus."""

    path: str = setting(
        "",
        "tokenizer below data_dir: a file, a folder or hf:DIR; '': of an initial model hf:DIR, else trained",
        local=True,
    )
    vocab_size: int = setting(4096, "pieces of the tokenizer that is trained; ignored with a path", ge=0, le=INT32)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.path or self.vocab_size):
            raise UserError("vocab_size is 0; it must be at least 1, or path name a tokenizer.")

    @property
    def models(self) -> tuple[str, ...]:
        """The model `hf:DIR` whose tokenizer it is; none for another path."""
        return (self.path,) if self.path.startswith(HUGGING_FACE) else ()

    def location(self, data_dir: Path) -> Path | None:
        """Returns the file or folder of an existing tokenizer; None if the stage trains one."""
        return data_dir / self.path.removeprefix(HUGGING_FACE) if self.path else None


# Variables of a chat template that `chat_template.render` sets.
RESERVED = ("messages", "add_generation_prompt", "tools", "documents", "strftime_now")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatSettings(Settings):
    """Settings of prompts in all stages: the chat template, its variables, and the instruction below every question."""

    template: str = setting("", "Jinja chat template; 'paper' for DeepSeekMath's, '' for the tokenizer's own")
    instruction: str = setting("", "below every question: a text, or 'paper' for the paper's by mode and language")
    system: str = setting("", "system message of conversations that have none; '' for none")
    template_kwargs: dict[str, bool | int | float | str] = setting(
        {}, "variables of the template, such as enable_thinking"
    )
    date: str = setting("2024-07-26", "date of the template's strftime_now: prompts are the same on every day")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.template_kwargs:
            if name in RESERVED or name.endswith("_token"):
                raise UserError(f"template_kwargs.{name} is set by the messages and the tokenizer; remove it.")
        try:
            datetime.datetime.fromisoformat(self.date)
        except ValueError:
            raise UserError(f"date is {self.date!r}; it must be an ISO date such as 2024-07-26.") from None
