"""Losses and metrics against restatements in float64, written out from their equations."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from largebatch.jobs.engine.evaluation.evaluate import numbers_of
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.samples.sample_draws import SampleDraws
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.samples.trees import rows
from largebatch.jobs.tasks.base import Batch, Task
from largebatch.jobs.tasks.classification import Classification, MultiLabel
from largebatch.jobs.tasks.contrastive import Contrastive, Embeddings
from largebatch.jobs.tasks.language_modelling import LanguageModelling
from largebatch.jobs.tasks.masked_language_modelling import MaskedLanguageModelling
from largebatch.jobs.tasks.registry import RegressionConfig
from largebatch.jobs.tasks.regression import Regression

ROUNDING = 1e-5
"""A hundred times float32's, relative: sums of a few dozen numbers."""
CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scores(task: Task, model: nn.Module, batch: Batch) -> dict[str, float]:
    with torch.no_grad():
        sums = {name: float(value) for name, value in task.metric_sums(model, batch).items()}
    return task.metrics(sums, float(task.weight(batch)))


class Given(nn.Module):
    """Gives the outputs that it was made with, by the numbers of the samples, which are its inputs."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = nn.Parameter(outputs)

    def forward(self, numbers: Tensor) -> Tensor:
        return self.outputs[numbers]


def softmax(logits: "np.ndarray") -> "np.ndarray":
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


class TestClassification:
    logits = torch.randn(12, 5, generator=generator())
    labels = torch.arange(12) % 5
    probabilities = softmax(logits.double().numpy())

    def test_class_weights(self) -> None:
        weights = (1.0, 2.0, 0.5, 3.0, 0.25)
        batch = (torch.arange(12), self.labels)
        task = Classification(5, class_weights=weights)
        per_sample = np.array(weights)[self.labels.numpy()]
        losses = -np.log(self.probabilities[np.arange(12), self.labels.numpy()])
        assert not task.counts_samples
        assert float(task.weight(batch)) == pytest.approx(per_sample.sum())
        assert float(task.loss_sum(Given(self.logits), batch).detach()) == pytest.approx((per_sample * losses).sum(), rel=ROUNDING)
        right = self.probabilities.argmax(1) == self.labels.numpy()
        found = scores(task, Given(self.logits), batch)
        assert found["accuracy"] == pytest.approx((right * per_sample).sum() / per_sample.sum(), rel=ROUNDING)
        assert found["loss"] == pytest.approx((losses * per_sample).sum() / per_sample.sum(), rel=ROUNDING)

    def test_soft_labels_with_smoothing(self) -> None:
        shares = torch.rand(12, 5, generator=generator(1)).softmax(1)
        smoothed = 0.9 * shares.double().numpy() + 0.1 / 5
        expected = -(smoothed * np.log(self.probabilities)).sum()
        found = Classification(5, label_smoothing=0.1).loss_sum(Given(self.logits), (torch.arange(12), shares))
        assert float(found.detach()) == pytest.approx(expected, rel=ROUNDING)

    def test_sample_weights(self) -> None:
        task = Classification(5, has_sample_weights=True)
        weights = torch.rand(12, generator=generator(2))
        batch = (torch.arange(12), self.labels, weights)
        losses = -np.log(self.probabilities[np.arange(12), self.labels.numpy()])
        assert float(task.weight(batch)) == pytest.approx(float(weights.double().sum()), rel=ROUNDING)
        assert float(task.loss_sum(Given(self.logits), batch).detach()) == pytest.approx((weights.double().numpy() * losses).sum(), rel=ROUNDING)

    def test_several_labels(self) -> None:
        labels = (torch.rand(12, 5, generator=generator(3)) < 0.4).float()
        logits, targets = self.logits.double().numpy(), labels.double().numpy()
        losses = np.log1p(np.exp(logits)) - targets * logits
        batch = (torch.arange(12), labels)
        assert float(MultiLabel().loss_sum(Given(self.logits), batch).detach()) == pytest.approx(losses.sum(), rel=ROUNDING)
        predicted = logits > 0
        true_positives = (predicted & (targets > 0)).sum()
        found = scores(MultiLabel(), Given(self.logits), batch)
        assert found["f1"] == pytest.approx(2 * true_positives / (predicted.sum() + targets.sum()))
        assert found["accuracy"] == pytest.approx((predicted == (targets > 0)).mean())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
@pytest.mark.parametrize("class_weights", [(), (1.0, 4.0, 0.5)])
@pytest.mark.parametrize("size", [3, 6])
def test_labels_of_any_whole_numbers_are_classes(dtype: torch.dtype, class_weights: tuple[float, ...], size: int) -> None:
    """Of uint8 torch makes a mask, which as many samples as classes would hide."""
    labels, weights = torch.tensor([0, 1, 2, 1, 1, 0])[:size], torch.arange(1.0, size + 1)
    task, model = Classification(3, 0.0, class_weights, has_sample_weights=True), Given(torch.randn(6, 3, generator=generator())[:size])
    numbers = torch.arange(size)
    found, expected = (
        [float(number) for number in (task.loss_sum(model, batch).detach(), task.weight(batch), *scores(task, model, batch).values())]
        for batch in ((numbers, labels.to(dtype), weights), (numbers, labels, weights))
    )
    assert found == expected


class TestRegression:
    predictions = torch.randn(20, 3, generator=generator())
    targets = 5 + 2 * torch.randn(20, 3, generator=generator(1))
    errors = predictions.double().numpy() - targets.double().numpy()

    @pytest.mark.parametrize(
        ("task", "losses"),
        [
            (Regression("mse"), errors**2),
            (Regression("huber", delta=1.5), np.where(abs(errors) <= 1.5, errors**2 / 2, 1.5 * (abs(errors) - 0.75))),
            (Regression("quantile", quantile=0.9), np.where(errors < 0, -0.9 * errors, 0.1 * errors)),
        ],
        ids=["mse", "huber", "quantile"],
    )
    def test_losses(self, task: Regression, losses: "np.ndarray") -> None:
        found = task.loss_sum(Given(self.predictions), (torch.arange(20), self.targets))
        assert float(found.detach()) == pytest.approx(losses.mean(axis=1).sum(), rel=ROUNDING)

    def test_scores_do_not_depend_on_the_split(self) -> None:
        task, model, batch = Regression(), Given(self.predictions), (torch.arange(20), self.targets)
        with torch.no_grad():
            parts = [task.metric_sums(model, rows(batch, start, stop)) for start, stop in ((0, 3), (3, 14), (14, 20))]
        sums = {name: sum(float(part[name]) for part in parts) for name in parts[0]}
        found = task.metrics(sums, 20.0)
        truth = self.targets.double().numpy()
        assert found["rmse"] == pytest.approx(math.sqrt((self.errors**2).mean()), rel=ROUNDING)
        assert found["mae"] == pytest.approx(abs(self.errors).mean(), rel=ROUNDING)
        assert found["r2"] == pytest.approx(1 - (self.errors**2).sum() / ((truth - truth.mean(axis=0)) ** 2).sum(), rel=ROUNDING)

    def test_a_quantile_is_what_minimises_its_loss(self) -> None:
        values = torch.randn(1001, generator=generator(4)).sort().values
        task = Regression("quantile", quantile=0.25)
        losses = [float(task.loss_sum(Given(torch.full((1001,), float(guess))), (torch.arange(1001), values)).detach()) for guess in values[200:301]]
        assert abs(int(np.argmin(losses)) + 200 - 250) <= 1

    def test_targets_of_one_number_may_lack_the_dimension(self) -> None:
        flat = Regression().loss_sum(Given(self.predictions[:, :1]), (torch.arange(20), self.targets[:, 0]))
        assert float(flat.detach()) == pytest.approx((self.errors[:, 0] ** 2).sum(), rel=ROUNDING)

    def test_maps_in_another_order_are_refused(self) -> None:
        """As many numbers, of other pixels; flat ones are a target's in its own order."""
        maps = torch.randn(20, 3, 4, 5, generator=generator(5))
        for predictions in (maps.permute(0, 2, 3, 1), maps.flatten(2), maps[..., None]):
            with pytest.raises(ValueError, match=rf"gives \(20, {predictions.shape[1]}, .*\) for targets \(20, 3, 4, 5\)"):
                Regression().loss_sum(Given(predictions.contiguous()), (torch.arange(20), maps))
        for predictions in (maps, maps.flatten(1)):
            assert float(Regression().loss_sum(Given(predictions), (torch.arange(20), maps)).detach()) == 0.0

    def test_many_numbers_take_few_sums(self) -> None:
        """Two for each of 12,288 took a second a batch."""
        targets = torch.randn(6, 3, 64, 64, generator=generator(6))
        predictions = targets + 0.1 * torch.randn(targets.shape, generator=generator(7))
        about = torch.full((3 * 64 * 64,), 0.5, dtype=torch.float64)
        for task in (Regression(), Regression(about=about)):
            with torch.no_grad():
                sums = task.metric_sums(Given(predictions), (torch.arange(6), targets))
            assert len(sums) < 10
            found = task.metrics(numbers_of(sums), 6.0)
            truth, errors = targets.double(), (predictions - targets).double()
            expected = 1 - float(errors.square().sum() / (truth - truth.mean(0)).square().sum())
            assert found["r2"] == pytest.approx(expected, rel=ROUNDING)

    def test_r2_of_targets_that_vary_little_about_much(self) -> None:
        """Of 1e6 +- 0.01 the squares are 1e12, and their sum loses what the targets vary by."""
        targets = 0.01 * torch.randn(1000, dtype=torch.float64, generator=generator(8)) + 1e6
        predictions = targets + 0.001 * torch.randn(1000, dtype=torch.float64, generator=generator(9))
        expected = 1 - float((predictions - targets).square().sum() / (targets - targets.mean()).square().sum())
        part = TensorDataset(torch.zeros(1000, 2), targets)
        task = RegressionConfig(name="regression").build(Dataset("own", part, part, None, (2,), examples=(torch.zeros(8, 2), targets[:8])), 0.0)
        assert scores(task, Given(predictions), (torch.arange(1000), targets))["r2"] == pytest.approx(expected, rel=1e-6)

    def test_other_numbers_than_targets_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"\(20, 3\) for targets \(20,\)"):
            Regression().loss_sum(Given(self.predictions), (torch.arange(20), self.targets[:, 0]))


class TestLanguageModelling:
    logits = torch.randn(6, 7, 11, generator=generator())
    targets = torch.randint(0, 11, (6, 7), generator=generator(1))

    def test_tokens_that_count(self) -> None:
        targets = self.targets.clone()
        targets[0, 2:] = -100
        targets[3] = -100
        counts = targets.numpy() != -100
        probabilities = softmax(self.logits.double().numpy())
        picked = np.take_along_axis(probabilities, np.where(counts, targets.numpy(), 0)[..., None], axis=2)[..., 0]
        losses = -np.log(picked) * counts
        bytes_per_token = list(range(1, 12))
        task, batch = LanguageModelling(bytes_per_token), (torch.arange(6), targets)
        assert float(task.weight(batch)) == counts.sum()
        assert float(task.loss_sum(Given(self.logits), batch).detach()) == pytest.approx(losses.sum(), rel=ROUNDING)
        found = scores(task, Given(self.logits), batch)
        mean = losses.sum() / counts.sum()
        assert found["perplexity"] == pytest.approx(math.exp(mean), rel=ROUNDING)
        num_bytes = (targets.numpy() + 1)[counts].sum()
        assert found["bits_per_byte"] == pytest.approx(losses.sum() / math.log(2) / num_bytes, rel=ROUNDING)
        assert found["accuracy"] == pytest.approx(((probabilities.argmax(2) == targets.numpy()) & counts).sum() / counts.sum())

    def test_padding_changes_no_tokens_share(self) -> None:
        """A sequence twice as long weighs twice as much, whatever stands beside it."""
        targets = self.targets.clone()
        targets[1, 1:] = -100
        model = Given(self.logits)
        (LanguageModelling().loss_sum(model, (torch.arange(6), targets)) / 36).backward()
        assert model.outputs.grad is not None
        assert bool((model.outputs.grad[1, 1:] == 0).all())
        expected = (softmax(self.logits.double().numpy())[0, 0] - np.eye(11)[targets[0, 0]]) / 36
        assert np.allclose(model.outputs.grad[0, 0].numpy(), expected, atol=1e-7)


class TestMaskedLanguageModelling:
    tokens = torch.randint(0, 50, (400, 64), generator=generator())
    task = MaskedLanguageModelling(vocabulary_size=50, mask_token=50)

    def prepared(self, start: int, stop: int, epoch: int = 0) -> tuple[Tensor, Tensor]:
        batch: tuple[Tensor, Tensor] = self.task.prepare((self.tokens[start:stop],) * 2, SampleDraws(3, Slice(epoch, start, stop), CPU))
        return batch

    def test_shares_are_berts(self) -> None:
        shown, targets = self.prepared(0, 400)
        chosen = targets != -100
        number = int(chosen.sum())
        # Five standard deviations of a binomial each.
        assert abs(number / chosen.numel() - 0.15) < 5 * math.sqrt(0.15 * 0.85 / chosen.numel())
        masked = (shown == 50) & chosen
        assert abs(int(masked.sum()) / number - 0.8) < 5 * math.sqrt(0.8 * 0.2 / number)
        other = chosen & (shown != 50) & (shown != self.tokens)
        share = 0.1 * 49 / 50  # one of fifty random tokens is the token itself
        assert abs(int(other.sum()) / number - share) < 5 * math.sqrt(share * (1 - share) / number)
        assert torch.equal(shown[~chosen], self.tokens[~chosen])
        assert torch.equal(targets[chosen], self.tokens[chosen])

    def test_a_mask_belongs_to_its_sample(self) -> None:
        whole = self.prepared(0, 60)
        parts = [self.prepared(start, stop) for start, stop in ((0, 7), (7, 8), (8, 60))]
        for side in (0, 1):
            assert torch.equal(whole[side], torch.cat([part[side] for part in parts]))
        assert not torch.equal(whole[0], self.prepared(0, 60, epoch=1)[0])

    def test_what_does_not_count_is_never_told(self) -> None:
        counts = self.tokens.clone()
        counts[:, 32:] = -100
        _, targets = self.task.prepare((self.tokens, counts), SampleDraws(3, Slice(0, 0, 400), CPU))
        assert bool((targets[:, 32:] == -100).all())


class TestContrastive:
    first = torch.randn(600, 8, generator=generator())
    second = first + 0.5 * torch.randn(600, 8, generator=generator(1))

    def embeddings(self, number: int) -> Embeddings:
        pair = [nn.functional.normalize(side[:number], dim=1).requires_grad_() for side in (self.first, self.second)]
        return Embeddings(*pair, torch.tensor(5.0, requires_grad=True), torch.tensor(-1.0, requires_grad=True))

    @staticmethod
    def expected(kind: str, first: Tensor, second: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        """The loss summed over the batch, in one piece, in float64."""
        similarities = first @ second.T * scale + bias
        number = len(first)
        if kind == "siglip":
            signs = 2 * torch.eye(number, dtype=torch.float64) - 1
            return torch.log1p(torch.exp(-signs * similarities)).sum()
        if kind == "clip":
            rows = torch.logsumexp(similarities, 1) - similarities.diagonal()
            columns = torch.logsumexp(similarities, 0) - similarities.diagonal()
            return (rows + columns).sum() / 2
        both = torch.cat([first, second])
        own = both @ both.T * scale + bias
        own = own.masked_fill(torch.eye(2 * number, dtype=torch.bool), -torch.inf)
        partners = torch.cat([torch.arange(number, 2 * number), torch.arange(number)])
        return (torch.logsumexp(own, 1) - own[torch.arange(2 * number), partners]).sum() / 2

    @pytest.mark.parametrize("kind", ["clip", "simclr", "siglip"])
    def test_blocks_of_rows_add_up_to_the_whole_loss_and_its_gradient(self, kind: str) -> None:
        embeddings = self.embeddings(600)  # more than two blocks, the last uneven
        pieces = [piece for start, stop in ((0, 130), (130, 600)) for piece in Contrastive(kind).loss_blocks(embeddings, start, stop)]
        total = torch.stack(pieces).sum()
        total.backward()
        exact = [tensor.detach().double().requires_grad_() for tensor in embeddings]
        expected = self.expected(kind, *exact)
        expected.backward()
        assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=ROUNDING)
        for found, reference in zip(embeddings, exact, strict=True):
            assert found.grad is not None
            assert reference.grad is not None
            # A shift of all similarities leaves a softmax as it is: the bias has no gradient there but 600 rows' rounding.
            scale = max(float(reference.grad.abs().max()), 600.0 if reference.ndim == 0 else 1.0)
            assert float((found.grad - reference.grad).abs().max()) <= ROUNDING * scale

    def test_recall(self) -> None:
        embeddings = self.embeddings(300)
        similarities = (embeddings.first @ embeddings.second.T).detach()
        order = similarities.argsort(dim=1, descending=True)
        hits = order == torch.arange(300)[:, None]
        found = Contrastive().coupled_metrics(embeddings)
        assert found["recall_at_1"] == pytest.approx(float(hits[:, :1].any(1).double().mean()))
        assert found["recall_at_5"] == pytest.approx(float(hits[:, :5].any(1).double().mean()))

    @pytest.mark.parametrize("noise", [0.0, 0.6])
    def test_any_of_the_very_same_partners_is_right(self, noise: float) -> None:
        """60 captions for 2,000 images: restated with each caption once."""
        kinds = torch.randint(0, 60, (2000,), generator=generator(12))
        tokens = torch.randint(0, 256, (60, 5), generator=generator(13))
        table = nn.functional.normalize(torch.randn(60, 16, generator=generator(14)), dim=1)
        first = nn.functional.normalize(table[kinds] + noise * torch.randn(2000, 16, generator=generator(15)), dim=1)
        task, scalars = Contrastive(), (torch.tensor(10.0), torch.tensor(0.0))
        keys = [task.partner_keys((torch.arange(start, stop), tokens[kinds[start:stop]])) for start, stop in ((0, 900), (900, 2000))]
        found = task.coupled_metrics(Embeddings(first, table[kinds], *scalars), partners=torch.cat(keys))
        order = (first.double() @ table.double().T).argsort(dim=1, descending=True)
        for number, name in ((1, "recall_at_1"), (5, "recall_at_5")):
            assert found[name] == pytest.approx(float((order[:, :number] == kinds[:, None]).any(1).double().mean()), abs=1e-3)
        hits = []
        for start in range(0, 2000, 256):
            there = kinds[start : start + 256]
            similarities = (first[start : start + 256] @ table.T).masked_fill(~torch.isin(torch.arange(60), there), -torch.inf)
            hits += (similarities.argmax(1) == there).tolist()
        assert found["batch_accuracy"] == pytest.approx(sum(hits) / 2000, abs=1e-3)
        assert found["recall_at_1"] == 1.0 or noise
        same = torch.ones(2000, 16) / 4
        assert task.coupled_metrics(Embeddings(same, same, *scalars), partners=torch.cat(keys))["recall_at_5"] == 0.0

    def test_keys_are_of_the_whole_second_input(self) -> None:
        images = torch.randn(8, 3, 50, 50, generator=generator(16))
        images[5] = images[2]
        images[6] = images[3]
        images[6, 2, 49, 49] = 0.0
        keys = Contrastive().partner_keys((torch.arange(8), images))
        assert keys is not None
        assert [keys.tolist().index(key) for key in keys.tolist()] == [0, 1, 2, 3, 4, 2, 6, 7]
        assert Contrastive().partner_keys({"image": images}) is None

    def test_embeddings_that_are_all_the_same_recall_nothing(self) -> None:
        same = torch.ones(10, 4) / 2
        assert Contrastive().coupled_metrics(Embeddings(same, same, torch.tensor(1.0), torch.tensor(0.0)))["recall_at_5"] == 0.0


class TestDraws:
    def test_they_are_uniform_and_normal(self) -> None:
        draws = SampleDraws(0, Slice(0, 0, 500), CPU)
        numbers = draws.uniform("time", 100).double()
        assert abs(float(numbers.mean()) - 0.5) < 5 / math.sqrt(12 * 50_000)
        noise = draws.normal("noise", 10, 10).double()
        assert noise.shape == (500, 10, 10)
        assert abs(float(noise.mean())) < 5 / math.sqrt(50_000)
        assert abs(float(noise.var()) - 1) < 5 * math.sqrt(2 / 50_000)
        # One purpose says nothing about another, nor a sample about the next.
        assert abs(float((draws.uniform("other", 100) * numbers).mean()) - 0.25) < 5e-3
        assert abs(float(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1])) < 5 / math.sqrt(500)

    def test_a_number_alone(self) -> None:
        draws = SampleDraws(0, Slice(2, 5, 9), CPU)
        assert draws.uniform("time").shape == (4,)
        assert set(draws.integers("kind", 3).tolist()) <= {0, 1, 2}
