"""A model somewhere else: an endpoint with OpenAI's API, asked one conversation after another, or how likely it finds
given tokens.

Nothing is sent but the conversations that are to be answered, or the tokens. The key is given by the caller, goes into
one header, and stands in no message, result or log.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from hone.errors import ConfigError, HoneError, ModelError
from hone.types import JsonDict

__all__ = ["Endpoint", "EndpointAnswer", "ask_endpoint", "parse_endpoint", "score_tokens"]

_TIMEOUT_SECONDS = 120.0
_ATTEMPTS = 4
_FIRST_WAIT_SECONDS = 1.0
_WORTH_ANOTHER_TRY = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
_LONGEST_SHOWN = 300
_SCORED_TOGETHER = 16


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to ask, and for which model.

    Args:
        url: the address before ``/chat/completions``, as ``http://127.0.0.1:8000/v1``.
        model: the model's name there.
    """

    url: str
    model: str

    @property
    def name(self) -> str:
        """How it was given: ``URL#model``."""
        return f"{self.url}#{self.model}"


@dataclass(frozen=True, slots=True)
class EndpointAnswer:
    """One answer.

    Args:
        text: what was said.
        stopped: whether the model ended it by itself, not by the limit.
        prompt_tokens: as the endpoint counted them; None where it did not.
        tokens: tokens written, as the endpoint counted them; None where it did not.
    """

    text: str
    stopped: bool
    prompt_tokens: int | None
    tokens: int | None


def parse_endpoint(text: str, *, option: str = "--against") -> Endpoint | None:
    """Read ``URL#model``; None where the text is no web address.

    Args:
        text: as the user gave it.
        option: where, for messages.

    Raises:
        ConfigError: it is one, and lacks the model or the host.
    """
    if not text.startswith(("http://", "https://")):
        return None
    url, _, model = text.partition("#")
    if not model or not urlsplit(url).hostname:
        raise ConfigError(
            f"'{text}' does not name a model at an address",
            where=option,
            remedy="write URL#MODEL, as http://127.0.0.1:8000/v1#my-model",
        )
    return Endpoint(url.rstrip("/").removesuffix("/chat/completions"), model)


def ask_endpoint(
    endpoint: Endpoint,
    conversations: Sequence[tuple[Sequence[JsonDict], Sequence[JsonDict]]],
    *,
    max_new_tokens: int,
    sampling: Mapping[str, Any] = MappingProxyType({}),
    key: str | None = None,
    on_done: Callable[[int], None] = lambda count: None,
    wait: Callable[[float], None] = time.sleep,
) -> list[EndpointAnswer]:
    """Answer every conversation, greedily as far as the endpoint allows it.

    A refusal that may pass (too many requests, an overloaded server, no connection) is tried four times with growing
    waits.

    Args:
        endpoint: who is asked.
        conversations: messages in OpenAI's form, and the tools of each.
        max_new_tokens: upper bound on an answer.
        sampling: further fields of each request, as ``top_p``; the temperature is 0 unless it stands there.
        key: for the header ``Authorization``; None sends none.
        on_done: called with the number of answers so far.
        wait: sleeps for some seconds.

    Raises:
        ModelError: the endpoint refuses the request, or answers with something else than a chat completion.
        HoneError: it cannot be reached.
    """
    answers = []
    for messages, tools in conversations:
        body: JsonDict = {"model": endpoint.model, "messages": list(messages), "temperature": 0, **sampling}
        body |= {"max_tokens": max_new_tokens} | ({"tools": list(tools)} if tools else {})
        answers.append(_read(endpoint, _post(endpoint, "chat/completions", body, key, wait)))
        on_done(len(answers))
    return answers


def score_tokens(
    endpoint: Endpoint,
    sequences: Sequence[Sequence[int]],
    *,
    key: str | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> tuple[list[list[float]], list[str]]:
    """How likely the model finds each token of some sequences: completions that echo their prompt with its
    log-probabilities, as vLLM's and hone's own server have them.

    Args:
        endpoint: who is asked.
        sequences: token ids of the model's own tokenizer, none empty.
        key: for the header ``Authorization``; None sends none.
        wait: sleeps for some seconds.

    Returns:
        (logprobs, texts): of each sequence a number for each token, in nats, 0 for the first, which follows nothing;
        and what the endpoint reads the tokens as.

    Raises:
        ModelError: the endpoint refuses the request, or does not echo log-probabilities.
        HoneError: it cannot be reached.
    """
    logprobs: list[list[float]] = []
    texts: list[str] = []
    for start in range(0, len(sequences), _SCORED_TOGETHER):
        part = [list(one) for one in sequences[start : start + _SCORED_TOGETHER]]
        # one token is written and left out: not every server takes a limit of none
        body: JsonDict = {"model": endpoint.model, "prompt": part, "echo": True, "logprobs": 0, "max_tokens": 1}
        found = _post(endpoint, "completions", body | {"temperature": 0}, key, wait)
        for values, text in _scores(endpoint, found, [len(one) for one in part]):
            logprobs.append(values)
            texts.append(text)
    return logprobs, texts


def _scores(endpoint: Endpoint, value: Any, counts: Sequence[int]) -> list[tuple[list[float], str]]:
    """Log-probabilities and the text of each prompt, in their order."""
    try:
        choices = sorted(value["choices"], key=lambda choice: int(choice["index"]))
        told = [choice["logprobs"] for choice in choices]
        found = [
            # the first token follows nothing and has none; any other that lacks one is a fault
            ([0.0, *(float(one) for one in part["token_logprobs"][1:count])], "".join(part["tokens"][:count]))
            for part, count in zip(told, counts, strict=True)
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"gave no log-probabilities of the prompt: {str(value)[:_LONGEST_SHOWN]}"
        raise _refused(endpoint, what, doing="completions") from error
    if [len(values) for values, _ in found] != list(counts):
        raise _refused(endpoint, "gave log-probabilities of another number of tokens", doing="completions")
    return found


def _post(endpoint: Endpoint, path: str, body: JsonDict, key: str | None, wait: Callable[[float], None]) -> Any:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    data = json.dumps(body, ensure_ascii=False).encode()
    trouble = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            wait(_FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
        request = urllib.request.Request(f"{endpoint.url}/{path}", data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            said = error.read().decode("utf-8", "replace")[:_LONGEST_SHOWN]
            trouble = f"answered with {error.code}: {said}"
            if error.code not in _WORTH_ANOTHER_TRY:
                raise _refused(endpoint, trouble, doing=path) from error
        except ValueError as error:
            raise _refused(endpoint, f"answered with something that is no JSON: {error}", doing=path) from error
        except OSError as error:  # URLError and timeouts are such
            trouble = f"cannot be reached: {getattr(error, 'reason', None) or error}"
    raise HoneError(
        trouble,
        where=endpoint.name,
        why="what answers some of the rows only cannot be compared, and a teacher that is gone teaches nothing",
        remedy="see that it runs, and give the same command again: what is done is kept",
    )


def _read(endpoint: Endpoint, value: Any) -> EndpointAnswer:
    try:
        choice = value["choices"][0]
        text = choice["message"]["content"] or ""
        stopped = choice.get("finish_reason") != "length"
        usage = value.get("usage") or {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise _refused(endpoint, f"gave no chat completion: {str(value)[:_LONGEST_SHOWN]}") from error
    read, written = (count if isinstance(count, int) else None for count in counts)
    return EndpointAnswer(str(text), stopped, read, written)


def _refused(endpoint: Endpoint, what: str, *, doing: str = "chat/completions") -> ModelError:
    remedy = f"see the model's name, the address (it ends before /{doing}) and key"
    if doing == "completions":
        remedy += "; the server must take token ids and echo their log-probabilities, as vLLM's and hone's do"
    return ModelError(what, where=endpoint.name, remedy=remedy)
