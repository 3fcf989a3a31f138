"""Says which parameters each rule of an optimizer of two updates, and why; refuses what cannot be."""

import re
from collections import Counter
from collections.abc import Collection, Iterable

from torch import nn

from largebatch.jobs.errors import PlanError, SpecError
from largebatch.jobs.optim.configs.two_rules import TwoRulesConfig
from largebatch.jobs.optim.parameter_groups import first_matches, listed, refuse_idle_patterns, trained_names
from largebatch.jobs.optim.split.kinds import kinds_of


def rules_in_words(model: nn.Module, config: TwoRulesConfig, heads: Collection[str]) -> tuple[str, ...]:
    """A notice for each rule, with the parameters that it updates by what put them there. Args: heads: see `kinds_of`.

    Raises: SpecError for a pattern that decides about nothing; PlanError where the rule for matrices has none.
    """
    patterns = [each.pattern for each in config.assign]
    refuse_idle_patterns(model, "optimizer.assign", patterns)
    names, kinds = trained_names(model), kinds_of(model, heads)
    deciding = first_matches(names, patterns)
    for number, each in enumerate(config.assign, 1):
        decided = [param for param, own in deciding.items() if own == number]
        if each.to == config.name and not any(config.takes(kinds[param], names[param], param.ndim) for param in decided):
            problem = f"has the pattern {each.pattern!r} to {config.name}, which updates no vector, and it decides about vectors alone."
            raise SpecError("optimizer.assign", problem, f"Leave it out: {config.other.name} updates them.")
    by_reason: dict[bool, dict[str, list[str]]] = {True: {}, False: {}}
    for param, (name, *_) in names.items():
        is_main = config.takes(kinds[param], names[param], param.ndim)
        decides = deciding[param] and is_main == (config.assign[deciding[param] - 1].to == config.name)
        reason = f"matching {patterns[deciding[param] - 1]!r}" if decides else str(kinds[param])
        by_reason[is_main].setdefault(reason, []).append(name)
    if not by_reason[True]:
        held = "; ".join(f"{reason}: {_listed(found)}" for reason, found in by_reason[False].items())
        problem = f"{config.name} has no hidden matrix to update in this model, which trains {held}."
        raise PlanError("optimizer.name", problem, f"Use {config.other.name}, or assign parameters to {config.name} by their names.")
    words = [f"By {config.name}: {_told(by_reason[True])} ({config.decay_in_words}, {config.rule_in_words})"]
    if by_reason[False]:
        decay, factor = config.other.decay_in_words, config.other_learning_rate_factor
        words.append(f"By {config.other.name}: {_told(by_reason[False])} ({decay}, learning rate x {factor:g})")
    return tuple(words)


def _told(by_reason: dict[str, list[str]]) -> str:
    return "; ".join(f"{reason} {_listed(names)}" for reason, names in by_reason.items())


def _listed(names: Iterable[str]) -> str:
    """Names that differ in a layer's number alone as one, with how many they are."""
    counts = Counter(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names)
    firsts = {re.sub(r"(?<=\.)\d+(?=\.)", "*", name): name for name in names}
    return listed([firsts[form] if count == 1 else f"{form} ({count})" for form, count in counts.items()])
