"""All optimizers: what each promises, against references, and over a save in the middle."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from pretrain.models.gpt import GPT
from pretrain.training.optimizers.adafactor import Adafactor
from pretrain.training.optimizers.adamw import AdamW
from pretrain.training.optimizers.averaged import Averaged
from pretrain.training.optimizers.lion import Lion
from pretrain.training.optimizers.muon import Muon, is_hidden_matrix, orthogonalised
from pretrain.training.optimizers.optimizer import Optimizer
from pretrain.training.optimizers.schedule_free import ScheduleFree

Make = Callable[[dict[str, Tensor]], Optimizer]

ADAMW: dict[str, Any] = {"lr": 0.01, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
FACTORED: dict[str, Any] = {"lr": 0.01, "decay": 0.8, "clip": 1.0, "eps": 1e-8, "least": 1e-3, "weight_decay": 0.1}
ALL: dict[str, Make] = {
    "adamw": lambda parameters: AdamW(parameters, **ADAMW),
    "muon": lambda parameters: Muon(parameters, momentum=0.95, exclude=[], **ADAMW),
    "lion": lambda parameters: Lion(parameters, lr=0.01, beta1=0.9, beta2=0.99, scale=0.2, weight_decay=0.1),
    "adafactor": lambda parameters: Adafactor(parameters, relative=False, **FACTORED),
    "relative adafactor": lambda parameters: Adafactor(parameters, relative=True, **FACTORED),
    "schedule-free": lambda parameters: ScheduleFree(parameters, **ADAMW),
    "averaged": lambda parameters: Averaged(AdamW(parameters, **ADAMW), parameters, 0.9),
}
every_optimizer = pytest.mark.parametrize("make", ALL.values(), ids=ALL.keys())


def some_parameters() -> dict[str, Tensor]:
    """Of all kinds: matrices wide and tall, a stack, a vector, an embedding; sizes that no vector unit divides."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "embedding.weight": (11, 7),
        "tall.weight": (13, 7),
        "wide.weight": (7, 13),
        "query_key_value.weight": (21, 7),
        "experts.input": (3, 5, 7),
        "bias": (37,),
        "scale": (),
    }
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def some_gradients(parameters: dict[str, Tensor], step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return [0.1 * torch.randn(parameter.shape, generator=generator) for parameter in parameters.values()]


def moved(make: Make, parameters: dict[str, Tensor], steps: range, optimizer: Optimizer | None = None) -> Optimizer:
    """Steps with gradients that hang on the step's number and on where they are taken."""
    optimizer = optimizer or make(parameters)
    for step in steps:
        points = optimizer.points() or list(parameters.values())
        gradients = [noise + 0.1 * at for noise, at in zip(some_gradients(parameters, step), points, strict=True)]
        optimizer.step(gradients, lr=0.01 * (step + 1) / 4)
    return optimizer


def against_torch(ours: Optimizer, parameters: dict[str, Tensor], theirs: Callable[[Any], Any], lr: float) -> None:
    """Five steps of both on the same random gradients end at the same place."""
    copies = {name: torch.nn.Parameter(parameter.clone()) for name, parameter in parameters.items()}
    reference = theirs(copies)
    for step in range(5):
        gradients = some_gradients(parameters, step)
        for parameter, gradient in zip(copies.values(), gradients, strict=True):
            parameter.grad = gradient.clone()
        reference.step()
        ours.step(gradients, lr)
    for name, parameter in parameters.items():
        assert torch.allclose(parameter, copies[name], atol=1e-6), name


@every_optimizer
def test_ten_steps_equal_five_a_save_and_five(make: Make) -> None:
    whole, half = some_parameters(), some_parameters()
    last = moved(make, whole, range(10)).state()
    saved = save({name: tensor.contiguous() for name, tensor in moved(make, half, range(5)).state().items()})
    second = make(half)
    second.load_state(load(saved))
    moved(make, half, range(5, 10), second)
    for name, parameter in whole.items():
        assert torch.equal(parameter, half[name]), name
    assert all(torch.equal(tensor, second.state()[name]) for name, tensor in last.items())


@every_optimizer
def test_a_state_can_be_loaded_into_an_optimizer_that_is_further_on(make: Make) -> None:
    """As a rollback does."""
    parameters = some_parameters()
    optimizer = moved(make, parameters, range(3))
    before = copy.deepcopy((parameters, optimizer.state()))
    moved(make, parameters, range(3, 6), optimizer)
    once = copy.deepcopy(parameters)
    for name, parameter in before[0].items():
        parameters[name].copy_(parameter)
    optimizer.load_state(before[1])
    moved(make, parameters, range(3, 6), optimizer)
    assert all(torch.equal(parameter, once[name]) for name, parameter in parameters.items())


@every_optimizer
def test_a_small_problem_is_solved(make: Make) -> None:
    """Linear regression through a hidden layer: the loss falls to a hundredth."""
    generator = torch.Generator().manual_seed(0)
    x, target = (torch.randn(shape, generator=generator) for shape in ((64, 6), (6, 3)))
    parameters = {
        "hidden.weight": 0.5 * torch.randn(8, 6, generator=generator),
        "output.weight": 0.5 * torch.randn(3, 8, generator=generator),
        "output.bias": torch.zeros(3),
    }
    optimizer = make(parameters)

    def loss(weights: list[Tensor]) -> Tensor:
        hidden, output, bias = weights
        return ((x @ hidden.T) @ output.T + bias - x @ target).square().mean()

    first, steps = float(loss(list(parameters.values()))), 300
    for step in range(steps):
        points = [point.clone().requires_grad_() for point in optimizer.points() or parameters.values()]
        lr = 0.1 if optimizer.points() is not None else 0.1 * (1 - step / steps)
        optimizer.step(list(torch.autograd.grad(loss(points), points)), lr)
    assert float(loss(list(parameters.values()))) < first / 100


@every_optimizer
def test_only_matrices_decay(make: Make) -> None:
    parameters = some_parameters()
    before = copy.deepcopy(parameters)
    optimizer = make(parameters)
    optimizer.step([torch.zeros_like(parameter) for parameter in parameters.values()], lr=0.5)
    for name, parameter in zip(parameters, optimizer.points() or parameters.values(), strict=True):
        decayed = before[name] * (1 - 0.5 * 0.1) if parameter.dim() >= 2 else before[name]
        assert torch.allclose(parameter, decayed, atol=1e-7), name


@every_optimizer
def test_a_model_without_parameters_has_nothing_to_do(make: Make) -> None:
    optimizer = make({})
    optimizer.step([], lr=0.1)
    make({}).load_state(optimizer.state())


def test_adamw_equals_torchs_with_decay_on_matrices_only() -> None:
    parameters = some_parameters()
    ours = AdamW(parameters, lr=0.01, beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=0.3)

    def theirs(copies: dict[str, Tensor]) -> torch.optim.Optimizer:
        groups = [
            {"params": [tensor for tensor in copies.values() if (tensor.dim() >= 2) == matrix], "weight_decay": decay}
            for matrix, decay in ((True, 0.3), (False, 0.0))
        ]
        return torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.9), eps=1e-6, foreach=False)

    against_torch(ours, parameters, theirs, lr=0.01)


def test_adamws_bits_do_not_depend_on_what_other_parameters_there_are() -> None:
    together, apart = some_parameters(), some_parameters()
    optimizer = AdamW(together, **ADAMW)
    alone = [AdamW({name: parameter}, **ADAMW) for name, parameter in apart.items()]
    for step in range(3):
        gradients = some_gradients(together, step)
        optimizer.step(gradients, 0.01)
        for one, gradient in zip(alone, gradients, strict=True):
            one.step([gradient], 0.01)
    assert all(torch.equal(parameter, apart[name]) for name, parameter in together.items())


def test_adamw_reads_a_gradient_whatever_its_layout() -> None:
    straight, turned = {"w": torch.ones(4, 3)}, {"w": torch.ones(4, 3)}
    gradient = torch.arange(12.0).view(4, 3) - 5.5
    AdamW(straight, **ADAMW).step([gradient], 0.01)
    AdamW(turned, **ADAMW).step([gradient.T.contiguous().T], 0.01)
    assert torch.equal(straight["w"], turned["w"])


def test_relative_adafactor_equals_torchs() -> None:
    parameters = {name: parameter for name, parameter in some_parameters().items() if parameter.dim() > 0}
    ours = Adafactor(parameters, relative=True, **FACTORED | {"weight_decay": 0.0})
    against_torch(
        ours,
        parameters,
        lambda copies: torch.optim.Adafactor(copies.values(), lr=0.01, eps=(1e-8, 1e-3), foreach=False),
        lr=0.01,
    )


def test_adafactors_state_of_a_matrix_is_its_edges() -> None:
    state = Adafactor({"w": torch.zeros(30, 20)}, relative=False, **FACTORED).state()
    assert sum(tensor.numel() for tensor in state.values()) == 30 + 20 + 1


def test_lion_follows_the_papers_formula() -> None:
    parameters = some_parameters()
    weights = {name: parameter.double() for name, parameter in parameters.items()}
    means = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    optimizer = Lion(parameters, lr=0.01, beta1=0.9, beta2=0.99, scale=1.0, weight_decay=0.3)
    for step in range(5):
        gradients = some_gradients(parameters, step)
        optimizer.step(gradients, 0.01)
        for name, gradient in zip(weights, gradients, strict=True):
            decay = 0.3 * weights[name] if weights[name].dim() >= 2 else 0.0
            weights[name] = weights[name] - 0.01 * (torch.sign(0.9 * means[name] + 0.1 * gradient) + decay)
            means[name] = 0.99 * means[name] + 0.01 * gradient
    for name, weight in weights.items():
        assert torch.allclose(parameters[name].double(), weight, atol=1e-6), name


def test_schedule_free_follows_the_papers_formula() -> None:
    parameters = some_parameters()
    x = {name: parameter.double() for name, parameter in parameters.items()}
    z = dict(x)
    squares = {name: torch.zeros_like(weight) for name, weight in x.items()}
    optimizer = ScheduleFree(parameters, **ADAMW)
    total = 0.0
    for step in range(5):
        gradients = some_gradients(parameters, step)
        lr = 0.01 * min(1.0, (step + 1) / 3)
        total += lr**2
        for at, name in zip(optimizer.points(), x, strict=True):
            assert torch.allclose(at.double(), 0.1 * z[name] + 0.9 * x[name], atol=1e-6)
        optimizer.step(gradients, lr)
        for name, gradient in zip(x, gradients, strict=True):
            y = 0.1 * z[name] + 0.9 * x[name]
            squares[name] = 0.95 * squares[name] + 0.05 * gradient.double() ** 2
            root = (squares[name] / (1 - 0.95 ** (step + 1))).sqrt() + 1e-8
            z[name] = z[name] - lr * (gradient / root + (0.1 * y if y.dim() >= 2 else 0.0))
            x[name] = (1 - lr**2 / total) * x[name] + lr**2 / total * z[name]
    for name, weight in x.items():
        assert torch.allclose(parameters[name].double(), weight, atol=1e-6), name


def by_singular_values(matrices: Tensor) -> Tensor:
    """What five iterations come to: their polynomial, of each singular value."""
    left, values, right = torch.linalg.svd(matrices.double(), full_matrices=False)
    values = values / values.square().sum(dim=-1, keepdim=True).sqrt()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    assert 0.6 < float(values.min()) < float(values.max()) < 1.3
    return left @ torch.diag_embed(values) @ right


def test_an_average_looks_back_on_few_steps_first_and_moves_the_weights_as_without_it() -> None:
    alone = {"weight": torch.ones(2, 3)}
    AdamW(alone, **ADAMW).step([torch.full((2, 3), 0.5)], lr=0.01)
    parameters = {"weight": torch.ones(2, 3)}
    averaged = Averaged(AdamW(parameters, **ADAMW), parameters, 0.999)
    averaged.step([torch.full((2, 3), 0.5)], lr=0.01)
    assert torch.equal(averaged.points()[0], alone["weight"])
    assert torch.allclose(parameters["weight"], torch.ones(2, 3).lerp(alone["weight"], 9 / 11))


def test_newton_schulz_does_to_singular_values_what_its_polynomial_says() -> None:
    matrices = torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(orthogonalised(matrices.double()), by_singular_values(matrices), atol=1e-6)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 0.06)])
def test_newton_schulz_stands_rounding_and_a_gradient_of_zero(dtype: torch.dtype, error: float) -> None:
    matrices = 1e-6 * torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0))
    exact = by_singular_values(matrices)
    assert torch.allclose(orthogonalised(matrices.to(dtype)).double(), exact, atol=error)
    assert torch.equal(orthogonalised(torch.zeros(1, 4, 5, dtype=dtype)), torch.zeros(1, 4, 5, dtype=dtype))


def test_muon_equals_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose own orthogonalisation is in bf16 always; here both have it exact."""

    def exact(gradient: Tensor, *_: Any) -> Tensor:
        return by_singular_values(gradient).float()

    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", exact)
    monkeypatch.setattr("pretrain.training.optimizers.muon.orthogonalised", exact)
    monkeypatch.setattr("pretrain.training.optimizers.muon.chosen_precision", lambda name, device: "fp32")
    parameters = {name: some_parameters()[name] for name in ("tall.weight", "wide.weight")}
    against_torch(
        ALL["muon"](parameters),
        parameters,
        lambda copies: torch.optim.Muon(
            list(copies.values()), lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        ),
        lr=0.01,
    )


def test_muons_step_is_of_adamws_size_whatever_the_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain.training.optimizers.muon.chosen_precision", lambda name, device: "fp32")
    parameters = some_parameters()
    before = copy.deepcopy(parameters)
    Muon(parameters, momentum=0.95, exclude=[], **ADAMW | {"weight_decay": 0.0}).step(
        some_gradients(parameters, 0), 0.01
    )
    for name in ("tall.weight", "wide.weight", "query_key_value.weight", "experts.input"):
        size = float((parameters[name] - before[name]).square().mean().sqrt())
        assert 0.7 < size / (0.2 * 0.01) < 1.3, name


def test_muon_orthogonalises_every_matrix_of_a_stack_and_of_a_fused_projection_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pretrain.training.optimizers.muon.chosen_precision", lambda name, device: "fp32")
    generator = torch.Generator().manual_seed(0)
    pieces = 0.1 * torch.randn(3, 6, 6, generator=generator)
    gradients = torch.randn(3, 6, 6, generator=generator)
    apart = {f"matrix{i}": piece.clone() for i, piece in enumerate(pieces)}
    together = {"query_key_value.weight": pieces.reshape(18, 6).clone(), "experts": pieces.clone()}
    ALL["muon"](apart).step(list(gradients), 0.01)
    ALL["muon"](together).step([gradients.reshape(18, 6), gradients], 0.01)
    expected = torch.stack(list(apart.values()))
    assert torch.allclose(together["experts"], expected, atol=1e-6)
    assert torch.allclose(together["query_key_value.weight"].view(3, 6, 6), expected, atol=1e-6)


def test_muon_takes_the_matrices_of_hidden_layers_and_leaves_the_rest_to_adamw() -> None:
    model = GPT(17, context_length=8, n_layer=1, n_head=2, n_embd=8, dropout=0.0, n_expert=2)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    feed_forward = "blocks.0.feed_forward"
    assert {name for name, parameter in parameters.items() if is_hidden_matrix(name, parameter, ["router"])} == {
        "blocks.0.attention.query_key_value.weight",
        "blocks.0.attention.output.weight",
        f"{feed_forward}.input",
        f"{feed_forward}.output",
    }
    assert is_hidden_matrix(f"{feed_forward}.router.weight", parameters[f"{feed_forward}.router.weight"], [])
    assert not is_hidden_matrix("output.weight", torch.zeros(17, 8), [])
    state = Muon(parameters, momentum=0.95, exclude=["router"], **ADAMW).state()
    assert {name for name in state if "router" in name} == {
        f"mean.{feed_forward}.router.weight",
        f"square.{feed_forward}.router.weight",
    }


def test_muons_stacks_are_bounded_and_give_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain.training.optimizers.muon.chosen_precision", lambda name, device: "fp32")
    whole, parts = some_parameters(), some_parameters()
    moved(ALL["muon"], whole, range(2))
    monkeypatch.setattr("pretrain.training.optimizers.muon.AT_ONCE", 100)
    optimizer = moved(ALL["muon"], parts, range(2))
    assert [stack.places for stack in optimizer._stacks] == [[0], [1], [2], [3]]  # type: ignore[attr-defined]
    assert all(torch.allclose(parameter, parts[name], atol=1e-6) for name, parameter in whole.items())
