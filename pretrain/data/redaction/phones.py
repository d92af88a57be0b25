"""Phone numbers: of North America, Britain, Japan, in international form, and others where the words before say so.

A number is read as groups of digits and the separators between them. Its form is the lengths of the groups.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from pretrain.data.redaction.folding import Folded
from pretrain.data.redaction.kinds import Found, Kind

_GROUP = re.compile(rb"\d+")
_EXTENSION = re.compile(rb" ?(?:x|ext\.?|extension) ?\d{1,6}(?![A-Za-z0-9_])")
_FEWEST, _MOST = 7, 15  # digits of a number; ITU E.164 allows no more

# Forms of national numbers that begin with 0: of Japan (2-4-4, 3-3-4, 4-2-4, 5-1-4; mobile 3-4-4, 3-8; free 4-3-3,
# 4-3-4) and of Britain (3-4-4, 4-3-4, 5-6, 5-3-3).
_FORMS_FROM_0 = frozenset({"2-4-4", "3-3-4", "4-2-4", "5-1-4", "3-4-4", "4-3-3", "4-3-4", "5-6", "5-3-3", "3-8", "2-8"})
_NORTH_AMERICA = "3-3-4"
_SEPARATORS = frozenset({b"-", b".", b" ", b"(", b")", b" (", b") ", b")-", b"-("})
_DATES = frozenset({"4-2-2", "2-2-4", "4-4", "4-2-2-2", "4-1-2", "1-2-4", "2-1-4", "4-2-1", "8-6", "8-4"})

# Digits of numbers with the code of their country, at least and at most.
_WITH_CODE = {
    **dict.fromkeys((b"1", b"7", b"31", b"33", b"34", b"41", b"61", b"46"), (11, 11)),
    **dict.fromkeys((b"44", b"91"), (12, 12)),
    **dict.fromkeys((b"39", b"81", b"82"), (11, 12)),
    **dict.fromkeys((b"45", b"47", b"65"), (10, 10)),
    **dict.fromkeys((b"49", b"55", b"86"), (11, 13)),
}
_ANY_CODE = (8, 13)
_COUNTRY = re.compile(
    rb"1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|(?:2[1-689]|3[578]|42|5[09]|6[789]|8[0578]|9[679])\d"
)

_PHONE_WORD = re.compile(
    r"(?i)(?:(?<![a-z])(?:tele)?(?:phones?|fax|tel|ph|mob|mobile|cell(?:phone)?|call(?:ing)?|dial|hotline|whatsapp|"
    r"sms|landline|text(?: me| us)?|reach(?: me| us| him| her)?|desk|messages to|answering (?:at|on))|電話|ＴＥＬ|"
    r"Ｔｅｌ|ＦＡＸ|携帯|ファックス|ファクス|ファクシミリ|フリーダイヤル|連絡先|テレホン|内線|お問い?合わ?せ先?)"
    r"(?:[\s:：.#=＝/／()（）【】\[\]「」\"'・,、*_~|-]|\b(?:numbers?|no|num|me|us|him|her|is|at|on|to|now|today|fax|tel)\b|"
    r"番号|代表|直通|窓口|は|が|の|へ|まで|に|を){0,12}\Z"
)
_PHONE_WORD_BEHIND = re.compile(rb"(?i)[ -]{0,3}\(?(?:office|fax|mobile|cell|home|work|desk|tel|phone)\b")
_STUCK = re.compile(  # numbers whose end is certain, should the next word stick to them
    rb"(?:0[5789]0|0800)[-. ]\d{3,4}[-. ]\d{4}"
    rb"|0(?:\d[-. (]\d{4}|\d\d[-. (]\d{3}|\d{3}[-. (]\d\d|\d{4}[-. (]\d)[-. )]\d{4}"
    rb"|[2-9]\d\d(?:[-. ]|\) ?)\d{3}[-. ]\d{4}"
)
_NO_PHONE = re.compile(r"(?i)(?:isbn|issn|doi|asin|\bpmid|patent)(?:-?1[03])?[\s:：#.]{0,4}\Z")
_JAPANESE = re.compile("[ぁ-んァ-ヶ一-龥]")


class _Digits(NamedTuple):
    """A group of digits from `start` to `end`, and what stands between the one before and it."""

    start: int
    end: int
    separator: bytes


def find_phones(folded: Folded, start: int, end: int) -> Iterator[Found]:
    """Phone numbers among the groups of digits from `start` to `end`."""
    text = folded.bytes
    groups, last = [], start
    for found in _GROUP.finditer(text, start, end):
        groups.append(_Digits(found.start(), found.end(), text[last : found.start()]))
        last = found.end()
    behind = start
    for index, group in enumerate(groups):
        if group.start >= behind and (place := _end(folded, groups, index)):
            extension = _EXTENSION.match(text, place)
            behind = extension.end() if extension else place
            yield Found(_beginning(text, group.start, place), behind, Kind.PHONE)


def _end(folded: Folded, groups: list[_Digits], index: int) -> int:
    """Where the phone number ends that begins with the group of `index`; 0 for none."""
    text, first = folded.bytes, groups[index]
    if re.match(rb"[A-Za-z0-9_\xfe]", text[first.start - 1 : first.start]):
        stuck = _STUCK.match(text, first.start)
        return stuck.end() if stuck and _PHONE_WORD.search(folded.before(first.start)) else 0
    if text[first.start - 1 : first.start] == b"+" or text[first.start - 2 : first.start] == b"+(":
        count = _international(text, groups, index)
    else:
        count = _national(folded, groups, index)
        if count and _NO_PHONE.search(folded.before(first.start)):
            return 0
    return groups[index + count - 1].end if count else _announced(folded, groups, index)


def _national(folded: Folded, groups: list[_Digits], index: int) -> int:
    """How many groups make a number that is told by its form alone; 0 for none."""
    text, first = folded.bytes, groups[index]
    code = text[first.start : first.end]
    if code in (b"1", b"001") and _form(groups, index, 4).endswith(_NORTH_AMERICA):
        return 4 if _area(text, groups[index + 1]) and _alone(text, groups, index, 4) else 0
    if code in (b"00", b"011", b"010") and len(groups) > index + 3:
        count = _with_country(text, groups, index + 1)
        return count + 1 if count >= 3 else 0
    if code[:2] == b"00" and len(code) > 3:
        count = _with_country(text, [_Digits(first.start + 2, first.end, b""), *groups[index + 1 : index + _MOST]], 0)
        return count if count >= 3 and _alone(text, groups, index, count) else 0
    if code[:1] != b"0" and len(code) != 3:
        return 0
    three, two = _form(groups, index, 3), _form(groups, index, 2)
    if code[:1] == b"0":
        if len(code) == 11 and re.match(rb"0[5789]0[1-9]", code):
            nearby = folded.text[first.start - 12 : first.start] + folded.text[first.end : first.end + 12]
            return int(bool(_JAPANESE.search(nearby)) and _alone(text, groups, index, 1))
        if three in _FORMS_FROM_0 and code[1:2] != b"0" and _alone(text, groups, index, 3):
            return 3
        return 2 if two in _FORMS_FROM_0 and code[1:2] != b"0" and _alone(text, groups, index, 2) else 0
    if three == _NORTH_AMERICA and _area(text, first) and _alone(text, groups, index, 3):
        return 3
    return 0


def _international(text: bytes, groups: list[_Digits], index: int) -> int:
    """How many groups behind a plus sign make a number; 0 for none."""
    plus = text.rfind(b"+", 0, groups[index].start)
    if re.match(rb"[A-Za-z0-9_)\]\xfe]", text[plus - 1 : plus]):
        return 0  # a sum
    count = _with_country(text, groups, index)
    if not count:
        return 0
    if count == 2 and groups[index + 1].separator == b".":
        return 0  # a decimal fraction
    if count == 1 and not _certain(text[groups[index].start : groups[index].end]):
        return 0
    return 0 if _in_word(text, groups[index + count - 1].end) else count


def _certain(digits: bytes) -> bool:
    """Whether digits without any separator are those of a number of a country with a fixed plan."""
    country = _COUNTRY.match(digits)
    least, most = _WITH_CODE.get(country.group() if country else b"", (1, 0))
    return least <= len(digits) <= most and (digits[:1] != b"1" or bool(re.match(rb"1[2-9]\d\d[2-9]", digits)))


def _with_country(text: bytes, groups: list[_Digits], index: int) -> int:
    """How many groups from the one that begins with the code of a country make a number; 0 for none."""
    country = _COUNTRY.match(text, groups[index].start, groups[index].end)
    if not country:
        return 0
    most = _WITH_CODE.get(country.group(), _ANY_CODE)[1]
    count = digits = 0
    for group in groups[index : index + _MOST]:
        # (0) is dialled at home only
        width = 0 if text[group.start - 1 : group.end + 1] == b"(0)" else group.end - group.start
        if (count and not _within(group.separator)) or digits + width > most:
            break
        count, digits = count + 1, digits + width
    return count if digits >= 8 else 0


def _announced(folded: Folded, groups: list[_Digits], index: int) -> int:
    """Where a number of any form ends that stands behind a word such as "phone", or before one; 0 for none."""
    text, first = folded.bytes, groups[index]
    if index and index + _MOST < len(groups):
        return 0  # between digits there is no word, neither before nor behind
    if sum(group.end - group.start for group in groups[index : index + _MOST]) < _FEWEST:
        return 0
    opening = len(text[first.start - 3 : first.start]) - len(text[first.start - 3 : first.start].rstrip(b"( +"))
    named = index == 0 and bool(_PHONE_WORD.search(folded.before(first.start - opening)))
    if named and (found := _STUCK.match(text, first.start)):
        return found.end()
    digits = [first.end - first.start]
    separators: set[bytes] = set()
    for group in groups[index + 1 : index + _MOST]:
        width = group.end - group.start
        if sum(digits) + width > _MOST or not _within(group.separator) or b"/" in group.separator:
            break
        if separators and group.separator not in separators and sum(digits) >= 9 and b")" not in group.separator:
            break
        separators.add(group.separator)
        digits.append(width)
    end = groups[index + len(digits) - 1].end
    if not _FEWEST <= sum(digits) <= _MOST or _in_word(text, end):
        return 0
    if "-".join(map(str, digits)) in _DATES and text[first.start : first.start + 2] in (b"19", b"20"):
        return 0
    if separators == {b"."} and (len(digits) == 2 or (len(digits) == 4 and max(digits) <= 3)):
        return 0  # a decimal fraction, or four numbers of an IP address
    return end if named or _PHONE_WORD_BEHIND.match(text, end) else 0


def _within(separator: bytes) -> bool:
    """Whether a separator may stand inside a number: ". " ends a sentence, and a plus sign begins another number."""
    return len(separator) <= 2 and b"+" not in separator and separator != b". "


def _form(groups: list[_Digits], index: int, count: int) -> str:
    """The lengths of `count` groups, where the separators between them can be those of one number."""
    taken = groups[index : index + count]
    separators = {group.separator for group in taken[1:]}
    if (
        len(taken) < count
        or not separators <= _SEPARATORS
        or (b"." in separators and (count < 3 or len(separators) > 1))
    ):
        return ""
    return "-".join(str(group.end - group.start) for group in taken)


def _area(text: bytes, group: _Digits) -> bool:
    """Whether a group can be the area code of a number of North America, which is not below 200."""
    return text[group.start : group.start + 1] >= b"2"


def _alone(text: bytes, groups: list[_Digits], index: int, count: int) -> bool:
    """Whether the number is no part of a longer row of groups, nor of a word."""
    first, last = groups[index], groups[index + count - 1]
    separator = groups[index + count - 1].separator if count > 1 else b"-"
    if index and first.separator in (separator, b".", b"/"):
        return False
    if index + count < len(groups) and groups[index + count].separator == separator:
        return False
    if re.match(rb"[A-Za-z0-9_\xfe.][-.]|[$#]", text[first.start - 2 : first.start]) or text[first.start - 1] in b"$#%":
        return False
    return not _in_word(text, last.end)


def _in_word(text: bytes, end: int) -> bool:
    """Whether a word goes on behind the last digit; an extension, and what kind of phone it is, are none."""
    if not re.match(rb"[A-Za-z0-9_\xfe%]|-[A-Za-z0-9]", text[end : end + 2]):
        return False
    return not (_EXTENSION.match(text, end) or (text[end] == ord("-") and _PHONE_WORD_BEHIND.match(text, end)))


def _beginning(text: bytes, start: int, end: int) -> int:
    """Where the number begins, with the plus sign and the bracket around its first group."""
    if text[start - 1 : start] == b"(" and b")" in text[start:end]:
        start -= 1
    if text[start - 1 : start] == b"+":
        start -= 1
        if text[start - 1 : start] == b"(" and b")" in text[start:end]:
            start -= 1
    return start
