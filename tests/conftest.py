"""What several tests need: the smallest real specs, and the real data sets where they are."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
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
