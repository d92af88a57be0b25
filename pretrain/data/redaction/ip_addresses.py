"""IP addresses, and what only looks like one: versions, sections, object identifiers."""

import ipaddress
import re
from collections.abc import Iterator

from pretrain.data.redaction.candidates import Digits, groups_of_colons
from pretrain.data.redaction.folding import Folded
from pretrain.data.redaction.kinds import Found, Kind

_LONGEST_V6 = 48
_FIRST_OF_VERSION, _LARGEST_OF_VERSION = 20, 99  # numbers of a version are small; few addresses are so small throughout

_V4 = re.compile(
    rb"(?<![A-Za-z0-9_\xfe])(?:\d{1,3}\.){3}\d{1,3}(?![A-Za-z0-9_\xfe])(?!-[A-Za-z]| (?:release|version|build)\b)"
)
_V6 = re.compile(
    rb"[0-9A-Fa-f]{1,4}(?:::?[0-9A-Fa-f]{1,4}){0,7}(?:(?<=:)[0-9A-Fa-f]{0,4}(?:\.\d{1,3}){3}|::)?(?![A-Za-z0-9_\xfe:])"
)
_IN_V6 = b"0123456789abcdefABCDEF:."
_IN_WORD = re.compile(rb"[A-Za-z0-9_\xfe-]")
_NO_ADDRESS_BEFORE = re.compile(
    r"(?i)(?:\b(?:v|versions?|ver\.?|releases?|rev\.?|revision|build|firmware|sections?|sec\.|chapter|clause|article|"
    r"part|paragraph|appendix|annex|tables?|figures?|fig\.|rule|oid|step|patch|driver|kernel|upgraded? to|updated? to)|"
    r"バージョン|ヴァージョン|版|リリース|§|第|図|表|章|節)(?:[\s:：#(\"'=はが]|\b(?:is|was|no|number)\b){0,8}\Z"
    r"|\w *(?:==|>=|~=|<=|!=)\Z|[A-Za-z][-/^~]\Z|[\w.]-\Z"
)
_ADDRESS_NEAR = re.compile(
    r"(?i)(?:\bips?\b|\bip_|_ip\b|ipv4|address|\baddrs?\b|\bhosts?\b|hostname|\bservers?\b|\bping\b|\bssh\b|\bdns\b|"
    r"nameserver|gateway|subnet|client|\bremote\b|proxy|\brouter|\blog(?:ged|in)\b|request|connect|アドレス|サーバ|"
    r"接続|アクセス|ホスト)[^\n]{0,32}\Z|://\Z"
)
_ADDRESS_BEHIND = re.compile(rb":\d{2,5}(?!\d)|/\d{1,2}(?![\d.])")


def find_ip_addresses(folded: Folded, digits: Digits, private: bool) -> Iterator[Found]:
    """IP addresses of version 4 and 6.

    Args:
        private: whether those count that lead to no one from outside: of private networks, of the machine itself, of
            groups, and reserved ones. Those for documentation count always: in a text they stand for real ones.
    """
    text = folded.bytes
    for start, end in digits.quads().tolist():
        if _V4.match(text, start, end + 9) and _is_v4(folded, start, end, private):
            yield Found(start, end, Kind.IP_ADDRESS)
    done = 0
    for place in groups_of_colons(folded.codes).tolist():
        if place < done:
            continue
        behind = text[place - _LONGEST_V6 : place]
        start = place - len(behind) + len(behind.rstrip(_IN_V6))
        if text[start : start + 1] == b":" or _IN_WORD.match(text, start - 1):
            start = text.find(b":", start, place + 1) + 1  # behind a label: "address:2001:db8::1"
        found = _V6.match(text, start)
        done = found.end() if found else place + 1
        if found and place < done and _is_v6(found.group(), private):
            yield Found(start, done, Kind.IP_ADDRESS)


def _is_v4(folded: Folded, start: int, end: int, private: bool) -> bool:
    numbers = folded.bytes[start:end].split(b".")
    if any(int(number) > 255 or (len(number) > 1 and number[:1] == b"0") for number in numbers):
        return False
    if not _counts(ipaddress.IPv4Address(folded.bytes[start:end].decode()), private):
        return False
    before = folded.before(start)
    if _NO_ADDRESS_BEFORE.search(before):
        return False
    small = int(numbers[0]) <= _FIRST_OF_VERSION and max(map(int, numbers)) <= _LARGEST_OF_VERSION
    return not small or bool(_ADDRESS_NEAR.search(before) or _ADDRESS_BEHIND.match(folded.bytes, end))


def _is_v6(found: bytes, private: bool) -> bool:
    try:
        address = ipaddress.IPv6Address(found.decode())
    except ValueError:
        return False
    groups = found.split(b":")
    if (
        b"::" in found
    ):  # slices (1::2) and the names of C++ (dead::beef) are no addresses; those begin with 2000 to 3fff
        plausible = len(groups[0]) == 4 and any(48 <= code < 58 for code in found)
    else:  # no more are eight bytes with colons between them
        plausible = max(map(len, groups)) > 2
    return plausible and _counts(address, private)


def _counts(address: ipaddress.IPv4Address | ipaddress.IPv6Address, private: bool) -> bool:
    """Whether an address is of a kind that is to be replaced."""
    if any(address in network for network in _ALWAYS):
        return True
    return not any(address in network for network in (_NEVER if private else _NEVER + _PRIVATE))


def _networks(*names: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(map(ipaddress.ip_network, names))


# Listed here, since what the library holds to be private differs between versions of Python.
_ALWAYS = _networks("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20")  # RFC 5737, 9637
_NEVER = _networks("0.0.0.0/8", "127.0.0.0/8", "240.0.0.0/4", "::/127")  # none, oneself, net masks
_PRIVATE = _networks(
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),  # RFC 1918, RFC 4193
    *("169.254.0.0/16", "fe80::/10"),  # of one link
    "100.64.0.0/10",  # of providers, RFC 6598
    *("224.0.0.0/4", "ff00::/8"),  # groups
)
