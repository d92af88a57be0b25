"""E-mail addresses, and passwords in the addresses of the web."""

import re
from collections.abc import Iterator

from pretrain.data.redaction.candidates import at_signs, spelled_at_signs
from pretrain.data.redaction.folding import Folded
from pretrain.data.redaction.kinds import Found, Kind

_LONGEST_LOCAL = 64  # characters before the at sign; RFC 5321, section 4.5.3.1
_LONGEST_DOMAIN = 255

# Characters that the standard allows but that in texts rather stand around an address (=, /, {) are left out.
_IN_LOCAL = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.%+$&*^~#!'-\xfe"
_NOT_FIRST = b".%+$&*^~#!'-"
_LABEL = rb"[A-Za-z0-9\xfe](?:[A-Za-z0-9_\xfe-]{0,62})"
_DOMAIN = re.compile(rb"(?:" + _LABEL + rb"\.){1,8}(?:[A-Za-z\xfe]{2,24}|xn--[A-Za-z0-9-]{2,59})(?![A-Za-z0-9_\xfe])")
_LITERAL = re.compile(rb"\[(?:IPv6:)?[0-9A-Fa-f.:]{3,45}\]")
_SPELLED = re.compile(
    rb"(?<![A-Za-z0-9_.+-])[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63} ?[\[({] ?(?:at|AT) ?[\])}] ?"
    rb"[A-Za-z0-9][A-Za-z0-9-]{0,62}(?:(?:\.| ?[\[({] ?(?:dot|DOT) ?[\])}] ?)[A-Za-z0-9-]{1,63}){0,5}"
    rb"(?:\.| ?[\[({] ?(?:dot|DOT) ?[\])}] ?)[A-Za-z]{2,24}(?![A-Za-z0-9_])"
)
_CREDENTIALS = re.compile(rb"://([^\s/:@\"'<>\0]{1,64}:[^\s/@\"'<>\0]{1,128})\Z")
_MAIL_WORD = re.compile(r"(?i)(?:mail(?:to)?|連絡先|メール|アドレス|お問い?合わ?せ)[^\n]{0,16}\Z|<\Z")
_REPOSITORY = re.compile(rb"[:/][A-Za-z0-9_.~-]")  # behind git@host, of which no one is the owner

# Top-level domains of countries, and the others in common use. In source code, x@self.weight is a product and
# icon@2x.png a file.
_COUNTRIES = frozenset(
    "ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bw by bz ca cc cd "
    "cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er es et eu fi fj fk fm fo fr ga gb gd "
    "ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is it je jm jo jp ke kg "
    "kh ki km kn kp kr kw ky kz la lb lc li lk lr ls lt lu lv ly ma mc md me mg mh mk ml mm mn mo mp mq mr ms mt mu mv "
    "mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw py qa re ro rs ru rw sa "
    "sb sc sd se sg sh si sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj tk tl tm tn to tr tt tv tw tz ua ug "
    "uk us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw".split()
)
_OTHERS = frozenset(
    "com org net edu gov mil int info biz name pro aero coop museum mobi asia tel travel jobs cat post app dev cloud "
    "online site store shop tech xyz blog email page top club live news space website world life today agency digital "
    "network systems solutions services company group team academy center design studio media social global "
    "international tokyo osaka nagoya kyoto yokohama london paris berlin nyc bank law health care art wiki support "
    "example test invalid localhost local lan arpa".split()
)


def find_emails(folded: Folded) -> Iterator[Found]:
    """E-mail addresses, in full width and with the at sign spelled out too."""
    text = folded.bytes
    for place in at_signs(folded.codes).tolist():
        behind = text[place - _LONGEST_LOCAL - 1 : place]
        local = behind[len(behind.rstrip(_IN_LOCAL)) :]
        if len(local) > _LONGEST_LOCAL or local[-1:] == b".":
            continue
        local = local.lstrip(_NOT_FIRST)
        start = place - len(local)
        domain = _DOMAIN.match(text, place + 1, place + 1 + _LONGEST_DOMAIN) or _LITERAL.match(text, place + 1)
        if not local or not domain:
            continue
        end = _domain_end(domain)
        if local.lower() == b"git" and _REPOSITORY.match(text, end):
            continue
        top = text[place + 1 : end].rpartition(b".")[2].decode("latin-1").lower()
        if _known(top) or domain.re is _LITERAL or _MAIL_WORD.search(folded.before(start)):
            yield Found(start, end, Kind.EMAIL)
    for place in spelled_at_signs(folded.codes).tolist():
        first = place - _LONGEST_LOCAL - 2
        behind = text[first:place].rstrip(b"[({ ")
        local = behind[len(behind.rstrip(_IN_LOCAL)) :].lstrip(_NOT_FIRST)
        start = first + len(behind) - len(local)
        if found := _SPELLED.match(text, start, place + _LONGEST_DOMAIN):
            yield Found(found.start(), found.end(), Kind.EMAIL)


def find_credentials(folded: Folded) -> Iterator[Found]:
    """Names and passwords in addresses such as https://name:password@host."""
    text = folded.bytes
    for place in at_signs(folded.codes).tolist():
        if found := _CREDENTIALS.search(text, place - 96, place):
            yield Found(found.start(1), place, Kind.SECRET)


def _known(top: str) -> bool:
    return top in _COUNTRIES or top in _OTHERS or top.startswith("xn--") or not top.isascii()


def _domain_end(domain: re.Match[bytes]) -> int:
    """Where the domain ends, without the word that begins the next sentence where the space is missing."""
    labels = domain.group().split(b".")
    end = domain.end()
    while len(labels) > 2 and labels[-1].istitle() and not labels[-2].istitle():
        if not _known(labels[-2].decode("latin-1").lower()):
            break
        end -= len(labels.pop()) + 1
    return end
