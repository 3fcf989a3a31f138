"""Large-batch training: exact batches, honest clocks, and the batch size that reaches your target soonest.

    from largebatch import LARS, LAMB

Each name is imported when it is first asked for: `import largebatch` itself imports nothing heavy.
In a checkout `jobs`, `tuning`, `service` and `recipes` lie beside this folder, which links to them (docs/decisions/028.md).
"""

TYPE_CHECKING = False  # typing's own would be an import, and a person's typing.py must not be taken for it
if TYPE_CHECKING:
    from largebatch.jobs.engine.noise_scale import NoiseSums
    from largebatch.jobs.optim.lamb import LAMB
    from largebatch.jobs.optim.lars import LARS
    from largebatch.tuning.results.analysis.critical_batch import fit_critical_batch
    from largebatch.tuning.results.answers import CriticalBatch

    __version__: str

_PUBLIC = {
    "LARS": "jobs.optim.lars",
    "LAMB": "jobs.optim.lamb",
    "NoiseSums": "jobs.engine.noise_scale",
    "CriticalBatch": "tuning.results.answers",
    "fit_critical_batch": "tuning.results.analysis.critical_batch",
}
__all__ = ["LAMB", "LARS", "CriticalBatch", "NoiseSums", "__version__", "fit_critical_batch"]


def __getattr__(name: str) -> object:
    """A public name, imported now (PEP 562)."""
    import importlib

    if name == "__version__":
        import importlib.metadata

        return importlib.metadata.version("largebatch")
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"largebatch.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'largebatch' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What a person may import from here."""
    return sorted([*globals(), *_PUBLIC, "__version__"])
