"""ImageNet at 32 x 32 pixels, from either of the layouts in which it is published."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lopbench
from lopbench.checks import check_number
from lopbench.errors import UserError, require
from lopbench.keyed_random import integers
from lopbench.protocols import Dataset, Source
from lopbench.streams.sources import ELSEWHERE, Statistics, array_of, check_path, located, on_device, reason

NAME = "sources.ImageNet32"
SHAPE = (3, 32, 32)
#: with these, "standard" scaling is "centred" scaling: both give pixel / 127.5 - 1, the values that are published
CENTRED: Statistics = ((0.5,) * 3, (0.5,) * 3)
#: how far floats may be from pixel / 127.5 - 1; neighbouring pixel values are 1 / 127.5 apart
TOLERANCE = 1e-3


@lopbench.register("sources")
@dataclass(frozen=True)
class ImageNet32(Source):
    """ImageNet at 32 x 32 pixels: 700 photographs of each of 1,000 classes.

    The folder holds either of the published layouts:

        classes/<id>.npy, with id 0, 1, ...: one array a class, `[700, 3, 32, 32]`, uint8 or floats. Continual
            ImageNet's own files (Dohare et al. 2024).
        train_data_batch_<k>.npz, with k 1, 2, ...: arrays data, uint8 `[N, 3072]`, and labels `[N]` from 1.
            Downsampled ImageNet (Chrabaszcz et al. 2017), its download Imagenet32_train_npz; of each class the
            first 700 images are used.

    A class's first images are for training, the next ones for testing; in each split, image i is of class i modulo
    `classes`. Floats that are pixel / 127.5 - 1 are kept as pixels, in a quarter of the memory: scaled "centred" they
    are the file's values again. Other floats are used as they are.

    path: of the folder; a relative one is looked up in the data folder.
    classes: how many; the first ones are used.
    train_per_class, test_per_class: images of a class in each split; a test_per_class of 0 leaves the split out.
    """

    path: str = "imagenet32"
    classes: int = 1000
    train_per_class: int = 600
    test_per_class: int = 100

    def __post_init__(self) -> None:
        check_path(self, self.path, "imagenet32")
        check_number(self, "classes", self.classes, at_least=2, integer=True)
        check_number(self, "train_per_class", self.train_per_class, at_least=1, integer=True)
        check_number(self, "test_per_class", self.test_per_class, at_least=0, integer=True)

    def load(self, data_dir: str | None, device: Any) -> Dataset:
        folder, per_class = located(self, self.path, data_dir), self.train_per_class + self.test_per_class
        batches = _batches(folder)
        if os.path.isdir(folder / "classes"):
            images = _from_classes([folder / "classes" / f"{label}.npy" for label in range(self.classes)], per_class)
        elif batches:
            images = _from_batches(batches, self.classes, per_class)
        else:
            raise UserError(
                f"{NAME}: {folder} holds neither classes/0.npy, 1.npy, ... nor train_data_batch_1.npz, ...; the "
                f"pickled batches are not read: fetch Imagenet32_train_npz. {ELSEWHERE}"
            )
        splits = {"train": images[: self.train_per_class], "test": images[self.train_per_class :]}
        inputs = {split: some.flatten(0, 1) for split, some in splits.items() if len(some)}
        labels = {split: torch.arange(len(some)) % self.classes for split, some in inputs.items()}
        return on_device("ImageNet32", inputs, labels, self.classes, device, CENTRED)

    def imitation(self) -> Source:
        """Noise of the same classes and sizes; there is nothing to learn from it."""
        return Noise(self.classes, SHAPE, self.classes * self.train_per_class, self.classes * self.test_per_class)


def _require_files(files: Sequence[Path], remedy: str) -> None:
    missing = [file.name for file in files if not os.path.isfile(file)]
    listed = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    require(not missing, f"{NAME}: {files[0].parent} lacks {listed}: {remedy}.")


def _read(file: Path, key: str | None = None) -> np.ndarray:
    """The array of an .npy file, or one of those of an .npz file."""
    try:
        if key is None:
            with open(file, "rb") as opened:  # not mapped: a file that shrinks would end the process
                return np.lib.format.read_array(opened, allow_pickle=False)
        with np.load(file, allow_pickle=False) as arrays:
            return array_of(arrays, key)
    except Exception as error:  # a damaged file can raise anything in the reader
        raise UserError(f"{NAME}: {file} is damaged, or no file of arrays ({reason(error)}): fetch it anew.") from None


def _require_enough(count: int, per_class: int, where: str) -> None:
    require(
        count >= per_class,
        f"{NAME}: {where} has {count} images, but train_per_class + test_per_class is {per_class}: fetch all of it, or "
        f"lower these, or {NAME}.classes.",
    )


# One file a class ------------------------------------------------------------------------------------


def _from_classes(files: Sequence[Path], per_class: int) -> Tensor:
    """Images `[per_class, classes, 3, 32, 32]`."""
    _require_files(files, f"fetch what is missing, or lower {NAME}.classes")
    kind = _of_class(files[0], per_class).dtype
    images = torch.empty((per_class, len(files), *SHAPE), dtype=kind)
    for label, file in enumerate(files):
        own = _of_class(file, per_class)
        alike = own.dtype == kind
        require(alike, f"{NAME}: {files[0]} and {file} differ: only one of them holds pixels, or pixel / 127.5 - 1.")
        images[:, label] = own
    return images


def _of_class(file: Path, per_class: int) -> Tensor:
    """The first images of a class: pixels as uint8, other floats as float32."""
    array = _read(file)
    require(
        array.shape[1:] == SHAPE and (array.dtype == np.uint8 or array.dtype.kind == "f"),
        f"{NAME}: {file} is {array.dtype} of shape {array.shape}: it must be uint8 or floats, (700, 3, 32, 32).",
    )
    _require_enough(len(array), per_class, str(file))
    if array.dtype == np.uint8:
        return torch.from_numpy(array[:per_class])
    images = torch.from_numpy(np.array(array[:per_class], dtype=np.float32))
    require(bool(images.isfinite().all()), f"{NAME}: {file} holds values that are not finite.")
    pixels = ((images + 1) * 127.5).round()
    exact = (pixels / 127.5 - 1 - images).abs().max() <= TOLERANCE and pixels.min() >= 0 and pixels.max() <= 255
    return pixels.to(torch.uint8) if exact else images


# Batches of all classes ------------------------------------------------------------------------------


def _batches(folder: Path) -> list[Path]:
    """The batches from 1 to the highest number in the folder."""
    found = (re.fullmatch(r"train_data_batch_(\d+)\.npz", file.name) for file in folder.glob("*.npz"))
    last = max((int(match[1]) for match in found if match), default=0)
    return [folder / f"train_data_batch_{number}.npz" for number in range(1, last + 1)]


def _from_batches(files: Sequence[Path], classes: int, per_class: int) -> Tensor:
    """Images `[per_class, classes, 3, 32, 32]`."""
    _require_files(files, "fetch what is missing")
    labels = [_labels(file) for file in files]
    ranks, counts = _ranks(np.concatenate(labels), classes)
    rarest = int(counts.argmin())
    _require_enough(int(counts[rarest]), per_class, f"class {rarest + 1} in the batches of {files[0].parent}")
    images = torch.empty((per_class, classes, *SHAPE), dtype=torch.uint8)
    ends = np.cumsum([len(label) for label in labels])[:-1]
    for file, label, rank in zip(files, labels, np.split(ranks, ends), strict=True):
        data, used = _read(file, "data"), (rank < per_class) & (label < classes)
        require(
            data.shape == (len(label), math.prod(SHAPE)) and data.dtype == np.uint8,
            f"{NAME}: data of {file} is {data.dtype} of shape {data.shape}: it must be uint8, ({len(label)}, 3072).",
        )
        images[rank[used], label[used]] = torch.from_numpy(data[used]).view(-1, *SHAPE)
    return images


def _labels(file: Path) -> np.ndarray:
    """The classes of a batch's images, from 0."""
    labels = _read(file, "labels")
    require(
        labels.ndim == 1 and labels.dtype.kind in "iu" and len(labels) > 0 and int(labels.min()) >= 1,
        f"{NAME}: labels of {file} is {labels.dtype} of shape {labels.shape}: it must be integers from 1, in one row.",
    )
    return labels.astype(np.int64) - 1


def _ranks(labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """For each image how many of its class came before it, and how many images each of the first classes has."""
    counts = np.bincount(labels, minlength=classes)
    order = np.argsort(labels, kind="stable")
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ranks, counts[:classes]


# A dry run -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noise(Source):
    """Images that overlap in memory, for dry runs of data sets too large for one: N images take N bytes and a few more.

    Entry j of image i is entry i + j of one strip of random bytes. Label i is i modulo `classes`.
    """

    classes: int
    shape: tuple[int, ...]
    train_size: int
    test_size: int

    def load(self, data_dir: str | None, device: Any) -> Dataset:
        inputs, labels = {}, {}
        entries = math.prod(self.shape)
        for split, count in (("train", self.train_size), ("test", self.test_size)):
            if count:
                seed, step = torch.zeros(1, dtype=torch.int64), torch.zeros((), dtype=torch.int64)
                strip = integers(seed, f"noise/{split}", step, count + entries - 1, 256)[0].to(device, torch.uint8)
                inputs[split] = strip.unfold(0, entries, 1).unflatten(1, self.shape)
                labels[split] = torch.arange(count) % self.classes
        return on_device("Noise", inputs, labels, self.classes, device, CENTRED)

    def imitation(self) -> Source:
        return self
