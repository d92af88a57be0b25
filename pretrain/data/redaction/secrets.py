"""Keys and tokens: those that their issuers marked, and random values that are given to a name such as api_key.

The forms are those that the issuers document, as collected in https://github.com/gitleaks/gitleaks and GitHub's secret
scanning, https://docs.github.com/en/code-security/secret-scanning.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator

from pretrain.data.redaction.candidates import Spans
from pretrain.data.redaction.folding import Folded
from pretrain.data.redaction.kinds import Found, Kind

_ENTROPY = 3.0  # bits a character; random hexadecimal digits have 3.3 and more, repeated patterns less
_MARKED = re.compile(
    rb"(?<![A-Za-z0-9])(?:"
    rb"A(?:KIA|SIA|BIA|CCA)[A-Z0-9]{16}(?![A-Za-z0-9])"  # AWS
    rb"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}"
    rb"|glpat-[A-Za-z0-9_-]{20,64}"  # GitLab
    rb"|xox[abeoprs]-[A-Za-z0-9-]{10,250}|xapp-[A-Za-z0-9-]{20,250}"  # Slack
    rb"|AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,1000}|GOCSPX-[A-Za-z0-9_-]{28}"  # Google
    rb"|[rs]k_(?:live|test)_[A-Za-z0-9]{16,247}|whsec_[A-Za-z0-9+/=]{24,64}"  # Stripe
    rb"|sk-(?:(?:proj|svcacct|admin|ant|or|None)-[A-Za-z0-9_-]{20,200}|[A-Za-z0-9]{20,64}(?![A-Za-z0-9-]))"  # OpenAI
    rb"|hf_[A-Za-z0-9]{30,64}|npm_[A-Za-z0-9]{36}|pypi-AgE[A-Za-z0-9_-]{50,250}|gsk_[A-Za-z0-9]{48,64}"
    rb"|dop_v1_[0-9a-f]{64}|shp(?:at|ca|pa|ss)_[0-9A-Fa-f]{32}|sq0[a-z]{3}-[A-Za-z0-9_-]{22,43}"
    rb"|SG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,64}|key-[0-9a-z]{32}|SK[0-9a-f]{32}|r8_[A-Za-z0-9]{37}"
    rb"|\d{8,10}:AA[A-Za-z0-9_-]{33}|[MNO][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,38}"
    rb"|eyJ[A-Za-z0-9_-]{8,4000}\.eyJ[A-Za-z0-9_-]{8,16000}(?:\.[A-Za-z0-9_-]{0,4000})?"  # JSON Web Token, RFC 7519
    rb")"
)
_MARK = re.compile(  # what each of them begins with
    rb"A(?:KIA|SIA|BIA|CCA|Iza)|gh[pousr]_|github_pat_|glpat-|x(?:ox.|app)-|ya29\.|GOCSPX-|[rs]k_(?:live|test)_|whsec_|"
    rb"sk-|hf_|npm_|pypi-|gsk_|dop_v1_|shp.._|sq0...-|SG\.|key-|SK|r8_|\d{8,10}:AA|(?<![A-Za-z0-9])[MNO]|eyJ"
)
_HOOK = re.compile(rb"(?<=hooks\.slack\.com/services/)[A-Za-z0-9/]{20,120}")
_PRIVATE_KEY = re.compile(  # without its last line too, where the text was cut; RFC 7468
    rb"-----BEGIN (?:[A-Z0-9]{1,16} ){0,4}PRIVATE KEY(?: BLOCK)?-----((?:[^\0-]|-(?!----)){1,40000}+"
    rb"(?=-----END )|[A-Za-z0-9+/=\s\\]{1,40000}+)(?:-----END (?:[A-Z0-9]{1,16} ){0,4}PRIVATE KEY(?: BLOCK)?-----)?"
)
_CHANGE = re.compile(rb"(?:(?<=[A-Za-z])\d|(?<=\d)[A-Za-z]|(?<=[a-z])[A-Z])")
_KEY_LINE = re.compile(rb"[A-Za-z0-9+/]{32}")
_NAMED = re.compile(
    r"(?i)(?:api[_ -]?key|secret|token|passw(?:or)?d|passphrase|credential|private[_-]?key|access[_-]?key|auth[_-]?key|"
    r"account[_-]?key|encryption[_-]?key|client[_-]?key|apikey)[a-z0-9_-]{0,20}[\"']?\s{0,3}(?::=|=>|=|:|\bis\b)\s{0,3}"
    r"[\"'`]?\Z|\bbearer\s{1,3}\Z"
)
_GIVEN = re.compile(rb"[=:\"'`]|(?:is|er)\s\Z")  # for speed: what stands right before any such value
_VALUE = re.compile(rb"[A-Za-z0-9_+/.~-]{16,512}={0,2}")


def find_secrets(folded: Folded, tokens: Spans) -> Iterator[Found]:
    """Keys and tokens.

    Args:
        tokens: where long runs of letters and digits stand.
    """
    text = folded.bytes
    for start, end in tokens.tolist():
        # Some marks end before the token, at a dot or a colon.
        for mark in _MARK.finditer(text, start - 12, end):
            if found := _MARKED.match(text, mark.start()):
                yield Found(found.start(), found.end(), Kind.SECRET)
        if hook := _HOOK.search(text, start, end):
            yield Found(hook.start(), hook.end(), Kind.SECRET)
        if not _GIVEN.search(text, start - 3, start):
            continue
        if _NAMED.search(folded.before(start, 64)) and (value := _VALUE.match(text, start)) and _random(value.group()):
            yield Found(start, value.end(), Kind.SECRET)
    place = text.find(b"-----BEGIN ")
    while place >= 0:
        if (key := _PRIVATE_KEY.match(text, place)) and _KEY_LINE.search(key.group(1)):
            yield Found(place, key.end(), Kind.SECRET)
        place = text.find(b"-----BEGIN ", place + 1)


def _random(value: bytes) -> bool:
    """Whether `value` looks drawn at random, not written by someone."""
    changes = len(_CHANGE.findall(value))
    if len(re.findall(rb"[\d/+]", value)) < 2 or changes < len(value) / 6 or value.count(b".") > 2:
        return False
    counts = Counter(value)
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values()) >= _ENTROPY
