"""Logs a run's model in MLflow as its PyTorch models are, and registers it; torch is imported where that was asked for alone."""

import importlib.metadata
import os
import sys
from pathlib import Path

from largebatch.jobs.entry_points import described
from largebatch.jobs.errors import InputError
from largebatch.jobs.import_paths import add_folder
from largebatch.jobs.run.run_folder import MODEL
from largebatch.jobs.spec.train_spec import TrainSpec

NAME = "model"
"""What MLflow calls it within the run."""
REQUIREMENTS = ("torch", "numpy", "pydantic", "largebatch")
"""What a model of ours needs where it is loaded."""


def log_model(run_dir: Path, spec: TrainSpec, uri: str, run_id: str) -> None:
    """Log the model that a run left in its folder; nothing where it left none.

    Raises: InputError where a person's module is not found: the mirror must run where it can be imported; whatever MLflow raises.
    """
    path = run_dir / MODEL
    if not path.is_file():
        return
    import mlflow
    import torch

    add_folder(os.getcwd())  # as where it was trained
    try:
        model = torch.load(path, map_location="cpu", weights_only=False)
    except (ImportError, AttributeError) as error:
        hint = f"Run `largebatch sync {run_dir}` where your model's module can be imported."
        raise InputError("tracking.log_model", f"the model cannot be loaded: {described(error)}.", hint) from error
    mlflow.set_tracking_uri(uri)
    with mlflow.start_run(run_id=run_id):
        mlflow.pytorch.log_model(
            model, name=NAME, registered_model_name=spec.tracking.register_as, serialization_format="pickle", code_paths=own_code(spec),
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in REQUIREMENTS],
        )  # fmt: skip


def own_code(spec: TrainSpec) -> list[str] | None:
    """The file or the package of a person's own model, which MLflow keeps with it."""
    if spec.model.entry_point is None:
        return None
    top = sys.modules.get(spec.model.entry_point.partition(":")[0].partition(".")[0])
    file = getattr(top, "__file__", None)
    if file is None:
        return None
    return [str(Path(file).parent if Path(file).name == "__init__.py" else Path(file))]
