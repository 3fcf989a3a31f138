"""With how many threads a study trains, by planted seconds of a step."""

from collections.abc import Iterator

import pytest
import torch

from largebatch.tuning.study.threads import CHOSEN_BY, choose_threads


@pytest.fixture
def four_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    for name in CHOSEN_BY:
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("with_one", "chosen"),
    [
        ({16: 0.8, 719: 1.4}, 1),  # 1.06 times as long on average
        ({16: 1.0, 719: 2.0}, 4),
        ({16: 1.3}, 4),  # the other could not be trained
    ],
)
@pytest.mark.usefixtures("four_threads")
def test_one_where_all_are_hardly_faster(with_one: dict[int, float], chosen: int) -> None:
    told = choose_threads(torch.device("cpu"), lambda: {16: 1.0, 719: 1.0} if torch.get_num_threads() == 4 else with_one)
    assert torch.get_num_threads() == chosen
    assert ("4 take 0.94 times as long for a step" in told) is (chosen == 1)


@pytest.mark.usefixtures("four_threads")
def test_a_person_or_a_gpu_decides_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure() -> dict[int, float]:
        raise AssertionError("nothing is measured")

    choose_threads(torch.device("cuda"), measure)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    choose_threads(torch.device("cpu"), measure)
    assert torch.get_num_threads() == 4
