"""The n-gram model against hand counts, a slow second implementation, and KenLM's own files."""

import json
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.errors import CheckpointError, DataError, TrainingError
from pretrain.exporting.arpa import listed
from pretrain.models import ngram, ngram_runs, ngram_storage
from pretrain.models.language_model import IGNORED
from pretrain.models.ngram import NGram
from pretrain.models.ngram_arpa import arpa_tables
from pretrain.models.ngram_counts import count_ngrams, distinct

EOT = 0
SMOOTHINGS = ["kneser_ney", "absolute", "witten_bell", "add_k", "none"]
DATA = Path(__file__).parents[3] / "shared" / "data"

documents = st.lists(st.lists(st.integers(1, 4), max_size=12), min_size=1, max_size=8)
prompts = st.lists(st.sampled_from([EOT, 1, 1, 2, 2, 3, 4, 5]), min_size=1, max_size=5)


def stream_of(texts):
    return np.array([EOT, *(token for text in texts for token in [*text, EOT])])


def fitted(stream, *, order, smoothing="kneser_ney", vocab_size=6, k=0.5):
    """Fitted, also where no document is as long as the order, which fit refuses."""
    model = NGram(vocab_size, order=order, smoothing=smoothing, k=k)
    model.fit_counts(count_ngrams(stream, order, vocab_size=vocab_size, end_of_text=EOT), EOT)
    return model


def dictionary_of(texts, order):
    """How often each tuple of up to `order` tokens ends in a target, within one document and its two EOTs."""
    counts = Counter()
    for text in texts:
        padded = [EOT, *text, EOT]
        counts.update(tuple(padded[i - n : i]) for n in range(1, order + 1) for i in range(max(n, 2), len(padded) + 1))
    return counts


def context_of(prompt, order):
    """What a model sees of a prompt: at most the last `order` - 1 tokens, from the last EOT on."""
    start = max(i for i, token in enumerate(prompt) if i == 0 or token == EOT)
    return tuple(prompt[max(start, len(prompt) - order + 1) :])


def random_tokens(*shape, vocab_size=6):
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def stream():
    """A text with repeats: three tokens follow the one before them by a rule that is broken now and then."""
    generator = np.random.default_rng(0)
    texts = [np.cumsum(generator.choice([1, 1, 1, 2], size=generator.integers(1, 40))) % 4 + 1 for _ in range(60)]
    return stream_of(texts)


def test_a_maximum_likelihood_trigram_matches_a_hand_count():
    model = fitted(stream_of([[1, 2, 1, 2, 3], [1, 2, 1]]), order=3, smoothing="none")
    probs = model(torch.tensor([[EOT, 1, 2, 1]])).exp()[0]
    assert probs[0].tolist() == [0, 1, 0, 0, 0, 0]  # both documents begin with 1: a bigram, for no text comes before
    assert probs[1].tolist() == [0, 0, 1, 0, 0, 0]
    assert probs[2].tolist() == pytest.approx([0, 2 / 3, 0, 1 / 3, 0, 0])
    assert probs[3].tolist() == [0.5, 0, 0.5, 0, 0, 0]  # after 2 1 the first text goes on with 2, the second ends


def test_an_add_k_bigram_matches_a_hand_count():
    model = fitted(stream_of([[1, 2, 1, 2, 3], [1, 2, 1]]), order=2, smoothing="add_k", k=0.5)
    probs = model(torch.tensor([[1, 4]])).exp()[0]
    assert probs[0].tolist() == pytest.approx([1.5 / 7, 0.5 / 7, 3.5 / 7, 0.5 / 7, 0.5 / 7, 0.5 / 7])
    assert probs[1].tolist() == pytest.approx([1 / 6] * 6)  # 4 never occurs


def test_kneser_ney_matches_a_hand_count():
    """Too little text for discounts, so they are 0.5, 1 and 1.5; 1 and 2 and the end follow as 1 1 2 end."""
    model = fitted(np.array([EOT, 1, 1, 2, EOT]), order=2, vocab_size=3)
    unigrams = (
        np.array([0.5, 1.0, 0.5]) / 4 + (0.5 + 1.0 + 0.5) / 4 / 3
    )  # 1 comes after two tokens, the others after one
    after_1 = np.array([0, 0.5, 0.5]) / 2 + (0.5 + 0.5) / 2 * unigrams
    assert model(torch.tensor([[1]])).exp()[0, 0].tolist() == pytest.approx(after_1.tolist())


def grams_of(counts, vocab_size):
    """Every n-gram of two or more tokens in counts: how often it occurs, and how many tokens stand before it."""
    found, nodes = {}, [(token,) for token in range(vocab_size)]
    for level in counts[1:]:
        assert (np.diff(level.keys) > 0).all()
        here = {}
        for key, link in zip(level.keys.tolist(), level.links.tolist(), strict=True):
            gram = (*nodes[key // vocab_size], key % vocab_size)
            if link >= 0:
                here[link] = gram
                found[gram] = (int(level.counts[link]), int(level.preceding[link]))
                continue
            tail = [token for token in level.tails[-1 - link].tolist() if token != vocab_size]
            for longer in range(len(tail) + 1):
                found[(*gram, *tail[:longer])] = (1, 1)
        assert sorted(here) == list(range(len(level.counts)))
        nodes = [here[link] for link in sorted(here)]
    return found


@settings(deadline=None, max_examples=80)
@given(documents, st.integers(2, 9), st.sampled_from([1, 40_000]), st.sampled_from([3, 10**6]), st.booleans())
def test_counts_are_those_of_a_dictionary_in_every_order(texts, order, spread, piece, on_disk):
    """However the text is cut into runs and buckets, whether or not they lie on disk, and for small and large ids."""
    tokens, vocab_size = stream_of(texts) * spread, 4 * spread + 1
    raw = dictionary_of(texts, order)
    preceding = Counter(gram[1:] for gram in raw if len(gram) > 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngram_runs, "RUN", piece)
        patch.setattr(ngram_runs, "BUCKET", piece)
        patch.setattr(ngram_runs, "SAMPLES", 2)
        memory = 1 if on_disk else None
        counts = count_ngrams(tokens, order, vocab_size=vocab_size, end_of_text=EOT, memory_bytes=memory)
    expected = {}
    for gram, count in raw.items():
        adjusted = count if gram[0] == EOT or len(gram) == order or count == 1 else preceding[gram]
        expected[tuple(token * spread for token in gram)] = (count, adjusted)
    assert grams_of(counts, vocab_size) == {gram: pair for gram, pair in expected.items() if len(gram) > 1}
    assert {token: int(count) for token, count in enumerate(counts[0].counts) if count} == {
        gram[0]: count for gram, (count, _) in expected.items() if len(gram) == 1
    }
    assert distinct(counts, vocab_size) == [sum(len(gram) == n for gram in raw) for n in range(1, order + 1)]


def slow_kneser_ney(texts, order, vocab_size):
    """p(token, context) by dictionaries of tuples, straight from the formula."""
    raw = dictionary_of(texts, order)
    preceding = Counter(gram[1:] for gram in raw if len(gram) > 1)
    counts = {gram: raw[gram] if len(gram) == order else preceding[gram] or raw[gram] for gram in raw}

    def discounts(n):
        n1, n2, n3, n4 = (sum(len(g) == n and c == times for g, c in counts.items()) for times in (1, 2, 3, 4))
        if n1 and n2 and n3:
            y = n1 / (n1 + 2 * n2)
            found = [0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
            if all(0 < found[i] <= i for i in (1, 2, 3)):
                return found
        return [0, 0.5, 1, 1.5]

    by_order = [discounts(n) for n in range(1, order + 1)]
    seen = {gram[0] for gram in counts if len(gram) == 1}
    words = len(seen) + (len(seen) < vocab_size)

    def probability(token, context):
        if not context:
            lower = 1 / words if token in seen else 1 / words / (vocab_size - len(seen))
        else:
            lower = probability(token, context[1:])
        following = [c for gram, c in counts.items() if gram[:-1] == context]
        if not following:
            return lower
        discount = by_order[len(context)]
        own = counts.get((*context, token), 0)
        freed = sum(discount[min(c, 3)] for c in following)
        return (own - discount[min(own, 3)] + freed * lower) / sum(following)

    return probability


@settings(deadline=None, max_examples=60)
@given(documents, st.integers(1, 4), prompts)
def test_kneser_ney_is_the_formula_written_with_dictionaries(texts, order, prompt):
    probability = slow_kneser_ney(texts, order, 6)
    expected = [probability(token, context_of(prompt, order)) for token in range(6)]
    probs = fitted(stream_of(texts), order=order)(torch.tensor([prompt])).exp()[0, -1]
    assert probs.tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("smoothing", "k"), [("add_k", 0.5), ("none", 0.0)])
@settings(deadline=None, max_examples=60)
@given(texts=documents, order=st.integers(1, 5), prompt=prompts)
def test_additive_smoothing_is_the_formula_written_with_dictionaries(smoothing, k, texts, order, prompt):
    counts, context = dictionary_of(texts, order), context_of(prompt, order)
    following = [counts[(*context, token)] for token in range(6)]
    total = sum(following) + 6 * k
    expected = [(count + k) / total if total else 0.0 for count in following]
    probs = fitted(stream_of(texts), order=order, smoothing=smoothing)(torch.tensor([prompt])).exp()[0, -1]
    assert probs.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@settings(deadline=None, max_examples=25)
@given(texts=documents, rows=st.lists(st.lists(st.integers(0, 5), min_size=6, max_size=6), min_size=1, max_size=3))
def test_the_probabilities_of_every_context_sum_to_one(smoothing, order, texts, rows):
    log_probs = fitted(stream_of(texts), order=order, smoothing=smoothing)(torch.tensor(rows))
    if smoothing == "none":  # an unseen context allows nothing
        log_probs = log_probs[(log_probs > -math.inf).any(-1)]
    else:
        assert log_probs.isfinite().all()
    assert log_probs.dtype == torch.float64
    assert ((log_probs.exp().sum(-1) - 1).abs() < 1e-9).all()


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_token_losses_are_those_of_forward_whatever_the_targets(stream, smoothing, order):
    model = fitted(stream, order=order, smoothing=smoothing)
    tokens, unrelated = random_tokens(4, 30), random_tokens(4, 31)[:, 1:]
    following = tokens.roll(-1, dims=1)
    for targets in (following, unrelated, following.masked_fill(unrelated < 3, IGNORED)):
        nats, _ = model.token_losses(tokens, targets)
        expected = -model(tokens).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        assert nats.dtype == torch.float64
        assert torch.allclose(nats, expected.masked_fill(targets == IGNORED, 0.0), rtol=1e-12)


def test_maximum_likelihood_is_infinite_for_what_it_never_saw():
    model = fitted(stream_of([[1, 2, 3]]), order=3, smoothing="none")
    nats, _ = model.token_losses(torch.tensor([[EOT, 1, 3]]), torch.tensor([[1, 3, EOT]]))
    assert nats.tolist() == [[0, math.inf, math.inf]]  # an unseen trigram, then an unseen context


@settings(deadline=None, max_examples=50)
@given(documents, st.randoms(use_true_random=False))
def test_the_order_of_the_documents_does_not_matter(texts, random):
    """An n-gram that crossed from one document to the next would depend on it."""
    shuffled = random.sample(texts, len(texts))
    rows = random_tokens(3, 20)
    first, second = (fitted(stream_of(some), order=4)(rows) for some in (texts, shuffled))
    assert torch.equal(first, second)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_what_stands_before_a_document_does_not_change_its_losses(stream, smoothing):
    model = fitted(stream, order=4, smoothing=smoothing)
    alone = model(torch.tensor([[EOT, 2, 3, 1, 1]]))
    for before in ([1, 2, 3], [4, 4, EOT]):
        assert torch.equal(model(torch.tensor([[*before, EOT, 2, 3, 1, 1]]))[:, 3:], alone)


@pytest.mark.parametrize("smoothing", ["add_k", "none"])
def test_a_row_begins_with_the_estimates_of_lower_orders(stream, smoothing):
    row = torch.tensor([[2, 3, 4, 1]])
    begins = fitted(stream, order=5, smoothing=smoothing)(row)
    for position in range(3):
        lower = fitted(stream, order=position + 2, smoothing=smoothing)(row)
        assert torch.equal(begins[:, position], lower[:, position])


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_the_end_of_text_may_be_any_id(stream, smoothing):
    rows, mirrored = random_tokens(3, 20), NGram(6, order=4, smoothing=smoothing, k=0.5)
    mirrored.fit(5 - stream, 5 - EOT)
    expected = fitted(stream, order=4, smoothing=smoothing)(rows)
    assert torch.allclose(mirrored(5 - rows).flip(-1), expected, rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_next_logits_are_the_last_of_forward_also_in_pieces(stream, order):
    model = fitted(stream, order=order)
    tokens = random_tokens(3, 9)
    expected = model(tokens)[:, -1]
    whole, _ = model.next_logits(tokens, torch.full((3,), 9))
    _, state = model.next_logits(tokens[:, :5], torch.full((3,), 5))
    pieces, _ = model.next_logits(tokens[:, 5:], torch.full((3,), 4), state)
    assert torch.equal(whole, expected)
    assert torch.equal(pieces, expected)


def test_a_stream_scored_in_chunks_keeps_its_context(stream, monkeypatch):
    model = fitted(stream, order=5)
    tokens = torch.from_numpy(stream)[None]
    whole, _ = model.token_losses(tokens[:, :-1], tokens[:, 1:])
    monkeypatch.setattr(ngram, "STREAM_CHUNK", 7)
    assert np.array_equal(model.stream_losses(stream), whole[0].numpy())


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_counts_of_a_higher_order_serve_a_lower_one(stream, smoothing):
    model = NGram(6, order=2, smoothing=smoothing, k=0.5)
    model.fit_counts(count_ngrams(stream, 4, vocab_size=6, end_of_text=EOT), EOT)
    direct = fitted(stream, order=2, smoothing=smoothing).state_dict()
    assert all(torch.equal(table, direct[name]) for name, table in model.state_dict().items())


def test_a_read_only_memory_map_is_fitted_as_an_array_is(stream, tmp_path):
    stream.astype(np.uint16).tofile(tmp_path / "tokens.bin")
    mapped = np.memmap(tmp_path / "tokens.bin", dtype=np.uint16, mode="r")
    tables, others = fitted(mapped, order=3).state_dict(), fitted(stream, order=3).state_dict()
    assert all(torch.equal(tables[name], others[name]) for name in tables)


@pytest.mark.parametrize("run", [1, 2, 3, 2**20])
def test_a_document_that_the_stream_cuts_ends_there(run, monkeypatch):
    monkeypatch.setattr(ngram_runs, "RUN", run)
    cut = np.array([3, 1, 2, EOT, 1, 2, 4, 1])
    tables, ended = (fitted(tokens, order=3).state_dict() for tokens in (cut, np.append(cut, EOT)))
    assert all(torch.equal(table, ended[name]) for name, table in tables.items())


@pytest.mark.parametrize("order", [1, 3])
def test_a_saved_and_loaded_model_is_the_same(stream, order):
    model = fitted(stream, order=order)
    saved = safetensors.torch.save(model.state_dict())
    fresh = NGram(6, order=order, smoothing="kneser_ney", k=0.5)
    fresh.load_weights(safetensors.torch.load(saved))
    tokens = random_tokens(2, 20)
    assert torch.equal(fresh(tokens), model(tokens))
    assert fresh.parameter_count() == model.parameter_count()


def test_parameters_are_the_stored_ngrams():
    assert fitted(stream_of([[1, 2, 1]]), order=3).parameter_count() == 6 + 4 + 3


@pytest.mark.parametrize("piece", [1, 7, 2**18])
def test_tables_of_another_order_vocabulary_or_type_are_refused(stream, piece, monkeypatch):
    monkeypatch.setattr(ngram_storage, "PIECE", piece)
    weights = fitted(stream, order=3).state_dict()
    for order, vocab_size in ((2, 6), (4, 6), (3, 7)):
        with pytest.raises(CheckpointError, match=f"order {order}, {vocab_size} ids: .*(keys_3|keys_4|unigrams)"):
            NGram(vocab_size, order=order, smoothing="kneser_ney", k=1.0).load_weights(weights)
    for name, table in {
        "links_2": weights["links_2"][:-1],
        "nodes_3": weights["nodes_3"].float(),
        "keys_3": weights["keys_3"].flip(0),
        "tails": torch.cat([weights["tails"], weights["tails"].new_zeros(1)]),
        "links_3": weights["links_3"].flip(0),
    }.items():
        with pytest.raises(CheckpointError, match=name):
            NGram(6, order=3, smoothing="kneser_ney", k=1.0).load_weights(weights | {name: table})


def test_an_unfitted_model_says_so():
    model = NGram(6, order=2, smoothing="kneser_ney", k=1.0)
    with pytest.raises(TrainingError, match="call fit or load_weights"):
        model.token_losses(random_tokens(1, 4), random_tokens(1, 4))
    with pytest.raises(TrainingError, match="call fit or load_weights"):
        model(random_tokens(1, 4))


@pytest.mark.parametrize("stream", [[], [EOT]])
def test_a_stream_without_a_target_is_refused(stream):
    with pytest.raises(DataError, match=f"nothing to count: the stream has {len(stream)} tokens"):
        fitted(np.array(stream, dtype=np.uint16), order=2)


@pytest.mark.parametrize("bad", [6, -2])
def test_an_id_outside_the_vocabulary_is_named(stream, bad):
    with pytest.raises(DataError, match=f"token id {bad} "):
        fitted(np.append(stream, bad), order=2)
    with pytest.raises(DataError, match=f"token id {bad} "):
        fitted(stream, order=2).token_losses(torch.tensor([[1]]), torch.tensor([[bad]]))
    with pytest.raises(DataError, match=f"token id {bad} "):
        fitted(stream, order=2)(torch.tensor([[bad]]))


@pytest.mark.parametrize("smoothing", ["absolute", "witten_bell"])
@settings(deadline=None, max_examples=60)
@given(texts=documents, order=st.integers(1, 4), prompt=prompts)
def test_interpolated_smoothing_is_the_formula_written_with_dictionaries(smoothing, texts, order, prompt):
    raw = dictionary_of(texts, order)
    seen = {gram[0] for gram in raw if len(gram) == 1}
    words = len(seen) + (len(seen) < 6)

    def discount(n):
        n1, n2 = (sum(len(gram) == n and count == times for gram, count in raw.items()) for times in (1, 2))
        return n1 / (n1 + 2 * n2) if n1 and n2 else 0.5

    def probability(token, context):
        shorter = probability(token, context[1:]) if context else 1 / words / (1 if token in seen else 6 - len(seen))
        following = [count for gram, count in raw.items() if gram[:-1] == context]
        if not following:
            return shorter
        own, total, kinds = raw.get((*context, token), 0), sum(following), len(following)
        if smoothing == "witten_bell":
            return (own + kinds * shorter) / (total + kinds)
        taken = discount(len(context) + 1)
        return (max(0, own - taken) + taken * kinds * shorter) / total

    expected = [probability(token, context_of(prompt, order)) for token in range(6)]
    probs = fitted(stream_of(texts), order=order, smoothing=smoothing)(torch.tensor([prompt])).exp()[0, -1]
    assert probs.tolist() == pytest.approx(expected, rel=1e-9)


@settings(deadline=None, max_examples=60)
@given(documents, st.integers(1, 4), prompts, st.integers(0, 5))
def test_stupid_backoff_scores_are_relative_frequencies_times_powers_of_a_constant(texts, order, prompt, token):
    raw, context, weight = dictionary_of(texts, order), context_of(prompt, order), 1.0
    while context and not raw[(*context, token)]:
        context, weight = context[1:], 0.4 * weight
    following = sum(count for gram, count in raw.items() if gram[:-1] == context)
    expected = weight * raw[(*context, token)] / following
    model = fitted(stream_of(texts), order=order, smoothing="stupid_backoff")
    rows, targets = torch.tensor([prompt]), torch.tensor([[*prompt[1:], token]])
    assert model.log_scores(rows, targets).exp()[0, -1].item() == pytest.approx(expected)
    assert model(rows).exp()[0, -1, token].item() == pytest.approx(expected)
    assert model.token_losses(rows, targets)[0].isnan().all()


def test_probabilities_sum_to_one_within_a_billionth_after_ten_thousand_contexts():
    generator = np.random.default_rng(0)
    text = generator.zipf(1.3, 40_000) % 200
    for smoothing in ("kneser_ney", "absolute", "witten_bell", "add_k"):
        model = fitted(text, order=5, smoothing=smoothing, vocab_size=200)
        starts = generator.integers(0, len(text) - 4, 9_000)
        rows = np.concatenate([text[starts[:, None] + np.arange(4)], generator.integers(0, 200, (1_000, 4))])
        logits, _ = model.next_logits(torch.from_numpy(rows), torch.full((10_000,), 4))
        assert (logits.exp().sum(1) - 1).abs().max() < 1e-9


@pytest.mark.parametrize("order", [2, 5])
def test_a_hash_table_and_a_search_find_the_same(stream, order, monkeypatch):
    model, rows = fitted(stream, order=order), random_tokens(4, 50)
    hashed = model(rows), model.token_losses(rows[:, :-1], rows[:, 1:])[0]
    model.tables.trie.slots = {}
    assert torch.equal(model(rows), hashed[0])
    assert torch.equal(model.token_losses(rows[:, :-1], rows[:, 1:])[0], hashed[1])


def test_threads_do_not_change_the_losses(stream, monkeypatch):
    model, rows = fitted(stream, order=4), random_tokens(7, 300)
    whole, _ = model.token_losses(rows[:, :-1], rows[:, 1:])
    monkeypatch.setattr(ngram, "TARGETS_AT_ONCE", 64)
    pieces, _ = model.token_losses(rows[:, :-1], rows[:, 1:])
    assert torch.equal(pieces, whole)


def test_an_order_beyond_the_text_is_refused_with_the_longest_that_fits():
    model = NGram(6, order=9, smoothing="kneser_ney", k=1.0)
    with pytest.raises(DataError, match=r"model\.order=9 is beyond .* more than 4 tokens; try model\.order=4"):
        model.fit(stream_of([[1, 2], [3]]), EOT)


def test_counts_that_overflow_and_empty_vocabularies_are_refused(monkeypatch):
    with pytest.raises(DataError, match="the vocabulary is empty"):
        count_ngrams(np.array([0, 0]), 2, vocab_size=0, end_of_text=0)
    with pytest.raises(DataError, match="overflow 64-bit keys"):
        count_ngrams(np.array([0, 1, 0]), 2, vocab_size=2**32, end_of_text=0)


# What KenLM's lmplz estimates from the same text. Its vocabulary is that of the text, </s> and <unk>; so is ours here.

needs_kenlm_files = pytest.mark.skipif(not (DATA / "ngram").is_dir(), reason=f"{DATA / 'ngram'} is not there")


def texts_for_kenlm(name):
    """The training and validation documents that SOURCES.md describes."""
    if name == "tinyshakespeare":
        text = (DATA / "en" / "tinyshakespeare.txt").read_text(encoding="utf-8")
        return [text[:1_003_854]], [text[1_003_854:]]
    with (DATA / "ja" / "jawiki_lecture_like.jsonl").open(encoding="utf-8") as lines:
        pages = [json.loads(line)["text"] for line in lines]
    return pages[:853], pages[853:]


@pytest.fixture(scope="module", params=["tinyshakespeare", "jawiki"])
def kenlm_text(request):
    """Name, training and validation streams of characters, and the id of each character; the last id is <unk>."""
    training, validation = texts_for_kenlm(request.param)
    ids = {character: i for i, character in enumerate(sorted(set("".join(training))), start=1)}
    streams = (
        stream_of([[ids.get(c, len(ids) + 1) for c in text] for text in some]) for some in (training, validation)
    )
    return request.param, *streams, ids


@needs_kenlm_files
def test_every_probability_and_backoff_is_kenlms(kenlm_text):
    name, training, validation, ids = kenlm_text
    words = {f"{ord(character):04x}": i for character, i in ids.items()}
    for path in sorted((DATA / "ngram").glob(f"{name}_order*.arpa.gz")):
        order = int(path.name.partition("_order")[2][0])
        ours = fitted(training, order=order, vocab_size=len(ids) + 2)
        theirs = NGram(len(ids) + 2, order=order, smoothing="arpa", k=1.0, path=str(path))
        theirs._take(arpa_tables(path, words, order, len(ids) + 2, EOT), EOT)
        for mine, read in zip(listed(ours), listed(theirs), strict=True):
            assert np.array_equal(mine.tokens, read.tokens)
            assert np.abs(mine.log_probs - read.log_probs).max() < 1e-6
            assert np.abs(mine.log_weights - read.log_weights).max() < 1e-6
        assert ours.stream_losses(validation).mean() == pytest.approx(theirs.stream_losses(validation).mean(), abs=1e-7)


@needs_kenlm_files
def test_the_validation_losses_are_kenlms(kenlm_text):
    name, training, validation, ids = kenlm_text
    scores = json.loads((DATA / "ngram" / "kenlm_scores.json").read_text(encoding="utf-8"))
    scores = {int(key[-1]): score for key, score in scores.items() if key.startswith(name)}
    counts = count_ngrams(training, max(scores), vocab_size=len(ids) + 2, end_of_text=EOT)
    for order, score in scores.items():
        model = NGram(len(ids) + 2, order=order, smoothing="kneser_ney", k=1.0)
        model.fit_counts(counts, EOT)
        losses = model.stream_losses(validation)
        assert len(losses) == score["tokens"]
        assert losses.mean() == pytest.approx(score["nats_per_token"], abs=1e-5)
    assert all(scores[a]["nats_per_token"] > scores[b]["nats_per_token"] for a, b in pairwise(sorted(scores)))
