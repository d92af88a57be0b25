"""Numbers with a check or a fixed form: credit cards, Japan's My Number, US social security numbers, postal codes."""

import re
from collections.abc import Iterator

from pretrain.data.redaction.folding import Folded
from pretrain.data.redaction.kinds import Found, Kind

_NOT_IN_WORD = rb"(?<![A-Za-z0-9_\xfe])"
_END = rb"(?![A-Za-z0-9_\xfe])"

_CARD = re.compile(
    _NOT_IN_WORD + rb"(?:\d{4}([ .-])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|\d{4}([ .-])\d{6}\2\d{4,5}|\d{12,19})" + _END
)
_MY_NUMBER = re.compile(_NOT_IN_WORD + rb"\d{4}([ -]?)\d{4}\1\d{4}" + _END)
_SSN = re.compile(_NOT_IN_WORD + rb"(\d{3})([ -])(\d{2})\2(\d{4})" + _END)
_BARE_SSN = re.compile(_NOT_IN_WORD + rb"\d{9}" + _END)
_POSTAL = re.compile(_NOT_IN_WORD + rb"\d{3}-?\d{4}" + _END)
_PREFECTURE = re.compile(r"\s{0,3}(?:北海道|東京都|京都府|大阪府|[一-龥]{2,3}県)")

_CARD_WORD = re.compile(
    r"(?i)(?:card|\bcc\b|visa|master|amex|american express|diners|discover|jcb|maestro|カード|クレジット|ｶｰﾄﾞ)"
    r"[^\n]{0,32}\Z"
)
_MY_NUMBER_WORD = re.compile(r"(?i)(?:マイ・?ナンバー|ﾏｲﾅﾝﾊﾞｰ|個人番号|my[ _-]?number|individual number)[^\n]{0,32}\Z")
_SSN_WORD = re.compile(r"(?i)(?:\bssn|\bitin|social[ _-]security|\btin\b|tax(?:payer)? id)[^\n]{0,32}\Z")
_POSTAL_WORD = re.compile(r"(?:〒|郵便番号)[\s:：はが=]{0,4}\Z")
_YEAR = re.compile(rb"(?:1[5-9]|20)\d\d")

# Leading digits and lengths of the common issuers; https://en.wikipedia.org/wiki/Payment_card_number. Those of others
# begin with almost anything: they count where the words before say that it is a card.
_ISSUER = re.compile(
    rb"(?:4\d{15}|4\d{18}|5[1-5]\d{14}|222[1-9]\d{12}|22[3-9]\d{13}|2[3-6]\d{14}|27[01]\d{13}|2720\d{12}"
    rb"|3[47]\d{13}|(?:6011|64[4-9]\d|65\d\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12})\Z"
)


def find_cards(folded: Folded, start: int, end: int) -> Iterator[Found]:
    """Numbers of credit cards among the groups of digits from `start` to `end`."""
    text = folded.bytes
    for found in _CARD.finditer(text, start, end):
        digits = re.sub(rb"\D", b"", found.group())
        if not luhn(digits) or len(set(digits)) < 2:
            continue
        certain = _ISSUER.match(digits) and not _goes_on(text, found) and not _in_fraction(text, found.start())
        if certain or _CARD_WORD.search(folded.before(found.start())):
            yield Found(found.start(), found.end(), Kind.CREDIT_CARD)


def find_my_numbers(folded: Folded, start: int, end: int) -> Iterator[Found]:
    """My Numbers, in groups with hyphens or where the words before say so: one number in ten passes the check."""
    text = folded.bytes
    for found in _MY_NUMBER.finditer(text, start, end):
        digits = re.sub(rb"\D", b"", found.group())
        if not my_number_check(digits):
            continue
        grouped = found.group(1) == b"-" and not _goes_on(text, found) and not _YEAR.match(digits)
        if grouped or _MY_NUMBER_WORD.search(folded.before(found.start())):
            yield Found(found.start(), found.end(), Kind.MY_NUMBER)


def find_social_security_numbers(folded: Folded, start: int, end: int) -> Iterator[Found]:
    """US social security numbers; those that are not in use count where the words before say so."""
    text = folded.bytes
    for found in _SSN.finditer(text, start, end):
        area, separator, group, serial = found.groups()
        used = area not in (b"000", b"666") and area < b"900" and group != b"00" and serial != b"0000"
        free = separator == b"-" and not _goes_on(text, found)
        if (used and free) or _SSN_WORD.search(folded.before(found.start())):
            yield Found(found.start(), found.end(), Kind.SSN)
    for found in _BARE_SSN.finditer(text, start, end):
        if _SSN_WORD.search(folded.before(found.start())):
            yield Found(found.start(), found.end(), Kind.SSN)


def find_postal_codes(folded: Folded, start: int, end: int) -> Iterator[Found]:
    """Japanese postal codes, where a mark, a word or a prefecture tells them from other numbers."""
    for found in _POSTAL.finditer(folded.bytes, start, end):
        if mark := _POSTAL_WORD.search(folded.before(found.start())):
            begin = found.start() - (len(mark.group()) if mark.group()[0] == "〒" else 0)
            yield Found(begin, found.end(), Kind.POSTAL_CODE)
        elif b"-" in found.group() and _PREFECTURE.match(folded.text, found.end()):
            yield Found(found.start(), found.end(), Kind.POSTAL_CODE)


def luhn(digits: bytes) -> bool:
    """Whether the last digit is the check digit of the others; ISO/IEC 7812-1, annex B."""
    doubled = sum(_DOUBLED[code] for code in digits[-2::-2])
    return (doubled + sum(digits[-1::-2]) - 48 * len(digits[-1::-2])) % 10 == 0


_DOUBLED = {48 + digit: digit * 2 - 9 * (digit > 4) for digit in range(10)}


def my_number_check(digits: bytes) -> bool:
    """Whether the last of twelve digits is the check digit of the others; ordinance no. 85 of 2014, article 5."""
    total = sum((code - 48) * weight for code, weight in zip(digits, (6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2), strict=False))
    rest = total % 11
    return digits[11] - 48 == (0 if rest <= 1 else 11 - rest)


def _goes_on(text: bytes, found: re.Match[bytes]) -> bool:
    """Whether another group of the same width stands before or behind: then it is a row of numbers."""
    separator = next((part for part in found.groups() if part in (b" ", b"-", b".")), None)
    if separator is None:
        return text[found.start() - 1 : found.start()] == b"-" or text[found.end() : found.end() + 1] == b"-"
    before = text[found.start() - 1 : found.start()] == separator and text[found.start() - 2 : found.start() - 1]
    behind = text[found.end() : found.end() + 1] == separator and text[found.end() + 1 : found.end() + 2]
    if separator == b" ":  # the date until which a card is valid may follow
        return bool(before and before.isdigit()) or bool(
            re.match(rb" \d{4}(?!\d)", text[found.end() : found.end() + 6])
        )
    return bool(before and before.isalnum()) or bool(behind and behind.isalnum())


def _in_fraction(text: bytes, start: int) -> bool:
    """Whether the digits before `start` are the whole part of a decimal fraction."""
    return text[start - 1 : start] in (b".", b",") and text[start - 2 : start - 1].isdigit()
