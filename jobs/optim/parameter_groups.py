"""An optimizer over a model: which parameters get weight decay and a trust ratio, and, of two rules, which updates which."""

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.optim import Optimizer

from largebatch.jobs.errors import SpecError, nearest
from largebatch.jobs.optim.by_samples.options import BY_TIME_SCALE
from largebatch.jobs.optim.config_base import LEARNING_RATE_FACTOR, TRANSPOSED, Kind, OptimizerConfig, ParameterGroupConfig, ParamGroups
from largebatch.jobs.optim.split.kinds import kinds_of, transposed_in

MOST_NAMES = 20
"""How many names a sentence lists."""


def parameter_groups(model: nn.Module, config: OptimizerConfig, heads: Collection[str] = ()) -> ParamGroups:
    """Weights in one group; biases and normalisation parameters in another, which are all of at most one dimension and some others.

    The second group has no weight decay and a trust ratio of 1, unless the config says otherwise. Of an optimizer of two rules the two
    groups of the main one come first, then those of the other; where the main one tells a matrix' rows from its columns, those that lie
    transposed are a group besides. After them come such groups of each of the config's own.

    Args: heads: see `kinds_of`.
    """
    kinds, names = kinds_of(model, heads), trained_names(model)
    transposed = transposed_in(model) if config.tells_rows else set()
    own_of = first_matches(names, [group.pattern for group in config.groups])
    members: dict[tuple[int, bool, bool, bool], list[nn.Parameter]] = {}
    for param, own_names in names.items():
        is_other, is_bias_or_norm = not config.takes(kinds[param], own_names, param.ndim), kinds[param] is Kind.BIAS_OR_NORM
        is_transposed = not is_other and param in transposed
        members.setdefault((own_of[param], is_other, is_bias_or_norm, is_transposed), []).append(param)
    groups: ParamGroups = []
    for key in sorted(members):
        number, is_other, is_bias_or_norm, is_transposed = key
        own = config.groups[number - 1] if number else None
        options = config.group_options(is_bias_or_norm=is_bias_or_norm, is_main=not is_other, group=own)
        groups.append({"params": members[key], **options, **({TRANSPOSED: True} if is_transposed else {})})
    return groups


def trained_names(model: nn.Module) -> dict[nn.Parameter, list[str]]:
    """Every trained parameter, in the model's order, with all its names."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, param in model.named_parameters(remove_duplicate=False):
        if param.requires_grad:
            names.setdefault(param, []).append(name)
    return names


def first_matches(names: dict[nn.Parameter, list[str]], patterns: Sequence[str]) -> dict[nn.Parameter, int]:
    """For each parameter the number of the first pattern, from 1 on, that one of its names matches; 0: of none."""
    return {
        param: next((number for number, pattern in enumerate(patterns, 1) if any(fnmatchcase(name, pattern) for name in own_names)), 0)
        for param, own_names in names.items()
    }


def groups_in_words(model: nn.Module, config: OptimizerConfig) -> str:
    """Which parameters the config's own groups take, as a notice. Raises: SpecError for a group that takes none."""
    own_of = first_matches(trained_names(model), [group.pattern for group in config.groups])
    refuse_idle_patterns(model, "optimizer.groups", [group.pattern for group in config.groups])
    kinds = kinds_of(model, ())
    taken = [[param for param, own in own_of.items() if own == number] for number in range(len(config.groups) + 1)]
    words = [
        f"{len(params)} {'parameter matches' if len(params) == 1 else 'parameters match'} {group.pattern!r}"
        f" (learning rate x {group.learning_rate_factor:g}, {_decay_in_words(config, group, [kinds[param] for param in params])})"
        for group, params in zip(config.groups, taken[1:], strict=True)
    ]
    return f"Groups: {'; '.join(words)}; {len(taken[0])} are as the optimizer says."


def _decay_in_words(config: OptimizerConfig, group: ParameterGroupConfig, kinds: Sequence[Kind]) -> str:
    """The weight decay of a group. Args: kinds: of its parameters; biases and norms have none, unless the config says otherwise."""
    told = config.decays_in_words if group.weight_decay is None else f"weight decay {group.weight_decay:g}"
    is_main = config.takes(Kind.BIAS_OR_NORM, (), 1)
    if group.weight_decay == 0 or config.group_options(is_bias_or_norm=True, is_main=is_main, group=group)["weight_decay"]:
        return told
    bare = [kind is Kind.BIAS_OR_NORM for kind in kinds]
    return "no weight decay: biases and norms" if all(bare) else f"{told} but for biases and norms" if any(bare) else told


def listed(names: Sequence[str]) -> str:
    """The first of some names in a sentence, and how many more there are."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def refuse_idle_patterns(model: nn.Module, field: str, patterns: Sequence[str]) -> None:
    """Raise SpecError for a pattern that decides about no parameter."""
    names = trained_names(model)
    deciding = set(first_matches(names, patterns).values())
    for number, pattern in enumerate(patterns, 1):
        if number not in deciding:
            matches = any(first_matches(names, [pattern]).values())
            why = "whose parameters all match an earlier group" if matches else "which matches no parameter that is trained"
            trained = [own_names[0] for own_names in names.values()]
            hint = "Put it first." if matches else nearest(pattern, trained, listed=trained[:MOST_NAMES])
            raise SpecError(field, f"has the pattern {pattern!r}, {why}.", hint)


def shapes_by_main_rule(model: nn.Module, config: OptimizerConfig, heads: Collection[str]) -> list[tuple[int, ...]]:
    """The shapes of what the main rule of an optimizer of two updates. Args: heads: see `kinds_of`."""
    kinds = kinds_of(model, heads)
    return [tuple(param.shape) for param, names in trained_names(model).items() if config.takes(kinds[param], names, param.ndim)]


def build_optimizer(model: nn.Module, config: OptimizerConfig, heads: Collection[str] = ()) -> Optimizer:
    """The config's optimizer over a model's parameters; its learning rate is set before every step. Args: heads: see `kinds_of`."""
    return config.build(parameter_groups(model, config, heads))


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Put one learning rate in force for every group, times the group's own factor."""
    for param_group in optimizer.param_groups:
        param_group["lr"] = learning_rate * param_group.get(LEARNING_RATE_FACTOR, 1.0)


def set_in_all_groups(optimizer: Optimizer, options: Mapping[str, float]) -> None:
    """Put options in force for every group."""
    for param_group in optimizer.param_groups:
        param_group.update(options)


def set_options(optimizer: Optimizer, options: Mapping[str, float]) -> None:
    """Put in force what follows the samples of a step. Args: options: by name, those of the other one of two rules as `other.NAME`."""
    if not options:
        return
    for param_group in optimizer.param_groups:
        rule = "" if param_group.get("is_main", True) else "other."
        own = {option.removeprefix(rule): value for option, value in options.items() if option.startswith(rule)}
        if "momentum" in own:
            param_group["momentum"] = own["momentum"]
        if "betas" in param_group:
            param_group["betas"] = tuple(own.get(name, beta) for name, beta in zip(("beta1", "beta2"), param_group["betas"], strict=True))
        if param_group.get(BY_TIME_SCALE):
            param_group["weight_decay"] = own["weight_decay"] / param_group.get(LEARNING_RATE_FACTOR, 1.0)
