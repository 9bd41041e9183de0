"""The chat template of models that have none, made of tokens that they have.

A ChatML-like template where the vocabulary has ``<|im_start|>`` and ``<|im_end|>``; else role headers in plain text,
``### User:``, with the end-of-sequence token after each answer. No token is added: a new one would have an untrained
embedding, which an adapter does not learn. Both print system messages, several turns, tools, tool calls and reasoning,
and never change earlier turns.
"""

from __future__ import annotations

from hone.data.template import ChatTokenizer
from hone.errors import TemplateError

__all__ = ["ensure_chat_template"]

_BODY = """\
{%- for message in messages %}
    {{- SYSTEM_OPEN if message.role == 'system' else USER_OPEN if message.role == 'user' else TOOL_OPEN \
if message.role == 'tool' else ASSISTANT_OPEN }}
    {%- if message.reasoning_content %}
        {{- '<think>\\n' ~ message.reasoning_content ~ '\\n</think>\\n\\n' }}
    {%- endif %}
    {{- message.content | default('', true) }}
    {%- for call in message.tool_calls or [] %}
        {{- '\\n' if message.content or not loop.first else '' }}
        {{- '<tool_call>\\n{"name": ' ~ (call.function.name | tojson) ~ ', "arguments": ' }}
        {{- (call.function.arguments | tojson) ~ '}\\n</tool_call>' }}
    {%- endfor %}
    {{- ASSISTANT_CLOSE if message.role == 'assistant' else CLOSE }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- ASSISTANT_OPEN }}
{%- endif %}"""

_TOOLS = """\
{%- if tools %}
    {{- SYSTEM_OPEN ~ 'You may call these functions:\\n' }}
    {%- for tool in tools %}
        {{- (tool | tojson) ~ '\\n' }}
    {%- endfor %}
    {{- 'To call one, answer with <tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>' ~ CLOSE }}
{%- endif %}
"""

_CHATML_WORDS = """\
{%- set SYSTEM_OPEN = '<|im_start|>system\\n' %}
{%- set USER_OPEN = '<|im_start|>user\\n' %}
{%- set TOOL_OPEN = '<|im_start|>tool\\n' %}
{%- set ASSISTANT_OPEN = '<|im_start|>assistant\\n' %}
{%- set CLOSE = '<|im_end|>\\n' %}
{%- set ASSISTANT_CLOSE = CLOSE %}
"""

_PLAIN_WORDS = """\
{%- set SYSTEM_OPEN = '### System:\\n' %}
{%- set USER_OPEN = '### User:\\n' %}
{%- set TOOL_OPEN = '### Tool:\\n' %}
{%- set ASSISTANT_OPEN = '### Assistant:\\n' %}
{%- set CLOSE = '\\n\\n' %}
{%- set ASSISTANT_CLOSE = eos_token ~ '\\n\\n' %}
"""


def ensure_chat_template(tokenizer: ChatTokenizer) -> str | None:
    """Give a tokenizer without a chat template the fallback; leave any other as it is.

    Args:
        tokenizer: a transformers tokenizer; its ``chat_template`` is set.

    Returns:
        A note for the user, or None where the tokenizer has a template.

    Raises:
        TemplateError: there is no template, and no token with which an answer could end.
    """
    if tokenizer.chat_template:
        return None
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    chatml = {"<|im_start|>", "<|im_end|>"} <= added
    if not chatml and tokenizer.eos_token_id is None:
        raise TemplateError(
            "the tokenizer has neither a chat template nor an end-of-sequence token",
            why="a model trained on this would never stop",
            remedy="set tokenizer.eos_token, or use a model that has a chat template",
        )
    begin = "{{- bos_token }}\n" if _adds_bos(tokenizer) else ""
    tokenizer.chat_template = begin + (_CHATML_WORDS if chatml else _PLAIN_WORDS) + _TOOLS + _BODY
    kind = "ChatML, with its own <|im_start|> and <|im_end|>" if chatml else "plain role headers such as '### User:'"
    return f"the model has no chat template; hone uses a fallback ({kind}), which is saved with the version"


def _adds_bos(tokenizer: ChatTokenizer) -> bool:
    """Whether the tokenizer begins any text with a beginning-of-sequence token, so that the model is used to one."""
    ids = list(tokenizer("a")["input_ids"])
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]
