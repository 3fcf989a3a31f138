"""`largebatch.Recorder`: writes the run folder of a run that another program's loop trains.

The loop says when it trains, what a step was, and what an evaluation gave; everything else is read from its optimizer. Nothing of the
loop is changed: a recording that ends early, such as of a loss that is not finite, lets it go on.
"""

import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import pydantic
import torch
from torch import Tensor
from torch.optim import Optimizer

from largebatch.jobs.device import device_name, environment
from largebatch.jobs.engine.noise_scale import NoiseSums
from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.engine.standstill import Standstill, in_words
from largebatch.jobs.errors import InputError
from largebatch.jobs.recorder.loop_clock import LoopClock
from largebatch.jobs.recorder.micro_batch_noise import MicroBatch, MicroBatchNoise, finite_number_of, number_of
from largebatch.jobs.recorder.optimizer import RateOfSteps, describe_optimizer, peak_learning_rate
from largebatch.jobs.recorder.progress import RecordedProgress
from largebatch.jobs.recorder.scores import differ_in, of_first_rank
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.journal import Journal, NoJournal
from largebatch.jobs.run.records import FAILED, EndRecord, EvalRecord, NoticeRecord, Outcome, RunSummary, StartRecord, StepRecord
from largebatch.jobs.spec.mistakes import first_mistake
from largebatch.jobs.spec.recorded import RecordedSpec
from largebatch.jobs.tasks.metric import ACCURACY, Metric
from largebatch.jobs.whole_files import write_text

T = TypeVar("T")
CLOCK = "The training clock is that of another program's loop: what sets kernels up or compiles in its first steps is counted."


class Recorder:
    """Writes down a run of a loop that knows nothing of us, so that `largebatch compare`, `advise` and `report` read it.

        recorder = largebatch.Recorder(model="mlp", dataset="digits", optimizer=optimizer, global_batch_size=64, num_train_samples=1437)
        with recorder:
            for epoch in range(10):
                for inputs, labels in recorder.training(loader):
                    ...
                    recorder.step(loss, len(labels))
                with recorder.evaluating():
                    accuracy = test(network)
                recorder.evaluation({"accuracy": accuracy})

    Training seconds count inside `training(...)` alone, up to the last step; not while `evaluating()` or `paused()`. The device is waited
    for before the clock is read. Where torch.distributed is initialised every rank records, in the same steps, and rank 0 writes.

    Args:
        model, dataset: names; runs are compared where they are the same.
        optimizer: its name, options and rate are read, the rate of each step as that step begins.
        global_batch_size: samples per optimizer step, over all ranks and micro-batches.
        num_train_samples: of one epoch.
        seed: runs that differ in it alone are repetitions of each other.
        metric: what the run is judged by; `evaluation` is given its value under its name.
        target: the score to reach.
        settings: what else changes results, such as epochs or augmentation.
        evaluated_on: the part of the data that evaluations are of.
        learning_rate: at the peak of the schedule; None: as the optimizer says it at the start.
        optimizer_name: in place of the optimizer's class.
        tokens_per_sample: of sequences of tokens, padding included.
        micro_batch_size: samples per rank in one forward pass; None: a step takes its samples at once.
        noise_every_steps: of steps whose passes are told by `micro_batch`, how many to one that measures the noise scale; "auto": 1; 0: never.
        device: which is waited for; None: where the optimizer's first parameter lies.
        trainer: whose loop it is.
    Raises: SpecError for what says no run, when the recording begins; StorageError.
    """

    def __init__(
        self,
        *,
        model: str,
        dataset: str,
        optimizer: Optimizer,
        global_batch_size: int,
        num_train_samples: int,
        seed: int = 0,
        metric: Metric = ACCURACY,
        target: float | None = None,
        settings: Mapping[str, Any] | None = None,
        evaluated_on: str = "validation",
        learning_rate: float | None = None,
        optimizer_name: str | None = None,
        tokens_per_sample: int | None = None,
        micro_batch_size: int | None = None,
        noise_every_steps: int | Literal["auto"] = "auto",
        name: str | None = None,
        output_dir: str | os.PathLike[str] = "runs",
        device: torch.device | str | None = None,
        trainer: str = "plain loop",
    ) -> None:
        self.metric = metric
        """What the run is judged by."""
        self.run_dir: Path
        """The run's folder, once it has begun; rank 0 has it."""
        self.device = torch.device(device) if device is not None else optimizer.param_groups[0]["params"][0].device
        self.ranks = Ranks(self.device)
        rate = peak_learning_rate(optimizer) if learning_rate is None else learning_rate
        document = {
            "recorded": {"trainer": trainer},
            **({} if name is None else {"name": name}),
            "dataset": {"name": dataset},
            "model": {"name": model},
            "batch": {"global_batch_size": global_batch_size},
            "optimizer": describe_optimizer(optimizer, optimizer_name),
            "learning_rate": {"base": float(rate)},
            "stop": {"target": None if target is None else {"metric": metric.name, "value": float(target)}},
            "settings": dict(settings or {}),
            "seed": seed,
        }
        try:
            self.spec = RecordedSpec.model_validate(document)
        except pydantic.ValidationError as error:
            raise first_mistake(error, RecordedSpec) from None
        if evaluated_on not in {"validation", "test"}:
            raise InputError("evaluated_on", f"is {evaluated_on!r}.", 'Choose "validation" or "test".')
        for field, number in (
            ("num_train_samples", num_train_samples),
            ("tokens_per_sample", tokens_per_sample),
            ("micro_batch_size", micro_batch_size),
        ):
            if number is not None and (type(number) is not int or number < 1):
                raise InputError(field, f"is {number!r}, and it is a number of samples or tokens.", "Give a whole number from 1 on.")
        share = math.ceil(global_batch_size / self.ranks.world_size)
        self._micro_batch_size = min(micro_batch_size or share, share)
        self._num_micro_batches = math.ceil(share / self._micro_batch_size)
        self._output_dir, self._rates = Path(output_dir), RateOfSteps(optimizer)
        self._evaluated_on: Any = evaluated_on
        self._clock, self._standstill, self._noise = LoopClock(self.device), Standstill(), NoiseSums()
        self.micro_batch_noise = MicroBatchNoise(optimizer, noise_every_steps, self.ranks.world_size, self.notice)
        self._progress = RecordedProgress(num_train_samples, metric, None if target is None else float(target), tokens_per_sample)
        self._journal: Journal | None = None
        self._loop: object | None = None
        self.summary: RunSummary | None = None
        """Of the run, once it has ended."""

    @property
    def is_recording(self) -> bool:
        """Whether it has begun, and has not ended."""
        return self._journal is not None

    @property
    def has_reached_target(self) -> bool:
        """Whether an evaluation met the target: a loop may end there."""
        return self._progress.time_to_target_s is not None

    @property
    def has_diverged(self) -> bool:
        """Whether a loss was not finite: the recording is over, and the loop may end."""
        return self._progress.has_diverged

    def begin(self) -> None:
        """Make the run's folder and begin its journal. Raises: StorageError; InputError for a second time."""
        if self._journal is not None or self.summary is not None:
            raise InputError("recorder", "has recorded a run already.", "Make a new one for each run.")
        self._clock = LoopClock(self.device)
        self._rates.begin()
        self._standstill.begin()
        if not self.ranks.is_first:
            self._journal, self.run_dir = NoJournal(), self._output_dir
            return
        self.run_dir = run_folder.create(self._output_dir, run_folder.new_run_id(self.spec.name))
        write_text(self.run_dir / run_folder.SPEC, self.spec.model_dump_json(indent=2) + "\n")
        write_text(self.run_dir / run_folder.ENVIRONMENT, json.dumps(environment(self.device), indent=2) + "\n")
        self._journal = Journal(self.run_dir)
        progress = self._progress
        start = StartRecord(
            at_s=time.time(), step=0, training_seconds=0.0, world_size=self.ranks.world_size, device=device_name(self.device),
            micro_batch_size=self._micro_batch_size, num_train_samples=progress.num_train_samples, evaluated_on=self._evaluated_on,
            tokens_per_sample=progress.tokens_per_sample, headline=progress.headline,
        )  # fmt: skip
        self._journal.write(start)
        self.notice(CLOCK)

    def notice(self, text: str) -> None:
        """Write down what a person should know, as of the step just done."""
        self._begun().write(NoticeRecord(step=self._progress.step, text=text))

    def training(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; the clock runs from the first one's reading until they end, or the loop over them does."""
        self._begun()
        loop = self._loop = object()
        self._clock.begin_loop()
        try:
            yield from batches
        finally:
            if self._loop is loop:  # a loop that was left early may be closed when the next one runs
                self.stop_clock()

    def start_clock(self) -> None:
        """Count what follows as training, for a loop whose batches do not pass through `training`."""
        self._begun()
        self._clock.start_training()

    @property
    def trains(self) -> bool:
        """Whether the training clock runs."""
        return self._clock.trains

    def mark(self) -> None:
        """Take note of the clock, for a loop of which only the next call says whether what follows is training."""
        self._clock.mark()

    def stop_clock(self, to_mark: bool = False) -> None:
        """Count what follows no longer. Args: to_mark: nor what was since the mark; nothing to do where the clock does not run."""
        self._clock.stop(to_mark)

    def paused(self) -> AbstractContextManager[None]:
        """Stop the training clock for what is inside, such as saving a checkpoint."""
        return self._clock.pausing()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Stop the training clock, and count what is inside as evaluation."""
        with self.paused(), self._clock.evaluating():
            yield

    def micro_batch(
        self, num_samples: int, *, weight: float | Tensor | None = None, coefficient: float | Tensor | None = None
    ) -> AbstractContextManager[None]:
        """A context for one micro-batch's backward pass: the noise scale is told by its gradient and the whole step's.

        Args:
            weight: what it weighs in the step's mean, such as its tokens; None: its samples.
            coefficient: what its mean loss is multiplied by, loss scaling included; None: its part of the step's weight.
        """
        self._begun()
        return self.micro_batch_noise.micro_batch(MicroBatch(num_samples, weight, coefficient))

    def step(
        self,
        loss: float | Tensor | None,
        num_samples: int,
        *,
        gradient_norm: float | Tensor | None = None,
        noise: tuple[float, float] | None = None,
    ) -> None:
        """Say that an optimizer step is done.

        Args:
            loss: this rank's mean over its samples of the step, before the update; None: the step is counted, but no line is written and the
                device is not waited for.
            num_samples: of this rank, over all its micro-batches.
            gradient_norm: L2, of the global batch's mean gradient before clipping.
            noise: the step's estimates of tr(Sigma) and |G|^2, as `jobs/engine/noise_scale.py` forms them; None: as its micro-batches tell.
        Raises: InputError for a step outside of `training`.
        """
        journal, progress = self._begun(), self._progress
        if progress.has_diverged:
            return
        if not self._clock.trains:
            raise InputError("step", "the training clock does not run.", "Read the batches through recorder.training(loader), and step inside of it.")
        rate = self._learning_rate()
        progress.count_step(num_samples)
        if progress.step == 1:
            progress.check_first_step(round(self.ranks.sum_numbers(num_samples)[0]), self.spec.batch.global_batch_size)
        measured = self.micro_batch_noise.take(num_samples)
        noise = measured if noise is None else noise
        if noise is not None:
            self._noise.add(*noise)
        if loss is None:
            self._clock.pass_step()
            return
        weighted, in_step, uncounted = self.ranks.sum_numbers(number_of(loss) * num_samples, num_samples, progress.uncounted_samples)
        progress.take_samples(round(uncounted))
        mean_loss = weighted / in_step
        if progress.is_first("larger", round(in_step) > (batch := self.spec.batch.global_batch_size)):
            self.notice(f"Step {progress.step} has {in_step:.0f} samples, above the {batch} that the run is known by.")
        if not math.isfinite(mean_loss):
            self._diverge(f"the loss is {mean_loss} at step {progress.step}")
            return
        trace, squared_norm = noise or (None, None)
        journal.write(
            StepRecord(
                step=progress.step, epoch=progress.epoch, samples_seen=progress.samples_seen, tokens_seen=progress.tokens_seen,
                global_batch_size=round(in_step), loss=mean_loss, learning_rate=rate,
                gradient_norm=finite_number_of(gradient_norm), covariance_trace=trace, gradient_norm_squared=squared_norm,
                training_seconds=self._clock.take_step(),
            )
        )  # fmt: skip

    def evaluation(self, scores: Mapping[str, float | Tensor], seconds: float = 0.0) -> None:
        """Say what an evaluation of the weights after the last step gave, whole: the headline metric, and any others, by name.

        Args: seconds: that it took, where it was not inside of `evaluating()`.
        Raises: InputError where the headline is missing.
        """
        journal, progress, metric = self._begun(), self._progress, self.metric
        if progress.has_diverged:
            return
        training_s = self._clock.leave_last_step()
        if training_s is None:
            problem = "the training clock runs since a step that was told without a loss, so that its end is not known."
            raise InputError("evaluation", problem, "Evaluate inside of: with recorder.evaluating().")
        values = {name: number_of(score) for name, score in scores.items()}
        if metric.name not in values:
            hint = f"It got {', '.join(sorted(values)) or 'nothing'}; say metric=largebatch.Metric(...) when the recorder is made."
            raise InputError("evaluation", f"has no {metric.name}, which the run is judged by.", hint)
        progress.take_samples(round(self.ranks.sum_numbers(progress.uncounted_samples)[0]))
        own = values[metric.name]
        values |= of_first_rank(self.ranks, {name: values[name] for name in sorted({"loss", metric.name} & values.keys())})
        for name in dict.fromkeys(("loss", metric.name)):
            if not math.isfinite(values.get(name, 0.0)):
                self._diverge(f"the {self._evaluated_on} {name} is {values[name]} after step {progress.step}")
                return
        if progress.is_first("other scores", differ_in(self.ranks, own)):
            self.notice(f"The processes' {metric.name} differ, such as after step {progress.step}: that of the first of them is recorded.")
        self._clock.evaluation_s += seconds
        progress.judge(values[metric.name], training_s)
        journal.write(
            EvalRecord(
                step=progress.step, epoch=progress.epoch, samples_seen=progress.samples_seen, tokens_seen=progress.tokens_seen,
                score=values[metric.name], scores={name: value for name, value in values.items() if math.isfinite(value)},
                training_seconds=training_s, evaluation_seconds=self._clock.evaluation_s,
            )
        )  # fmt: skip

    def end(self, outcome: Outcome | None = None, reason: str = "") -> RunSummary:
        """Write the summary. Args: outcome: None: as the target says; reason: of a run that failed."""
        journal, progress = self._begun(), self._progress
        self._clock.leave_last_step()
        self._clock.stop_training()
        self._rates.end()
        self._standstill.end()
        self.micro_batch_noise.close()
        if self.ranks.world_size == 1:
            progress.take_samples(progress.uncounted_samples)
        if (stop := in_words(self._standstill.seconds, self._clock.training_s)) is not None:
            self.notice(stop)
        if progress.has_diverged:
            outcome = Outcome.DIVERGED
        elif outcome is Outcome.FAILED:
            self.notice(f"{FAILED}{' '.join(reason.split())}")
        world_size, training_s = self.ranks.world_size, self._clock.training_s
        summary = progress.summarise(
            outcome or progress.outcome, run_id=self.run_dir.name, run_dir=str(self.run_dir), world_size=world_size, training_seconds=training_s,
            global_batch_size=self.spec.batch.global_batch_size, micro_batch_size=self._micro_batch_size,
            gradient_accumulation_steps=self._num_micro_batches, evaluation_seconds=self._clock.evaluation_s, wall_seconds=self._clock.wall_s,
            evaluated_on=self._evaluated_on, gradient_noise_scale=self._noise.noise_scale, stopped_seconds=self._standstill.seconds,
        )  # fmt: skip
        if self.ranks.is_first:
            write_text(self.run_dir / run_folder.SUMMARY, summary.model_dump_json(indent=2) + "\n")
        journal.write(EndRecord(summary=summary))
        journal.sync()
        journal.__exit__()
        self.summary, self._journal = summary, None
        return summary

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._journal is None:
            return
        if isinstance(error, Exception):
            self.end(Outcome.FAILED, f"{type(error).__name__}: {error}")
        else:
            self.end(None if error is None else Outcome.STOPPED)

    def _begun(self) -> Journal:
        if self._journal is None:
            state = "has ended" if self.summary else "has not begun"
            raise InputError("recorder", f"{state}.", "Use it inside of: with recorder.")
        return self._journal

    def _learning_rate(self) -> float:
        """The rate of the step just done; says once where it is above what the run is known by."""
        rate = self._rates.take()
        base = self.spec.learning_rate.base
        is_above = rate > base and not math.isclose(rate, base, rel_tol=1e-6)  # schedules round
        if self._progress.is_first("above", is_above):
            self.notice(f"The learning rate is {rate:g}, above the {base:g} that the run is known by: say its peak when the recorder is made.")
        return rate

    def _diverge(self, problem: str) -> None:
        self._progress.has_diverged = True
        self.micro_batch_noise.close()
        self.notice(f"Diverged: {problem}. The recording ends here.")
