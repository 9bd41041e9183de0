"""Which language a text is in, by its script and its commonest words; for an overview, not for a verdict on a row."""

from __future__ import annotations

import re
from collections import Counter

__all__ = ["is_function_word", "language_of"]

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
# More of English, which tell no language from another but no subject either.
_MORE_ENGLISH = frozenset(
    """
    about all also any been but could did does don from get give had has her him his into its just let like
    make many may more much need one only other our out over please see she should some such tell than them
    then there these they too two use was way were when where which who why will would
    """.split()  # noqa: SIM905  a list of words a line would hide the code
)
_WORD = re.compile(r"[^\W\d_]+")
_LEAST_SHARE = 0.05
# What a word gives to its language, shared where it has several: a number that 2 to 6 divide.
_POINTS = 60


def is_function_word(word: str) -> bool:
    """Whether a word, in lower case, is among the commonest of one of the languages, and tells of no subject."""
    return word in _LANGUAGES_OF or word in _MORE_ENGLISH


def language_of(text: str, *, sure: bool = False) -> str:
    """An ISO 639-1 code, or ``other`` where nothing tells (code, numbers, few words).

    Args:
        text: in any language.
        sure: whether only clear cases count: four different frequent words of a language, and twice as many as of
            any other.
    """
    letters = sum(character.isalpha() for character in text)
    for name, script in _SCRIPTS:
        if letters and len(script.findall(text)) >= (0.5 if sure else _SCRIPT_SHARE) * letters:
            return name
    words = _WORD.findall(text.casefold())
    if sure:
        words = sorted(set(words))
    counts: Counter[str] = Counter()
    for word in words:
        languages = _LANGUAGES_OF.get(word, ())
        for name in languages:
            counts[name] += _POINTS // len(languages)
    if not counts or counts.most_common(1)[0][1] < _POINTS * max(1.0, _LEAST_SHARE * len(words)):
        return "other"
    best = min(counts, key=lambda name: (-counts[name], name))
    runner_up = max((count for name, count in counts.items() if name != best), default=0)
    if sure and (counts[best] < 4 * _POINTS or counts[best] < 2 * runner_up):
        return "other"
    return best
