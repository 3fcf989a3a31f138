"""The optimizers by name. To add one: its config in `configs/`, and its line in `AnyOptimizer`."""

from typing import Annotated, get_args

from pydantic import Field

from largebatch.jobs.optim.configs.adamw import AdamWConfig
from largebatch.jobs.optim.configs.base import OptimizerConfig
from largebatch.jobs.optim.configs.lamb import LambConfig
from largebatch.jobs.optim.configs.lars import LarsConfig
from largebatch.jobs.optim.configs.sgd import SgdConfig

AnyOptimizer = Annotated[
    SgdConfig
    | AdamWConfig
    | LarsConfig
    | LambConfig,
    Field(discriminator="name"),
]  # fmt: skip
"""The optimizer's part of a spec."""

OPTIMIZERS: dict[str, type[OptimizerConfig]] = {
    get_args(config.model_fields["name"].annotation)[0]: config for config in get_args(get_args(AnyOptimizer)[0])
}
"""The config of each optimizer."""
