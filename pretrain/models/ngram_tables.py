"""Look-ups in the tables of an n-gram model: probabilities of targets, and whole distributions.

Shapes: B rows, T positions, R contexts, K n-grams, V ids of the vocabulary.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from pretrain.models.ngram_storage import Ints
from pretrain.models.ngram_trie import ABSENT, LEAF, UNSEEN, NGramTrie
from pretrain.models.smoothing import NODES, Floats, Smoothing

NO_TOKEN = -1  # before a row's start
AT_ONCE = 2**16  # n-grams
HASHED_BYTES = 16  # of a key in a hash table, of which half is taken


def fits(arrays: Mapping[str, Ints], memory_bytes: int) -> bool:
    """Whether tables, and hash tables of their keys, fit into so much memory."""
    hashed = sum(HASHED_BYTES * len(table) for name, table in arrays.items() if name.startswith("keys_"))
    return hashed + sum(table.nbytes for table in arrays.values()) <= memory_bytes


class NGramTables:
    """The tables of one kind of smoothing.

    Args:
        arrays: unigrams, nodes_n, keys_n, links_n and tails, see smoothing and ngram_trie.
        end: the id that parts documents.
        memory_bytes: where the tables and hash tables need more, there are no hash tables.
    """

    def __init__(
        self,
        order: int,
        vocab_size: int,
        smoothing: Smoothing,
        arrays: Mapping[str, Ints],
        end: int,
        *,
        memory_bytes: int,
    ) -> None:
        self.order = order
        self.vocab_size = vocab_size
        self.end = end
        self.backs_off = smoothing in ("stupid_backoff", "arpa")  # to shorter contexts, only where it saw nothing
        self.alone = smoothing in ("add_k", "none")  # without shorter contexts
        self.unigrams: Floats = arrays["unigrams"]
        self.nodes = [self.unigrams, *(arrays[f"nodes_{n}"] for n in range(1, order + 1))]
        longer = range(2, order + 1)
        keys, links = [arrays[f"keys_{n}"] for n in longer], [arrays[f"links_{n}"] for n in longer]
        self.trie = NGramTrie(order, vocab_size, keys, links, arrays["tails"], hashed=fits(arrays, memory_bytes))

    def ngrams(self) -> int:
        """How many n-grams of all orders there are; those of order 1 are the V ids."""
        return self.vocab_size + self.trie.ngrams()

    def contexts(self, tokens: Ints) -> list[Ints]:
        """States (B, T) of the last n tokens up to each position, for n from 1 to the order - 1."""
        contexts = [np.where(tokens == NO_TOKEN, ABSENT, tokens)]
        for n in range(2, self.order):
            contexts.append(self._longer(n, contexts[-1], tokens, None))
        return contexts[: self.order - 1]

    def step(self, states: Ints, tokens: Ints) -> Ints:
        """States (B, order - 1) of the last 1, 2 ... tokens of rows, when `tokens` (B,) are put behind them."""
        longer = np.full_like(states, ABSENT)
        longer[:, 0] = tokens
        for n in range(2, self.order):
            shorter = states[:, n - 2]
            there = (shorter != ABSENT) & (tokens != self.end)
            np.copyto(longer[:, n - 1], self.trie.find(n, shorter, tokens), where=there)
        return longer

    def _longer(self, n: int, contexts: Ints, tokens: Ints, found: Ints | None) -> Ints:
        """The contexts of n tokens up to each position, from those of n-1 tokens; all (B, T).

        Args:
            found: (B, T-1) the n-gram of each context and the token of the next position, where it is known already.
        """
        shorter, last = contexts[:, :-1], tokens[:, 1:]
        if found is None:
            found = self.trie.find(n, shorter.ravel(), last.ravel()).reshape(last.shape)
        longer = np.full(contexts.shape, ABSENT)
        there = (shorter != ABSENT) & (last != self.end) & (last != NO_TOKEN)
        np.copyto(longer[:, 1:], found, where=there)
        return longer

    def probabilities(self, tokens: Ints, targets: Ints) -> Floats:
        """Of each target (B, T)."""
        runs_on = np.array_equal(targets[:, :-1], tokens[:, 1:])  # then a target's n-gram is the next one's context
        probs, rows = self.nodes[0].take(targets.ravel()), np.zeros((0, 3))  # (B * T,)
        for n, contexts, found in self.walk(tokens, targets, runs_on=runs_on):
            if n == 2 or not runs_on:
                context_rows = self.rows(n - 1, contexts)
            else:  # one position on, the same rows: cheaper to move than to look up
                context_rows = np.concatenate([rows[:1], rows[:-1]])
                context_rows[contexts == ABSENT] = (0.0, 0.0, 1.0)
            rows = self.rows(n, found)
            _, scale, rest = context_rows.T
            own = rows[:, 0] * scale
            if self.backs_off:
                probs = np.where(found == UNSEEN, rest * probs, own)
            else:
                probs = rest * self._shorter(contexts, probs)
                probs += own
        return probs.reshape(targets.shape)

    def walk(self, tokens: Ints, targets: Ints, *, runs_on: bool) -> Iterator[tuple[int, Ints, Ints]]:
        """For n from 2: n, and the states (B * T,) of the n-1 tokens before each target (B, T) and of them with it.

        Args:
            runs_on: whether each target is the next token; then a target's n-gram is the next one's context.
        """
        contexts = tokens
        for n in range(2, self.order + 1):
            flat = contexts.ravel()
            found = self.trie.find(n, flat, targets.ravel())
            yield n, flat, found
            if n < self.order:
                known = found.reshape(targets.shape)[:, :-1] if runs_on else None
                contexts = self._longer(n, contexts, tokens, known)

    def distributions(self, contexts: list[Ints], count: int) -> Floats:
        """(R, V) after contexts (R,) of 1, 2 ... tokens, of which there are `count`."""
        probs = np.tile(self.nodes[0], (count, 1))
        for n, states in enumerate(contexts, start=2):
            context = self.rows(n - 1, states)
            probs = context[:, 2:] * self._shorter(states[:, None], probs)
            rows, tokens, found = self.trie.children(n, states)
            own = self.rows(n, found)[:, 0] * context[:, 1].take(rows)
            if self.backs_off:
                probs[rows, tokens] = own
            else:
                probs[rows, tokens] += own
        return probs

    def rows(self, n: int, states: Ints) -> Floats:
        """The rows of nodes_n that belong to `states` (R,) of order n."""
        places = np.maximum(states, LEAF)
        places += NODES
        return self.nodes[n].take(places, axis=0, mode="clip")

    def _shorter(self, contexts: Ints, probs: Floats) -> Floats:
        """What the rest is multiplied by."""
        if self.alone:
            return np.where(contexts == ABSENT, probs, 1.0)
        return probs

    def continuations(self, n: int, states: Ints) -> tuple[Ints, Ints, Ints]:
        """All n-grams of order n that begin with one of `states` (R,) of order n - 1: see NGramTrie.children."""
        return self.trie.children(n, states)

    def probabilities_of(self, ngrams: Ints) -> Floats:
        """Of the last of n tokens (K, n) after the others, (K,)."""
        if ngrams.shape[1] == 1:
            return self.nodes[0].take(ngrams[:, 0])
        probs = np.empty(len(ngrams))
        for start in range(0, len(ngrams), AT_ONCE):
            some = ngrams[start : start + AT_ONCE]
            probs[start : start + len(some)] = self.probabilities(some[:, :-1], some[:, 1:])[:, -1]
        return probs

    def rests(self, n: int, states: Ints) -> Floats:
        """What n-grams (R,) of order n, as contexts, leave to shorter ones."""
        return self.rows(n, states)[:, 2]
