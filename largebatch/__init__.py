"""Large-batch training: exact batches, honest clocks, and the batch size that reaches your target soonest.

    import largebatch

    summary = largebatch.train("digits-lamb")
    run = largebatch.load_run(summary.run_dir)
    recorder = largebatch.Recorder(...)  # of a loop of your own: docs/other-loops.md
    optimizer = largebatch.LAMB(model.parameters(), lr=0.02)
    critical = largebatch.fit_critical_batch(batches=[32, 128, 512, 2048], samples=[9e3, 9.5e3, 1.2e4, 2.4e4])

Each name is imported when it is first asked for: `import largebatch` itself imports nothing heavy.
In a checkout `jobs`, `tuning`, `service` and `recipes` lie beside this folder, which links to them (docs/decisions/028.md).
"""

import os

if not os.path.isdir(os.path.join(__path__[0], "jobs")):
    raise ImportError(
        f"{__path__[0]} lacks its links to jobs, tuning, service and recipes: this file system, or the archive, could not hold them. "
        "Install the package from a wheel, or clone with `git -c core.symlinks=true clone`."
    )
TYPE_CHECKING = False  # typing's own would be an import, and a person's typing.py must not be taken for it
if TYPE_CHECKING:
    from largebatch.jobs.engine.noise_scale import NoiseSums
    from largebatch.jobs.launch.from_python import train
    from largebatch.jobs.optim.lamb import LAMB
    from largebatch.jobs.optim.lars import LARS
    from largebatch.jobs.recorder.recorder import Recorder
    from largebatch.jobs.run.load import Run, load_run
    from largebatch.jobs.tasks.base import Task
    from largebatch.jobs.tasks.metric import Metric
    from largebatch.tuning.results.analysis.critical_batch import fit_critical_batch
    from largebatch.tuning.results.answers import CriticalBatch

    __version__: str

_PUBLIC = {
    "LARS": "jobs.optim.lars",
    "LAMB": "jobs.optim.lamb",
    "NoiseSums": "jobs.engine.noise_scale",
    "CriticalBatch": "tuning.results.answers",
    "fit_critical_batch": "tuning.results.analysis.critical_batch",
    "Metric": "jobs.tasks.metric",
    "Task": "jobs.tasks.base",
    "Recorder": "jobs.recorder.recorder",
    "train": "jobs.launch.from_python",
    "Run": "jobs.run.load",
    "load_run": "jobs.run.load",
}
_CALLBACKS = ("lightning", "transformers")
"""Modules of a trainer's callback each, which need that trainer's library."""
__all__ = [
    "LAMB", "LARS", "CriticalBatch", "Metric", "NoiseSums", "Recorder", "Run", "Task", "__version__", "fit_critical_batch", "load_run", "train",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """A public name, imported now (PEP 562)."""
    import importlib

    if name == "__version__":
        import importlib.metadata

        return importlib.metadata.version("largebatch")
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"largebatch.{_PUBLIC[name]}"), name)
    if name in _CALLBACKS:
        return importlib.import_module(f"largebatch.{name}")
    raise AttributeError(f"module 'largebatch' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What a person may import from here."""
    return [*__all__, "__doc__", "__file__", "__name__", "__path__"]
