"""Factories as users write them, good and bad, for tests of `--network`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Toy(nn.Module):
    """Two convolutions at stride 2, with dropout and two more outputs: an auxiliary one and a feature."""

    def __init__(self, classes: int = 11, channels: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(8, 8, 3, 1, 1)
        )
        self.head = nn.Conv2d(8, classes, 1)
        self.side = nn.Conv2d(8, classes, 1)
        self.unused = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> object:
        feature = self.body(x)
        return {"feature": feature, "out": self.head(feature), "side": self.side(feature)}


class Main(Toy):
    """`Toy` with a single output, which subclasses change."""

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.head(self.body(x)), x)

    def change(self, y: Tensor, x: Tensor) -> Tensor:
        return y


class Tied(nn.Module):
    """A convolution that is used twice, and one that shares its weight, at stride 1."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.first = self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.third = nn.Conv2d(4, 4, 3, padding=1)
        self.third.weight = self.first.weight
        self.head = nn.Conv2d(4, classes, 1)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.head(self.third(self.second(self.first(self.stem(x))))),)


class Lazy(nn.Module):
    """Layers that get their shapes from the first image."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LazyConv2d(4, 3, 2, 1), nn.LazyBatchNorm2d(), nn.LazyConv2d(classes, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.layers(x)
        return [y, y[:, :, ::2, ::2]] if self.training else [y]


class Pooled(nn.Module):
    """Batch normalisation of a global average."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Conv2d(4, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.head(y * self.norm(y.mean((2, 3), keepdim=True)).sigmoid())


class Divisible(Main):
    """Images with sides that are multiples of 16."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.body(x))
        return y + F.interpolate(F.avg_pool2d(y, 8), scale_factor=8)


class Attention(nn.Module):
    """Transformer on patches of a fixed number, with layers of other kinds than convolutions."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.position = nn.Parameter(torch.zeros(1, 16, 8))
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.up = nn.Sequential(nn.ConvTranspose2d(8, 8, 2, 2), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8), nn.GELU())
        self.head = nn.Sequential(nn.Conv2d(8, 4 * classes, 1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x)
        tokens = self.encoder(y.flatten(2).transpose(1, 2) + self.position)
        return self.head(self.up(tokens.transpose(1, 2).reshape(y.shape)))


class AuxiliaryFirst(Toy):
    """(auxiliary, main) in training mode, main in evaluation mode."""

    def forward(self, x: Tensor) -> object:
        feature = self.body(x)
        return (self.side(feature), self.head(feature)) if self.training else self.head(feature)


class Unnamed(AuxiliaryFirst):
    """`AuxiliaryFirst` whose main output is never the same in both modes."""

    def forward(self, x: Tensor) -> object:
        output = super().forward(x)
        return (output[0], 2 * output[1]) if self.training else output


class RandomConstant(Main):
    """Random values that are not in the state dict, as in random Fourier features."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.register_buffer("scale", torch.randn(classes, 1, 1), persistent=False)

    def change(self, y, x):
        return y * self.scale


class PlainState(Main):
    """A mean that the training changes, and that is not in the state dict."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.mean = torch.zeros(1)

    def change(self, y, x):
        if self.training:
            self.mean = 1 + y.detach().mean()
        return y - self.mean


class Masked(Main):
    """A mask with infinite values, as in causal attention."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))

    def change(self, y, x):
        return y * self.mask.softmax(0)[0]


class NoNumber(Main):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.register_buffer("number", torch.tensor(float("nan")))


class Probabilities(Main):
    def change(self, y, x):
        return y.softmax(1)


class Exiting(Main):
    def change(self, y, x):
        raise SystemExit(0)


class Branch(Main):
    def change(self, y, x):
        if y.mean() > 0:
            return 2 * y
        return y


class Number(Main):
    def change(self, y, x):
        return y * float(x.max())


class Array(Main):
    def change(self, y, x):
        return y * torch.from_numpy(x.numpy().max(keepdims=True))


class Values(Main):
    def change(self, y, x):
        return y * x.flatten()[:1].tolist()[0]


class Equal(Main):
    def change(self, y, x):
        return 0 * y if torch.equal(x[:, 0], x[:, 1]) else y


class Close(Main):
    def change(self, y, x):
        return 0 * y if torch.allclose(x[:, 0], x[:, 1]) else y


class Unique(Main):
    def change(self, y, x):
        return y if len(torch.unique(x.round())) > 6 else -y


class Nonzero(Main):
    def change(self, y, x):
        return y * (torch.nonzero(x[:, 0] > 0).shape[0] / 1000)


class Asserting(Main):
    """Reads a parameter and asserts on the image, which an exported graph may leave out."""

    def change(self, y, x):
        assert x.abs().max() < 1e6
        return y if float(self.head.weight.max()) < 1e6 else 0 * y


class Random(Main):
    def change(self, y, x):
        return F.dropout(y, 0.5, training=True)


class Unsupported(Main):
    def change(self, y, x):
        return torch.special.erfcx(y)


class NotANumber(Main):
    def change(self, y, x):
        return y * float("nan")


class Flat(Main):
    def change(self, y, x):
        return y.mean((2, 3))


class Labels(Main):
    def change(self, y, x):
        return y.argmax(1)


class Detached(Main):
    def change(self, y, x):
        return y.detach()


class State(Main):
    def get_extra_state(self) -> str:
        return "text"


class Text(Main):
    def forward(self, x):
        return "logits"


class Frozen(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(1, 4, 1, 1)[:, :11]


@dataclass
class Result:
    feature: Tensor
    logits: Tensor


class Pair(NamedTuple):
    main: Tensor
    edge: Tensor


def build(classes: int) -> nn.Module:
    return Toy(classes)


def build_changed(classes: int) -> nn.Module:
    network = Toy(classes)
    network.body[2] = nn.Tanh()
    return network


def build_frozen(classes: int) -> nn.Module:
    return Frozen()


def build_grey(classes: int) -> nn.Module:
    return Toy(classes, channels=1)


def build_nineteen(classes: int) -> nn.Module:
    return Toy(19)


def build_failing(classes: int) -> nn.Module:
    raise ValueError("no\nweights")


def build_nothing(classes: int) -> dict:
    return {}


def build_by_keyword(width: int = 8, num_classes: int = 11) -> nn.Module:
    return Toy(num_classes)


def build_exiting(classes: int) -> nn.Module:
    raise SystemExit(0)


def build_printing(classes: int) -> nn.Module:
    print("built")
    return Toy(classes)


def build_ambiguous(width: int, depth: int) -> nn.Module:
    return Toy(width)


def build_optional(width: int = 8) -> nn.Module:
    return Toy(width)


INSTANCE = Toy()
COUNT = 3


class ZeroInitial(Toy):
    """`Toy` with a residual branch that adds nothing before the first step."""

    activation = staticmethod(F.relu)

    def __init__(self, classes: int = 11) -> None:
        super().__init__(classes)
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.body(x))
        return y + self.scale * self.activation(y)


class ChangedZeroInitial(ZeroInitial):
    """The same before the first step, with another activation in the branch."""

    activation = staticmethod(torch.cos)
