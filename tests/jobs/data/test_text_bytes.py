"""The bytes of text that tokens stand for: every byte of a text counts once, whatever its tokenizer drops or changes."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from largebatch.jobs.data import make_tokens as making
from largebatch.jobs.data.make_tokens import byte_tokenizer, file_tokenizer, make_tokens
from largebatch.jobs.data.sources.table import load_dataset
from largebatch.jobs.data.sources.tokens import open_tokens
from largebatch.jobs.errors import PlanError
from largebatch.jobs.preparing.examine import refuse_unknown_target
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.spec.read import build_spec
from largebatch.jobs.tasks.language_modelling import LanguageModelling

tokenizers = pytest.importorskip("tokenizers")
ENGLISH = "the cat sat on the mat, the Dog ran.  "
FOREIGN = "日本語のテキスト。Große Straße naïve cafe\u0301 \U0001f600 the cat sat on the mat, "
TRAINED_ON = ["the cat sat on the mat catlike sitting mats there " * 20]


def byte_level(normalizer: Any = None) -> Any:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.post_processor = tokenizers.processors.ByteLevel(trim_offsets=True)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False)
    tokenizer.train_from_iterator(TRAINED_ON, trainer)
    return tokenizer


def word_piece() -> Any:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer, tokenizer.normalizer = tokenizers.pre_tokenizers.BertPreTokenizer(), tokenizers.normalizers.BertNormalizer()
    trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=60, special_tokens=["[UNK]", "[SEP]", "[MASK]"], show_progress=False)
    tokenizer.train_from_iterator(TRAINED_ON, trainer)
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=9)
    return tokenizer


def metaspace() -> Any:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=60, special_tokens=["<unk>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(TRAINED_ON, trainer)
    return tokenizer


def made(tmp_path: Path, tokenizer: Any, documents: list[str], **how: Any) -> tuple[Path, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(folder, tokens, the bytes of each) of documents."""
    tokenizer.save(str(tmp_path / "t.json"))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in documents))
    make_tokens([tmp_path / "a.jsonl"], tmp_path / "text", file_tokenizer(tmp_path / "t.json"), **how)
    facts, tokens, _ = open_tokens(tmp_path / "text")
    assert facts.has_text_bytes
    return tmp_path / "text", tokens, np.fromfile(tmp_path / "text" / "text_bytes.bin", dtype="<u2")


@pytest.mark.parametrize("text", [ENGLISH * 3, FOREIGN * 3])
@pytest.mark.parametrize("name", ["byte_level", "byte_level_nfc", "word_piece", "metaspace"])
def test_the_bytes_of_a_document_are_those_of_its_text(name: str, text: str, tmp_path: Path) -> None:
    makers = {"byte_level": byte_level, "byte_level_nfc": lambda: byte_level(tokenizers.normalizers.NFC()), "word_piece": word_piece}
    _, tokens, num_bytes = made(tmp_path, makers.get(name, metaspace)(), [text, "cat", text])
    assert len(tokens) == len(num_bytes)
    ends = np.flatnonzero(tokens == tokens[-1])
    sums = [int(part.sum()) for part in np.split(num_bytes, ends + 1)[:-1]]
    assert sums == [len(text.encode()), 3, len(text.encode())]


def test_a_token_has_what_stands_before_it_and_an_end_what_no_other_has(tmp_path: Path) -> None:
    _, _, num_bytes = made(tmp_path, word_piece(), ["the  Cat ", "the\n"])
    assert num_bytes.tolist() == [3, 5, 1, 3, 1]


def test_parts_of_a_character_share_its_bytes(tmp_path: Path) -> None:
    _, tokens, num_bytes = made(tmp_path, byte_level(), ["語the"])
    assert (int(num_bytes.sum()), len(num_bytes)) == (6, len(tokens))
    assert num_bytes[-1] == 0


def test_a_token_of_very_much_text_leaves_some_of_it_to_the_next(tmp_path: Path) -> None:
    _, _, num_bytes = made(tmp_path, word_piece(), ["the" + " " * 70_000 + "cat cat"])
    assert num_bytes.tolist() == [3, 65535, 4, 70_000 + 10 - 3 - 65535 - 4]


def test_pieces_of_a_file_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    word_piece().save(str(tmp_path / "t.json"))
    (tmp_path / "a.txt").write_text(FOREIGN * 9)
    make_tokens([tmp_path / "a.txt"], tmp_path / "o", file_tokenizer(tmp_path / "t.json"), piece=16)
    assert np.fromfile(tmp_path / "o" / "text_bytes.bin", dtype=making.TEXT_BYTES_TYPE).sum() == len((FOREIGN * 9).encode())


def spec_of(**parts: Any) -> Any:
    return build_spec(
        {
            "task": {"name": "language-modelling"},
            "dataset": {"name": "tokens", "arguments": {"path": "text", "sequence_length": 8, "documents": "padded"}},
            "model": {"name": "transformer"},
            "batch": {"global_batch_size": 2},
            "optimizer": {"name": "sgd"},
            "learning_rate": {"base": 0.1},
            "stop": {"epochs": 1},
            **parts,
        }
    )


def scores(spec: Any, folder: Path, piece: int) -> dict[str, float]:
    """What a model that finds all tokens alike scores on the training part, passed in micro-batches of some samples."""
    dataset = load_dataset(spec.dataset, folder, spec.task)
    task, size = spec.task.build(dataset, 0.0), dataset.for_model["vocabulary_size"]
    sums: dict[str, float] = {}
    weight = 0.0
    for start in range(0, len(dataset.train), piece):
        batch = dataset.train.gather(torch.arange(start, min(start + piece, len(dataset.train))))
        weight += float(task.weight(batch))
        for name, value in task.metric_sums(lambda tokens: torch.zeros(*tokens.shape, size), batch).items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return task.metrics(sums, weight)


@pytest.mark.parametrize("piece", [1, 3, 100])
def test_bits_per_byte_of_a_tokenizers_tokens(tmp_path: Path, piece: int) -> None:
    folder, tokens, num_bytes = made(tmp_path, word_piece(), [ENGLISH, FOREIGN, ENGLISH * 2], test_fraction=0.2)
    facts, _, documents = open_tokens(folder)
    is_target = np.arange(len(tokens)) < facts.test_start
    is_target[documents.astype(int)] = False  # nothing tells a document's first token
    bits = is_target.sum() * math.log2(facts.vocabulary_size)
    assert scores(spec_of(), tmp_path, piece)["bits_per_byte"] == pytest.approx(bits / num_bytes[is_target].sum(), rel=1e-6)


def test_the_end_of_a_document_is_no_byte(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("\n".join('{"text": "hi"}' for _ in range(100)))
    make_tokens([tmp_path / "t.jsonl"], tmp_path / "text", byte_tokenizer(), test_fraction=0.02)
    found = scores(spec_of(dataset={"name": "tokens", "arguments": {"path": "text", "sequence_length": 3, "documents": "packed"}}), tmp_path, 7)
    # 97 sequences: every target's third is an end. (Uniform: 3 of log2 258 = 8.01 bits for each 2 bytes, 12.02.)
    assert found["bits_per_byte"] == pytest.approx(math.log2(258) * 3 / 2, rel=1e-6)


def test_of_older_folders_the_bytes_are_not_known_and_the_metric_is_left_out(tmp_path: Path) -> None:
    folder, _, _ = made(tmp_path, word_piece(), [ENGLISH * 3])
    facts = json.loads((folder / "tokens.json").read_text())
    del facts["has_text_bytes"], facts["largest_token"]
    (folder / "tokens.json").write_text(json.dumps({**facts, "bytes_per_token": [3] * facts["vocabulary_size"]}))
    spec = spec_of()
    dataset = load_dataset(spec.dataset, tmp_path, spec.task)
    assert len(dataset.train[0]) == 2
    assert dataset.notices[0].startswith("Data: text was made before the bytes of its text were counted: no bits_per_byte.")
    assert set(scores(spec, tmp_path, 4)) == {"loss", "perplexity", "accuracy"}
    with pytest.raises(PlanError, match="the bytes of the text that these tokens stand for are not known"):
        refuse_unknown_target(spec_of(stop={"epochs": 1, "target": {"metric": "bits_per_byte", "value": 1}}), spec.task.build(dataset, 0.0))


def test_masked_tokens_keep_their_bytes(tmp_path: Path) -> None:
    made(tmp_path, word_piece(), [ENGLISH * 9])
    spec = spec_of(task={"name": "masked-language-modelling", "mask_token": 2, "masked_fraction": 0.5})
    dataset = load_dataset(spec.dataset, tmp_path, spec.task)
    task, batch = spec.task.build(dataset, 0.0), dataset.train.gather(torch.arange(4))
    prepared = task.prepared(batch, 0, Slice(0, 0, 4), torch.device("cpu"))
    sums = task.metric_sums(lambda tokens: torch.zeros(*tokens.shape, 60), prepared)
    assert int(sums["bytes"]) == int(batch[2][prepared[1] != -100].sum()) > 0


def test_a_task_of_ones_own_gets_tokens_and_targets_alone(tmp_path: Path) -> None:
    made(tmp_path, word_piece(), [ENGLISH * 9])
    spec = spec_of(task={"entry_point": "mine:task"})
    dataset = load_dataset(spec.dataset, tmp_path, spec.task)
    assert (len(dataset.train[0]), len(dataset.sample_leaves)) == (2, 2)


def test_samples_of_ones_own_tell_bytes_by_a_third_tensor() -> None:
    targets, num_bytes = torch.tensor([[1, 2, -100]]), torch.tensor([[4, 1, 9]])
    task = LanguageModelling(counts_bytes=True)
    sums = task.metric_sums(lambda tokens: torch.zeros(1, 3, 8), (targets.clamp(min=0), targets, num_bytes))
    assert task.metrics({name: float(value) for name, value in sums.items()}, 2.0)["bits_per_byte"] == pytest.approx(2 * 3 / 5)


@pytest.mark.parametrize("last", [11, 70_000])
def test_numbers_that_a_vocabulary_leaves_out(last: int, tmp_path: Path) -> None:
    """Their count is less than the highest: the end of a document was a letter, and 70,000 was written in 16 bits."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "c": 4, "d": last, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    folder, tokens, num_bytes = made(tmp_path, tokenizer, ["abcd", "dc"])
    facts = open_tokens(folder)[0]
    end = last + 1
    assert tokens.tolist() == [0, 1, 4, last, end, last, 4, end]
    assert (facts.end_of_document, facts.vocabulary_size, facts.largest_token) == (end, end + 1, end)
    assert num_bytes.tolist() == [1, 1, 1, 1, 0, 1, 1, 0]
