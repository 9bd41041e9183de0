"""A model's own chat template, made deterministic: the same messages give the same text on any day.

Rendering itself is transformers' (its sandbox, its filters). This module pins what would otherwise vary: the
keyword arguments, the form of the messages, a think block that the generation prompt opens and training rows lack, and
the date.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import jinja2

from hone.data.message_dicts import MessageForm, message_dicts, tool_dicts
from hone.errors import TemplateError
from hone.types import Message

__all__ = ["FIXED_DATE", "ChatTemplate", "ChatTokenizer", "TemplateSettings"]

FIXED_DATE = datetime.date(2024, 7, 26)
"""The day that every template is told. Llama 3.1's template has this very date as its default."""

_DATE_CALL = re.compile(r"""strftime_now\(\s*(?:"([^"]*)"|'([^']*)')\s*\)""")

# What jinja raises, and what the Python operations of a template raise on messages that it was not written for.
_TEMPLATE_FAULTS = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)


class ChatTokenizer(Protocol):
    """What the renderer needs of a transformers tokenizer."""

    @property
    def eos_token_id(self) -> Any:
        """Id of the end-of-sequence token, or None."""

    @property
    def bos_token_id(self) -> Any:
        """Id of the beginning-of-sequence token, or None."""

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of the named special tokens."""

    @property
    def special_tokens_map(self) -> Any:
        """Texts of the named special tokens, which templates read as ``bos_token`` and so on."""

    @property
    def added_tokens_decoder(self) -> Any:
        """Added tokens by id."""

    chat_template: Any

    def get_chat_template(self, chat_template: Any = None, tools: Any = None) -> str:
        """Text of the template that serves these tools."""

    def apply_chat_template(self, conversation: Any, **keywords: Any) -> Any:
        """Render a conversation."""

    def decode(self, token_ids: Any, **keywords: Any) -> Any:
        """Text of ids."""

    def __call__(self, text: Any, **keywords: Any) -> Any:
        """Tokenise."""


@dataclass(frozen=True, slots=True)
class TemplateSettings:
    """What is fixed about a template for training and generation alike.

    Args:
        form: how messages are written for it.
        keywords: keyword arguments of the template, as ``{"enable_thinking": False}``.
        cut: end of the template's own generation prompt that is left off, because training rows lack it.
    """

    form: MessageForm = field(default_factory=MessageForm)
    keywords: Mapping[str, Any] = field(default_factory=dict)
    cut: str = ""


class ChatTemplate:
    """The chat template of a tokenizer, with the date fixed.

    Args:
        tokenizer: a tokenizer with a chat template.

    Raises:
        TemplateError: the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        if not tokenizer.chat_template:
            raise TemplateError(
                "the tokenizer has no chat template",
                remedy="call ensure_chat_template(tokenizer), which sets a documented fallback",
            )
        self._tokenizer = tokenizer
        self._fixed: dict[str, str] = {}
        stored = tokenizer.chat_template
        self._source = stored if isinstance(stored, str) else json.dumps(stored, sort_keys=True, ensure_ascii=False)
        self._code = re.sub(r"\{#.*?#\}", "", self._source, flags=re.DOTALL)

    @property
    def reads_date(self) -> bool:
        """Whether the template asks for today's date (it is told :data:`FIXED_DATE`)."""
        return self.mentions("strftime_now")

    def mentions(self, word: str) -> bool:
        """Whether a word, such as a keyword argument's name, stands in the template, comments aside."""
        return word in self._code

    def text(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        settings: TemplateSettings,
        generation: bool,
    ) -> str:
        """Render messages as text.

        Args:
            messages: the turns, in order.
            tools: schemas of the functions that the assistant may call.
            settings: what is fixed about this template.
            generation: whether to end with the prompt for the assistant's next turn.

        Returns:
            The text, with special tokens written out.

        Raises:
            TemplateError: the template raised; the message is the template's own.
        """
        schemas = tool_dicts(tools)
        try:
            rendered = self._tokenizer.apply_chat_template(
                message_dicts(messages, settings.form),
                tools=schemas,
                chat_template=self._dated(self._tokenizer.get_chat_template(None, schemas)),
                add_generation_prompt=generation,
                tokenize=False,
                **settings.keywords,
            )
        except _TEMPLATE_FAULTS as fault:
            raise TemplateError(
                f"the chat template refuses this conversation: {_said(fault)}",
                remedy="change the roles or the shape of the conversation, or use a model whose template takes them",
            ) from fault
        text = str(rendered)
        return text.removesuffix(settings.cut) if generation and settings.cut else text

    def portable(self, settings: TemplateSettings) -> str:
        """The template with date and keywords written into it, so that another program renders it as hone does.

        Args:
            settings: what is fixed about this template; the form of messages and a cut prompt cannot be written into
                it, which a comparison of rendered texts shows.
        """
        fixed = self._dated(self._tokenizer.get_chat_template(None, None))
        set_first = "".join(
            f"{{% set {name} = {'none' if value is None else json.dumps(value, ensure_ascii=False)} %}}"
            for name, value in settings.keywords.items()
        )
        return set_first + fixed

    def hash(self, settings: TemplateSettings) -> str:
        """Hash of everything that decides the text: template, date, settings and the special tokens that it reads.

        Args:
            settings: what is fixed about this template.

        Returns:
            A sha256, in hexadecimal.
        """
        tokens = {name: str(token) for name, token in self._tokenizer.special_tokens_map.items() if self.mentions(name)}
        parts = [self._source, self.reads_date and FIXED_DATE.isoformat(), asdict(settings), tokens]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def _dated(self, template: str) -> str:
        """The template with ``strftime_now`` replaced by a macro that gives the fixed date.

        A macro of the template shadows the sandbox's function, so nothing is patched. The line break after ``endmacro``
        is dropped by jinja's ``trim_blocks``: the template's own first line is rendered as it was.
        """
        if "strftime_now" not in template:
            return template
        if template not in self._fixed:
            formats = sorted({double or single for double, single in _DATE_CALL.findall(template)})
            branches = "".join(
                f"{{% if form == {json.dumps(form, ensure_ascii=False)} %}}{FIXED_DATE.strftime(form)}{{% else %}}"
                for form in formats
            )
            body = f"{branches}{FIXED_DATE.isoformat()}{'{% endif %}' * len(formats)}"
            self._fixed[template] = f"{{% macro strftime_now(form) %}}{body}{{% endmacro %}}\n{template}"
        return self._fixed[template]


def _said(fault: Exception) -> str:
    """The first line of what a template said, with the kind of error where it is Python's and not the author's."""
    text = str(fault).strip().split("\n")[0] or type(fault).__name__
    return text if isinstance(fault, jinja2.TemplateError) else f"{type(fault).__name__}: {text}"
