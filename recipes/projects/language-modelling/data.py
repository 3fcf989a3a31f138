"""The data. Put your own text in the place of `made_text`: `Path("my.txt").read_text()`. For large texts: `largebatch tokens --help`."""

import random

import torch
from torch.utils.data import TensorDataset

WORDS = (["a", "the", "one"], ["small", "red", "quiet", "old"], ["dog", "house", "tree", "river"], ["sees", "finds", "leaves"], ["it.\n", "you.\n"])


class Bytes(TensorDataset):
    """A text as sequences of bytes, each with the bytes that follow: samples are (tokens, next tokens, bytes of text of each next token)."""

    vocabulary_size = 256

    def __init__(self, text: str, sequence_length: int) -> None:
        tokens = torch.tensor(list(text.encode()))
        num_tokens = (len(tokens) - 1) // sequence_length * sequence_length
        shown, following = tokens[:num_tokens].view(-1, sequence_length), tokens[1 : num_tokens + 1].view(-1, sequence_length)
        super().__init__(shown, following, torch.ones_like(following))
        self.sequence_length = sequence_length


def made_text(num_sentences: int, seed: int) -> str:
    """Sentences that are drawn from a few words."""
    draws = random.Random(seed)
    return "".join(" ".join(draws.choice(words) for words in WORDS) for _ in range(num_sentences))


def load(num_sentences: int = 2000, sequence_length: int = 32) -> tuple[Bytes, Bytes, Bytes]:
    """(Training, validation, test set); every process calls it, and it must give the same each time: seed what it draws."""
    texts = made_text(num_sentences, seed=1), made_text(300, seed=2), made_text(300, seed=3)
    training, validation, test = (Bytes(text, sequence_length) for text in texts)
    return training, validation, test
