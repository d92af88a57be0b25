"""From new tokens to text: strings that end it, and text that is shown as it comes, never half a character of it."""

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

REPLACEMENT = "\ufffd"  # what a tokenizer makes of bytes that are no whole character
BYTES = 4  # of the longest character in UTF-8


class StopStrings:
    """Whether a text is complete: one of `strings` stands in it, across the borders of tokens or not.

    It is asked after each token, and looks at the end only.
    """

    def __init__(self, strings: Sequence[str], decode: Decode) -> None:
        self.strings, self.decode = strings, decode
        self.longest = max(len(text.encode()) for text in strings)  # in tokens at most, for each has a byte at least

    def __call__(self, tokens: Sequence[int]) -> bool:
        # One of these begins with a whole character, without which what follows may be unreadable.
        sizes = range(self.longest, self.longest + BYTES) if len(tokens) > self.longest else [len(tokens)]
        ends = (self.decode(tokens[-size:]) for size in sizes)
        return any(text in end for end in ends for text in self.strings)


def before_stop(text: str, strings: Sequence[str]) -> str:
    """`text` up to the first place where one of `strings` begins, all of it where there is none."""
    places = [place for string in strings if (place := text.find(string)) >= 0]
    return text[: min(places, default=len(text))]


def without_half_character(text: str) -> str:
    """`text` without what its last bytes were decoded to, if they were no whole character."""
    most = len(text) - (BYTES - 1)
    while text.endswith(REPLACEMENT) and len(text) > most:
        text = text[:-1]
    return text


def finished_text(text: str, strings: Sequence[str], *, cut: bool) -> str:
    """`text` before a stop string, and where it was `cut` off by a number of tokens before half a character."""
    text = before_stop(text, strings)
    return without_half_character(text) if cut else text


class TextStream:
    """Tokens in, text out as soon as nothing can change it any more.

    Args:
        decode: ids to text.
        strings: text ends before the first of them, so that what may be its beginning waits.
        write: gets the text, piece by piece.
    """

    def __init__(self, decode: Decode, strings: Sequence[str], write: Callable[[str], object]) -> None:
        self.decode, self.strings, self.write = decode, strings, write
        self.tokens: list[int] = []
        # Decoding begins a little before what is new: some tokenizers decode the first token in another way.
        self.begin = self.decoded = 0
        self.waiting = ""

    def hear(self, token: int) -> None:
        """Take the next token."""
        self.tokens.append(token)
        new = self._new()
        if new.endswith(REPLACEMENT):  # perhaps the beginning of a character
            return
        self.begin, self.decoded = self.decoded, len(self.tokens)
        self.waiting += new
        size = len(before_stop(self.waiting, self.strings))
        if size == len(self.waiting):
            size -= max((_overlap(self.waiting, string) for string in self.strings), default=0)
        self._write(size)

    def finish(self, *, cut: bool) -> None:
        """Write the rest; see finished_text."""
        self.waiting = finished_text(self.waiting + self._new(), self.strings, cut=cut)
        self.decoded = len(self.tokens)
        self._write(len(self.waiting))

    def _new(self) -> str:
        """The text of the tokens that are not decoded yet."""
        known = self.decode(self.tokens[self.begin : self.decoded])
        return self.decode(self.tokens[self.begin :])[len(known) :]

    def _write(self, size: int) -> None:
        if size:
            self.write(self.waiting[:size])
            self.waiting = self.waiting[size:]


def _overlap(text: str, string: str) -> int:
    """How many of the last characters of `text` may be the beginning of `string`."""
    most = min(len(text), len(string) - 1)
    return next(size for size in range(most, -1, -1) if text.endswith(string[:size]))
