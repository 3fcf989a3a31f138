"""The optimizers by name. To add one: its config in a file of this folder, and its line in `AnyOptimizer`."""

from typing import Annotated, get_args

from pydantic import Field

from largebatch.jobs.optim.config_base import OptimizerConfig
from largebatch.jobs.optim.configs.element_wise import AdamWConfig, LionConfig, SgdConfig
from largebatch.jobs.optim.configs.kronecker import ShampooConfig, SoapConfig
from largebatch.jobs.optim.configs.layer_wise import LambConfig, LarsConfig
from largebatch.jobs.optim.configs.muon import MuonConfig
from largebatch.jobs.optim.configs.own import OwnOptimizerConfig
from largebatch.jobs.optim.configs.schedule_free import ScheduleFreeAdamWConfig, ScheduleFreeSgdConfig
from largebatch.jobs.optim.rmsprop_warm_up.config import RmspropSgdConfig

AnyOptimizer = Annotated[
    SgdConfig
    | AdamWConfig
    | LarsConfig
    | LambConfig
    | MuonConfig
    | SoapConfig
    | ShampooConfig
    | LionConfig
    | RmspropSgdConfig
    | ScheduleFreeSgdConfig
    | ScheduleFreeAdamWConfig
    | OwnOptimizerConfig,
    Field(discriminator="name"),
]
"""The optimizer's part of a spec."""

OPTIMIZERS: dict[str, type[OptimizerConfig]] = {
    get_args(config.model_fields["name"].annotation)[0]: config for config in get_args(get_args(AnyOptimizer)[0]) if config is not OwnOptimizerConfig
}
"""The config of each optimizer that has a name of its own."""
