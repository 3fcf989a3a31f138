"""What a plan and a run say of a spec that is kept, though part of it does nothing or too much."""

from collections import deque

from largebatch.jobs.plan.train_plan import TrainPlan


def never_met_in_words(plan: TrainPlan) -> str | None:
    """A notice about growth and doublings that no step comes to; None where there are none."""
    if not plan.milestones:
        return None
    (last,) = deque(plan.batches(), maxlen=1)
    epoch = last.epoch + last.start / plan.num_train_samples
    samples = round(epoch * plan.num_train_samples)
    places = [
        f"{f'sample {place.samples:,}' if place.epoch is None else f'epoch {place.epoch:.6g}'} (x {place.factor:g})"
        for place in plan.milestones
        if not place.is_behind(epoch, samples)
    ]
    begins = f"the run's last step begins at sample {samples:,}, epoch {epoch:.4g}"
    return f"Batch schedule: never met: {', '.join(places)}; {begins}." if places else None


def averages_and_decays_in_words(plan: TrainPlan) -> str | None:
    """A notice about a decay of the rate under an optimizer whose average takes a decay's place; None where there are not both."""
    optimizer, decay = plan.spec.optimizer, plan.spec.learning_rate.decay
    if not optimizer.averages or decay == "constant":
        return None
    instead = f"under {optimizer.name} an average of the weights takes the place of a decay, and here the rate falls besides ({decay})"
    return f"Optimizer: {instead}; the method's own is learning_rate.decay=constant."
