"""Which Ray a command trains on."""

from typing import Any

import pytest
import ray

from largebatch.jobs.errors import FaultError
from largebatch.jobs.launch.on_ray.cluster import OWN_SETTINGS, SETTINGS, connected
from largebatch.jobs.launch.options import TrainOptions


@pytest.mark.parametrize(("address", "variable"), [(None, None), (None, "local"), ("local", None)])
def test_an_own_ray_is_not_whatever_is_up_on_this_machine(monkeypatch: pytest.MonkeyPatch, address: str | None, variable: str | None) -> None:
    addresses: list[str] = []

    def init(*, address: str, **_: Any) -> None:
        addresses.append(address)
        raise RuntimeError("enough")

    monkeypatch.setattr(ray, "init", init)
    for name, value in {**SETTINGS, **OWN_SETTINGS}.items():
        monkeypatch.setenv(name, value)  # taken back afterwards
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    with pytest.raises(FaultError, match="did not start: enough"), connected(TrainOptions(address=address)):
        pass
    assert addresses == ["local"]
