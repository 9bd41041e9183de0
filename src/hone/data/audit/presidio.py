"""Personal data as Microsoft Presidio finds it, beside hone's own patterns: an optional extra.

With a spaCy model of English installed it finds names of people and places; without one, what its patterns find:
numbers of passports, driving licences, medical licences and the like in several countries. What hone's own patterns
found already is not told twice.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

from hone.data.audit.secrets import find_private, mask
from hone.errors import MissingDependencyError

__all__ = ["PresidioSearch"]

_MODELS = ("en_core_web_lg", "en_core_web_md", "en_core_web_sm")
_LEAST_SCORE = 0.5
# Kinds that are no personal data by themselves, or that hone's own patterns tell with their check digits.
_LEFT_OUT = frozenset({"DATE_TIME", "URL", "NRP", "CARDINAL", "ORGANIZATION"})
_LONGEST_CHARACTERS = 100_000


class PresidioSearch:
    """Looks through texts with Presidio.

    Attributes:
        model: the spaCy model that finds names; None where there is none, and patterns alone are used.

    Raises:
        MissingDependencyError: Presidio is not installed.
    """

    def __init__(self) -> None:
        self.model = next((name for name in _MODELS if importlib.util.find_spec(name)), None)
        self._engine = _engine(self.model)

    def describe(self) -> str:
        """What was looked for, as a sentence for the user."""
        if self.model is None:
            return (
                "Presidio looked for numbers and addresses only: names need a spaCy model "
                "(python -m spacy download en_core_web_sm)"
            )
        return f"Presidio looked for names and numbers with {self.model}, in English"

    def __call__(self, text: str) -> Iterator[tuple[str, str]]:
        """(code, message) of each value found, masked; in the first 100,000 characters of a text."""
        text = text[:_LONGEST_CHARACTERS]
        known = [(found.start, found.end) for found in find_private(text)]
        results = self._engine.analyze(text=text, language="en", score_threshold=_LEAST_SCORE)
        taken: list[tuple[int, int]] = []
        for found in sorted(results, key=lambda one: (-one.score, one.start, one.entity_type)):
            place = (found.start, found.end)
            if found.entity_type in _LEFT_OUT or any(_overlap(place, other) for other in (*known, *taken)):
                continue
            taken.append(place)
            kind = found.entity_type.lower().replace("_", " ")
            yield "personal_data", f"{kind} (Presidio): {mask(text[found.start : found.end])}"


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _engine(model: str | None) -> Any:
    try:
        from presidio_analyzer import AnalyzerEngine
        from presidio_analyzer.nlp_engine import NoOpNlpEngine, SpacyNlpEngine
    except ImportError as error:
        raise MissingDependencyError(
            "looking with Presidio needs the package presidio-analyzer",
            where="--presidio",
            remedy="pip install 'hone-llm[presidio]'",
        ) from error
    if model is None:
        return AnalyzerEngine(nlp_engine=NoOpNlpEngine(models=[{"lang_code": "en", "model_name": "none"}]))
    return AnalyzerEngine(nlp_engine=SpacyNlpEngine(models=[{"lang_code": "en", "model_name": model}]))
