"""General ability in small questions: hone's own suite, questions from files."""

from __future__ import annotations

from hone.evaluation.probes.item import ProbeItem
from hone.evaluation.probes.question_files import CONVERTERS, convert_questions, question_to_json, read_questions
from hone.evaluation.probes.suite import SKILLS, general_prompts, general_texts, probe_suite

__all__ = [
    "CONVERTERS",
    "SKILLS",
    "ProbeItem",
    "convert_questions",
    "general_prompts",
    "general_texts",
    "probe_suite",
    "question_to_json",
    "read_questions",
]
