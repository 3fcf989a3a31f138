"""The famous runs of ImageNet as recipes: published steps and rates at full size, and a few steps of each on a folder of CIFAR-10's pictures."""

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from small_runs import CPU, ROOT, parameters, trained

from largebatch.jobs.data.sources.table import load_dataset
from largebatch.jobs.job import prepare
from largebatch.jobs.plan.make import Facts, make_plan
from largebatch.jobs.plan.step_plan import Position, StepPlan
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.run.journal import evaluations, read_records, steps
from largebatch.jobs.run.records import StepRecord
from largebatch.jobs.spec.model_and_data import DatasetSpec
from largebatch.jobs.spec.read import read_spec

IMAGENET_TRAIN = 1_281_167  # ILSVRC 2012
YAMAZAKI = [
    "batch.global_batch_size=81920",
    "batch.schedule.growth=[]",
    "batch_norm.span=40",
    "learning_rate.base=23",
    "learning_rate.warmup_epochs=32",
]


def full(name: str, changes: list[str] | None = None, world_size: int = 1) -> TrainPlan:
    return make_plan(read_spec(name, changes or []), Facts(IMAGENET_TRAIN, has_batch_norm=True, micro_batch_size=96, world_size=world_size))


def first_steps_of_epochs(plan: TrainPlan) -> dict[int, StepPlan]:
    position, firsts = Position(0, 0), dict[int, StepPlan]()
    for _ in range(plan.total_steps):
        step = plan.step_at(position)
        firsts.setdefault(step.samples.epoch, step)
        position = step.end
    return firsts


def test_fifteen_minutes_is_planned_as_published() -> None:
    """On 1,024 workers, 32 images each; the rate is Goyal's linear rule times the paper's fractions."""
    plan = full("resnet50-15-minutes", world_size=1024)
    assert plan.total_steps == 90 * 40  # 39 whole steps an epoch, and a short one
    assert {plan.step_at(Position(0, 0)).share(rank).size for rank in range(1024)} == {32}
    firsts = first_steps_of_epochs(plan)
    peak = 0.1 * 32768 / 256
    for epoch, fraction in {0: 0.5, 39: 0.5, 40: 0.075, 69: 0.075, 70: 0.01, 84: 0.01, 85: 0.001, 89: 0.001}.items():
        assert firsts[epoch].learning_rate == pytest.approx(fraction * peak, rel=1e-12)
    sgd = {epoch: step.options_by_progress["sgd_weight"] for epoch, step in firsts.items()}
    half_a_step = 0.5 * 32768 / IMAGENET_TRAIN
    assert sgd[10] == pytest.approx(0.5 + half_a_step / 5, rel=1e-6)
    assert sgd[0] < 0.01 < sgd[9] < 0.5
    assert sgd[12] < 1.0 == sgd[13] == sgd[89]


def test_one_minute_grows_as_published() -> None:
    """From 16 images on each of 2,176 workers to 32, which are two groups of batch-norm."""
    plan = full("resnet50-one-minute", world_size=2176)
    for epoch, share in {0: 16, 29: 16, 30: 32, 89: 32}.items():
        assert {plan.step_at(Position(epoch, 0)).share(rank).size for rank in (0, 1, 1000, 2175)} == {share}
    sizes = Counter(batch.size for batch in plan.batches())
    assert (sizes[34816], sizes[69632]) == (30 * 36, 60 * 18)
    assert max(step.learning_rate for step in first_steps_of_epochs(plan).values()) == pytest.approx(19.4, rel=1e-2)


def test_the_other_run_is_the_line_of_the_comment() -> None:
    comment = next(line for line in (ROOT / "recipes" / "resnet50-one-minute.yaml").read_text().splitlines() if "=81920" in line)
    assert [part for part in comment.removeprefix("#").split() if part != "--set"] == YAMAZAKI
    plan = full("resnet50-one-minute", YAMAZAKI, world_size=2048)
    assert plan.total_steps == 90 * 16
    assert plan.scaled_rate[:2] == (23.0, 32.0)


@pytest.fixture(scope="module")
def pictures(image_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose `imagenet` is 48 training and 16 test pictures of CIFAR-10 as PNGs, four classes."""
    dataset = load_dataset(DatasetSpec.model_validate({"name": "cifar10"}), image_data_dir)
    folder = tmp_path_factory.mktemp("pictures")
    for part, samples, count in (("train", dataset.train, 48), ("val", dataset.test, 16)):
        of_four = [index for index in range(20 * count) if int(samples.batch[1][index]) < 4]
        for index in of_four[:count]:
            own = folder / "imagenet" / part / str(int(samples.batch[1][index]))
            own.mkdir(parents=True, exist_ok=True)
            Image.fromarray(samples.batch[0][index].permute(1, 2, 0).numpy()).save(own / f"{index}.png")
    return folder


SMALL = [
    *("model.name=resnet18", "dataset.arguments.image_size=32", "dataset.num_workers=0"),
    *("tracking.enabled=false", "stop.epochs=4", "checkpoint.best=false"),
]
"""Four epochs of three steps and of so many of the pictures."""


def run(name: str, changes: list[str], pictures: Path, run_dir: Path) -> list[StepRecord]:
    spec = read_spec(name, [*SMALL, "batch.micro_batch_size=8", *changes])
    trained(prepare(spec, CPU, pictures), run_dir)
    records = read_records(run_dir)
    assert [round(record.epoch) for record in evaluations(records)] == [1, 2, 3, 4]
    return list(steps(records))


def test_fifteen_minutes_on_a_few_pictures(pictures: Path, tmp_path: Path) -> None:
    """Transition and milestones many times as fast: the rates fall as they should, and the statistics are those of the last step's four groups."""
    faster = ["optimizer.transition_epoch=1", "optimizer.transition_period_epochs=0.5", "learning_rate.decay_milestones=[0,2,3,3.5]"]
    records = run("resnet50-15-minutes", ["batch.global_batch_size=16", "batch_norm.span=4", *faster], pictures, tmp_path / "run")
    peak = 0.1 * 16 / 256
    expected = [0.5] * 6 + [0.075] * 3 + [0.01, 0.001, 0.001]
    assert [record.learning_rate / peak for record in records] == pytest.approx(expected, rel=1e-12)
    assert all(record.loss < 2 * records[0].loss for record in records)
    counts = [int(value) for name, value in parameters(tmp_path / "run").items() if name.endswith("num_batches_tracked")]
    assert counts == [4] * 20


@pytest.mark.slow
def test_one_minute_on_a_few_pictures(pictures: Path, tmp_path: Path) -> None:
    """In float32, for bfloat16 is slow on a CPU; the batch doubles at its epoch, in whole groups."""
    changes = ["batch.global_batch_size=8", "batch.schedule.growth=[{epoch: 2, factor: 2}]", "batch_norm.span=4", "learning_rate.warmup_epochs=1"]
    records = run(
        "resnet50-one-minute",
        [*changes, "precision=float32", "learning_rate.base=1"],
        pictures,
        tmp_path / "run",
    )
    assert [record.global_batch_size for record in records] == [8] * 12 + [16] * 6
    middles = [record.samples_seen - record.global_batch_size / 2 for record in records]
    rates = [middle / 48 if middle < 48 else (1 - (middle - 48) / 144) ** 2 for middle in middles]
    assert [record.learning_rate for record in records] == pytest.approx(rates, rel=1e-12)
    assert all(record.loss < 2 * records[0].loss for record in records)
