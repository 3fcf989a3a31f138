"""MLPerf Training's published figures: samples to the target by batch, and runs on H100s.

* Points: mlcommons/logging, `mlperf_logging/rcp_checker`, means over 10 to 28 seeds (ResNet-50 with LARS in epochs; BERT with LAMB in sequences,
  `training_3.1.0/rcps_bert.json`, commit 5c07d0c).
* Runs: the logs `NVIDIA/results/SYSTEM/BENCHMARK/result_0.txt` of mlcommons/training_results_v3.0 (9f08e30), v3.1 (f33f944) and v4.0 (62f111b).
  Minutes of ResNet-50 on 8, 64, 2,528 and 3,584 are the results that were published of several such logs; those of the others are this log's,
  `run_start` to `run_stop`.
* Links: NVIDIA's H100 data sheet: NVLink 900 GB/s both ways together; a DGX H100 has a ConnectX-7 of 400 Gbit/s (NDR InfiniBand) for each GPU.
  Latencies: NCCL's own tables, `src/graph/tuning.cc` (01afd20), LL128: 1.9 us a hop of NVLink, 8.5 us a hop of a tree over the network.
"""

from typing import NamedTuple

from largebatch.tuning.results.analysis.cluster import Cluster, Link

IMAGENET = 1_281_167
RESNET_POINTS = [
    (1632, 35.0), (3264, 35.2), (4096, 40.0), (8192, 42.0), (13056, 45.4), (32768, 56.0), (49152, 68.0), (58880, 79.9), (65536, 84.5),
    (67840, 85.86),
]  # fmt: skip
"""(batch, epochs)."""
BERT_POINTS = [
    (256, 2_552_704), (448, 2_410_630), (1536, 2_777_588), (3072, 2_768_215), (4096, 2_843_443), (4608, 2_794_752), (6144, 3_321_446),
    (6912, 3_596_122), (8192, 4_191_437), (8704, 4_278_144), (12288, 4_470_336), (13056, 4_632_576), (16384, 5_504_307),
]  # fmt: skip
"""(batch, sequences)."""
OTHER_POINTS = {
    "Llama-3.1-8B": [(16, 161.6e3), (32, 179.4e3), (64, 226.7e3), (96, 278.6e3), (128, 345.9e3)],
    "FLUX.1": [(512, 7.24e6), (1024, 8.49e6), (2048, 10.35e6), (4096, 15.35e6)],
    "Stable Diffusion": [(256, 1.72e6), (384, 2.05e6), (512, 2.10e6), (1024, 2.84e6), (2048, 4.02e6)],
    "R-GAT": [(4096, 0.79), (16_384, 0.86), (32_768, 0.94), (65_536, 1.185), (262_144, 2.465)],
}
"""(batch, samples or epochs), rounded to the digits given: the same checker's files, mlcommons/logging 7bbf792, 6 to 30 seeds each."""
RESNET_GRADIENT, BERT_GRADIENT = 25.557e6 * 2, 336.2e6 * 2
"""Bytes of a gradient in half precision, of ResNet-50's and BERT-large's parameters."""
DGX_H100 = Cluster(Link(50e9, 8.5e-6), Link(450e9, 1.9e-6), 8)


class Published(NamedTuple):
    """One run."""

    system: str
    accelerators: int
    batch: int
    samples_per_second: float
    """While it trained: of ResNet-50 without evaluation, of BERT with it."""
    startup_s: float
    """From `run_start` until the first step, and how much longer the first steps took than later ones."""
    evaluation_s: float
    """Of all evaluations together; 0: within the rate."""
    minutes: float

    @property
    def step_s(self) -> float:
        """Of a step."""
        return self.batch / self.samples_per_second


RESNET = [
    Published("v4.0 eos_ngc24.04_mxnet", 8, 3200, 57_270, 11.22, 4.00, 13.27),
    Published("v4.0 eos_n8_ngc24.04_mxnet", 64, 3200, 314_000, 6.48, 1.03, 2.505),
    Published("v3.0 dgxh100_n96_ngc23.04_mxnet", 768, 32_256, 3_418_000, 0.92, 0.28, 0.370),
    Published("v4.0 eos_n316_ngc24.04_mxnet", 2528, 40_448, 6_932_000, 0.60, 0.41, 0.228),
    Published("v3.1 coreweave_hgxh100_n448_ngc23.04_mxnet", 3584, 57_344, 9_978_000, 0.63, 0.46, 0.183),
]
BERT = [
    Published("v3.1 eos_ngc23.04_pytorch", 8, 768, 7_787, 1.20, 0.0, 5.795),
    Published("v3.1 eos_n8_ngc23.04_pytorch", 64, 4608, 54_928, 1.42, 0.0, 0.935),
    Published("v3.0 dgxh100_n64_ngc23.04_pytorch", 512, 3072, 144_130, 0.66, 0.0, 0.335),
    Published("v3.1 eos_n434_ngc23.09_pytorch", 3472, 13_888, 793_600, 0.26, 0.0, 0.1177),
]
