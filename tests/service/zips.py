"""Zips of own code: as any program makes them, and one whose model and data train in a moment."""

import io
import warnings
import zipfile
from typing import Any


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED, comment: bytes = b"") -> bytes:
    """A zip as some program makes it, whatever the names."""
    packed = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(packed, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of names that come twice
        for name, content in entries:
            entry = zipfile.ZipInfo(name) if isinstance(name, str) else name  # of one time: the same entries are the same bytes
            archive.writestr(entry, content, compression)
        archive.comment = comment
    return packed.getvalue()


OWN_CODE = """
from pathlib import Path

import torch
from torch.utils.data import TensorDataset

Path({mark!r}).open("a").write(f"{{Path.cwd()}}\\n")


def build(num_classes):
    return torch.nn.Linear(6, num_classes)


def load():
    vectors = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    samples = TensorDataset(vectors, (vectors[:, 0] > 0).long())
    samples.num_classes = int(Path("classes.txt").read_text())
    return samples, samples
"""


def own_code(mark: object) -> bytes:
    """A bundle with a model and data, which reads a file beside it. Args: mark: a file that gets a line whenever the module is imported."""
    return zipped(("my_code.py", OWN_CODE.format(mark=str(mark)).encode()), ("classes.txt", b"2"))


def own_spec(**parts: Any) -> dict[str, Any]:
    """A spec that trains it for an epoch."""
    return {
        "name": "mine", "dataset": {"entry_point": "my_code:load"}, "model": {"entry_point": "my_code:build"},
        "batch": {"global_batch_size": 16}, "optimizer": {"name": "sgd"}, "learning_rate": {"base": 0.1}, "stop": {"epochs": 1.0},
        "tracking": {"enabled": False}, **parts,
    }  # fmt: skip
