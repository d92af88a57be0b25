"""What rows are made into: sources and targets from which the text can be put together again."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.data.batches import Batches
from pretrain.data.objectives import Keys, NextToken, Objective, Reversal, Rows, SpanCorruption, _parted
from pretrain.data.permutation import mixed
from pretrain.data.shards import TokenStream
from pretrain.errors import ConfigError, UsageError
from pretrain.evaluation.loss import Validation, objective_loss
from pretrain.models.encoder_decoder import EncoderDecoder
from pretrain.models.language_model import IGNORED
from pretrain.stopping import Stop
from pretrain.training.optimizers import AdamW
from pretrain.training.schedules import Constant
from pretrain.training.updates import GradientUpdate

EOT, V = 0, 50
SEP = V


def gaps(length: int = 20, density: float = 0.3, mean_span: float = 2.0) -> SpanCorruption:
    return SpanCorruption(EOT, SEP, length, noise_density=density, mean_span=mean_span)


ALL: dict[str, Callable[[], Objective]] = {
    "next token": lambda: NextToken(EOT),
    "span corruption": gaps,
    "reversal": lambda: Reversal(EOT, SEP, 20),
}


@pytest.fixture(params=ALL)
def objective(request: pytest.FixtureRequest) -> Objective:
    return ALL[request.param]()


def text(count: int, length: int = 20) -> tuple[Rows, Keys]:
    rows = np.random.default_rng(0).integers(1, V, (count, length + 1))
    return rows, mixed(7, np.arange(count))


def test_targets_are_of_the_vocabulary_and_as_many_as_told(objective: Objective) -> None:
    rows, keys = text(40)
    tokens, targets = objective(rows, keys)
    assert tokens.shape == targets.shape
    assert tokens.dtype == targets.dtype == np.int64
    assert (targets != IGNORED).sum() == objective.targets(keys, 20)
    assert targets.max() < V
    assert 0 <= tokens.min() <= tokens.max() < V + objective.special_ids


def test_a_row_is_made_the_same_whatever_is_beside_it(objective: Objective) -> None:
    rows, keys = text(12)
    tokens, targets = objective(rows, keys)
    for place in (0, 5, 11):
        alone, its_targets = objective(rows[place : place + 1], keys[place : place + 1])
        assert np.array_equal(alone[0], tokens[place, : alone.shape[1]])
        assert np.array_equal(its_targets[0], targets[place, : alone.shape[1]])
        assert (targets[place, alone.shape[1] :] == IGNORED).all()


def test_every_target_is_read_before_the_next_one(objective: Objective) -> None:
    """Behind a target the same token is read, or a sentinel where it was EOT: teacher forcing."""
    tokens, targets = objective(*text(12))
    for read, wanted in zip(tokens[:, 1:], targets[:, :-1], strict=True):
        told = (wanted != IGNORED) & (wanted != EOT)
        assert np.array_equal(read[told], wanted[told])


@pytest.mark.parametrize(("density", "mean_span"), [(0.3, 2.0), (0.15, 3.0), (0.5, 1.0), (0.9, 1.0), (0.01, 3.0)])
def test_gaps_and_what_fills_them_make_up_the_text(density: float, mean_span: float) -> None:
    rows, keys = text(50)
    objective = gaps(20, density, mean_span)
    tokens, targets = objective(rows, keys)
    for row, read, wanted in zip(rows.tolist(), tokens.tolist(), targets.tolist(), strict=True):
        source = read[: read.index(SEP)]
        assert max(len(source), len(read) - len(source)) <= 20
        assert wanted[: len(source)] == [IGNORED] * len(source)
        fillings: list[list[int]] = [[]]
        for token in wanted[len(source) :]:
            fillings[-1].append(token)
            if token == EOT:
                fillings.append([])
        assert fillings.pop() == []
        numbers = [token - SEP - 1 for token in source if token > SEP]
        assert numbers == list(range(objective.special_ids - 1)) == list(range(len(fillings)))
        filled = [part for token in source for part in (fillings[token - SEP - 1][:-1] if token > SEP else [token])]
        assert filled == row[:20]
        before = [SEP, *(SEP + 1 + number for number in numbers[1:])]
        expected = [part for mark, filling in zip(before, fillings, strict=True) for part in (mark, *filling[:-1])]
        assert read[len(source) :] == expected


def test_lengths_of_gaps_tell_nothing_of_the_text_between_them() -> None:
    tokens, _ = gaps(20, 0.5, 2.0)(*text(100))
    alike = 0
    for read in tokens.tolist():
        halves = read[: read.index(SEP)], read[read.index(SEP) :]
        between, within = ([place for place, token in enumerate(half) if token >= SEP] for half in halves)
        alike += np.diff([-1, *between])[:-1].tolist() == np.diff(within).tolist()  # text before each gap, and the gap
    assert alike < 20


def test_numbers_of_gaps_are_t5s() -> None:
    """Raffel et al. 2020: of 512 tokens 77 in 26 gaps, at 15 % and 3 tokens a gap."""
    assert gaps(512, 0.15, 3.0).targets(mixed(1, np.arange(1)), 512) == 77 + 26
    assert gaps(512, 0.15, 3.0).special_ids == 1 + 26


def test_all_ways_to_cut_are_equally_likely() -> None:
    pieces = Counter(map(tuple, _parted(5, 3, mixed(1, np.arange(6000))).tolist()))
    assert set(pieces) == {(1, 1, 3), (1, 3, 1), (3, 1, 1), (1, 2, 2), (2, 1, 2), (2, 2, 1)}
    assert all(880 < count < 1120 for count in pieces.values())


def test_a_reversal_is_one_and_its_sources_have_every_length() -> None:
    rows, keys = text(400)
    lengths = Counter()
    for row, read, wanted in zip(
        rows.tolist(), *(part.tolist() for part in Reversal(EOT, SEP, 20)(rows, keys)), strict=True
    ):
        length = read.index(SEP)
        lengths[length] += 1
        turned = row[:length][::-1]
        assert read[: 2 * length + 1] == [*row[:length], SEP, *turned]
        assert wanted[length : 2 * length + 1] == [*turned, EOT]
        assert set(wanted[:length] + wanted[2 * length + 1 :]) <= {IGNORED}
    assert sorted(lengths) == list(range(1, 20))


@pytest.mark.parametrize("make", [gaps, lambda length: Reversal(EOT, SEP, length)])
def test_a_row_without_room_is_refused(make: Callable[[int], Objective]) -> None:
    with pytest.raises(ConfigError, match="sequence_length=1 is too short"):
        make(1)
    tokens, targets = make(2)(*text(3, 2))
    assert (tokens == SEP).sum() == 3
    assert (targets != IGNORED).any()


def test_a_prompt_is_a_source() -> None:
    encode = lambda words: [int(word) for word in words.split()]  # noqa: E731
    objective = gaps(20, 0.3, 2.0)
    assert objective.prompt("1 2 ___ 3 ___ 4", encode) == [1, 2, SEP + 1, 3, SEP + 2, 4, SEP]
    assert objective.prompt("1 2", encode) == [1, 2, SEP + 1, SEP]
    assert objective.whole("1 2 ___ 3", "9") == "1 2 9 3"
    assert objective.whole("1 2 ", "9") == "1 2 9"
    with pytest.raises(UsageError, match=r"5 gaps \(___\), but the run has learned 3"):
        objective.prompt("___" * 5, encode)
    assert Reversal(EOT, SEP, 20).prompt("1 2", encode) == [1, 2, SEP]
    assert NextToken(EOT).prompt("1 2", encode) == [EOT, 1, 2]


@pytest.fixture
def stream(tmp_path: Path) -> TokenStream:
    tokens = np.random.default_rng(0).integers(1, V, 400).astype("<u2")
    tokens.tofile(tmp_path / "train-00000.bin")
    shard = {"file": "train-00000.bin", "checksum": "", "tokens": 400, "documents": 1, "source": "test"}
    manifest = {"dtype": "uint16", "splits": {"train": [shard | {"bytes": 1, "characters": 1, "words": 1}]}}
    return TokenStream(tmp_path, "train", manifest)


@pytest.mark.parametrize("make", [lambda: gaps(8, 0.5), lambda: Reversal(EOT, SEP, 8)])
def test_batches_are_the_same_on_any_number_of_ranks(stream: TokenStream, make: Callable[[], Objective]) -> None:
    whole = Batches(stream, 8, 4, seed=1, objective=make())
    parts = [Batches(stream, 8, 4, seed=1, objective=make(), rank=rank, ranks=2) for rank in range(2)]
    for number in (0, 3):
        targets = whole.pairs(number)[1]
        assert whole.targets(number) == (targets != IGNORED).sum()
        rows = [row for part in parts for row in part.pairs(number)[1].tolist()]
        for row, expected in zip(rows, targets.tolist(), strict=True):
            assert row == expected[: len(row)]
        assert [part.targets(number) for part in parts] == [whole.targets(number)] * 2
    again = Batches(stream, 8, 4, seed=1, objective=make())
    assert np.array_equal(again.pairs(3)[0], whole.pairs(3)[0])


@pytest.mark.parametrize("make", [lambda: gaps(8, 0.5), lambda: Reversal(EOT, SEP, 8)])
def test_the_same_row_is_made_into_something_else_in_the_next_epoch(
    stream: TokenStream, make: Callable[[], Objective]
) -> None:
    batches = Batches(stream, 8, 49, seed=1, objective=make())  # an epoch each
    first, second = (batches.pairs(epoch)[0] for epoch in range(2))
    assert (first >= SEP).tolist() != (second >= SEP).tolist()  # wherever a row stands
    assert len({tuple(row[row < SEP]) for row in first} & {tuple(row[row < SEP]) for row in second}) < 25


def model() -> EncoderDecoder:
    torch.manual_seed(0)
    return EncoderDecoder(V, 4, context_length=8, n_layer=1, n_head=2, n_embd=8, dropout=0.0, norm="post")


def test_a_batch_in_parts_has_the_gradient_of_the_whole(stream: TokenStream) -> None:
    """Sources and targets have other lengths in every row, so that a mean over parts would be wrong."""
    results = []
    for micro_batch in (4, 1):
        learner = model()
        parameters = {name: parameter.detach() for name, parameter in learner.named_parameters()}
        optimizer = AdamW(parameters, lr=1e-2, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
        batches = Batches(stream, 8, 4, seed=1, objective=Reversal(EOT, SEP, 8))
        schedule = Constant(warmup_steps=0)
        update = GradientUpdate(
            learner, batches, optimizer, schedule, torch.float32, micro_batch, 0, Stop(), max_grad_norm=1.0
        )
        steps = [update.step(number, number, 0.0) for number in range(3)]
        results.append([figure for step in steps for figure in (step.loss, step.grad_norm)])
    assert results[0] == pytest.approx(results[1], rel=1e-4)
    assert results[0][0] == pytest.approx(np.log(V), rel=0.1)  # one mean over all targets


@pytest.mark.parametrize("make", [lambda: gaps(8, 0.5), lambda: Reversal(EOT, SEP, 8)])
def test_an_evaluation_is_over_all_targets_whatever_is_read_at_once(
    stream: TokenStream, make: Callable[[], Objective], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = model()
    whole = objective_loss(reader, stream, make(), row=8, stop=Stop())
    keys = mixed(0, np.arange(0, 392, 8))
    assert whole.tokens == make().targets(keys, 8)
    monkeypatch.setattr("pretrain.evaluation.loss.TOKENS_AT_ONCE", 24)
    again = objective_loss(reader, stream, make(), row=8, stop=Stop())
    assert (again.tokens, again.nats) == (whole.tokens, pytest.approx(whole.nats, rel=1e-6))
    some = Validation(stream, 8, 4, 100, Stop(), objective=make())
    assert whole.tokens / 5 < some.loss(reader, whole=False).tokens < whole.tokens / 2
    assert some.loss(reader, whole=True).nats == pytest.approx(whole.nats, rel=1e-6)
    assert some.bits_per_byte(whole) is None
