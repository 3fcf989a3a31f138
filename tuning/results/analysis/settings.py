"""What may be put on the same axes: runs of one setting; and the fields in which runs of one setting differ all the same."""

from collections.abc import Iterable, Sequence

from largebatch.tuning.results.answers import Setting
from largebatch.tuning.results.run_result import RunResult, arguments_of, with_arguments

COMPARED = frozenset(
    {
        "batch.global_batch_size", "learning_rate.base", "learning_rate.base_global_batch_size", "learning_rate.scaling",
        "optimizer.name", "optimizer.momentum", "optimizer.beta1", "optimizer.beta2",
    }
)  # fmt: skip
"""Fields that an answer is about; any other that differs between runs on one axis is named."""
MOST_NAMED = 4


def setting_of(run: RunResult) -> Setting:
    """The setting of one run, its model without arguments."""
    return Setting(dataset=run.dataset, model=run.model, device=run.device, world_size=run.summary.world_size)


def settings_of(runs: Iterable[RunResult]) -> dict[Setting, list[RunResult]]:
    """The runs by what may not be mixed, the largest number first. A model's arguments may be: `differences` names them."""
    by_setting: dict[Setting, list[RunResult]] = {}
    for run in runs:
        by_setting.setdefault(setting_of(run), []).append(run)
    ordered = sorted(by_setting.items(), key=lambda item: -len(item[1]))
    return {setting.model_copy(update={"model": _model_of(members)}): members for setting, members in ordered}


def _model_of(runs: Sequence[RunResult]) -> str:
    """The model of all of them, with the arguments that they share."""
    shared = set.intersection(*(set(arguments_of(dict(settings), "model").items()) for settings in {run.settings for run in runs}))
    return with_arguments(runs[0].model, dict(sorted(shared)))


def differences(runs: Sequence[RunResult]) -> dict[str, list[str]]:
    """The fields in which runs on one axis differ, beside those that are compared, with their values.

    An optimizer's options are held against those of runs that have them too: another optimizer has others.
    """
    distinct = [dict(settings) for settings in {run.settings: None for run in runs}]
    by_name: dict[str, list[str]] = {}
    for name in sorted({name for settings in distinct for name in settings} - COMPARED):
        unset = () if name.startswith("optimizer.") else ("not set",)
        values = {value for settings in distinct for value in ((settings[name],) if name in settings else unset)}
        if len(values) > 1:
            by_name[name] = sorted(values, key=_in_order)
    return by_name


def _in_order(value: str) -> tuple[bool, float, str]:
    try:
        return False, float(value), value
    except ValueError:
        return True, 0.0, value


def differences_in_words(runs: Sequence[RunResult]) -> str:
    """`model.arguments.width (64, 128) and stop.epochs (10, 20)`; a few of them, empty for none."""
    parts = [f"{name} ({_some(values)})" for name, values in differences(runs).items()]
    if len(parts) > MOST_NAMED:
        parts = [*parts[:MOST_NAMED], f"{len(parts) - MOST_NAMED} more"]
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def _some(values: Sequence[str]) -> str:
    shown = [value if len(value) <= 40 else f"{value[:37]}..." for value in values]
    return ", ".join(shown if len(shown) <= MOST_NAMED else [*shown[: MOST_NAMED - 1], "...", shown[-1]])
