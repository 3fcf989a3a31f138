"""The surfaces are what their equations say, and their places are what they are called."""

import pytest
import torch
from restated_surfaces import RESTATED

from largebatch.tuning.landscape.surfaces import SURFACES, Surface

by_name = pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)


def gradient_and_hessian(surface: Surface, at: tuple[float, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    position = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(surface.height(*position), position, create_graph=True)
    hessian = [torch.autograd.grad(part, position, retain_graph=True)[0] for part in gradient]
    return gradient.detach(), torch.stack(hessian)


def test_five_of_one_dimension_and_six_of_two_under_names_of_their_own() -> None:
    assert len({surface.name for surface in SURFACES}) == len(SURFACES)
    assert [surface.num_dimensions for surface in SURFACES] == [1] * 5 + [2] * 6
    assert {surface.name for surface in SURFACES} == RESTATED.keys()


@by_name
def test_heights_and_gradients_are_those_of_the_equation(surface: Surface) -> None:
    low, high = torch.tensor(surface.view, dtype=torch.float64).T
    for share in torch.rand(50, surface.num_dimensions, generator=torch.Generator().manual_seed(1), dtype=torch.float64):
        at = tuple((low + share * (high - low)).tolist())
        height, gradient = RESTATED[surface.name](*at)
        assert surface.height(*torch.tensor(at, dtype=torch.float64)).item() == pytest.approx(height, rel=1e-12, abs=1e-12)
        assert gradient_and_hessian(surface, at)[0].tolist() == pytest.approx(gradient, rel=1e-11, abs=1e-11)


@by_name
def test_places_are_what_they_are_called(surface: Surface) -> None:
    for place in surface.places:
        gradient, hessian = gradient_and_hessian(surface, place.at)
        curvatures = torch.linalg.eigvalsh(hessian)
        if place.kind == "plateau":
            assert 0 < gradient.norm() < 0.05, "hardly a slope, but one"
            continue
        assert gradient.norm() < 1e-8, place
        assert (curvatures.min() > 0.1) == ("minimum" in place.kind), (place, curvatures)
    deepest = min(RESTATED[surface.name](*place.at)[0] for place in surface.places)
    for place in surface.places:
        is_deepest = RESTATED[surface.name](*place.at)[0] == pytest.approx(deepest, abs=1e-9)
        assert is_deepest == (place.kind == "minimum"), place


@by_name
def test_start_and_places_lie_in_the_picture(surface: Surface) -> None:
    for at in (surface.start, surface.subject, *(place.at for place in surface.places)):
        assert all(low < coordinate < high for coordinate, (low, high) in zip(at, surface.view, strict=True))
    for place in surface.places:
        assert surface.place_near(place.at) is place
    assert surface.place_near(tuple(high + 100 for _, high in surface.view)) is None
