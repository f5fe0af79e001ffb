"""Streams of tasks, one protocol a file, and the sources of the data sets that they show."""

from lopbench.streams.permuted_inputs import PermutedInputs
from lopbench.streams.permuted_labels import PermutedLabels
from lopbench.streams.random_labels import RandomLabels
from lopbench.streams.slowly_changing_regression import SlowlyChangingRegression
from lopbench.streams.sources import Arrays, Generated, ImageFolder
from lopbench.streams.torchvision_sources import CIFAR10, CIFAR100, EMNIST, KMNIST, MNIST, FashionMNIST

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "EMNIST",
    "KMNIST",
    "MNIST",
    "Arrays",
    "FashionMNIST",
    "Generated",
    "ImageFolder",
    "PermutedInputs",
    "PermutedLabels",
    "RandomLabels",
    "SlowlyChangingRegression",
]
