"""The language of a document, by CLD2, whose tables come with its package: no model is downloaded.

Compact Language Detector 2, https://github.com/CLD2Owners/cld2: a naive Bayes classifier, of four letters at a time
where words have spaces, of one and two characters in Chinese, Japanese and Korean. It says what share of a text is in
which language.
"""

import difflib
import re
from collections.abc import Sequence
from typing import Annotated, ClassVar

import pyarrow as pa
from annotated_types import Interval

from pretrain.data.documents import Drop, StageOutput, partition
from pretrain.errors import ConfigError

UNKNOWN = "un"  # CLD2's code for a text that is too short, or no language
# CLD2 refuses a whole text for one of these: https://www.w3.org/TR/xml/#charsets
REFUSED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]|[^\x00-\U0010fffd]")


class Language:
    """Drops documents of which too little is in one of `languages`.

    Args:
        languages: ISO 639-1 codes, such as en and ja, zh-Hant where one is not enough, or un for what is no language.
        min_confidence: the least share of a document's text that must be in `languages`, taken together.
    Raises:
        ConfigError: no code or an unknown one, or CLD2 is not installed.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("pycld2",)

    def __init__(
        self,
        *,
        languages: list[str],
        min_confidence: Annotated[float, Interval(ge=0, le=1)],
    ) -> None:
        known = known_languages()
        if not languages:
            raise ConfigError("language: languages is empty, so nothing would be kept; name some, such as [en]")
        for code in languages:
            if code not in known:
                near = difflib.get_close_matches(code, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else "name codes such as en, ja or zh"
                raise ConfigError(f"language: {code!r} is no language that CLD2 knows; {hint}")
        self.languages = frozenset(languages)
        self.min_confidence = min_confidence

    def __call__(self, documents: pa.Table) -> StageOutput:
        return partition(documents, [self._judge(text) for text in documents["text"].to_pylist()])

    def _judge(self, text: str) -> Drop | None:
        shares = detected(text)
        confidence = sum(share for language, share in shares if language in self.languages)
        if confidence >= self.min_confidence:
            return None
        language, share = shares[0]
        found = "no language was recognised" if language == UNKNOWN else f"{language}, with confidence {share:.2f}"
        wanted = " or ".join(sorted(self.languages))
        return Drop(
            "language",
            confidence,
            self.min_confidence,
            f"{found}; {confidence:.0%} of the text is {wanted}, at least {100 * self.min_confidence:g}% must be",
        )


def detected(text: str) -> Sequence[tuple[str, float]]:
    """The languages of `text`, at most three, the most used first, each with its share of the text.

    Where none is recognised, the first is UNKNOWN with a share of 0.
    """
    import pycld2

    try:
        found = pycld2.detect(text, isPlainText=True)
    except (pycld2.error, UnicodeEncodeError):
        found = pycld2.detect(REFUSED.sub(" ", text), isPlainText=True)
    return [(code, percent / 100) for _, code, percent, _ in found[2]]


def known_languages() -> list[str]:
    """The codes of all languages that CLD2 recognises, and UNKNOWN.

    Raises:
        ConfigError: CLD2 is not installed.
    """
    try:
        import pycld2
    except ImportError:
        raise ConfigError("the stage language needs pip install 'pretrain[filters]'") from None
    names = set(pycld2.DETECTED_LANGUAGES)
    return sorted({code for name, code in pycld2.LANGUAGES if name in names} | {UNKNOWN})
