"""How long the all-reduce of a gradient takes: on workers that one link joins, and on machines of several workers.

Machines: M of them with G workers each. A reduce-scatter inside leaves each worker the sum of a G-th of the gradient, the M workers of the same
place all-reduce their part over the links between, and an all-gather inside brings the parts together. Of n bytes, over links of b bytes/s
(each worker's own, each way) and a seconds:

    inside  = 2 (G - 1) / G * n / b_inside + 2 (G - 1) * a_inside
    ring    = 2 (M - 1) / M * (n / G) / b + 2 (M - 1) * a
    tree    = 2 (n / G) / b + 2 log2(M) * a
    between = the shorter of ring and tree

A ring's reduce-scatter and all-gather: Thakur, Rabenseifner, Gropp, IJHPCA 19(1), 2005, section 4. A pipelined double binary tree: Sanders, Speck,
Traeff, Parallel Computing 35(12), 2009. NCCL weighs the same two by the same terms (its `src/graph/tuning.cc`).

One link for all N workers, where nothing is known of machines: a ring's bytes in a tree's rounds (large messages, small ones),

    between = 2 (N - 1) / N * n / b + 2 log2(N) * a
"""

import math
from typing import NamedTuple


class Link(NamedTuple):
    """What joins workers."""

    bytes_per_s: float
    """Of each worker, each way."""
    latency_s: float
    """Of one hop."""


class Travel(NamedTuple):
    """One all-reduce with nothing beside it."""

    inside_s: float
    between_s: float

    @property
    def seconds(self) -> float:
        """Both, one after the other."""
        return self.inside_s + self.between_s


class Cluster(NamedTuple):
    """What joins the workers."""

    between: Link
    """The workers of different machines; all workers, where nothing is known of machines."""
    inside: Link | None = None
    """The workers of one machine; None: nothing is known of machines, or each holds one worker."""
    per_machine: int | None = None
    """Workers of one machine; None: nothing is known of machines."""

    def all_reduce(self, num_workers: int, num_bytes: float) -> Travel:
        """Of a gradient over so many workers, which fill their machines."""
        if num_workers == 1:
            return Travel(0.0, 0.0)
        if self.per_machine is None:
            rounds_s = 2 * math.log2(num_workers) * self.between.latency_s
            return Travel(0.0, 2 * (num_workers - 1) / num_workers * num_bytes / self.between.bytes_per_s + rounds_s)
        together = min(num_workers, self.per_machine)
        inside_s = 0.0 if self.inside is None else _ring(together, num_bytes, self.inside)
        return Travel(inside_s, _ring_or_tree(num_workers // together, num_bytes / together, self.between))


def _ring(num_workers: int, num_bytes: float, link: Link) -> float:
    return 2 * (num_workers - 1) / num_workers * num_bytes / link.bytes_per_s + 2 * (num_workers - 1) * link.latency_s


def _ring_or_tree(num_workers: int, num_bytes: float, link: Link) -> float:
    if num_workers == 1:
        return 0.0
    tree = 2 * num_bytes / link.bytes_per_s + 2 * math.log2(num_workers) * link.latency_s
    return min(_ring(num_workers, num_bytes, link), tree)
