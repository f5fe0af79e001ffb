"""Published data sets, read and where allowed downloaded: from the servers and in the layout that torchvision knows.

Its own classes read them, but for the CIFARs, whose files are pickles. torchvision is imported when data are loaded,
not before: that takes a second.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
import socket
import tarfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

import lopbench
from lopbench.checks import check_bool, check_choice
from lopbench.errors import UserError, require
from lopbench.protocols import Dataset, Source
from lopbench.shortage import is_shortage
from lopbench.streams.sources import ELSEWHERE, Generated, Statistics, data_folder, on_device, reason

#: Seconds that a server may stay silent before the next is tried.
DOWNLOAD_TIMEOUT = 15


@dataclass(frozen=True)
class TorchvisionSource(Source):
    """What the published data sets share: looking in the data folder, downloading, one clear message.

    The folder's layout is torchvision's; it may be read-only if it holds the data.

    download: whether a data set that the folder lacks may be fetched from the internet.
    """

    download: bool = True

    folder: ClassVar[str]  #: where torchvision keeps it, in the data folder
    shape: ClassVar[tuple[int, ...]] = (28, 28)
    sizes: ClassVar[tuple[int, int]] = (60_000, 10_000)  #: of the training and the test split
    #: the customary mean and std of each channel; None: those of the training images
    statistics: ClassVar[Statistics | None] = None

    def __post_init__(self) -> None:
        check_bool(self, "download", self.download)

    @property
    def classes(self) -> int:
        return 10

    def load(self, data_dir: str | None, device: Any) -> Dataset:
        folder = data_folder(data_dir)
        inputs, labels = {}, {}
        for split, (images, targets) in self._read(folder).items():
            inputs[split], labels[split] = self._converted(images, targets)
            wrong = self._wrong(inputs[split], labels[split])
            require(not wrong, self._damaged(folder, wrong))
        return on_device(type(self).__name__, inputs, labels, self.classes, device, self.statistics)

    def imitation(self) -> Source:
        """Generated images of the same shape, classes and sizes; nothing is read."""
        return Generated(self.classes, self.shape, *self.sizes)

    def _read(self, folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
        """Images and labels of each split as torchvision hands them out: what lies in the folder, else downloaded."""
        place = folder / self.folder
        try:
            return self._splits(folder, download=False)
        except Exception as error:  # a damaged file can raise anything in the reader
            failure = _told(error)
        if self.download:
            logging.getLogger(__name__).warning("Downloading %s to %s", type(self).__name__, folder)
            try:
                with _leaving_no_empty_folders(place):
                    return self._splits(folder, download=True)
            except Exception as error:
                failure = _told(error)
        if os.path.isdir(place) and os.listdir(place):
            raise UserError(self._damaged(folder, failure))
        name, what = f"sources.{type(self).__name__}", type(self).__name__
        why = f"downloading it failed ({failure})" if self.download else f"{name}.download is False"
        raise UserError(f"{name}: there is no {what} in {place}, and {why}. {ELSEWHERE}")

    def _splits(self, folder: Path, download: bool) -> dict[str, tuple[Tensor, Tensor]]:
        found = {}
        with _quietly():
            import torchvision.datasets

            reader = getattr(torchvision.datasets, type(self).__name__)
            for split in ("train", "test"):
                read = reader(str(folder), train=split == "train", download=download, **self._arguments())
                found[split] = torch.as_tensor(read.data), torch.as_tensor(read.targets)
        return found

    def _arguments(self) -> dict[str, Any]:
        """Arguments of torchvision's class besides root, train and download."""
        return {}

    def _converted(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images `[N, *shape]` and labels from 0, from what torchvision hands out."""
        return images, labels

    def _wrong(self, images: Tensor, labels: Tensor) -> str:
        """What is wrong with the data of a split; empty if nothing is."""
        if images.shape[1:] != self.shape or len(images) != len(labels) or not len(labels):
            return f"images of shape {tuple(images.shape)}, labels of shape {tuple(labels.shape)}"
        low, high = int(labels.min()), int(labels.max())
        return f"labels from {low} to {high}" if low < 0 or high >= self.classes else ""

    def _damaged(self, folder: Path, why: str) -> str:
        return (
            f"sources.{type(self).__name__}: the files of {type(self).__name__} in {folder / self.folder} are "
            f"incomplete or damaged ({why}): delete them and fetch them anew. {ELSEWHERE}"
        )


def _told(error: Exception) -> str:
    """The reason of a failure; a shortage of memory is none of the files', and goes on."""
    if is_shortage(error):
        raise error
    return reason(error)


@contextmanager
def _quietly() -> Iterator[None]:
    """No progress bars and warnings, and no endless wait for a server that does not answer."""
    waiting = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        socket.setdefaulttimeout(waiting)


@contextmanager
def _leaving_no_empty_folders(place: Path) -> Iterator[None]:
    """Removes the folders down to `place` that were made meanwhile and are empty: a failed download leaves some."""
    absent = [folder for folder in (place, *place.parents) if not folder.exists()]
    try:
        yield
    finally:
        for folder in absent:
            with suppress(OSError):  # not empty, or never made
                folder.rmdir()


@lopbench.register("sources")
@dataclass(frozen=True)
class MNIST(TorchvisionSource):
    """MNIST: 60,000 + 10,000 handwritten digits, 28 x 28 grey (LeCun, Cortes, Burges 1998).

    Mean 0.1307 and standard deviation 0.3081 are those of its training images.
    """

    folder: ClassVar[str] = "MNIST/raw"
    statistics: ClassVar[Statistics | None] = ((0.1307,), (0.3081,))


@lopbench.register("sources")
@dataclass(frozen=True)
class FashionMNIST(TorchvisionSource):
    """Fashion-MNIST: 60,000 + 10,000 pieces of clothing, 28 x 28 grey, 10 classes (Xiao et al. 2017)."""

    folder: ClassVar[str] = "FashionMNIST/raw"


@lopbench.register("sources")
@dataclass(frozen=True)
class KMNIST(TorchvisionSource):
    """Kuzushiji-MNIST: 60,000 + 10,000 cursive characters, 28 x 28 grey, 10 classes (Clanuwat et al. 2018)."""

    folder: ClassVar[str] = "KMNIST/raw"


@lopbench.register("sources")
@dataclass(frozen=True)
class EMNIST(TorchvisionSource):
    """EMNIST: handwritten digits and letters, 28 x 28 grey (Cohen et al. 2017).

    The files hold every image transposed, and torchvision hands them out so; here they are turned upright. The
    labels of `letters`, 1 to 26 there, count from 0.

    split: balanced (47 classes, 112,800 + 18,800), byclass (62), bymerge (47), letters (26), digits (10), mnist (10).
    """

    folder: ClassVar[str] = "EMNIST/raw"
    #: classes, training and test images of each split
    splits: ClassVar[dict[str, tuple[int, int, int]]] = {
        "balanced": (47, 112_800, 18_800),
        "byclass": (62, 697_932, 116_323),
        "bymerge": (47, 697_932, 116_323),
        "letters": (26, 124_800, 20_800),
        "digits": (10, 240_000, 40_000),
        "mnist": (10, 60_000, 10_000),
    }

    split: str = "balanced"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "split", self.split, self.splits)

    @property
    def classes(self) -> int:
        return self.splits[self.split][0]

    def imitation(self) -> Source:
        return Generated(self.classes, self.shape, *self.splits[self.split][1:])

    def _arguments(self) -> dict[str, Any]:
        return {"split": self.split}

    def _converted(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images.transpose(1, 2).contiguous(), labels - int(self.split == "letters")


@lopbench.register("sources")
@dataclass(frozen=True)
class CIFAR10(TorchvisionSource):
    """CIFAR-10: 50,000 + 10,000 colour photographs, 3 x 32 x 32, 10 classes (Krizhevsky 2009).

    Mean and standard deviation of the channels as in Kumar et al. 2023.
    """

    folder: ClassVar[str] = "cifar-10-batches-py"
    shape: ClassVar[tuple[int, ...]] = (3, 32, 32)
    sizes: ClassVar[tuple[int, int]] = (50_000, 10_000)
    statistics: ClassVar[Statistics | None] = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))

    labelled: ClassVar[str] = "labels"  #: which of a batch's entries holds the labels

    def _splits(self, folder: Path, download: bool) -> dict[str, tuple[Tensor, Tensor]]:
        with _quietly():
            from torchvision import datasets

            published = getattr(datasets, type(self).__name__)
            if download:
                datasets.utils.download_url(published.url, str(folder), published.filename, published.tgz_md5)
                _extract(folder / published.filename, folder)
            return {
                split: self._joined([_batch(folder / self.folder / name, md5) for name, md5 in files])
                for split, files in (("train", published.train_list), ("test", published.test_list))
            }

    def _joined(self, batches: Sequence[dict[str, Any]]) -> tuple[Tensor, Tensor]:
        images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, *self.shape)
        return torch.from_numpy(images), torch.tensor([label for batch in batches for label in batch[self.labelled]])


@lopbench.register("sources")
@dataclass(frozen=True)
class CIFAR100(CIFAR10):
    """CIFAR-100: 50,000 + 10,000 colour photographs, 3 x 32 x 32, 100 classes (Krizhevsky 2009).

    Mean and standard deviation of the channels as in Dohare et al. 2024 and Hernandez-Garcia et al. 2025.
    """

    folder: ClassVar[str] = "cifar-100-python"
    labelled: ClassVar[str] = "fine_labels"
    statistics: ClassVar[Statistics | None] = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))

    @property
    def classes(self) -> int:
        return 100


def _extract(archive: Path, folder: Path) -> None:
    """Extract a tar archive, whose members may lie or point nowhere but into the folder."""
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")


def _batch(file: Path, md5: str) -> dict[str, Any]:
    """A batch of images. It is a pickle, which can run anything: so only the bytes that were published are unpickled.

    They are read once: torchvision reads them once for the checksum and once more to unpickle, when they may be others.
    """
    content = file.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise ValueError(f"{file.name} is not the file that was published.")
    return pickle.loads(content, encoding="latin1")
