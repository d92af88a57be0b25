"""Redaction: private data is replaced by what kind of data it was, such as <EMAIL> or <PHONE>.

The places where such data may be are found in a whole batch at once (candidates.py), in a folded alphabet (folding.py);
each kind is then told by its form, its check digits and the words around it. A document's result depends on nothing but
its text. It is searched again until nothing is found: what stood too close to something else may show only then, and so
a second run changes nothing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pretrain.data.documents import StageOutput, partition
from pretrain.data.manifests import UNICODE
from pretrain.data.redaction.candidates import Digits, tokens
from pretrain.data.redaction.emails import find_credentials, find_emails
from pretrain.data.redaction.folding import Folded
from pretrain.data.redaction.ip_addresses import find_ip_addresses
from pretrain.data.redaction.kinds import Found, Kind
from pretrain.data.redaction.numbers import (
    find_cards,
    find_my_numbers,
    find_postal_codes,
    find_social_security_numbers,
)
from pretrain.data.redaction.phones import find_phones
from pretrain.data.redaction.places import find_addresses
from pretrain.data.redaction.secrets import find_secrets


class Redact:
    """Replaces private data by typed placeholders; no document is dropped.

    Args:
        emails: e-mail addresses become <EMAIL>.
        phones: phone numbers of North America, Britain and Japan, in international form, or named as such: <PHONE>.
        ip_addresses: addresses of version 4 and 6 become <IP_ADDRESS>; what the text calls a version stays.
        private_ip_addresses: whether addresses of private networks, of one link and of groups become so too.
        credit_cards: numbers of cards with a right check digit become <CREDIT_CARD>.
        social_security_numbers: those of the United States become <SSN>.
        my_numbers: Japan's individual numbers with a right check digit become <MY_NUMBER>.
        secrets: keys, tokens, private keys and passwords in URLs become <SECRET>.
        postal_codes: those of Japan become <POSTAL_CODE>.
        addresses: street addresses become <ADDRESS>.
    """

    version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = (UNICODE,)

    def __init__(
        self,
        *,
        emails: bool,
        phones: bool,
        ip_addresses: bool,
        private_ip_addresses: bool,
        credit_cards: bool,
        social_security_numbers: bool,
        my_numbers: bool,
        secrets: bool,
        postal_codes: bool,
        addresses: bool,
    ) -> None:
        self.emails = emails
        self.ip_addresses = ip_addresses
        self.private_ip_addresses = private_ip_addresses
        self.secrets = secrets
        self.addresses = addresses
        switches = (
            (find_cards, credit_cards),
            (find_my_numbers, my_numbers),
            (find_social_security_numbers, social_security_numbers),
            (find_phones, phones),
            (find_postal_codes, postal_codes),
        )
        self.numbers = tuple(find for find, wanted in switches if wanted)

    def __call__(self, documents: pa.Table) -> StageOutput:
        texts = documents["text"].to_pylist()
        counts: Counter[Kind] = Counter()
        changed: set[int] = set()
        left = list(range(len(texts)))
        while left:
            redacted, found = self._redact([texts[number] for number in left])
            counts += found
            left = [left[place] for place in redacted]
            changed.update(left)
            for number, text in zip(left, redacted.values(), strict=True):
                texts[number] = text
        counters = {kind.name.lower(): counts[kind] for kind in Kind if counts[kind]}
        if changed:
            column = documents.schema.get_field_index("text")
            documents = documents.set_column(column, documents.schema.field(column), pa.array(texts, pa.string()))
            counters["documents"] = len(changed)
        return partition(documents, [None] * len(texts), counters)

    def _redact(self, texts: list[str]) -> tuple[dict[int, str], Counter[Kind]]:
        """One pass: the texts that it changes, by their number, and what it replaced."""
        folded = Folded.of(texts)
        found = without_overlaps(self.search(folded))
        owners = np.searchsorted(folded.starts, [item.start for item in found], side="right") - 1
        items: dict[int, list[Found]] = {}
        for owner, item in zip(owners.tolist(), found, strict=True):
            items.setdefault(owner, []).append(item)
        redacted = {number: _replaced(texts[number], int(folded.starts[number]), of) for number, of in items.items()}
        return redacted, Counter(item.kind for item in found)

    def search(self, folded: Folded) -> Iterator[Found]:
        """Everything that is to be replaced; some of it may overlap."""
        digits = Digits(folded.codes)
        if self.secrets:
            yield from find_secrets(folded, tokens(folded.bytes, digits))
            yield from find_credentials(folded)
        if self.emails:
            yield from find_emails(folded)
        if self.ip_addresses:
            yield from find_ip_addresses(folded, digits, self.private_ip_addresses)
        if self.numbers:
            for start, end in digits.numbers().tolist():
                for find in self.numbers:
                    yield from find(folded, start, end)
        if self.addresses:
            yield from find_addresses(folded)


def without_overlaps(found: Iterable[Found]) -> list[Found]:
    """In order of place; of two that overlap, the one whose kind comes first, else the longer one."""
    kept: list[Found] = []
    for item in sorted(found):
        if not kept or item.start >= kept[-1].end:
            kept.append(item)
        elif (item.kind, kept[-1].end - kept[-1].start) < (kept[-1].kind, item.end - item.start):
            kept[-1] = item
    return kept


def _replaced(text: str, offset: int, items: list[Found]) -> str:
    """`text`, which begins at `offset` of the batch, with placeholders instead of `items`."""
    parts, last = [], 0
    for item in items:
        parts += [text[last : item.start - offset], item.kind.placeholder]
        last = item.end - offset
    return "".join([*parts, text[last:]])
