"""Fields of a spec that say one thing in several ways, of which it has one."""

from largebatch.jobs.optim.by_samples.options import TIME_SCALE, half_life_fields

IN_TOKENS = {
    "batch.global_batch_size": "batch.global_batch_tokens",
    "learning_rate.base_global_batch_size": "learning_rate.base_global_batch_tokens",
}
"""Fields that are counted in samples, each with the one that says it in tokens."""
DECAYS = tuple(
    tuple(f"optimizer.{rule}{field}" for field in (option, *half_life_fields(option)))
    for rule in ("", "other.")
    for option in ("momentum", "beta1", "beta2")
)
"""The options of optimizers that say how fast the past fades: a number for each step, or a half-life in samples or tokens."""
ALTERNATIVES = (
    *IN_TOKENS.items(),
    ("stop.target", "stop.target_accuracy"),
    *DECAYS,
    *((f"optimizer.{rule}weight_decay", f"optimizer.{rule}{TIME_SCALE}") for rule in ("", "other.")),
)
"""Fields of which a spec has one: who sets one of them sets the others aside."""
