"""Models of timm: one sentence where it is not installed, and where it is, models that fit the data."""

import sys
from typing import Any

import pytest
import small_runs

from largebatch.jobs.errors import SpecError
from largebatch.jobs.models.libraries.from_timm import timm_model
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.samples.dataset import Dataset


def prepared(name: str, shape: tuple[int, ...] = (1, 32, 32), **arguments: Any) -> Prepared:
    return small_runs.prepared(dataset=small_runs.synthetic(shape=shape), model={"name": f"timm:{name}", "arguments": arguments})


def test_without_the_library_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SpecError, match=r"model\.name: resnet18 is of the timm library, which is not installed\. pip install timm"):
        prepared("resnet18")


def test_sizes_follow_from_the_data() -> None:
    pytest.importorskip("timm")
    assert prepared("test_efficientnet").model.num_classes == 4
    job = prepared("test_vit", (1, 32, 48))
    assert job.model.patch_embed.img_size == (32, 48)
    assert job.model.patch_embed.proj.in_channels == 1


@pytest.mark.parametrize(
    ("name", "shape", "arguments", "words"),
    [
        ("resnet_18", (3, 32, 32), {}, "model.name: timm has no model 'resnet_18'. Did you mean resnet18"),
        ("test_vit", (3, 33, 33), {"depthh": 1}, "model.arguments: timm:test_vit cannot be built with"),
    ],
)
def test_others_are_refused(name: str, shape: tuple[int, ...], arguments: dict[str, Any], words: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(SpecError) as refusal:
        prepared(name, shape, **arguments)
    assert words in str(refusal.value)


def test_what_is_no_image_is_refused() -> None:
    pytest.importorskip("timm")
    with pytest.raises(SpecError, match=r"timm:resnet18 takes images \(channels, height, width\), not samples of shape \(5,\)"):
        timm_model("resnet18", {}, Dataset("any", [], [], 2, (5,)))
