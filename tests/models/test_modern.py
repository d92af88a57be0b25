"""Each switch of `modern` does what it says. What holds for all models is tested in test_all_models.py."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain import cli, config
from pretrain.errors import ConfigError
from pretrain.models.attending import Attend
from pretrain.models.language_model import IGNORED, LanguageModel
from pretrain.models.modern import Modern
from pretrain.models.relu_squared import relu_squared
from pretrain.models.rms_norm import EPS, RMSNorm

V, B, T = 23, 3, 12


def modern(*, noise: float = 0.0, **settings: Any) -> Modern:
    torch.manual_seed(0)
    model = Modern(
        V,
        **{
            "context_length": 16,
            "n_layer": 3,
            "n_head": 2,
            "n_embd": 16,
            "dropout": 0.0,
            "tied": True,
            "qk_norm": True,
            "activation": "relu_squared",
            "zero_init": True,
            "lookback": 1,
            "lookback_by": "table",
            "value_embeddings": 0,
            "embedding_mix": False,
            "soft_cap": None,
            "window": None,
            "window_pattern": "LLLG",
        }
        | settings,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=noise)
    return model.eval()


def tokens(seed: int = 1) -> Tensor:
    return torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(seed))


def weights_of(model: Modern, rows: Tensor) -> list[Tensor]:
    """(B, H, T, T) of each layer."""
    found: list[Tensor] = []

    def note(attend: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor | None]) -> None:
        query, key, _, mask = inputs
        found.append(attend.weights(query, key, mask))

    for module in model.modules():
        if isinstance(module, Attend):
            module.register_forward_pre_hook(note)
    model(rows)
    return found


def test_an_untrained_model_with_a_head_of_its_own_is_exactly_uniform() -> None:
    nats, _ = modern(tied=False).token_losses(tokens(), tokens(2))
    assert torch.allclose(nats, torch.full((B, T), math.log(V)), atol=1e-6)


def test_blocks_that_start_at_zero_add_nothing_and_others_do() -> None:
    rows = tokens()
    hidden = F.embedding(rows, modern(lookback=0).token_embedding.weight)
    hidden = hidden / hidden.square().mean(2, keepdim=True).sqrt()
    assert torch.allclose(modern(lookback=0)._hidden(rows), hidden, atol=0.01)
    assert not torch.allclose(modern(lookback=0, zero_init=False)._hidden(rows), hidden, atol=0.5)


def test_the_squared_relu_has_the_values_and_gradients_of_its_definition() -> None:
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 3.0], requires_grad=True)
    squared = relu_squared(x)
    assert squared.tolist() == [0.0, 0.0, 0.0, 0.25, 9.0]
    assert torch.autograd.grad(squared, x, torch.arange(1.0, 6.0))[0].tolist() == [0.0, 0.0, 0.0, 4.0, 30.0]


@pytest.mark.parametrize("shape", [(4, 7), (2, 3, 5, 6)])
def test_the_norm_has_the_values_and_gradients_of_torchs_own(shape: tuple[int, ...]) -> None:
    x = (3 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    ours, theirs = RMSNorm()(x), F.rms_norm(x, shape[-1:], eps=EPS)
    assert torch.allclose(ours, theirs, atol=1e-12)
    weight = torch.randn(shape, dtype=torch.float64)
    for found, wanted in zip(
        torch.autograd.grad((ours * weight).sum(), x), torch.autograd.grad((theirs * weight).sum(), x), strict=True
    ):
        assert torch.allclose(found, wanted, atol=1e-12)


def test_the_norm_leaves_zeros_alone() -> None:
    x = torch.zeros(2, 4, requires_grad=True)
    normed = RMSNorm()(x)
    assert (normed == 0).all()
    assert torch.autograd.grad(normed.sum(), x)[0].isfinite().all()


def test_normed_queries_and_keys_bound_the_scores() -> None:
    """By the root of the width of a head, 8, so that no weight exceeds another e^(2 sqrt 8) times."""
    for layer in weights_of(modern(noise=3.0), tokens()):
        seen = layer[layer > 0]
        assert float((seen.max() / seen.min()).detach()) < math.exp(2 * 8**0.5)
    free = torch.cat([layer.flatten() for layer in weights_of(modern(noise=3.0, qk_norm=False), tokens())])
    assert float((free.max() / free[free > 0].min()).detach()) > math.exp(2 * 8**0.5)


@pytest.mark.parametrize("lookback_by", ["table", "channel"])
@pytest.mark.parametrize("lookback", [0, 1, 3])
def test_a_token_is_embedded_with_as_many_before_it_as_lookback_says(lookback: int, lookback_by: str) -> None:
    model = modern(lookback=lookback, lookback_by=lookback_by)  # whose blocks add nothing yet
    if model.past_embedding_scales is not None:
        nn.init.ones_(model.past_embedding_scales)
    before, other = tokens(), tokens()
    other[:, 4] = (other[:, 4] + 1) % V
    changed = (model(before) - model(other)).abs().amax(dim=(0, 2)) > 0
    assert changed.tolist() == [4 <= place <= 4 + lookback for place in range(T)]


def test_value_embeddings_serve_the_first_and_the_last_layers_alike() -> None:
    model = modern(n_layer=5, value_embeddings=2, noise=0.1)
    given: list[Tensor | None] = []
    for block in model.blocks:
        block.get_submodule("attention").register_forward_pre_hook(lambda _, inputs: given.append(inputs[1]))
    model(tokens())
    first, second, middle, fourth, last = given
    assert middle is None
    for found, table in [(first, 0), (second, 1), (fourth, 0), (last, 1)]:
        assert found is not None
        assert torch.equal(found, model.value_embeddings[table](tokens()))


def test_the_mix_with_the_first_embedding_starts_as_the_plain_residual_and_learns() -> None:
    mixed = modern(embedding_mix=True, zero_init=False)
    plain = modern(zero_init=False)
    plain.load_weights({name: tensor for name, tensor in mixed.state_dict().items() if not name.endswith("mix")})
    assert torch.equal(mixed(tokens()), plain(tokens()))
    mixed.token_losses(tokens(), tokens(2))[0].sum().backward()  # type: ignore[no-untyped-call]
    gradient = mixed.blocks[1].get_parameter("mix").grad
    assert gradient is not None
    assert (gradient != 0).all()


def test_a_block_that_takes_the_first_embedding_alone_sees_nothing_of_the_blocks_before() -> None:
    model = modern(n_layer=2, embedding_mix=True, noise=0.1)
    with torch.no_grad():
        model.blocks[1].get_parameter("mix").copy_(torch.tensor([0.0, 1.0]))
    before = model(tokens())
    nn.init.normal_(model.blocks[0].get_parameter("feed_forward.output.weight"))
    assert torch.equal(model(tokens()), before)
    nn.init.normal_(model.blocks[1].get_parameter("feed_forward.output.weight"))
    assert not torch.equal(model(tokens()), before)


def test_a_soft_cap_bounds_the_logits_and_keeps_their_order() -> None:
    free, capped = modern(noise=1.0)(tokens()), modern(noise=1.0, soft_cap=2.0)(tokens())
    assert float(free.abs().max().detach()) > 2 >= float(capped.abs().max().detach())
    assert torch.allclose(capped, 2 * torch.tanh(free / 2))


def test_local_layers_see_a_window_and_the_last_layer_everything() -> None:
    layers = weights_of(modern(window=4, window_pattern="LGL", noise=0.1), tokens())
    distance = torch.arange(T)[:, None] - torch.arange(T)
    everything = distance >= 0
    for layer, seen in zip(layers, [everything & (distance < 4), everything, everything], strict=True):
        assert torch.equal(layer > 0, seen.expand_as(layer))


def test_a_window_as_wide_as_the_context_changes_nothing() -> None:
    wide, none = modern(window=16, noise=0.1), modern(noise=0.1)
    assert torch.allclose(wide(tokens()), none(tokens()), atol=1e-6)


@pytest.mark.parametrize("lookback_by", ["table", "channel"])
@pytest.mark.parametrize("window", [None, 3])
def test_documents_of_a_row_do_not_see_each_other(window: int | None, lookback_by: str) -> None:
    model = modern(lookback=2, lookback_by=lookback_by, value_embeddings=1, window=window, noise=0.1)
    rows, targets = tokens(), tokens(2)
    targets[0, 3] = IGNORED
    documents = torch.tensor([[0] * T, [0] * 5 + [1] * 7, [0] + [1] * 3 + [2] * 8])
    apart = LanguageModel.document_losses(model, rows, targets, documents)  # each in a row of its own
    assert torch.allclose(model.document_losses(rows, targets, documents), apart, atol=1e-5)
    assert not torch.allclose(model.token_losses(rows, targets)[0], apart, atol=1e-3)


def test_a_bf16_copy_agrees_within_its_rounding() -> None:
    model = modern(noise=0.1, value_embeddings=1, soft_cap=15.0)
    exact = model.token_losses(tokens(), tokens(2))[0]
    rounded = model.to(torch.bfloat16).token_losses(tokens(), tokens(2))[0]
    assert rounded.dtype == torch.float32
    assert torch.allclose(exact, rounded, atol=0.1)


@pytest.mark.parametrize(
    "settings",
    [
        {"lookback": 0},
        {"lookback": 2, "lookback_by": "channel"},
        {"lookback": 2, "value_embeddings": 3, "embedding_mix": True, "tied": False},
        {"qk_norm": False, "activation": "gelu", "window": 2, "soft_cap": 5.0},
    ],
)
def test_every_parameter_learns(settings: dict[str, Any]) -> None:
    model = modern(noise=0.1, **settings)
    nats, _ = model.token_losses(tokens(), tokens(2))
    for gradient in torch.autograd.grad(nats.sum(), list(model.parameters())):
        assert gradient.abs().sum() > 0


def test_dropout_drops_in_training_only() -> None:
    model = modern(dropout=0.5, noise=0.1)
    assert torch.equal(model(tokens()), model(tokens()))
    model.train()
    assert not torch.equal(model(tokens()), model(tokens()))


def test_rows_of_no_and_of_one_token_are_rows() -> None:
    model = modern(noise=0.1, lookback=2, window=3, value_embeddings=1)
    assert model(tokens()[:, :0]).shape == (B, 0, V)
    assert torch.allclose(model(tokens()[:, :1])[:, 0], model(tokens())[:, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_embd": 10}, "odd width"),
        ({"value_embeddings": 4}, "try 3"),
        ({"window": 4, "window_pattern": "SSL"}, r"window_pattern=SSL is not made of L and G; try LLLG"),
        ({"window": 4, "window_pattern": ""}, "try LLLG"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        modern(**settings)


def test_a_row_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"try trainer\.sequence_length=4"):
        modern(context_length=4)(tokens())


@pytest.mark.parametrize(
    ("preset", "vocabulary", "count"), [("modern", 322, 769_280), ("modern_small", 50_257, 123_532_800)]
)
def test_presets_have_as_many_parameters_as_their_classes(preset: str, vocabulary: int, count: int) -> None:
    settings = cli._composed("train", [f"model={preset}"])["model"]
    with torch.device("meta"):
        assert config.build(config.Part(settings), vocab_size=vocabulary).parameter_count() == count
