"""`largebatch.transformers.Callback`: writes our run folder from transformers' Trainer.

trainer = Trainer(..., callbacks=[largebatch.transformers.Callback(dataset="my-text", metric=largebatch.Metric("loss", "lower"))])
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from largebatch.jobs.errors import InputError
from largebatch.jobs.recorder.batches import BatchSamples, begins_whole, largest_share, samples_of_epoch
from largebatch.jobs.recorder.micro_batch_noise import MicroBatch
from largebatch.jobs.recorder.recorder import Recorder
from largebatch.jobs.run.records import Outcome
from largebatch.jobs.tasks.metric import Metric

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError("largebatch.transformers needs transformers, which is not installed: pip install 'largebatch[transformers]'") from error

EVALUATED = "eval_"
"""Begins the names of what an evaluation gave."""
RUNTIME = "runtime"
ASIDE = {RUNTIME, "samples_per_second", "steps_per_second", "model_preparation_time", "epoch"}
"""What transformers puts among them that is no score."""
NO_TARGET = -100
"""The label of what does not count in a loss."""


class Callback(TrainerCallback):  # type: ignore[misc]
    """Records each `train()` of a Trainer.

    A step's line is written where the Trainer logs (`logging_steps`), with the loss that it logs: the mean of the steps since it logged last.
    The clock counts from the reading of each step's batches to the end of the step. Not in it: evaluation, checkpoints, and the reading
    of the batches that follow either. Where gradients are accumulated, the noise scale is told by the gradients of the micro-batches.

    Args:
        dataset: its name; runs are compared where it is the same.
        metric: what the run is judged by, by the name that evaluation gives it without its `eval_`, such as loss.
        model: its name; None: its class.
        seed: None: the Trainer's.
        global_batch_size: None: the Trainer's batch, times accumulation, times processes.
        num_train_samples: None: the length of the training data.
        num_samples: of what the model is called with, by name; None: the length of its first tensor, which must be the Trainer's batch.
        options: as of `largebatch.Recorder`: target, settings, noise_every_steps, evaluated_on, name, output_dir, learning_rate ...
    Raises: InputError for what cannot be recorded, when training starts.
    """

    def __init__(
        self,
        *,
        dataset: str,
        metric: Metric,
        model: str | None = None,
        seed: int | None = None,
        global_batch_size: int | None = None,
        num_train_samples: int | None = None,
        num_samples: Callable[[Mapping[str, Any]], int] | None = None,
        **options: Any,
    ) -> None:
        self._dataset, self._metric, self._model, self._seed = dataset, metric, model, seed
        self._global_batch_size, self._num_train_samples, self._num_samples = global_batch_size, num_train_samples, num_samples
        self._options = options
        self.recorder: Recorder | None = None
        """Of the last training."""
        self._samples = self._pass_samples = self._in_pass = 0
        self._evaluation_s = 0.0
        self._passes_again = False
        self._step_samples: int | None = None
        self._other_names: set[str] | None = None
        self._passes: list[_Pass] = []
        self._hooks: list[RemovableHandle] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin a run. Raises: InputError."""
        if state.global_step:
            problem = f"the Trainer goes on from step {state.global_step}, and a recording begins with its run."
            raise InputError("resume_from_checkpoint", problem, "Leave the callback out, or train from the start.")
        if args.n_gpu > 1:
            problem = f"one process drives {args.n_gpu} GPUs, and what each of them reads is not told."
            raise InputError("n_gpu", problem, "Start one process for each: torchrun --nproc-per-node=N.")
        self._let_go()  # of a training that an exception ended, which no callback is told
        model, optimizer, loader = kwargs["model"], kwargs["optimizer"], kwargs["train_dataloader"]
        size = state.train_batch_size or args.train_batch_size  # auto_find_batch_size tries others than the argument
        share = largest_share(loader, size, args.gradient_accumulation_steps, args.world_size)
        self.recorder = Recorder(
            model=self._model or type(model).__name__,
            dataset=self._dataset,
            optimizer=getattr(optimizer, "optimizer", optimizer),  # accelerate wraps it
            global_batch_size=self._global_batch_size or share * args.world_size,
            num_train_samples=samples_of_epoch(loader, self._num_train_samples),
            micro_batch_size=size,
            seed=args.seed if self._seed is None else self._seed,
            metric=self._metric,
            **{"trainer": "transformers", **self._options},
        )
        self._samples, self._pass_samples, self._passes_again, self._step_samples, self._other_names = 0, 0, False, None, None
        self._evaluation_s = 0.0
        self._batches = BatchSamples(self._num_samples, size, begins_whole(loader))
        self._hooks = [
            model.register_forward_pre_hook(self._count, with_kwargs=True),
            model.register_forward_hook(self._listen, with_kwargs=True),
        ]
        self._accumulates, self._passes = args.gradient_accumulation_steps > 1, []
        self.recorder.begin()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The first batch is about to be read."""
        if self.recorder is not None and not self.recorder.trains:
            self.recorder.start_clock()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on after an evaluation or a checkpoint. Raises: InputError where no evaluation gave the metric."""
        self._finish_step()
        self._refuse_other_names()
        if self.recorder is not None and not self.recorder.trains:
            self.recorder.start_clock()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A micro-batch that is not its step's last has been passed backward."""
        self._end_pass()
        self._count_micro_batch()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The last one has."""
        self._end_pass()
        reason = _weigh(self._passes)
        if reason:
            self._running().micro_batch_noise.refuse(reason)
        self._passes = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step is done; whether a line is written of it, the Trainer says next."""
        self._count_micro_batch()
        self._step_samples, self._samples = self._samples, 0
        if self.recorder is not None and (control.should_log or control.should_evaluate or control.should_save):
            self.recorder.mark()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What follows may be an evaluation."""
        if self.recorder is not None and self.recorder.trains:
            self.recorder.mark()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Write the step's line."""
        if logs is not None and "loss" in logs:
            self._finish_step(logs["loss"], logs.get("grad_norm"))

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Write down what an evaluation gave; one that did not come from training is none of the run's."""
        if self.recorder is None or not self.recorder.is_recording:
            return
        self._finish_step()
        self.recorder.stop_clock(to_mark=True)
        told = {name.removeprefix(EVALUATED): value for name, value in (metrics or {}).items() if isinstance(value, int | float)}
        of_set = next((name.removesuffix(RUNTIME) for name in told if name.endswith(RUNTIME)), "")  # of several sets its name begins all names
        scores = {name: float(value) for name, value in told.items() if name.removeprefix(of_set) not in ASIDE}
        self._evaluation_s += float(told.get(of_set + RUNTIME, 0.0))
        if self._metric.name in scores:
            self.recorder.evaluation(scores, self._evaluation_s)
            self._other_names, self._evaluation_s = set(), 0.0
        elif self._other_names != set():
            self._other_names = {*(self._other_names or ()), *scores}

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock; what was since the step was no training."""
        if self.recorder is not None and self.recorder.is_recording:
            self._finish_step()
            self.recorder.stop_clock(to_mark=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the summary. Raises: InputError where no evaluation gave the metric."""
        if self.recorder is None or not self.recorder.is_recording:
            return
        self._finish_step()
        self._refuse_other_names()
        self.recorder.stop_clock(to_mark=True)
        self._end()

    def _count(self, model: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Count what a training pass reads; of several passes of one micro-batch the largest."""
        if model.training and torch.is_grad_enabled():
            if self._pass_samples and not self._passes_again:
                self._passes_again = True
                self._running().notice(
                    "Each micro-batch passes through the model several times; its samples are counted once, as the largest pass has them."
                )
                self._running().micro_batch_noise.refuse("a micro-batch passes through the model several times")
            with self._ending_a_refused_run():
                self._in_pass = self._batches.of(named or [*inputs])
            self._pass_samples = max(self._pass_samples, self._in_pass)

    def _count_micro_batch(self) -> None:
        """It has been passed backward."""
        self._samples, self._pass_samples = self._samples + self._pass_samples, 0

    def _listen(self, model: Any, inputs: tuple[Any, ...], named: dict[str, Any], outputs: Any) -> None:
        """Measure the gradient of a micro-batch that is one of several, and what the Trainer multiplies its loss by."""
        noise = self._running().micro_batch_noise
        if self._accumulates and noise.is_due and model.training and torch.is_grad_enabled():
            self._passes.append(_Pass(self._in_pass, named, outputs))
            noise.begin()

    def _end_pass(self) -> None:
        if self._passes:
            self._running().micro_batch_noise.end(self._passes[-1].micro_batch)

    def _running(self) -> Recorder:
        assert self.recorder is not None, "transformers calls on_train_begin first"
        return self.recorder

    def _finish_step(self, loss: float | None = None, gradient_norm: float | None = None) -> None:
        if self.recorder is not None and self._step_samples is not None:
            number, self._step_samples = self._step_samples, None
            with self._ending_a_refused_run():
                self.recorder.step(loss, number, gradient_norm=gradient_norm)

    def _refuse_other_names(self) -> None:
        if self._other_names:
            problem = f"no evaluation gave {EVALUATED}{self._metric.name}, which the run is judged by."
            with self._ending_a_refused_run():
                raise InputError("metric", problem, f"They gave {', '.join(sorted(EVALUATED + name for name in self._other_names))}.")

    @contextmanager
    def _ending_a_refused_run(self) -> Iterator[None]:
        """Write down why, which the Trainer tells no callback."""
        try:
            yield
        except InputError as error:
            self._end(Outcome.FAILED, str(error))
            raise

    def _end(self, outcome: Outcome | None = None, reason: str = "") -> None:
        self._let_go()
        if self.recorder is not None:
            self.recorder.end(outcome, reason)

    def _let_go(self) -> None:
        """Of the model and its parameters."""
        if self.recorder is not None:
            self.recorder.micro_batch_noise.close()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


class _Pass:
    """A training pass of a model: its samples, the labels that its loss may count, and what the Trainer multiplies that loss by.

    Autograd tells the last: it is the gradient with respect to the loss, whatever scales it on the way.
    """

    def __init__(self, num_samples: int, named: Mapping[str, Any], outputs: Any) -> None:
        self.micro_batch = MicroBatch(num_samples)
        self.items_of_step = named.get("num_items_in_batch")
        """What the model divides a sum over labels by, for the whole step; None: its loss is a mean over its own."""
        labels = [label for label in (named.get("shift_labels"), named.get("labels")) if isinstance(label, Tensor)]
        shifted = [label[..., 1:] for label in labels if label.ndim > 1]
        self.counts = [label.ne(NO_TARGET).sum() for label in (*labels, *shifted)]
        """As a loss may count them, which shifts labels or does not."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs[0] if isinstance(outputs, tuple) else None
        if isinstance(loss, Tensor) and loss.requires_grad:
            loss.register_hook(self._hear)  # type: ignore[no-untyped-call]

    def _hear(self, gradient: Tensor) -> None:
        self.micro_batch.coefficient = gradient.detach().clone()


def _weigh(passes: list[_Pass]) -> str:
    """Give each pass of a step the weight of its labels, where the model divides by the number of all of them.

    Returns: what keeps the noise from being told, in words; "" where nothing does.
    """
    heard = [each.micro_batch.coefficient for each in passes if each.micro_batch.coefficient is not None]
    if len(heard) < len(passes):
        return "the Trainer's loss is not the one that the model gives, so that its scale is not known"
    if not passes or passes[0].items_of_step is None:
        return ""
    items = float(passes[0].items_of_step)
    for counts in zip(*(each.counts for each in passes), strict=True):
        weights = [float(count) for count in counts]
        if sum(weights) == items:
            for each, coefficient, weight in zip(passes, heard, weights, strict=True):
                each.micro_batch.weight, each.micro_batch.coefficient = weight, coefficient * weight / items
            return ""
    return "what a micro-batch weighs is not known: the labels that the model reads are not as many as the loss is divided by"
