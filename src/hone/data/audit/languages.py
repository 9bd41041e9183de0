"""Which language a text is in, by its script and its commonest words; for an overview, not for a verdict on a row."""

from __future__ import annotations

import re
from collections import Counter

__all__ = ["language_of"]

_SCRIPTS = (
    ("ja", re.compile("[\u3040-\u30ff]")),
    ("ko", re.compile("[\uac00-\ud7af]")),
    ("zh", re.compile("[\u4e00-\u9fff]")),
    ("ru", re.compile("[\u0400-\u04ff]")),
    ("ar", re.compile("[\u0600-\u06ff]")),
    ("hi", re.compile("[\u0900-\u097f]")),
    ("el", re.compile("[\u0370-\u03ff]")),
    ("he", re.compile("[\u0590-\u05ff]")),
    ("th", re.compile("[\u0e00-\u0e7f]")),
)
_SCRIPT_SHARE = 0.15
# Words that are frequent in one of these languages and rare in the others.
_WORDS = {
    "en": "the and of to is that it was for with you are this have not be what how your my can do",
    "de": "der die das und ist nicht ein eine zu den mit von auf für sich ich sie wie kann werden dass auch",
    "fr": "le les des et est une dans que pour qui sur pas vous je il ne avec plus sont cette comment",
    "es": "el los las y es una que en por para con no se su del como qué más pero mi puedo",
    "it": "il gli che di è una per con non sono della del come più questo anche posso nel",
    "pt": "os um uma que não para com por da em como mais você meu eu está são foi ao pelo",
    "nl": "de het een en van is niet dat op te voor met zijn ik hoe wat mijn naar",
    "pl": "w nie na się z jest że jak czy moje mam dla są tego ale przez może być",
    "sv": "och att det som är på för inte med av jag till har hur från ett också",
    "tr": "ve bir bu için ile değil çok daha olan benim olarak gibi kadar sonra",
}
_LANGUAGES_OF: dict[str, list[str]] = {
    word: [name for name in _WORDS if word in _WORDS[name].split()]
    for words in _WORDS.values()
    for word in words.split()
}
_WORD = re.compile(r"[^\W\d_]+")
_LEAST_SHARE = 0.05


def language_of(text: str) -> str:
    """An ISO 639-1 code, or ``other`` where nothing tells (code, numbers, few words)."""
    letters = sum(character.isalpha() for character in text)
    for name, script in _SCRIPTS:
        if letters and len(script.findall(text)) >= _SCRIPT_SHARE * letters:
            return name
    words = _WORD.findall(text.casefold())
    counts: Counter[str] = Counter()
    for word in words:
        languages = _LANGUAGES_OF.get(word, ())
        for name in languages:
            counts[name] += 60 // len(languages)
    if not counts or counts.most_common(1)[0][1] < 60 * max(1.0, _LEAST_SHARE * len(words)):
        return "other"
    return min(counts, key=lambda name: (-counts[name], name))
