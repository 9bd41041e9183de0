"""Bodies of ``/v1/chat/completions`` and ``/v1/completions``, and how their fields become settings.

Source: the OpenAI API reference. A field that hone cannot honour is refused and not left out; ``lenient`` leaves it
out, for tests of the wire's shapes (``hone serve --conformance``).
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from hone.model.sampling import SamplingSettings, TokenBias
from hone.serve.wire import ApiError
from hone.types import JsonDict

__all__ = ["ChatBody", "CompletionBody", "ResponseFormat", "StreamOptions"]

_Penalty = Annotated[float, Field(ge=-2, le=2)]
_SEEDS = 1 << 32
_MOST_STOPS = 16


class StreamOptions(BaseModel):
    """What a stream tells besides the answer."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ResponseFormat(BaseModel):
    """What the answer must be."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonDict | None = None


class _Body(BaseModel):
    """What both routes take."""

    model_config = ConfigDict(extra="forbid")

    model: str
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: str | Annotated[list[str], Field(max_length=_MOST_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    user: str | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def settings(self, max_new_tokens: int) -> SamplingSettings:
        """How tokens are chosen; a temperature that is not given is 1, as the API has it.

        Args:
            max_new_tokens: longest answer.
        """
        seed = secrets.randbelow(_SEEDS) if self.seed is None else self.seed % _SEEDS
        temperature = 1.0 if self.temperature is None else self.temperature
        return SamplingSettings(max_new_tokens, temperature, 1.0 if self.top_p is None else self.top_p, seed)

    def bias(self, vocabulary: int) -> TokenBias:
        """What is added to the logits.

        Args:
            vocabulary: number of tokens.

        Raises:
            ApiError: ``logit_bias`` names what is no token.
        """
        by_token = {}
        for name, value in (self.logit_bias or {}).items():
            if not value:
                continue
            if not name.isdecimal() or int(name) >= vocabulary:
                raise ApiError(f"logit_bias: {name!r} is no token id (0 to {vocabulary - 1})", param="logit_bias")
            by_token[int(name)] = value
        return TokenBias(by_token, self.presence_penalty or 0.0, self.frequency_penalty or 0.0)

    def refuse_unknown(self, unsupported: dict[str, bool], *, lenient: bool) -> None:
        """Refuse what was asked for and cannot be done.

        Args:
            unsupported: by field, whether it asks for something.
            lenient: leave it out instead.

        Raises:
            ApiError: a field does.
        """
        asked = [name for name, asks in unsupported.items() if asks]
        if asked and not lenient:
            raise ApiError(
                f"{', '.join(asked)} cannot be honoured by this server, and leaving it out would change the answer",
                param=asked[0],
                code="unsupported_parameter",
            )


class ChatBody(_Body):
    """The body of ``/v1/chat/completions``."""

    messages: Annotated[list[JsonDict], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[JsonDict] | None = None
    tool_choice: str | JsonDict | None = None
    parallel_tool_calls: bool | None = None
    functions: list[JsonDict] | None = None
    function_call: str | JsonDict | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    # these change how a request is booked and kept, not what is answered
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: str | None = None
    prediction: Any = None
    # these change what is answered
    audio: Any = None
    modalities: list[str] | None = None
    moderation: Any = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    web_search_options: Any = None

    def check(self, *, lenient: bool) -> None:
        """Refuse what cannot be done.

        Args:
            lenient: see the module.

        Raises:
            ApiError: something cannot.
        """
        choice = self.tool_choice if self.tools else self.function_call
        self.refuse_unknown(
            {
                "audio": self.audio is not None,
                "modalities": bool(set(self.modalities or ()) - {"text"}),
                "moderation": self.moderation is not None,
                "reasoning_effort": self.reasoning_effort not in (None, "none"),
                "verbosity": self.verbosity not in (None, "medium"),
                "web_search_options": self.web_search_options is not None,
                "tool_choice": choice not in (None, "auto", "none"),
                "parallel_tool_calls": bool(self.tools) and self.parallel_tool_calls is False,
            },
            lenient=lenient,
        )
        if self.top_logprobs and not self.logprobs:
            raise ApiError("top_logprobs needs logprobs: true", param="top_logprobs")

    @property
    def most_tokens(self) -> int | None:
        """Longest answer that is wanted; None where nothing is said."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def shown_tools(self) -> list[JsonDict]:
        """Functions that the template shows the model."""
        if self.tools:
            return [] if self.tool_choice == "none" else self.tools
        return [] if self.function_call == "none" else list(self.functions or ())


class CompletionBody(_Body):
    """The body of ``/v1/completions``."""

    prompt: str | list[str] | list[StrictInt] | list[list[StrictInt]]
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None

    def check(self, *, lenient: bool) -> None:
        """Refuse what cannot be done.

        Args:
            lenient: see the module.

        Raises:
            ApiError: something cannot.
        """
        self.refuse_unknown(
            {
                "best_of": self.best_of is not None and self.best_of != (self.n or 1),
                "suffix": bool(self.suffix),
            },
            lenient=lenient,
        )

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, each as text or as ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [one for one in self.prompt if isinstance(one, int)]
        return [ids] if ids else [one for one in self.prompt if not isinstance(one, int)]
