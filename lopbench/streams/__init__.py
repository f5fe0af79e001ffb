"""Streams of tasks, one protocol a file, and the sources of the data sets that they show."""

from lopbench.streams.augmentations import HorizontalFlip, RandomCrop, RandomRotation
from lopbench.streams.class_incremental import ClassIncremental
from lopbench.streams.class_sequence import ClassSequence
from lopbench.streams.imagenet32 import ImageNet32
from lopbench.streams.permuted_inputs import PermutedInputs
from lopbench.streams.permuted_labels import PermutedLabels
from lopbench.streams.random_labels import RandomLabels
from lopbench.streams.slowly_changing_regression import SlowlyChangingRegression
from lopbench.streams.sources import Arrays, Generated, ImageFolder
from lopbench.streams.stationary import Stationary
from lopbench.streams.torchvision_sources import CIFAR10, CIFAR100, EMNIST, KMNIST, MNIST, FashionMNIST

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "EMNIST",
    "KMNIST",
    "MNIST",
    "Arrays",
    "ClassIncremental",
    "ClassSequence",
    "FashionMNIST",
    "Generated",
    "HorizontalFlip",
    "ImageFolder",
    "ImageNet32",
    "PermutedInputs",
    "PermutedLabels",
    "RandomCrop",
    "RandomLabels",
    "RandomRotation",
    "SlowlyChangingRegression",
    "Stationary",
]
