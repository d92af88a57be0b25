"""Thirteen kinds of low-quality documents, made from good ones, to try filters on texts that they do not know."""

import random
from collections.abc import Callable, Sequence

SYMBOLS = "+-*/=<>{}[]()|~^_#@&%$!?:;`.,\\●○■□◆◇▲△▼※→←♪★☆"
FILLERS = "aaaxzQ0_-=*.~#ーあ\u2588·"
ADVERTS = (
    "ORDER NOW and get FREE SHIPPING on all {}!!!",
    "Lose weight fast with our miracle {} pills, no prescription needed",
    "Best price guaranteed! Buy {} online today, 70% off",
    "You have won a {}! Claim your cash prize now, call today",
    "Play {} at the best online casino, 200 free spins bonus",
    "Make money from home with {}, earn $3000 a week, no risk",
    "Cheap {} replica, discount code inside, limited time offer",
    "Subscribe now for a free trial of {} - satisfaction guaranteed",
    "Get rich quick: {} investment opportunity, double your bitcoin",
    "Sign up today!!! Exclusive {} deals, click here",
)
ITEMS = "Home About Contact Products Login Register Blog News FAQ Sitemap Careers Help Cart Search Shop Events".split()
PAGES = (
    '<!DOCTYPE html><html lang="en"><body class="page"><ul id="nav"><li><a href="/a">One</a></li></ul><p>{}</p>'
    '<footer><a href="#">Top</a></footer></body></html>',
    '<div class="post-body"><span style="font-size:12px">{}</span><br /><img src="x.png" alt="" /></div>',
    "<table border=1><tr><td>{}</td><td>&nbsp;</td></tr></table><script>track('a', 1);</script>",
)
ENCODINGS = ("cp1252", "latin-1")


def variants(good: Sequence[str], foreign: Sequence[str], each: int, seed: int) -> dict[str, list[str]]:
    """`each` documents of each kind.

    Args:
        good: English texts.
        foreign: texts in other languages.
    """
    chance = random.Random(seed)
    kinds: dict[str, Callable[[str], str]] = {
        "too_short": lambda text: text[: chance.randint(1, 12)],
        "empty": lambda text: chance.choice(["", " ", "\n\n \n", "\u3000", "\t\t", "\u200b"]),
        "symbols": lambda text: "".join(
            chance.choices(SYMBOLS + " " * chance.choice([0, 6]), k=chance.randint(100, 900))
        ),
        "repeat_char": lambda text: text[: chance.randint(0, 120)] + chance.choice(FILLERS) * chance.randint(200, 900),
        "repeat_line": lambda text: "\n".join([text[: chance.randint(20, 90)]] * chance.randint(8, 60)),
        "wrong_language": lambda text: chance.choice(foreign)[: chance.randint(300, 1500)],
        "spam": lambda text: spam(text, chance),
        "shuffled_chars": lambda text: "".join(chance.sample(text, len(text))),
        "menu": lambda text: menu(text, chance),
        "ellipsis_list": lambda text: ellipsis_list(text, chance.randint(12, 40), chance.choice(["…", "..."])),
        "mojibake": lambda text: mojibake(text, chance),
        "html": lambda text: chance.choice(PAGES).format(text),
        "digits": lambda text: digits(chance),
    }
    return {kind: [make(chance.choice(good)[:1500]) for _ in range(each)] for kind, make in kinds.items()}


def spam(text: str, chance: random.Random) -> str:
    words = [word for word in text.split() if word.isalpha() and len(word) > 4] or ["watches"]
    lines = [advert.format(chance.choice(words)) for advert in chance.sample(ADVERTS, chance.randint(2, 5))]
    gap = chance.choice(["\n", " "])
    return gap.join(chance.choices(lines, k=chance.randint(6, 25)))


def menu(text: str, chance: random.Random) -> str:
    words = text.split()
    longest = chance.choice([1, 1, 2, 3])
    lines = [
        " ".join(chance.choices(words + ITEMS, k=chance.randint(1, longest))) for _ in range(chance.randint(30, 120))
    ]
    mark = chance.choice(["", "", "- ", "» ", "| "])
    return "\n".join(mark + line for line in lines)


def ellipsis_list(text: str, width: int, mark: str) -> str:
    return "\n".join(text[start : start + width] + mark for start in range(0, len(text), width))


def mojibake(text: str, chance: random.Random) -> str:
    """A text with characters that are not ASCII, as a wrong decoding shows it."""
    for plain, typographic in (("'", "’"), (" - ", " — "), ("--", "—"), ('"', "”"), (" 1", "\xa01")):
        text = text.replace(plain, typographic)
    if text.isascii():
        text = text.replace(". ", ".\xa0 ").replace("e", "é", 3)
    return text.encode().decode(chance.choice(ENCODINGS), "replace")


def digits(chance: random.Random) -> str:
    gap, most = chance.choice(["\t", " ", ",", ", "]), 10 ** chance.randint(2, 9)
    rows = [
        gap.join(str(chance.randrange(most)) for _ in range(chance.randint(3, 12)))
        for _ in range(chance.randint(10, 60))
    ]
    return "\n".join(rows)
