"""Chat templates: messages to text and token ids, the same for SFT, RL, reward models and evaluation.

In a rendered text the control tokens of the template (BOS, EOS, turn markers) are between two `MARK`s, and `encode`
maps only these to control ids. So a control token that is spelled out in a question is plain text, and can neither end
nor forge a turn.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2.ext
import jinja2.sandbox

from dsmath_jax.data import questions
from dsmath_jax.data import tokenizer as tokenizers
from dsmath_jax.data.dataset_formats import Record
from dsmath_jax.data.questions import Mode
from dsmath_jax.data.settings import ChatSettings
from dsmath_jax.data.tokenizer import Tokenizer
from dsmath_jax.settings import build
from dsmath_jax.workdir import UserError, atomic_write, json_object, write_json

FILE = "chat.json"  # next to model.json: the template and the instruction of the model's training
TEMPLATE = "chat_template.jinja"  # Hugging Face's file of the template
# Two Unicode noncharacters; in messages U+FFFD replaces them.
MARK, HIDDEN = "\ufdd0", "\ufdd1"

# The paper's own models' template: `User: 6*7?\n\nAssistant: 42</s>`.
DEEPSEEK_MATH = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}Assistant: {{ message.content }}{{ eos_token }}"
    "{% else %}{{ 'User: ' if message.role == 'user' }}{{ message.content }}{{ '\n\n' }}{% endif %}"
    "{% endfor %}"
    "{{ 'Assistant:' if add_generation_prompt }}"
)
MARKERS = ("User:", "Assistant:")  # single tokens in a tokenizer trained here


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
    """The prompt format of a model: its tokenizer, its chat template and the instruction below every question.

    Attributes:
      template: Jinja, of `messages`, `add_generation_prompt`, `bos_token` and `eos_token`, as in Hugging Face's
        tokenizer_config.json.
      instruction: see `questions.user_message`.
    """

    tokenizer: Tokenizer
    template: str = DEEPSEEK_MATH
    instruction: str = ""

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
        """Renders a text to continue, without the template: BOS, if the tokenizer has one, and the text."""
        return self._mark(self.tokenizer.bos_id) + _without_marks(text)

    # --- messages ---

    def render(self, messages: Sequence[Message], generate: bool = False) -> str:
        """Renders messages; `generate` adds the beginning of the assistant's next turn.

        Raises:
          UserError: the template fails, or refuses the messages.
        """
        names, pattern = self._names

        def hide(text: str) -> str:
            """Replaces the names of control tokens in a message by numbers."""
            text = _without_marks(text)
            return pattern.sub(lambda match: f"{HIDDEN}{names[match[0]]}{HIDDEN}", text)

        escaped = [{"role": message.role, "content": hide(message.content)} for message in messages]
        bos, eos = (self._mark(i).strip(MARK) for i in (self.tokenizer.bos_id, self.tokenizer.eos_id))
        try:
            text = _compiled(self.template).render(
                messages=escaped, add_generation_prompt=generate, bos_token=bos, eos_token=eos
            )
        except Exception as error:  # templates are third-party code
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise UserError(f"chat.template fails ({reason}); correct it, or the messages.") from None
        text = pattern.sub(lambda match: f"{MARK}{match[0]}{MARK}", text)
        listed = list(names)
        return re.sub(f"{HIDDEN}(\\d+){HIDDEN}", lambda match: listed[int(match[1])], text)

    def encode(self, rendered: str) -> list[int]:
        """Returns the token ids of a rendered text."""
        ids: list[int] = []
        for number, part in enumerate(rendered.split(MARK)):
            ids += [self.tokenizer.control_ids[part]] if number % 2 else self.tokenizer.encode(part)
        return ids

    def tokenize(self, messages: Sequence[Message]) -> Tokens:
        """Tokenizes a conversation, with loss on the assistant's turns and their ends, except for parts without loss.

        Texts between control tokens are encoded as a whole; a token has loss if its last character has.

        Raises:
          UserError: the template fails, rewrites earlier turns, or ends the assistant's turn without a stop token.
        """
        text = self.render(messages)
        loss_mask = [False] * len(text)
        for number, message in enumerate(messages):
            if message.role == "assistant":
                start = self.render(messages[:number], generate=True)
                turn = self.render(messages[: number + 1])
                if not (turn.startswith(start) and text.startswith(turn)):
                    raise UserError("chat.template changes earlier turns when later ones follow; give another.")
                end = len(start) + self._end_of_turn(turn[len(start) :])
                loss_mask[len(start) : end] = [True] * (end - len(start))
                for begin, stop in _spans_without_loss(message, turn[len(start) :]):
                    loss_mask[len(start) + begin : len(start) + stop] = [False] * (stop - begin)
        tokens = Tokens([], [])
        at = 0
        for number, part in enumerate(text.split(MARK)):
            if number % 2:
                ids, offsets = [self.tokenizer.control_ids[part]], [0]
            else:
                ids, offsets = self.tokenizer.encode_with_offsets(part)
            tokens.ids.extend(ids)
            tokens.loss_mask.extend(loss_mask[min(at + offset, len(loss_mask) - 1)] for offset in offsets)
            at += len(part) + 1
        return tokens

    def solution(self, record: Record, mode: Mode = "cot") -> Tokens:
        """Tokenizes a record's prompt and its solution."""
        question = user(questions.user_message(record, self.instruction, mode))
        return self.tokenize([question, assistant(record.solution)])

    def _mark(self, token: int | None) -> str:
        """Returns a control token as it is in a rendered text; "" for None."""
        name = next((name for name, i in self.tokenizer.control_ids.items() if i == token), "")
        return f"{MARK}{name}{MARK}" if name else ""

    def _end_of_turn(self, turn: str) -> int:
        """Returns the end of the first stop token in the rendered text of an assistant's turn."""
        stops = (self._mark(i) for i in self.tokenizer.stop_ids)
        ends = [turn.find(stop) + len(stop) for stop in stops if stop and stop in turn]
        if not ends:
            raise UserError(
                "chat.template must end the assistant's turn with one of the tokens that end a completion; name its "
                "token as eos_token_id in generation_config.json next to the tokenizer."
            )
        return min(ends)


def _spans_without_loss(message: Message, turn: str) -> list[tuple[int, int]]:
    """Returns the spans of the parts without loss, in the rendered text of a turn.

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
    return text.replace(MARK, "\ufffd").replace(HIDDEN, "\ufffd")


@functools.lru_cache(maxsize=32)
def _compiled(template: str) -> Any:
    """Compiles a template as transformers' `apply_chat_template` does."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(template)


def _refuse(reason: str) -> None:
    raise jinja2.TemplateError(reason)


# --- files ---


class ChatSource(NamedTuple):
    """The inputs of `read`: the tokenizer's file or folder, and the recipe's section `chat`."""

    tokenizer: Path
    settings: ChatSettings = ChatSettings()


def read(source: ChatSource) -> Chat:
    """Reads the chat of a run: the template is the setting's or, if empty, the tokenizer's own, else the paper's.

    The tokenizer's own is in `chat_template.jinja` or `tokenizer_config.json` in its folder.

    Raises:
      UserError: the tokenizer or the template cannot be read.
    """
    tokenizer, file = tokenizers.load(source.tokenizer), tokenizers.find(source.tokenizer)
    stored = stored_template(file.parent) if file else ""
    template = source.settings.template or stored or DEEPSEEK_MATH
    check_template(template)
    return Chat(tokenizer, template, source.settings.instruction)


def check_template(template: str) -> None:
    """Raises a `UserError` where a text is not a Jinja template."""
    try:
        _compiled(template)
    except jinja2.TemplateError as error:
        raise UserError(f"chat.template is not a Jinja template ({error}); correct it.") from None


def stored_template(folder: Path) -> str:
    """Returns the template in Hugging Face's `chat_template.jinja` or `tokenizer_config.json`; "" without one."""
    if (path := folder / TEMPLATE).is_file():
        return path.read_text(encoding="utf-8")
    if not (path := folder / "tokenizer_config.json").is_file():
        return ""
    template = json_object(path.read_bytes(), str(path), "it").get("chat_template") or ""
    if isinstance(template, list):  # several by name
        return next((named["template"] for named in template if named["name"] == "default"), "")
    return template


def save(chat: Chat, folder: Path) -> None:
    """Saves the template and the instruction next to a model."""
    write_json(folder / FILE, {"template": chat.template, "instruction": chat.instruction})


def export(chat: Chat, folder: Path) -> None:
    """Saves to a Hugging Face folder, with the template in `chat_template.jinja`."""
    save(chat, folder)
    with atomic_write(folder / TEMPLATE) as file:
        file.write(chat.template)


def load(folder: Path, tokenizer: Tokenizer) -> Chat | None:
    """Loads the chat that `save` wrote next to a model, None if there is none."""
    settings = stored_settings(folder)
    return Chat(tokenizer, settings.template, settings.instruction) if settings.template else None


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
    """Raises a `UserError` where the model in a folder was trained with another template or instruction."""
    trained = load(folder, chat.tokenizer)
    for name in ("template", "instruction"):
        if trained and getattr(trained, name) != getattr(chat, name):
            raise UserError(
                f"chat.{name} is {getattr(chat, name)!r}, but the model in {folder} was trained with "
                f"{getattr(trained, name)!r}; set config.chat.{name} to that, or train the model again."
            )
