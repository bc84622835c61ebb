"""The prompt format of a model: messages to text and token ids, for SFT, RL, reward models and evaluation.

A record becomes a prompt on one path: its question with the instruction (`questions.user_message`), the system message
and the turns (`Chat.render`), the template (`chat_template.render`), the ids (`Tokenizer.encode_marked`). In a rendered
text the control tokens of the template (BOS, EOS, turn markers) are marked, see `special_tokens`.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dsmath_jax.data import chat_template, questions
from dsmath_jax.data import tokenizer as tokenizers
from dsmath_jax.data.dataset_formats import Record
from dsmath_jax.data.questions import Mode
from dsmath_jax.data.settings import ChatSettings
from dsmath_jax.data.special_tokens import MARK, mark, without_marks
from dsmath_jax.data.thoughts import OPEN
from dsmath_jax.data.tokenizer import Tokenizer
from dsmath_jax.settings import build
from dsmath_jax.workdir import UserError, json_object, write_json

FILE = "chat.json"  # next to model.json: the settings of the model's training
SETTINGS = tuple(field.name for field in dataclasses.fields(ChatSettings))
MARKERS = ("User:", "Assistant:")  # single tokens in a tokenizer trained here
HIDDEN = "\ufdd1"  # a Unicode noncharacter; in messages U+FFFD replaces it
PLAIN = MARK + MARK  # begins a text without a template
NO_END = "chat.template must end the assistant's turn with a special token, such as EOS; correct it."


class Message(NamedTuple):
    """A turn of a conversation.

    Attributes:
      role: "system", "user" or "assistant".
      parts: of its text, in order: (text, whether it has loss); only the assistant's parts may.
    """

    role: str
    parts: tuple[tuple[str, bool], ...]

    @property
    def content(self) -> str:
        """The whole text."""
        return "".join(text for text, _ in self.parts)


def system(text: str) -> Message:
    """Returns a system message."""
    return Message("system", ((text, False),))


def user(text: str) -> Message:
    """Returns a message of the user."""
    return Message("user", ((text, False),))


def assistant(text: str) -> Message:
    """Returns a message of the assistant, with loss on all of it."""
    return Message("assistant", ((text, True),))


class Tokens(NamedTuple):
    """Token ids, and the loss mask: whether each has loss."""

    ids: list[int]
    loss_mask: list[bool]


@dataclasses.dataclass(frozen=True)
class Chat:
    """The prompt format of a model: its tokenizer, its chat template and the settings of prompts.

    Attributes:
      template: Jinja, as in Hugging Face's tokenizer_config.json; "" if the model has none: then it can only continue
        `plain` texts.
      instruction, system, template_kwargs, date: see `ChatSettings`.
    """

    tokenizer: Tokenizer
    template: str = chat_template.DEEPSEEK_MATH
    instruction: str = ChatSettings.instruction
    system: str = ChatSettings.system
    template_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    date: str = ChatSettings.date

    @property
    def settings(self) -> dict[str, Any]:
        """All but the tokenizer."""
        return {name: getattr(self, name) for name in SETTINGS}

    @functools.cached_property
    def _names(self) -> tuple[dict[str, int], re.Pattern[str]]:
        """The names of control tokens, numbered, and a pattern that finds the longest of them in a text."""
        names = {name: i for i, name in enumerate(sorted(self.tokenizer.control_ids, key=len, reverse=True))}
        return names, re.compile("|".join(map(re.escape, names)) or "(?!)")

    # --- prompts ---

    def prompt(self, record: Record, mode: Mode = "cot", examples: Sequence[tuple[Record, str]] = ()) -> str:
        """Renders a record's question as a prompt, up to where the assistant's turn begins.

        Args:
          record: the problem.
          mode: how the model should answer.
          examples: few-shot examples (records with solutions), as earlier turns of the conversation.
        """
        turns = [
            message
            for example, solution in examples
            for message in (user(questions.user_message(example, self.instruction, mode)), assistant(solution))
        ]
        return self.render([*turns, user(questions.user_message(record, self.instruction, mode))], generate=True)

    def prompt_ids(self, record: Record, mode: Mode = "cot") -> list[int]:
        """Returns `prompt` as token ids."""
        return self.encode(self.prompt(record, mode))

    def plain(self, text: str) -> str:
        """Renders a text to continue, without the template; its ids begin with BOS if the tokenizer has one."""
        return PLAIN + without_marks(text)

    # --- messages ---

    def render(self, messages: Sequence[Message], generate: bool = False) -> str:
        """Renders messages, after the system message of the settings if they have none.

        `generate` adds the beginning of the assistant's next turn.

        Raises:
          UserError: there is no template, or it fails, refuses the messages or leaves out the system message.
        """
        names, pattern = self._names

        def hide(text: str) -> str:
            """Replaces the names of control tokens in a message by numbers."""
            text = _without_marks(text)
            return pattern.sub(lambda match: f"{HIDDEN}{names[match[0]]}{HIDDEN}", text)

        if self.system and not (messages and messages[0].role == "system"):
            messages = [system(self.system), *messages]
        hidden = [{"role": message.role, "content": hide(message.content)} for message in messages]
        text = chat_template.render(
            self.template, hidden, generate, self.tokenizer.special_tokens, self.template_kwargs, self.date
        )
        if messages[0].role == "system" and hidden[0]["content"].strip() not in text:
            raise UserError("chat.template leaves out the system message; remove it, or give another template.")
        text = pattern.sub(lambda match: mark(match[0]), text)
        listed = list(names)
        return re.sub(f"{HIDDEN}(\\d+){HIDDEN}", lambda match: listed[int(match[1])], text)

    def next_turn(self, text: str) -> str:
        """Renders the user's next message, from the end of the assistant's turn before to the beginning of the next.

        Raises:
          UserError: the template fails, or changes the turn before.
        """
        rendered = self.render([user("Question"), assistant("Solution"), user(text)], generate=True)
        _, found, after = rendered.partition("Solution")
        if not (found and after.startswith(MARK)):
            raise UserError(NO_END)
        return after

    def encode(self, rendered: str) -> list[int]:
        """Returns the token ids of a rendered text."""
        if rendered.startswith(PLAIN):
            bos = [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]
            return bos + self.tokenizer.encode(rendered.removeprefix(PLAIN))
        return self.tokenizer.encode_marked(rendered)[0]

    def tokenize(self, messages: Sequence[Message]) -> Tokens:
        """Tokenizes a conversation, with loss on the assistant's turns and their ends, except for parts without loss.

        The conversation is encoded as a whole; a token has loss if its last character has. A turn begins where the
        prompt for it ends or, if the template renders earlier turns in another way than the last (Qwen3 leaves out
        their thoughts), where the two begin to differ. It ends with the first token that ends a completion.

        Raises:
          UserError: the template fails, changes the messages before a turn, or does not end the assistant's turn.
        """
        text = self.render(messages)
        loss_mask = [False] * len(text)
        for number, message in enumerate(messages):
            if message.role == "assistant":
                before, prompt = (self.render(messages[:number], generate) for generate in (False, True))
                if not text.startswith(before):
                    raise UserError("chat.template changes earlier turns when later ones follow; give another.")
                start = max(len(before), len(os.path.commonprefix((text, prompt))))  # noqa: RUF071 - they are no paths
                turn = text[start:]
                end = start + self._end_of_turn(turn)
                loss_mask[start:end] = [True] * (end - start)
                for begin, stop in _spans_without_loss(message, turn):
                    loss_mask[start + begin : start + stop] = [False] * (stop - begin)
        ids, offsets = self.tokenizer.encode_marked(text)
        return Tokens(ids, [loss_mask[min(offset, len(loss_mask) - 1)] for offset in offsets])

    def solution(self, record: Record, mode: Mode = "cot") -> Tokens:
        """Tokenizes a record's prompt and its solution."""
        question = user(questions.user_message(record, self.instruction, mode))
        return self.tokenize([question, assistant(record.solution)])

    # --- the beginning and the end of a turn ---

    @functools.cached_property
    def opens_thought(self) -> str:
        """The opening mark of a thought where the template's prompts end with it (DeepSeek-R1, QwQ), else ""."""
        try:
            prompt = self.render([user("Question")], generate=True)
        except UserError:  # of a base model, which is asked without a template
            return ""
        return OPEN if without_marks(prompt).rstrip().endswith(OPEN) else ""

    def completion(self, ids: Sequence[int]) -> str:
        """Decodes a completion of a `prompt`, with the mark of a thought that the prompt opened and without EOS."""
        return self.opens_thought + self.tokenizer.decode(self.without_eos(ids))

    def without_eos(self, ids: Sequence[int]) -> Sequence[int]:
        """Returns a completion's tokens without the one of `stop_ids` that ended it, if one did.

        Such a token may be an ordinary piece, which `Tokenizer.decode` does not skip.
        """
        return ids[:-1] if len(ids) and ids[-1] in self.stop_ids else ids

    @functools.cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end a completion: the tokenizer's and the one that ends the template's assistant turn."""
        try:
            text = self.render([user("Question"), assistant("Solution")])
        except UserError:  # of a base model, which is asked without a template
            text = ""
        after = text.rpartition("Solution")[2].split(MARK)
        own = self.tokenizer.stop_ids
        return own if len(after) == 1 else tuple(dict.fromkeys((*own, self.tokenizer.control_ids[after[1]])))

    def _end_of_turn(self, turn: str) -> int:
        """Returns the end of the first stop token in the rendered text of an assistant's turn."""
        stops = [mark(name) for name, i in self.tokenizer.control_ids.items() if i in self.stop_ids]
        ends = [turn.find(stop) + len(stop) for stop in stops if stop in turn]
        if not ends:
            raise UserError(NO_END)
        return min(ends)


def _spans_without_loss(message: Message, turn: str) -> list[tuple[int, int]]:
    """Returns the spans of the parts without loss, in the rendered text from a turn on.

    Raises:
      UserError: there are such parts, and the template changed the text.
    """
    if all(has_loss for _, has_loss in message.parts):
        return []
    content = _without_marks(message.content)
    lead = len(content) - len(content.lstrip())
    first = turn.find(content.strip())
    if first < 0:
        raise UserError("chat.template changes the text of a turn with a tool's outputs; give another.")
    spans, at = [], first - lead
    for text, has_loss in message.parts:
        if not has_loss:
            spans.append((max(at, 0), at + len(text)))
        at += len(text)
    return spans


def _without_marks(text: str) -> str:
    return without_marks(text).replace(HIDDEN, "\ufffd")


# --- files ---


class ChatSource(NamedTuple):
    """The inputs of `read`: the tokenizer's file or folder, and the recipe's section `chat`."""

    tokenizer: Path
    settings: ChatSettings = ChatSettings()


def read(source: ChatSource) -> Chat:
    """Reads the chat of a run; the template is the setting's or, if empty, the one next to the tokenizer, if any.

    Raises:
      UserError: the tokenizer or the template cannot be read.
    """
    tokenizer, file = tokenizers.load(source.tokenizer), tokenizers.find(source.tokenizer)
    assert file is not None
    template = source.settings.template or chat_template.stored(file.parent)
    settings = dataclasses.replace(source.settings, template=template)
    return Chat(tokenizer, **checked(settings))


def checked(settings: ChatSettings) -> dict[str, Any]:
    """Returns the settings with the text of the template; "" for none.

    Raises:
      UserError: the template is not Jinja, or does not use a variable of `template_kwargs`.
    """
    template = chat_template.DEEPSEEK_MATH if settings.template == chat_template.PAPER else settings.template
    if template:
        chat_template.check(template, settings.template_kwargs)
    return vars(settings) | {"template": template}


def save(chat: Chat, folder: Path) -> None:
    """Saves the settings next to a model."""
    write_json(folder / FILE, chat.settings)


def export(chat: Chat, folder: Path) -> None:
    """Saves to a Hugging Face folder, with the template in `chat_template.jinja`."""
    save(chat, folder)
    if chat.template:
        chat_template.write(folder, chat.template)


def load(folder: Path, tokenizer: Tokenizer) -> Chat | None:
    """Loads the chat that `save` wrote next to a model, None if there is none."""
    return Chat(tokenizer, **vars(stored_settings(folder))) if (folder / FILE).is_file() else None


def stored_settings(folder: Path) -> ChatSettings:
    """Returns the settings of the chat next to a model; the defaults if there is none.

    Raises:
      UserError: the file has other fields.
    """
    path = folder / FILE
    if not path.is_file():
        return ChatSettings()
    return build(ChatSettings, json_object(path.read_bytes(), str(path), "it"), f"{path}: ")


def check_same(chat: Chat, folder: Path) -> None:
    """Raises a `UserError` where the model in a folder was trained with other settings."""
    trained = load(folder, chat.tokenizer)
    for name in SETTINGS:
        if trained and getattr(trained, name) != getattr(chat, name):
            raise UserError(
                f"chat.{name} is {getattr(chat, name)!r}, but the model in {folder} was trained with "
                f"{getattr(trained, name)!r}; set config.chat.{name} to that, or train the model again."
            )
