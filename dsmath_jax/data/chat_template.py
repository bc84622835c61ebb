"""Chat templates in Jinja: their environment, as in Hugging Face's libraries, and the files that contain them."""

import datetime
import functools
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from dsmath_jax.settings import nearest
from dsmath_jax.workdir import UserError, atomic_write, json_object

FILE = "chat_template.jinja"  # Hugging Face's file of the template
OTHER_FILES = ("tokenizer_config.json", "chat_template.json")  # those that may have it as the field chat_template
PAPER = "paper"  # as a template: DeepSeekMath's
# The paper's own models' template: `User: 6*7?\n\nAssistant: 42</s>`.
DEEPSEEK_MATH = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}Assistant: {{ message.content }}{{ eos_token }}"
    "{% else %}{{ 'User: ' if message.role == 'user' }}{{ message.content }}{{ '\n\n' }}{% endif %}"
    "{% endfor %}"
    "{{ 'Assistant:' if add_generation_prompt }}"
)
MISSING = (
    "The model's files have no chat template (chat_template.jinja, or chat_template in tokenizer_config.json); set "
    f"chat.template to a Jinja template, or to '{PAPER}' for DeepSeekMath's; generate(..., chat=False) continues text."
)


def render(
    template: str,
    messages: Sequence[Mapping[str, str]],
    generate: bool,
    special_tokens: Mapping[str, str],
    arguments: Mapping[str, Any],
    date: str,
) -> str:
    """Renders messages as transformers' `apply_chat_template` does.

    Args:
      template: Jinja.
      messages: with role and content.
      generate: whether to add the beginning of the assistant's next turn.
      special_tokens: names by transformers' roles, such as "bos_token".
      arguments: further variables of the template.
      date: an ISO date, the present one to the template's `strftime_now`.

    Raises:
      UserError: there is no template, or it fails or refuses the messages.
    """
    if not template:
        raise UserError(MISSING)
    variables = {
        "messages": messages, "add_generation_prompt": generate, "tools": None, "documents": None,
        "strftime_now": datetime.datetime.fromisoformat(date).strftime, **special_tokens, **arguments,
    }  # fmt: skip
    try:
        return _compiled(template).render(variables)
    except Exception as error:  # templates are third-party code
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"chat.template fails ({reason}); correct it, or the messages.") from None


def check(template: str, arguments: Collection[str]) -> None:
    """Checks that a text is a Jinja template with these variables.

    Raises:
      UserError: it is not, or a variable is not used by it.
    """
    try:
        _compiled(template)
    except jinja2.TemplateError as error:
        raise UserError(f"chat.template is not a Jinja template ({error}); correct it.") from None
    used = jinja2.meta.find_undeclared_variables(_environment().parse(template))
    for name in arguments:
        if name not in used:
            raise UserError(
                f"chat.template_kwargs.{name} is not a variable of the chat template{nearest(name, used)}; remove it."
            )


@functools.lru_cache(maxsize=32)
def _compiled(template: str) -> jinja2.Template:
    return _environment().from_string(template)


@functools.cache
def _environment() -> jinja2.Environment:
    """Returns an environment with the options, filters and functions of transformers'."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    return environment


class Generation(jinja2.ext.Extension):
    """The block `{% generation %}`, around what a model writes, renders its content.

    Which tokens have loss depends on the turns alone, see `chat.Chat.tokenize`.
    """

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | str | None = None,
    separators: tuple[str, str] | None = None, sort_keys: bool = False,
) -> str:  # fmt: skip
    """Returns a value as JSON; unlike Jinja's own filter it does not escape HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(reason: str) -> None:
    raise jinja2.TemplateError(reason)


# --- files ---


def stored(folder: Path) -> str:
    """Returns the template in a Hugging Face folder, the one named "default" where there are several; "" without one.

    Raises:
      UserError: a file's template has the wrong type, or none of several is the default.
    """
    if (path := folder / FILE).is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{path} is not UTF-8; fix or remove it.") from None
    for path in (folder / name for name in OTHER_FILES):
        template = json_object(path.read_bytes(), str(path), "it").get("chat_template") if path.is_file() else None
        if template:
            return _default(template, path)
    return ""


def _default(template: Any, path: Path) -> str:
    if isinstance(template, list):
        try:
            named = {each["name"]: each["template"] for each in template}
        except (KeyError, TypeError):
            raise UserError(f"{path}: chat_template is a list, but not of names and templates; fix it.") from None
        if "default" not in named:
            raise UserError(
                f"{path} has the chat templates {', '.join(named)}, but no default; set chat.template to one of them."
            )
        template = named["default"]
    if not isinstance(template, str):
        raise UserError(f"{path}: chat_template is {template!r}; it must be a text, or a list of names and templates.")
    return template


def write(folder: Path, template: str) -> None:
    """Writes `chat_template.jinja`."""
    with atomic_write(folder / FILE) as file:
        file.write(template)
