"""A chat template in Ollama's language (Go's text/template), found by rendering and not by translating Jinja.

Ollama does not run Jinja. Most chat templates put each message between two texts that depend on its role alone: those
are found here by rendering marked conversations, and written down as a Go template. A template that does more than that
is refused, with the conversation that shows it.

Source: Ollama, ``docs/template.mdx`` (``.Messages``, ``.Role``, ``.Content``) and ``docs/modelfile.mdx``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hone.errors import TemplateError
from hone.types import Message, Role

__all__ = ["TurnTexts", "find_turn_texts"]

Render = Callable[[Sequence[Message]], str]
"""Text of a prompt: the turns, and the opening of the answer."""

_ROLES: tuple[Role, ...] = ("system", "user", "assistant")
_QUESTION, _ANSWER, _SYSTEM, _AGAIN = "Mark one", "Mark two", "Mark three", "Mark four"


@dataclass(frozen=True, slots=True)
class TurnTexts:
    """What a template writes around messages.

    Args:
        start: before all of them.
        around: (before, after) a message of each role.
        opening: after all of them: the opening of the answer.
        default_system: the system message that the template puts in where there is none; None where it does not.
    """

    start: str
    around: dict[Role, tuple[str, str]]
    opening: str
    default_system: str | None

    def render(self, messages: Sequence[Message]) -> str:
        """A prompt as the Go template gives it, the default system message included."""
        turns = list(messages)
        if self.default_system is not None and (not turns or turns[0].role != "system"):
            turns.insert(0, Message("system", self.default_system))
        middle = "".join(self.around[one.role][0] + one.content + self.around[one.role][1] for one in turns)
        return f"{self.start}{middle}{self.opening}"

    def go_template(self) -> str:
        """The same as a Go template over ``.Messages``; the default system message stands in the Modelfile."""
        branches = "".join(
            f'{{{{ {"if" if number == 0 else "else if"} eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}'
            for number, (role, (before, after)) in enumerate(self.around.items())
        )
        start = self.start
        if self.default_system == "":  # a Modelfile has no place for an empty message
            start += f"{{{{ if not .System }}}}{''.join(self.around['system'])}{{{{ end }}}}"
        return f"{start}{{{{ range .Messages }}}}{branches}{{{{ end }}}}{{{{ end }}}}{self.opening}"


def find_turn_texts(render: Render, tried: Sequence[tuple[str, Sequence[Message]]], *, turn_end: str) -> TurnTexts:
    """The texts around messages, such that every tried conversation comes out as ``render`` gives it.

    Args:
        render: hone's own renderer.
        tried: (name, messages) of conversations to be compared, the last message the user's.
        turn_end: text of the token that ends an answer.

    Raises:
        TemplateError: the template does more than put texts around messages, or writes what Go would read as a command.
    """
    alone = render([Message("user", _QUESTION)])
    turns = render([Message("user", _QUESTION), Message("assistant", _ANSWER), Message("user", _AGAIN)])
    head, _, opening = alone.partition(_QUESTION)
    between, _, rest = turns.partition(_ANSWER)
    to_answer = between.removeprefix(head + _QUESTION)
    after_assistant, before_user = _after_end(rest.partition(_AGAIN)[0], turn_end)
    after_user, before_assistant = _after_end(to_answer, turn_end)
    lead = head.removesuffix(before_user)
    around: dict[Role, tuple[str, str]] = {"user": (before_user, after_user)}
    around["assistant"] = (before_assistant, after_assistant)
    start, default_system = lead, None
    with_system = _system_text(render)
    if with_system is not None and _SYSTEM in with_system:
        own_start, _, tail = with_system.partition(_SYSTEM)
        after_system = tail.partition(_QUESTION)[0].removesuffix(before_user)
        if lead and lead.startswith(own_start) and lead.endswith(after_system) and lead != own_start:
            start, default_system = "", lead[len(own_start) : len(lead) - len(after_system)]
            around = {"system": (own_start, after_system), **around}
        elif own_start.startswith(lead):
            around = {"system": (own_start.removeprefix(lead), after_system), **around}
    texts = TurnTexts(start, around, opening.removeprefix(after_user), default_system)
    _check(texts, render, tried)
    return texts


def _system_text(render: Render) -> str | None:
    try:
        return render([Message("system", _SYSTEM), Message("user", _QUESTION)])
    except TemplateError:
        return None  # such a template takes no system message


def _check(texts: TurnTexts, render: Render, tried: Sequence[tuple[str, Sequence[Message]]]) -> None:
    problems = []
    for name, messages in tried:
        unknown = [one.role for one in messages if one.role not in texts.around]
        given = "" if unknown else texts.render(messages)
        if given != render(messages):
            problems.append(f"conversation {name!r}")
    written = [texts.start, texts.opening, *(text for pair in texts.around.values() for text in pair)]
    if any("{{" in text or "}}" in text for text in written):
        problems.append("it writes {{ or }}, which are Go's own")
    if any('"""' in text for text in written):
        problems.append('it writes """, which ends a template in a Modelfile')
    if problems:
        raise TemplateError(
            "the chat template cannot be written as an Ollama template: it does more than put texts around messages",
            details=problems,
            why="Ollama does not run Jinja, and would show the model other prompts than those it was trained on",
            remedy="export to gguf, whose metadata hold the template itself, for runtimes that run it",
        )


def _after_end(text: str, turn_end: str) -> tuple[str, str]:
    """What ends a turn, white space behind it included, and what begins the next one; all of it where no end is."""
    before, found, after = text.partition(turn_end)
    if not found:
        return "", text
    begins = after.lstrip()
    return before + found + after[: len(after) - len(begins)], begins
