"""In which language a text is, as far as it can be told: by py3langid, among 25 languages."""

from functools import cache
from typing import Any

_SURE = 0.5  # probability from which a language is taken for known
_READ = 2000  # characters of a long text
NAMES = {
    "arabic": "ar", "bulgarian": "bg", "czech": "cs", "danish": "da", "german": "de", "greek": "el",
    "english": "en", "spanish": "es", "finnish": "fi", "french": "fr", "hebrew": "he",
    "hindi": "hi", "hungarian": "hu", "italian": "it", "japanese": "ja", "korean": "ko",
    "dutch": "nl", "norwegian": "no", "polish": "pl", "portuguese": "pt", "romanian": "ro",
    "russian": "ru", "swedish": "sv", "turkish": "tr", "chinese": "zh",
}  # fmt: skip


def language_of(text: str) -> str | None:
    """Return the ISO 639-1 code of a text's language; None where it cannot be told."""
    code, probability = _identifier().classify(text[:_READ])
    return str(code) if probability >= _SURE else None


def code_of(language: str) -> str | None:
    """Return the code of the language that somebody asks for: "German", "Swiss German", "de"."""
    asked = language.lower().split()
    named = [NAMES[word.strip(",;()")] for word in asked if word.strip(",;()") in NAMES]
    if named:
        return named[0]
    return asked[0] if len(asked) == 1 and asked[0] in NAMES.values() else None


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(sorted(set(NAMES.values())))
    return identifier
