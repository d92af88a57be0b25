"""What is looked for: the kinds of private data, in the order of precedence where two are found at one place."""

from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """A kind of private data; the lower number wins an overlap.

    A placeholder is the name in angle brackets, as in StarCoder's data (Li et al. 2023,
    https://arxiv.org/abs/2305.06161). It holds nothing that could be found again.
    """

    SECRET = 0
    EMAIL = 1
    CREDIT_CARD = 2
    MY_NUMBER = 3
    SSN = 4
    IP_ADDRESS = 5
    PHONE = 6
    POSTAL_CODE = 7
    ADDRESS = 8

    @property
    def placeholder(self) -> str:
        return f"<{self.name}>"


class Found(NamedTuple):
    """Private data from `start` to `end` of a folded batch."""

    start: int
    end: int
    kind: Kind
