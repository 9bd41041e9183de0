"""The words of hone as types, and the one legend of shape suffixes.

Shape legend (repeated atop each file that uses it):
    B  sequences of a batch          T  real tokens of a packed batch, no padding
    L  length of the longest one     S  supervised tokens of a batch
    D  width of the model            V  size of the vocabulary
    H  attention heads               K  key-value heads        R  rank of an adapter
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "DEFAULT_MODEL",
    "AdaptationName",
    "ArmName",
    "Example",
    "JsonDict",
    "Keep",
    "Message",
    "MethodName",
    "Preference",
    "Role",
    "Task",
    "TokenSequence",
    "ToolCall",
]

DEFAULT_MODEL = "smollm2-135m-instruct"
"""The base that is taken where none is named."""

JsonDict = dict[str, Any]
Role = Literal["system", "user", "assistant", "tool"]
AdaptationName = Literal[
    "lora", "rslora", "dora", "pissa", "full", "partial",
    "c3a", "delora", "fourierft", "ia3", "ln_tuning", "loha", "lokr", "miss", "oft", "randlora", "road", "shira",
    "vera", "waveft",
]  # fmt: skip
Keep = Literal["strict", "balanced", "off"]
"""How much of the base's general ability may be lost; ``off`` does not judge it."""
MethodName = Literal["sft", "dpo", "ipo", "kto", "orpo", "simpo", "reward", "grpo", "rloo", "ppo", "raft", "distill"]
ArmName = Literal["base", "prompted", "few_shot", "retrieval", "tuned", "tuned_retrieval"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a function by the assistant; ``arguments`` is the parsed JSON object."""

    name: str
    arguments: Mapping[str, Any]
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Args:
        role: system, user, assistant or tool.
        content: the text; empty only where ``tool_calls`` or ``reasoning`` stand.
        supervised: whether this turn carries loss; only ever true for the assistant.
        reasoning: the assistant's thinking, where the data has it apart from the answer.
        tool_calls: the assistant's calls.
        tool_call_id: for role tool, the call that this answers.
        name: for role tool, the function's name; else a speaker's name.
    """

    role: Role
    content: str
    supervised: bool = False
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One training or held-out item: a conversation that ends with an assistant's turn.

    Args:
        messages: the turns, in order.
        tools: JSON schemas of the functions that the assistant may call (OpenAI's form).
        row: ordinal of the input row, from 1; the key of the row ledger.
        line: line of the file on which the row begins, from 1; equals ``row`` where there are no lines.
        source: the file's name as the user gave it.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    row: int = 0
    line: int = 0
    source: str = ""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The turns before the last assistant turn: what a model is asked."""
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        """The text of the last assistant turn: the reference answer."""
        return self.messages[-1].content


@dataclass(frozen=True, slots=True)
class Preference(Example):
    """A prompt with answers that people compared, or with one that they judged; as an example, the best one's.

    Args:
        others: the further answers, one assistant turn each, in the order of the row.
        ranks: of every answer, the example's own first: the lower, the better; equal ones were not told apart. Empty
            where there is one answer.
        liked: of a single answer, whether it is as wanted; None where answers are compared.
        margin: by how much a better answer beats a worse one, in units of a reward; 0 where nobody said.
    """

    others: tuple[Message, ...] = ()
    ranks: tuple[float, ...] = ()
    liked: bool | None = None
    margin: float = 0.0

    @property
    def answers(self) -> tuple[Message, ...]:
        """Every answer, the example's own first."""
        return (self.messages[-1], *self.others)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Indices of (better, worse) for each two answers that were told apart."""
        ranks = list(enumerate(self.ranks))
        return tuple((one, other) for one, best in ranks for other, worst in ranks if best < worst)


@dataclass(frozen=True, slots=True)
class Task(Example):
    """A prompt whose answers are graded; as an example, with its reference answer, or with a stand-in for it.

    Args:
        columns: the row as it stood in the file.
        is_open: whether the row has no answer, so that its last turn is a stand-in.
    """

    columns: Mapping[str, Any] = field(default_factory=dict)
    is_open: bool = False

    @property
    def answer(self) -> str:
        """The reference answer; empty where the row has none."""
        return "" if self.is_open else self.messages[-1].content

    @property
    def item(self) -> JsonDict:
        """What a grader sees of the row: its columns, and ``reference_answer`` where it has one."""
        return {**({"reference_answer": self.answer} if self.answer else {}), **self.columns}


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """A rendered example, ready to be packed.

    Args:
        ids: token ids, the whole row.
        supervised: per token, whether it carries loss (same length as ``ids``).
        row: ordinal of the input row it came from; several sequences may share one.
    """

    ids: tuple[int, ...]
    supervised: tuple[bool, ...]
    row: int

    @property
    def num_supervised(self) -> int:
        """Number of tokens that carry loss."""
        return sum(self.supervised)
