"""Street addresses of Japan, Britain and North America, as far as their form tells them."""

import re
from collections.abc import Iterator

from pretrain.data.redaction.folding import Folded
from pretrain.data.redaction.kinds import Found, Kind

_PREFECTURES = (
    "北海道|東京都|(?:京都|大阪)府|(?:青森|岩手|宮城|秋田|山形|福島|茨城|栃木|群馬|埼玉|千葉|神奈川|新潟|富山|石川|福井|"
    "山梨|長野|岐阜|静岡|愛知|三重|滋賀|兵庫|奈良|和歌山|鳥取|島根|岡山|広島|山口|徳島|香川|愛媛|高知|福岡|佐賀|長崎|"
    "熊本|大分|宮崎|鹿児島|沖縄)県"
)
_NUMBER = r"[0-9０-９一二三四五六七八九十]{1,5}"
_JAPANESE = re.compile(
    rf"(?:{_PREFECTURES})[^\s、。,0-9０-９\0]{{1,12}}?[市区町村郡][^\s、。,0-9０-９\0]{{0,24}}?[  　]?"
    rf"{_NUMBER}(?:(?:丁目|番地?の?|号|条|[-‐‑–−ー－の]){_NUMBER}){{0,3}}(?:丁目|番地?|号室?)?"
)
_STREET = re.compile(
    rb"(?<![A-Za-z0-9_.,$-])\d{1,5}[A-Za-z]? (?:[NSEW]\.? )?(?:[A-Z][a-z']{1,20}|\d{1,3}(?:st|nd|rd|th))"
    rb"(?: [A-Z][a-z']{1,20}){0,3} (?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Place|Pl|"
    rb"Square|Terrace|Crescent|Parkway|Pkwy|Highway|Hwy|Way)\b\.?"
    rb"(?:,? (?:Apt|Suite|Ste|Unit|Flat)\.? ?#?[A-Za-z0-9]{1,6})?"
    rb"(?:,? [A-Z][a-z]{2,20}(?: [A-Z][a-z]{2,20}){0,2},? [A-Z]{2} \d{5}(?:-\d{4})?)?"
)


def find_addresses(folded: Folded) -> Iterator[Found]:
    """Street addresses with a number: in Japan behind a prefecture, in English before a word such as Street."""
    spans = [found.span() for found in _JAPANESE.finditer(folded.text)]
    spans += [found.span() for found in _STREET.finditer(folded.bytes)]
    for start, end in spans:
        yield Found(start, end, Kind.ADDRESS)
