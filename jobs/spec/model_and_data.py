"""What a recipe says of what is trained, and on which samples."""

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, NonNegativeInt, PositiveInt, field_validator, model_validator

from largebatch.jobs.spec_base import Spec

WEIGHT_FILES = {".safetensors": "safetensors.torch.save_file(model.state_dict(), path)", ".pt": "torch.save(model.state_dict(), path)"}
"""How names of files of weights end, and what writes such a file."""


class AugmentSpec(Spec):
    """Random changes to training images, drawn from (seed, epoch, sample index) alone."""

    horizontal_flip: Literal["none", "random", "alternating"] = "none"
    """Mirror left and right: at random, or every other epoch from a random start ("alternating")."""
    translate: NonNegativeInt = 0
    """Shift by up to this many pixels in each direction; what moves in is black."""
    cutout: NonNegativeInt = 0
    """Side in pixels of a square that is blanked at a random place; 0: none."""
    resized_crop: bool = False
    """Image folders only: a random part of the image, resized (8 % to 100 % of the area)."""


class OneSource(Spec):
    """What is either known by name or a person's own."""

    name: str | None = None
    """Of what is known here."""
    entry_point: str | None = None
    """A person's own: "package.module:function"."""

    @model_validator(mode="after")
    def _is_told_once(self) -> Self:
        if (self.name is None) == (self.entry_point is None):
            raise ValueError("give exactly one of name and entry_point")
        return self


class DatasetSpec(OneSource):
    """Where the samples come from."""

    name: str | None = None
    """digits, mnist, fashion-mnist, cifar10, cifar100, cifar10-captions, image-folder, synthetic, diabetes or tokens."""
    entry_point: str | None = None
    """Your own: "package.module:function", which returns (training set, test set) or (training set, validation set, test set), all map-style."""
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """Keyword arguments of the data set or of the entry point."""
    validation: PositiveInt | Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Training samples that are held out, a number or a fraction, the same for every run; what is decided while training is then decided by
    them, and the test set is scored once, at the end. None: the test set is evaluated while training."""
    augment: AugmentSpec = Field(default_factory=AugmentSpec)
    """Random changes to training images."""
    download: bool = False
    """Fetch missing files from their publisher into the data folder."""
    num_workers: NonNegativeInt = 0
    """Processes that read and decode samples, of sets that are read sample by sample; sets held in memory need none."""
    may_change: bool = False
    """Go on with a run whose data are no longer those that it began with, and say so; another length of the training set is refused even then."""

    @field_validator("validation", mode="before")
    @classmethod
    def _holds_some_out(cls, amount: object) -> object:
        is_wrong = (isinstance(amount, float) and not 0 < amount < 1) or (type(amount) is int and amount < 1)
        if is_wrong:
            allowed = "a number of training samples from 1 on, or a fraction of them between 0 and 1"
            raise ValueError(f"must be {allowed}, not {amount}; leave it out to hold out none")
        return amount


class ModelSpec(OneSource):
    """What is trained."""

    name: str | None = None
    """One of ours (mlp, lenet, resnet9, keskar-f1, keskar-c1 ... keskar-c4, transformer, transformer-encoder), a torchvision classification model,
    transformers:CLASS or timm:NAME."""
    entry_point: str | None = None
    """Your own: "package.module:function", which takes num_classes (or num_outputs, vocabulary_size, sequence_length, as the data have them) and the
    arguments, and returns an nn.Module."""
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """Keyword arguments of the model or of the entry point."""
    channels_last: bool = False
    """Keep images and convolution weights in channels-last order; often faster for convolutions."""
    zero_init_residual: bool = False
    """Start the last batch-norm of every residual block at zero (Goyal et al., arXiv:1706.02677, section 5.1)."""
    weights: str | None = None
    """Start from this file's weights, a state_dict (.safetensors or .pt): in the data folder, else as it is given."""
    freeze: tuple[str, ...] = Field(default=(), strict=False)
    """Patterns (*, ?, [abc]) of the names of parameters that stay as they are: they get no gradient and no optimizer state."""
    activation_checkpointing: bool | Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = False
    """Keep the inputs of blocks alone for the backward pass, and run them once more there: less memory, more time, the same numbers. true: the
    parts of the model's nn.ModuleLists and nn.Sequentials; or patterns of the names of modules."""

    @field_validator("weights")
    @classmethod
    def _is_a_file_of_weights(cls, weights: str | None) -> str | None:
        if weights is not None and not weights.endswith(tuple(WEIGHT_FILES)):
            raise ValueError(f"must end in {' or '.join(WEIGHT_FILES)}")
        return weights
