"""SOAP: Adam in the eigenbasis of Shampoo's factors (Vyas et al., arXiv:2409.11321), as the library pytorch_optimizer has it.

    w <- w - lr * Q_L A(Q_L^T G Q_R) Q_R^T,  then  w <- w - lr * beta * w
    L <- b * L + (1 - b) * G G^T,   R <- b * R + (1 - b) * G^T G

G gradient, beta weight decay, A Adam's step with bias correction, b the factors' decay. The first step makes L, R and their eigenvectors
Q_L, Q_R alone; every so many steps Q <- QR(L Q), its vectors sorted by what of L lies along them. A tensor of k dimensions has k factors.
"""

from typing import Any

from torch.optim import Optimizer

from largebatch.jobs.optim.config_base import ParamGroups
from largebatch.jobs.optim.split.library import pytorch_optimizer_for, refuse_narrow


def soap(groups: ParamGroups, **options: Any) -> Optimizer:
    """The library's SOAP. Raises: SpecError where it is not installed, PlanError for weights that it cannot factor."""
    refuse_narrow("soap", groups)
    optimizer: Optimizer = pytorch_optimizer_for("soap").SOAP(groups, lr=0.0, weight_decay=0.0, **options)
    return optimizer
