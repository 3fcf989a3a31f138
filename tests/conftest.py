"""What several tests need: the smallest real specs, the real data sets where they are, and one real Ray."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from launch_runs import S3_ENVIRONMENT, Head, new_head

# Before ray is imported anywhere: no token files, nothing sent.
os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
ROOT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own hook of this name
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start Ray run one after the other, and those of one file of the service too, beside all others (-n 2)."""
    for item in items:
        if item.nodeid.startswith(("tests/launch/", "tests/tuning/test_sweep.py", "tests/k8s/test_production.py")):
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif item.nodeid.startswith(("tests/service/", "tests/browser/")):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """One Ray head with its dashboard, on free ports, in a folder of its own, for all tests that do not break it."""
    with new_head(S3_ENVIRONMENT) as made:
        yield made


SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def image_data_dir() -> Path:
    """MNIST, Fashion-MNIST and CIFAR-10 as torchvision reads them, unpacked once into an ignored folder."""
    unpack = SHARED_DATA / "unpack.py"
    if not unpack.is_file():
        pytest.skip("the shared data sets are not beside this checkout")
    target = ROOT / "data"
    subprocess.run([sys.executable, str(unpack), str(target), "MNIST", "FashionMNIST", "cifar-10-batches-py"], check=True, stdout=subprocess.DEVNULL)
    return target


def small_document(**parts: Any) -> dict[str, Any]:
    """A spec as plain data that trains on the digits in a second; `parts` replace whole sections."""
    document: dict[str, Any] = {
        "name": "small",
        "dataset": {"name": "digits"},
        "model": {"name": "mlp", "arguments": {"width": 16}},
        "batch": {"global_batch_size": 256},
        "optimizer": {"name": "sgd"},
        "learning_rate": {"base": 0.1},
        "stop": {"steps": 12},
        "tracking": {"enabled": False},
    }
    return {**document, **parts}
