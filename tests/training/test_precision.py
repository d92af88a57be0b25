"""Products in fp16 and fp8: what is scaled, what is skipped, and what a resumed run knows of it."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pretrain.data.batches import Batches
from pretrain.data.shards import TokenStream
from pretrain.errors import ConfigError, TrainingError, UsageError
from pretrain.evaluation.loss import Validation
from pretrain.models.gpt import GPT
from pretrain.stopping import Stop
from pretrain.training import loss_scale
from pretrain.training.checkpoints import TrainingState
from pretrain.training.fp8 import learn_in_fp8
from pretrain.training.loop import Limits, Rhythm, train
from pretrain.training.loss_scale import FLOOR, INITIAL, LossScale
from pretrain.training.optimizers import AdamW
from pretrain.training.precision import refuse_precision
from pretrain.training.schedules import Constant
from pretrain.training.updates import GradientUpdate

V, T = 17, 8


@pytest.fixture(scope="module")
def stream(make_stream: Callable[..., TokenStream]) -> TokenStream:
    return make_stream([place % 5 for place in range(600)])


def update_of(stream: TokenStream, dtype: torch.dtype = torch.float16, **more: Any) -> GradientUpdate:
    torch.manual_seed(0)
    model = GPT(V, context_length=T, n_layer=1, n_head=2, n_embd=16, dropout=0.0)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    optimizer = AdamW(parameters, lr=1e-2, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
    parts = (model, Batches(stream, T, 4, seed=0), optimizer, Constant(warmup_steps=0), dtype, 2, 0, Stop())
    return GradientUpdate(*parts, max_grad_norm=1.0, **more)


def run(update: GradientUpdate, stream: TokenStream, steps: int) -> tuple[TrainingState, list[dict[str, Any]]]:
    """The state after so many steps of the loop, and the rows that it logged."""
    state, rows = TrainingState("fp16", 2, 1), list[dict[str, Any]]()
    train(
        update,
        state,
        Limits(steps, None, None),
        Rhythm(1000, 1000),
        validation=Validation(stream, T, T, 64, Stop()),
        save=lambda last: None,
        restore=lambda: None,
        trackers=[],
        show=lambda done, row: rows.append(row),
        look=lambda: None,
        stop=Stop(),
    )
    return state, [row for row in rows if "train/loss" in row]


def test_scaling_keeps_gradients_that_fp16_loses(stream: TokenStream) -> None:
    def norm_of(dtype: torch.dtype, scale: float | None) -> float:
        update = update_of(stream, dtype)
        update.loss_scale.scale = scale or update.loss_scale.scale
        update.batches.targets = lambda number: 10**8  # type: ignore[method-assign]  # of a very large batch
        return update.step(0, 0, 0.0).grad_norm or 0.0

    exact = norm_of(torch.float32, None)
    assert norm_of(torch.float16, None) == pytest.approx(exact, rel=0.01)
    assert norm_of(torch.float16, 1.0) < 0.5 * exact


def test_a_gradient_that_overflows_skips_the_step_and_halves_the_scale(stream: TokenStream) -> None:
    update = update_of(stream)
    update.step(0, 0, 0.0)
    before = {name: tensor.clone() for name, tensor in (update.state() | update.model.state_dict()).items()}
    update.loss_scale.scale = 2.0**40
    result = update.step(1, 1, 0.0)
    assert (result.skipped, result.rescaled, result.loss_scale) == (True, True, 2.0**40)
    assert math.isfinite(result.loss)
    assert update.loss_scale.scale == 2.0**39
    update.loss_scale.scale, update.loss_scale.steps = INITIAL, 1  # as they were
    for name, tensor in (update.state() | update.model.state_dict()).items():
        assert torch.equal(tensor, before[name]), name


def test_a_scale_that_has_held_for_long_doubles(stream: TokenStream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "GROWTH_INTERVAL", 3)
    update = update_of(stream)
    scales = [update.step(number, number, 0.0).loss_scale for number in range(7)]
    assert scales == [INITIAL] * 3 + [2 * INITIAL] * 3 + [4 * INITIAL]
    other = LossScale(torch.bfloat16)
    for _ in range(10):
        other.held()
    assert (other.scale, other.overflowed(), other.state()) == (1.0, False, {})


def test_overflows_in_a_row_end_no_run_until_the_scale_is_at_its_floor(stream: TokenStream) -> None:
    update = update_of(stream)
    update.loss_scale.scale = 2.0**45
    state, rows = run(update, stream, 60)
    assert state.skipped_steps > 10
    assert state.skipped_in_a_row == 0
    assert [row["loss_scale"] for row in rows[:3]] == [2.0**45, 2.0**44, 2.0**43]
    assert rows[-1]["train/loss"] < rows[0]["train/loss"] - 0.5
    broken = update_of(stream)
    broken.learning.norm.bias.register_hook(lambda gradient: gradient * math.nan)  # type: ignore[union-attr, operator]
    broken.loss_scale.scale = 8 * FLOOR
    with pytest.raises(TrainingError, match="10 steps in a row up to step 13 were skipped"):
        run(broken, stream, 60)


def test_a_resumed_run_has_the_scale_and_the_bits_of_an_undisturbed_one(
    stream: TokenStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_scale, "GROWTH_INTERVAL", 4)
    whole, first, second = (update_of(stream) for _ in range(3))
    for update in (whole, first):
        update.loss_scale.scale = 2.0**30
    scales = [whole.step(number, number, 0.0).loss_scale for number in range(30)]
    assert len(set(scales[15:])) > 1  # it changes behind the resume
    for number in range(15):
        first.step(number, number, 0.0)
    second.model.load_weights(first.model.state_dict())
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    assert [second.step(number, number, 0.0).loss_scale for number in range(15, 30)] == scales[15:]
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name])


def rounded(tensor: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """What the scaled fp8 numbers nearest to `tensor` stand for."""
    scale = tensor.abs().max() / torch.finfo(kind).max
    return (tensor / scale).to(kind).float() * scale


@pytest.mark.parametrize("tokens", [32, 7])  # the latter is no multiple of what the kernels take
def test_products_in_fp8_are_those_of_rounded_numbers(tokens: int) -> None:
    torch.manual_seed(0)
    model = GPT(V, context_length=T, n_layer=1, n_head=2, n_embd=32, dropout=0.0)
    names = list(model.state_dict())
    learn_in_fp8(model)
    layer: Any = model.blocks[0].feed_forward.input
    x, of_product = torch.randn(1, tokens, 32, requires_grad=True), torch.randn(1, tokens, 128) / 1e4
    product = layer(x)
    product.backward(of_product)
    weight, e4m3, e5m2 = layer.weight.detach(), torch.float8_e4m3fn, torch.float8_e5m2
    near: Any = {"rtol": 1e-4, "atol": 1e-4}
    precise, wide = rounded(x.detach()[0], e4m3), rounded(of_product[0], e5m2)
    expected = precise @ rounded(weight, e4m3).T
    assert torch.allclose(product.detach()[0], expected, **near)
    assert 1e-3 < float((expected - x.detach()[0] @ weight.T).norm() / expected.norm()) < 0.1
    assert x.grad is not None
    assert torch.allclose(x.grad[0] * 1e4, wide @ rounded(weight, e4m3) * 1e4, **near)
    assert torch.allclose(layer.weight.grad * 1e4, wide.T @ precise * 1e4, **near)
    assert torch.allclose(layer.bias.grad, of_product.sum((0, 1)))
    layer.eval()
    assert torch.equal(layer(x), torch.nn.functional.linear(x, weight, layer.bias))
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("activations", ["none", "selective", "full"])
def test_a_model_learns_in_fp8_and_is_evaluated_in_bf16(stream: TokenStream, activations: Any) -> None:
    update = update_of(stream, torch.bfloat16, fp8=True, activation_checkpointing=activations)
    other = update_of(stream, torch.bfloat16)
    found = [update.step(number, number, 0.0) for number in range(20)]
    expected = [other.step(number, number, 0.0) for number in range(20)]
    assert found[0].grad_norm != expected[0].grad_norm == pytest.approx(found[0].grad_norm, rel=0.05)
    assert found[-1].loss == pytest.approx(expected[-1].loss, rel=0.1)
    tokens = torch.arange(T)[None]
    other.working.load_weights(update.working.state_dict())
    assert torch.equal(update.working.eval()(tokens), other.working.eval()(tokens))


def test_a_model_without_layers_for_fp8_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiples of 16; GPT has none: try precision=bf16"):
        learn_in_fp8(GPT(V, context_length=T, n_layer=1, n_head=2, n_embd=8, dropout=0.0))


def test_fp8_is_refused_where_nothing_multiplies_it() -> None:
    with pytest.raises(UsageError, match=r"precision=fp8 needs a GPU .* not device=cpu; try precision=bf16"):
        refuse_precision("fp8", torch.device("cpu"))
    refuse_precision("fp16", torch.device("cpu"))
