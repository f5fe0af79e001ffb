"""Small files in the layouts of the data sets that sources read, and what becomes of them while they are read."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 28, 28))
LABELS = np.arange(12) % 10
PHOTOGRAPHS = np.random.default_rng(1).integers(0, 256, (4, 3, 32, 32)).astype(np.uint8)
PHOTOGRAPH_LABELS = [3, 0, 9, 1]


def idx(array: np.ndarray) -> bytes:
    """The bytes of an idx file of unsigned bytes, the format of MNIST and its kin."""
    header = (0x0800 + array.ndim).to_bytes(4, "big") + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, images: np.ndarray = IMAGES, labels: np.ndarray = LABELS, names: str = "{}") -> None:
    """Both splits, with the same content."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "t10k"):
        (folder / f"{names.format(split)}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{names.format(split)}-labels-idx1-ubyte").write_bytes(idx(labels))


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Batches as those of CIFAR-10, whose checksums torchvision is told, so that they pass as the published ones."""
    from torchvision import datasets

    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    content = pickle.dumps({"data": PHOTOGRAPHS.reshape(4, -1), "labels": PHOTOGRAPH_LABELS})
    for name, which in (("data_batch_1", "train_list"), ("test_batch", "test_list")):
        (folder / name).write_bytes(content)
        monkeypatch.setattr(datasets.CIFAR10, which, [[name, hashlib.md5(content).hexdigest()]])
    return folder


def write_images(root: Path, classes: dict[str, list[str]], size: tuple[int, int] = (8, 6)) -> None:
    """Images of one colour a class, in a folder each."""
    from PIL import Image

    for number, (name, files) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for file in files:
            Image.new("RGB", size, (50 * number, 100, 200)).save(root / name / file)


def cut(file: Path) -> None:
    """Lose the second half of a file, as it lies."""
    with open(file, "r+b") as opened:
        opened.truncate(file.stat().st_size // 2)


@contextmanager
def upon(call: str, act: Callable[[], object]) -> Iterator[None]:
    """Do `act` right before the first call of a built-in function of that name, which must come: `open`, `fromfile`."""
    waiting = [act]

    def watch(frame: object, event: str, function: object) -> None:
        if waiting and event == "c_call" and getattr(function, "__name__", "") == call:
            waiting.pop()()

    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(None)
    assert not waiting, f"nobody called {call}"
