"""What a person's parameters may be; what cannot be trained exactly is refused by name."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.parameters import description, refuse_parameters, refuse_sparse_gradients, refuse_unlike_first, unfold_buffers


def holding(**tensors: Tensor) -> nn.Module:
    model = nn.Module()
    for name, tensor in tensors.items():
        setattr(model, name, nn.Parameter(tensor, requires_grad=not name.startswith("frozen")))
    return model


def whole() -> Tensor:
    return torch.zeros(6, 8)


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model


def views(*cuts: Callable[[Tensor], Tensor], **others: Tensor) -> nn.Module:
    tensor = whole()
    return holding(**{f"view{number}": cut(tensor) for number, cut in enumerate(cuts)}, **others)


FINE: dict[str, Callable[[], nn.Module]] = {
    "ordinary": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.LSTM(2, 2, 2), nn.Embedding(3, 2)),
    "tied": tied,
    "two precisions": lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double(), nn.Linear(2, 2).bfloat16()),
    "slices": lambda: views(lambda t: t[:, :4], lambda t: t[:, 4:], lonely=torch.zeros(3)),
    "every other": lambda: views(lambda t: t[:, ::2], lambda t: t[:, 1::2].t()),
    "rows": lambda: views(lambda t: t[:2], lambda t: t[2:].t()),
    "empty": lambda: views(lambda t: t[:0], lambda t: t),
    "interleaved": lambda: holding(odd=torch.zeros(20).as_strided((3, 4), (2, 3))),
    "frozen kinds": lambda: holding(weight=torch.zeros(2), frozen1=torch.zeros(2, dtype=torch.complex64), frozen2=torch.zeros(2).half()),
    "frozen alias": lambda: views(lambda t: t, frozen=torch.zeros(2)),
}


@pytest.mark.parametrize("name", FINE)
def test_whatever_holds_real_numbers_of_its_own_is_fine(name: str) -> None:
    refuse_parameters(FINE[name]())


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "complex": (lambda: holding(w=torch.zeros(2, dtype=torch.complex64)), r"model: w is complex \(complex64\).*view_as_real"),
    "float16": (lambda: nn.Sequential(nn.Linear(2, 2).half()), "model: 0.weight is float16.*precision: bfloat16"),
    "float8": (lambda: holding(w=torch.zeros(2).to(torch.float8_e5m2)), "model: w is float8_e5m2"),
    "sparse parameter": (lambda: holding(w=whole().to_sparse()), "model: w is stored as sparse_coo"),
    "sparse gradient": (lambda: nn.Sequential(nn.Embedding(3, 2, sparse=True)), "model: 0.weight would have a sparse gradient.*sparse=False"),
    "sparse bag": (lambda: nn.EmbeddingBag(3, 2, sparse=True), "model: weight would have a sparse gradient"),
    "expanded": (lambda: holding(q=torch.zeros(1, 3).expand(4, 3)), r"model: q, of shape \(4, 3\), is expanded.*\.clone\(\)"),
    "frozen and expanded": (lambda: holding(w=torch.zeros(2), frozen=torch.zeros(1).expand(4)), "model: frozen, .* is expanded"),
    "sliding windows": (lambda: holding(q=torch.zeros(9).unfold(0, 3, 1)), "model: q, .* is expanded"),
    "one storage": (lambda: views(lambda t: t, lambda t: t), "model: view0 and view1 are two parameters that share memory.*b.weight = a.weight"),
    "crossing": (lambda: views(lambda t: t[:, ::2], lambda t: t[3]), "view0 and view1 are two parameters that share memory"),
    "inner": (lambda: views(lambda t: t[:, 1::2], lambda t: t[:, :1], lambda t: t[2:4, 3]), "view0 and view2 are two"),
    "other dtype": (lambda: views(lambda t: t, lambda t: t[1].view(torch.float64)), "view0 and view1 are two"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_what_cannot_be_trained_exactly_is_refused_by_name(name: str) -> None:
    build, sentence = REFUSED[name]
    with pytest.raises(PlanError, match=sentence):
        refuse_parameters(build())


def test_a_sparse_gradient_of_a_function_is_found_after_a_backward_pass() -> None:
    model = nn.Sequential(nn.Embedding(3, 2))
    model(torch.tensor([1])).sum().backward()
    refuse_sparse_gradients(model)
    model.zero_grad()
    nn.functional.embedding(torch.tensor([1]), model[0].weight, sparse=True).sum().backward()
    with pytest.raises(PlanError, match=r"0\.weight would have a sparse gradient"):
        refuse_sparse_gradients(model)


def test_workers_whose_models_differ_are_told_how() -> None:
    first = description(nn.Linear(3, 2))
    refuse_unlike_first(description(nn.Linear(3, 2)), first, 1)
    turned = nn.Linear(3, 2)
    turned.weight.data = turned.weight.data.t().contiguous().t()
    for other, sentence in (
        (
            turned,
            r"weight \(float32, shape \(2, 3\), strides \(1, 2\)\) in worker 1, weight \(float32, shape \(2, 3\), strides \(3, 1\)\) in worker 0",
        ),
        (nn.Linear(3, 2, bias=False), "no such parameter in worker 1, bias"),
        (nn.Linear(3, 2, dtype=torch.float64), r"weight \(float64,"),
    ):
        with pytest.raises(PlanError, match=sentence):
            refuse_unlike_first(description(other), first, 1)


def test_expanded_buffers_get_memory_of_their_own() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].register_buffer("mask", torch.arange(3.0).expand(2, 3))
    model[0].register_buffer("kept", torch.zeros(2, 4)[:, ::2])
    kept = model[0].kept
    unfold_buffers(model)
    assert model[0].kept is kept
    model.load_state_dict({name: value.clone() + 1 for name, value in model.state_dict().items()})
    assert model[0].mask.tolist() == [[1, 2, 3], [1, 2, 3]]
