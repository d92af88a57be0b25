"""Redaction: its speed against datatrove's, what it finds of planted private data, and what it replaces in clean texts.

python scripts/bench_redaction.py [speed] [planted] [variants] [presidio] [clean]

Without names, all of them. Texts are those of shared/data beside the repository, and Python's standard library.
"""

import gzip
import json
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pretrain.data.documents import DOCUMENT
from pretrain.data.redaction.folding import Folded
from pretrain.data.redaction.redact import Redact, without_overlaps
from pretrain.data.stages import ROWS_AT_ONCE, TEXT_AT_ONCE

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
PEER = ROOT / ".venv-peers" / "bin" / "python"
ROUNDS = 3
SPEED_BYTES = 12_000_000  # of each corpus
KINDS = {
    "EMAIL": "EMAIL",
    "PHONE": "PHONE",
    "IP": "IP_ADDRESS",
    "CREDIT_CARD": "CREDIT_CARD",
    "US_SSN": "SSN",
    "EMAIL_ADDRESS": "EMAIL",
    "PHONE_NUMBER": "PHONE",
    "IP_ADDRESS": "IP_ADDRESS",
    "POSTAL_CODE": "POSTAL_CODE",
}
Truth = set[tuple[int, int, str]]  # start, end, kind

PEER_CODE = """
import json, sys, time
from datatrove.pipeline.formatters import PIIFormatter
texts = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
formatter = PIIFormatter()
for text in texts[:20]:
    formatter.format(text)
started = time.perf_counter()
for text in texts:
    formatter.format(text)
print(time.perf_counter() - started)
"""


def main() -> None:
    parts: dict[str, Callable[[], None]] = {
        "speed": speed,
        "planted": planted,
        "variants": variants,
        "presidio": presidio,
        "clean": clean,
    }
    for name in sys.argv[1:] or parts:
        parts[name]()


def stage(**switches: bool) -> Redact:
    settings = {
        "emails": True,
        "phones": True,
        "ip_addresses": True,
        "private_ip_addresses": False,
        "credit_cards": True,
        "social_security_numbers": True,
        "my_numbers": True,
        "secrets": True,
        "postal_codes": False,
        "addresses": False,
    }
    return Redact(**(settings | switches))


def speed() -> None:
    """Megabytes a second of one core; datatrove replaces e-mail and IP addresses only."""
    ours = stage()
    same = stage(phones=False, credit_cards=False, social_security_numbers=False, my_numbers=False, secrets=False)
    for name, texts in corpora().items():
        chosen = list(up_to(texts, SPEED_BYTES))
        size = sum(len(text.encode()) for text in chosen)
        batches = list(tables(chosen))
        rounds = []
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
            file.writelines(json.dumps(text) + "\n" for text in chosen)
            file.flush()
            for _ in range(ROUNDS):
                peer = subprocess.run([PEER, "-c", PEER_CODE, file.name], capture_output=True, text=True, check=True)
                rounds.append((seconds(ours, batches), seconds(same, batches), float(peer.stdout)))
        all_kinds, same_kinds, datatrove = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(
            f"{name:12} all kinds {size / all_kinds / 1e6:6.1f} MB/s, e-mail and IP {size / same_kinds / 1e6:6.1f},"
            f" datatrove {size / datatrove / 1e6:5.1f}; {datatrove / all_kinds:.1f} times as fast (30 MB/s asked)"
        )


def planted() -> None:
    """The planted items of the mixed sets, by halves: the rules were made on half 0, mended after a look at half 1."""
    for language in ("en", "ja"):
        documents = {row["id"]: row["text"] for row in rows(DATA / "dirty" / f"mixed_{language}.jsonl")}
        truth = {row["id"]: spans(row["pii"]) for row in rows(DATA / "dirty" / f"mixed_{language}.truth.jsonl")}
        for half in (0, 1):
            names = [name for name in documents if sha256(name.encode()).digest()[0] & 1 == half]
            score(
                f"mixed_{language}, half {half}", [documents[name] for name in names], [truth[name] for name in names]
            )


def presidio() -> None:
    """presidio's synthetic sentences, for the kinds that we do."""
    sentences = list(rows(DATA / "dirty" / "pii_presidio_v2.jsonl"))
    score("presidio", [row["text"] for row in sentences], [spans(row["spans"]) for row in sentences])
    passages = list(rows(DATA / "dirty" / "enterprise_pii.jsonl"))
    found = located(stage(), [row["query"] for row in passages])
    for label in (0, 1):
        hit = sum(bool(items) for items, row in zip(found, passages, strict=True) if row["gold"] == label)
        total = sum(row["gold"] == label for row in passages)
        print(f"enterprise_pii, {'sensitive' if label else 'harmless'}: something found in {hit} of {total}")


def variants() -> None:
    """Made-up items in many formats, one in a sentence of a clean text; and numbers that are none, which must stay."""
    chance = random.Random(7)
    texts, truths = [], []
    for text in islice(corpora()["wiki"], 4000):
        kind, item, before, behind = made_up(chance)
        place = text.find(". ") + 1
        texts.append(f"{text[:place]} {before}{item}{behind} {text[place:]}")
        start = place + 1 + len(before)
        truths.append({(start, start + len(item), kind)} if kind else set())
    score("variants", texts, truths)


def made_up(chance: random.Random) -> tuple[str, str, str, str]:
    """A kind ("" for none), an item of it, and the words before and behind it."""

    def digits(count: int) -> str:
        return "".join(chance.choices("0123456789", k=count))

    def word(count: int) -> str:
        return "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=count))

    def token(count: int) -> str:
        return "".join(chance.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=count))

    def card() -> str:
        number = chance.choice(["4", "51", "55", "2221"])
        number += digits(15 - len(number))
        return next(full for full in (number + str(check) for check in range(10)) if luhn_sum(full) % 10 == 0)

    def in_groups(number: str, separator: str) -> str:
        return separator.join(number[start : start + 4] for start in range(0, len(number), 4))

    def quad() -> str:
        return ".".join(str(chance.randint(1, 254)) for _ in range(3))

    area, exchange = str(chance.randint(200, 999)), str(chance.randint(200, 999))
    address = f"{word(6)}{chance.choice(['', '.', '_', '-', '+'])}{word(3)}{digits(2)}@{word(7)}"
    address += "." + chance.choice(["com", "co.jp", "org", "io", "de"])
    items: list[tuple[str, str]] = [
        ("EMAIL", address),
        ("EMAIL", wide(address)),
        ("PHONE", chance.choice(["{}-{}-{}", "({}) {}-{}", "({}){}-{}", "{}.{}.{}", "+1 {}-{}-{}", "1-{}-{}-{}"])
         .format(area, exchange, digits(4))),
        ("PHONE", f"0{chance.randint(1, 9)}-{digits(4)}-{digits(4)}"),
        ("PHONE", wide(f"0{chance.choice('789')}0-{digits(4)}-{digits(4)}")),
        ("PHONE", f"+44 {chance.randint(20, 79)} {digits(4)} {digits(4)}"),
        ("PHONE", f"+81-{chance.choice('3689')}-{digits(4)}-{digits(4)}"),
        ("PHONE", f"07{digits(3)} {digits(6)}"),
        ("IP_ADDRESS", f"{chance.choice([23, 52, 93, 133, 203, 210])}.{quad()}"),
        ("IP_ADDRESS", ":".join(["2a02", *(f"{chance.randint(0, 65535):x}" for _ in range(7))])),
        ("IP_ADDRESS", f"2001:db8::{chance.randint(1, 65535):x}"),
        ("CREDIT_CARD", card()),
        ("CREDIT_CARD", in_groups(card(), chance.choice("- "))),
        ("CREDIT_CARD", wide(in_groups(card(), "-"))),
        ("SSN", f"{chance.randint(100, 665)}-{chance.randint(10, 99)}-{chance.randint(1000, 9999)}"),
        ("SECRET", "AKIA" + token(16).upper()),
        ("SECRET", "ghp_" + token(36)),
        ("SECRET", "sk_live_" + token(24)),
        ("SECRET", "sk-" + token(48)),
        ("SECRET", "AIza" + token(35)),
        ("SECRET", "xoxb-" + digits(12) + "-" + digits(12) + "-" + token(24)),
        ("", "version " + ".".join(str(chance.randint(0, 20)) for _ in range(4))),
        ("", f"{chance.randint(1900, 2030)}-{chance.randint(10, 12)}-{chance.randint(10, 28)}"),
        ("", f"ISBN 978-4-{digits(2)}-{digits(6)}-{digits(1)}"),
        ("", f"{chance.randint(1, 999)},{digits(3)},{digits(3)}"),
        ("", "1" + digits(9)),
        ("", "1" + digits(15)),
    ]  # fmt: skip
    kind, item = chance.choice(items)
    before, behind = chance.choice(
        [("See ", "."), ("It was ", " then."), ("(", ")"), ("これは", "です。"), ("x: ", "")]
    )
    return kind, item, before, behind


def wide(text: str) -> str:
    """`text` in full width."""
    return "".join(chr(ord(character) + 0xFEE0) for character in text)


def luhn_sum(number: str) -> int:
    values = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(number))]
    return sum(value - 9 * (value > 9) for value in values)


def clean() -> None:
    """What is replaced in texts that hold hardly any private data."""
    for name, texts in corpora().items():
        counts, size = Counter[str](), 0
        for batch in tables(texts):
            size += batch["text"].nbytes
            counts.update(stage()(batch).counters)
        print(f"{name:12} {size / 1e6:5.1f} MB: {dict(counts) or 'nothing'}")


def corpora() -> dict[str, Iterator[str]]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    sources = (path for path in sorted(folder.rglob("*.py")) if "site-packages" not in path.parts)
    return {
        "novels": (row["text"] for row in rows(DATA / "en" / "english_novels.jsonl.gz")),
        "wiki": (row["text"] for row in rows(DATA / "en" / "wiki_vital_summaries.jsonl")),
        "jawiki": (row["text"] for row in rows(DATA / "ja" / "jawiki_jaquad.jsonl")),
        "neko": iter([(DATA / "ja" / "neko.txt").read_text("utf-8")]),
        "stdlib": (path.read_text("utf-8", "replace") for path in sources),
    }


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def up_to(texts: Iterable[str], most: int) -> Iterator[str]:
    for text in texts:
        if most <= 0:
            return
        most -= len(text.encode())
        yield text


def tables(texts: Iterable[str]) -> Iterator[pa.Table]:
    """`texts` as the batches that stages get."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text.encode())
        if len(batch) == ROWS_AT_ONCE or size >= TEXT_AT_ONCE:
            yield table(batch)
            batch, size = [], 0
    if batch:
        yield table(batch)


def table(texts: list[str]) -> pa.Table:
    return pa.Table.from_pydict({field.name: texts for field in DOCUMENT}, schema=DOCUMENT)


def seconds(redact: Redact, batches: list[pa.Table]) -> float:
    redact(batches[0])
    started = time.perf_counter()
    for batch in batches:
        redact(batch)
    return time.perf_counter() - started


def spans(items: list[dict[str, Any]]) -> Truth:
    named = ((item["start"], item["end"], item.get("kind") or item["type"]) for item in items)
    return {(start, end, KINDS[kind]) for start, end, kind in named if kind in KINDS}


def located(redact: Redact, texts: list[str]) -> list[Truth]:
    """What is found in each text, in one pass."""
    folded = Folded.of(texts)
    found: list[Truth] = [set() for _ in texts]
    for item in without_overlaps(redact.search(folded)):
        owner = int(np.searchsorted(folded.starts, item.start, side="right")) - 1
        offset = int(folded.starts[owner])
        found[owner].add((item.start - offset, item.end - offset, item.kind.name))
    return found


def score(name: str, texts: list[str], truths: list[Truth]) -> None:
    """Recall and precision by kind; only the exact characters of an item count."""
    counts: Counter[tuple[str, str]] = Counter()
    for found, truth in zip(located(stage(postal_codes=name.startswith("mixed_ja")), texts), truths, strict=True):
        counts.update((kind, "right") for *_, kind in found & truth)
        counts.update((kind, "missed") for *_, kind in truth - found)
        counts.update((kind, "wrong") for *_, kind in found - truth)
    for kind in sorted({kind for kind, _ in counts}):
        right, missed, wrong = (counts[kind, what] for what in ("right", "missed", "wrong"))
        recall, precision = right / max(1, right + missed), right / max(1, right + wrong)
        print(f"{name:18} {kind:12} recall {recall:7.2%} precision {precision:7.2%} ({right=} {missed=} {wrong=})")


if __name__ == "__main__":
    main()
