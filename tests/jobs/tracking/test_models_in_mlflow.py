"""Models in MLflow: logged with the weights that were evaluated, registered under a name, and loaded by MLflow alone."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch

from largebatch.jobs.errors import SpecError
from largebatch.jobs.launch.options import TrainOptions
from largebatch.jobs.launch.train import spec_of
from largebatch.jobs.resume import weights_of_run
from largebatch.jobs.run.journal import read_records
from largebatch.jobs.run.records import NoticeRecord
from largebatch.jobs.tracking.mlflow_mirror import sync_run

LOADING = re.findall(r"```python\n(.*?)```", (small_runs.ROOT / "docs" / "use-a-trained-model.md").read_text(), flags=re.DOTALL)[1]
pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own, of its models

OWN = """
from torch import nn

def build(num_classes):
    return nn.Sequential(nn.Flatten(), Wide(16, num_classes))

class Wide(nn.Linear):
    pass
"""
UNPICKLABLE = """
from torch import nn

def build(num_classes):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, num_classes))
    model.note = lambda: None
    return model
"""


def trained(store: str, run_dir: Path, model: dict[str, Any], **tracking: Any) -> None:
    told = {"mlflow_uri": store, "system_metrics": False, **tracking}
    small_runs.trained(small_runs.prepared(model=model, tracking=told, ema={"decay": 0.5}), run_dir)


def test_a_model_is_logged_with_the_weights_that_were_evaluated_and_registered(tmp_path: Path, client: Any, store: str) -> None:
    import mlflow

    for number in (1, 2):
        run_dir = tmp_path / f"registered-{number}"
        trained(store, run_dir, {"name": "mlp", "arguments": {"width": 4}}, register_as="digits")
        state = sync_run(run_dir)
        assert sync_run(run_dir).run_id == state.run_id
        (version,) = [version for version in client.search_model_versions("name = 'digits'") if version.run_id == state.run_id]
        assert int(version.version) == number, "logged once"
        mlflow.set_tracking_uri(store)
        loaded = mlflow.pytorch.load_model(f"models:/digits/{number}").state_dict()
        if number == 1:  # as the page says
            names: dict[str, Any] = {"mlflow": mlflow}
            exec(LOADING.replace("sqlite:///runs/mlflow.db", store), names)
            loaded = names["model"].state_dict()
        weights = weights_of_run(run_dir, False, print).weights
        assert all(torch.equal(loaded[name], weights[name]) for name in weights)
        assert client.get_run(state.run_id).info.status == "FINISHED"


def test_a_model_of_ones_own_brings_its_code(tmp_path: Path, client: Any, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    (tmp_path / "own_logged.py").write_text(OWN)
    trained(store, tmp_path / "own", {"entry_point": "own_logged:build"}, log_model=True)
    state = sync_run(tmp_path / "own")
    monkeypatch.delitem(sys.modules, "own_logged")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    (tmp_path / "own_logged.py").unlink()
    mlflow.set_tracking_uri(store)
    (logged,) = client.search_logged_models([client.get_run(state.run_id).info.experiment_id], f"source_run_id = '{state.run_id}'")
    assert type(mlflow.pytorch.load_model(logged.model_uri)[1]).__name__ == "Wide"


def test_a_model_that_cannot_be_pickled_costs_no_run(tmp_path: Path, store: str) -> None:
    (tmp_path / "unpicklable_logged.py").write_text(UNPICKLABLE)
    trained(store, tmp_path / "unpicklable", {"entry_point": "unpicklable_logged:build"}, log_model=True)
    notices = [record.text for record in read_records(tmp_path / "unpicklable") if isinstance(record, NoticeRecord)]
    assert any(text.startswith("MLflow gets no model: it cannot be pickled") for text in notices)
    assert sync_run(tmp_path / "unpicklable").is_complete


def test_options_ask_for_it_too() -> None:
    assert not spec_of(TrainOptions(recipe="digits-lamb")).tracking.logs_model
    assert spec_of(TrainOptions(recipe="digits-lamb", log_model=True)).tracking.logs_model
    asked = spec_of(TrainOptions(recipe="digits-lamb", register="my digits # 2"))
    assert (asked.tracking.register_as, asked.tracking.logs_model) == ("my digits # 2", True)


@pytest.mark.parametrize("name", ["", "  ", "team/digits", "digits:2", "..", "n" * 257])
def test_a_name_that_mlflow_would_refuse_is_refused_before_training(name: str) -> None:
    with pytest.raises(SpecError, match=r"tracking.register_as: must be a name for a model in MLflow"):
        spec_of(TrainOptions(recipe="digits-lamb", register=name))
