"""``response_format``: answers that are JSON, because every token that would make them something else is refused."""

from __future__ import annotations

import functools
import string
from collections.abc import Callable, Sequence
from typing import Any

from hone.serve.asked import ReadyModel
from hone.serve.json_grammar import JsonGrammar, States
from hone.serve.json_schema import ANY, read_schema
from hone.serve.wire import ApiError
from hone.types import JsonDict

__all__ = ["JsonAnswer", "json_answers"]

_UNFINISHED = "\ufffd"  # what decoding gives for bytes that do not make a character yet
# Whatever is to come in a JSON text can be written with these.
_NEEDED = frozenset(string.ascii_letters + string.digits + string.punctuation + " ")


class JsonAnswer:
    """One answer: tells of each token whether the text may go on with it.

    Args:
        grammar: of the texts that are allowed.
        decode: the text of a sequence of tokens.
        stop_ids: tokens that end the answer: allowed where the text is whole, and there nothing else is.
        token_texts: what each token adds: most are refused by its first character, without decoding the answer.
    """

    def __init__(
        self,
        grammar: JsonGrammar,
        decode: Callable[[Sequence[int]], str],
        stop_ids: Sequence[int],
        token_texts: Sequence[str] = (),
    ) -> None:
        self._grammar = grammar
        self._decode = decode
        self._stop_ids = frozenset(stop_ids)
        self._token_texts = token_texts
        self._first: dict[str, bool] = {}
        self._written: list[int] = []
        self._text = ""
        self._states: States = grammar.start

    def __call__(self, written: Sequence[int], token: int) -> bool:
        """Whether ``token`` may follow the tokens written so far."""
        self._take(written)
        if token in self._stop_ids:
            return self._grammar.is_complete(self._states) and self._text == self._decode(self._written)
        if self._token_texts and not self._may_add(token):
            return False
        whole = self._decode([*self._written, token])
        if not whole.startswith(self._text) or len(whole) == len(self._text):
            return False  # it changes what stands there, or adds nothing
        return bool(self._grammar.after(self._states, whole[len(self._text) :]))

    def _may_add(self, token: int) -> bool:
        """Whether a token can be allowed by the first that it adds; a part of a character says nothing of it."""
        if token >= len(self._token_texts):  # a model's head may have more rows than its tokenizer has tokens
            return False
        first = self._token_texts[token][:1]
        if first in ("", _UNFINISHED):
            return True
        if first not in self._first:
            self._first[first] = bool(self._grammar.after(self._states, first))
        return self._first[first]

    def _take(self, written: Sequence[int]) -> None:
        if len(written) == len(self._written):
            return
        self._written = list(written)
        text = self._decode(self._written).rstrip(_UNFINISHED)
        self._states = self._grammar.after(self._states, text[len(self._text) :])
        self._text = text
        self._first = {}


def json_answers(form: JsonDict | None, model: ReadyModel) -> Callable[[], JsonAnswer] | None:
    """Makes, for each answer, what refuses the tokens that its format does not allow; None where any text is wanted.

    Args:
        form: ``response_format`` of the request.
        model: what answers.

    Raises:
        ApiError: the schema cannot be held to, or the model's tokens cannot write every JSON text.
    """
    if form is None or form["type"] == "text":
        return None
    grammar = _grammar(form)
    texts = _token_texts(model.loaded.engine.base.tokenizer)
    if not _NEEDED.issubset(texts):
        raise ApiError(
            "this model has no token for some of the characters that JSON needs",
            param="response_format",
            code="unsupported_response_format",
        )
    return lambda: JsonAnswer(grammar, model.text, model.renderer.stop_ids, texts)


def _grammar(form: JsonDict) -> JsonGrammar:
    if form["type"] == "json_object":
        return JsonGrammar(*read_schema({"type": "object"}))
    described = form.get("json_schema")
    if not isinstance(described, dict) or not described.get("name"):
        raise ApiError("json_schema needs an object with name and schema", param="response_format.json_schema")
    nodes, root = read_schema(described.get("schema", True))
    if root == ANY:
        raise ApiError("json_schema needs a schema", param="response_format.json_schema.schema")
    return JsonGrammar(nodes, root)


@functools.lru_cache(maxsize=4)
def _token_texts(tokenizer: Any) -> tuple[str, ...]:
    """What each token adds to a text that has begun; a special one adds nothing."""
    before = tokenizer("a", add_special_tokens=False)["input_ids"][-1]
    begun = tokenizer.decode([before])
    pairs = [[before, token] for token in range(len(tokenizer))]
    return tuple(text.removeprefix(begun) for text in tokenizer.batch_decode(pairs, skip_special_tokens=True))
