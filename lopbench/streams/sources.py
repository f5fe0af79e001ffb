"""Sources of data that need no download: a generator, arrays from a file, a folder of images.

A source reads all of its data into memory: what becomes of the files afterwards changes no run.

The data folder, in which relative paths are looked up and downloads are kept, is the first of: what
`--data_dir` says, the environment variable LOPBENCH_DATA_DIR, ~/.cache/lopbench/data.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lopbench
from lopbench.checks import check_bool, check_number
from lopbench.errors import UserError, require
from lopbench.keyed_random import integers
from lopbench.protocols import Dataset, Source

#: mean and standard deviation of each channel
Statistics = tuple[tuple[float, ...], tuple[float, ...]]

#: how much of a data set `digest` holds a copy of
PIECE_BYTES = 2**24

#: Of generated data: more must be a slip of a key.
MOST_BYTES = 2**40

ELSEWHERE = "Point to another folder with --data_dir or the environment variable LOPBENCH_DATA_DIR."


def data_folder(data_dir: str | None) -> Path:
    """The folder that holds data sets (see this file's head)."""
    return _expanded(data_dir or os.environ.get("LOPBENCH_DATA_DIR") or "~/.cache/lopbench/data")


def _expanded(path: str) -> Path:
    return Path(os.path.expanduser(path))  # which, unlike Path.expanduser, leaves the ~ of an unknown user


def channel_statistics(images: Tensor) -> Statistics:
    """Mean and standard deviation of each channel of uint8 images `[N, C, H, W]` (else of all entries), in [0, 1]."""
    channels = images.movedim(1, 0).flatten(1) if images.dim() == 4 else images.reshape(1, -1)
    counts = torch.stack([torch.bincount(channel, minlength=256) for channel in channels]).double()
    shares, values = counts / counts.sum(dim=1, keepdim=True), torch.arange(256, dtype=torch.float64) / 255
    mean = shares @ values
    std = torch.sqrt(shares @ values.square() - mean.square())
    std = torch.where(std > 1e-6, std, 1.0)  # a constant channel is not divided by 0
    return tuple(mean.tolist()), tuple(std.tolist())


def on_device(
    name: str,
    inputs: dict[str, Tensor],
    labels: dict[str, Tensor],
    classes: int,
    device: Any,
    statistics: Statistics | None = None,
) -> Dataset:
    """A data set on the device; images without known statistics bring those of the training ones."""
    if statistics is None and inputs["train"].dtype == torch.uint8:
        statistics = channel_statistics(inputs["train"])
    inputs = {split: images.to(device) for split, images in inputs.items()}
    labels = {split: some.to(device) for split, some in labels.items()}
    return Dataset(name, inputs, labels, classes, *(statistics or ()))


def digest(data: Dataset) -> str:
    """SHA-256, in hexadecimal, of the splits of a data set: their names, dtypes, shapes and bytes; on any device."""
    found = hashlib.sha256()
    for part, splits in (("inputs", data.inputs), ("labels", data.labels)):
        for split, tensor in sorted(splits.items()):
            found.update(f"{split} {part} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            rows = max(1, PIECE_BYTES // (tensor[:1].numel() * tensor.element_size()))
            for piece in tensor.split(rows):
                found.update(piece.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


@lopbench.register("sources")
@dataclass(frozen=True)
class Generated(Source):
    """Images made from a seed: one prototype a class, plus noise. Learnable, and the same on any machine.

    image i = prototype[label i] + noise[a] + noise[b], label i = i modulo `classes`, with prototypes uniform on 0...127
    in each entry, and a and b drawn from a bank of 256 noise images that are uniform on 0...63.

    classes: how many there are.
    shape: of one example: (H, W) for grey images, (3, H, W) for colour, or any other.
    train_size, test_size: examples of each split; a test_size of 0 leaves the split out.
    seed: of prototypes and noise; runs with other seeds still share the data.
    """

    classes: int = 10
    shape: Sequence[int] = (28, 28)
    train_size: int = 10_000
    test_size: int = 1_000
    seed: int = 0

    def __post_init__(self) -> None:
        check_number(self, "classes", self.classes, at_least=2, integer=True)
        check_number(self, "train_size", self.train_size, at_least=1, integer=True)
        check_number(self, "test_size", self.test_size, at_least=0, integer=True)
        check_number(self, "seed", self.seed, at_least=0, below=2**63, integer=True)
        sizes = list(self.shape) if isinstance(self.shape, (tuple, list)) else []
        require(
            bool(sizes) and all(isinstance(size, int) and not isinstance(size, bool) and size >= 1 for size in sizes),
            f"sources.Generated.shape is {self.shape!r}: it must be a tuple of integers at least 1, as (28, 28).",
        )
        count = max(self.classes, self.train_size + self.test_size)
        require(
            count * math.prod(sizes) <= MOST_BYTES,
            f"sources.Generated makes {count:,} examples of {math.prod(sizes):,} bytes, which is more than any machine "
            "holds: bind smaller sizes.",
        )
        object.__setattr__(self, "shape", tuple(sizes))  # sources are keys, as lists can't be

    def load(self, data_dir: str | None, device: Any) -> Dataset:
        size, bank = math.prod(self.shape), 256
        prototypes = self._draw("prototypes", self.classes * size, 128).to(torch.uint8).view(self.classes, size)
        noise = self._draw("noise", bank * size, 64).to(torch.uint8).view(bank, size)
        inputs, labels = {}, {}
        for split, count in (("train", self.train_size), ("test", self.test_size)):
            if not count:
                continue
            labels[split] = torch.arange(count) % self.classes
            images = prototypes.index_select(0, labels[split])
            for which in self._draw(split, 2 * count, bank).view(2, count):
                images += noise.index_select(0, which)  # at most 127 + 63 + 63
            inputs[split] = images.view(count, *self.shape)
        return on_device("Generated", inputs, labels, self.classes, device)

    def _draw(self, purpose: str, count: int, below: int) -> Tensor:
        seed, step = torch.tensor([self.seed]), torch.zeros((), dtype=torch.int64)
        return integers(seed, f"generated/{purpose}", step, count, below)[0]

    def imitation(self) -> Source:
        return self


@lopbench.register("sources")
@dataclass(frozen=True)
class Arrays(Source):
    """A data set from a numpy .npz file.

    The file's keys: train_inputs `[N, ...]`, train_labels `[N]`, and optionally test_inputs, test_labels. Inputs are
    uint8 images (channels first, or `[N, H, W]`) or finite floats, which are used as they are; labels are integers
    from 0, and there are as many classes as the highest label says. Pickled objects are refused.

    path: of the file; a relative one is looked up in the data folder.
    """

    path: str = ""

    def __post_init__(self) -> None:
        check_path(self, self.path, "digits.npz")

    def load(self, data_dir: str | None, device: Any) -> Dataset:
        path = located(self, self.path, data_dir)
        arrays = self._read(path)
        splits = [split for split in ("train", "test") if {f"{split}_inputs", f"{split}_labels"} & set(arrays)]
        for key in (f"{split}_{part}" for split in dict.fromkeys(("train", *splits)) for part in ("inputs", "labels")):
            require(
                key in arrays,
                f"sources.Arrays: {path} has no array {key!r}; it holds {', '.join(arrays) or 'nothing'}.",
            )
        inputs = {split: _inputs(f"{split}_inputs of {path}", arrays[f"{split}_inputs"]) for split in splits}
        labels = {
            split: _labels(f"{split}_labels of {path}", arrays[f"{split}_labels"], len(inputs[split]))
            for split in splits
        }
        shapes = {tuple(array.shape[1:]) for array in inputs.values()}
        require(
            len(shapes) == 1, f"sources.Arrays: examples of train_inputs and test_inputs of {path} differ in shape."
        )
        dtypes = {array.dtype for array in inputs.values()}
        require(len(dtypes) == 1, f"sources.Arrays: train_inputs and test_inputs of {path} differ in dtype.")
        classes = max(int(array.max()) for array in labels.values()) + 1
        require(classes >= 2, f"sources.Arrays: all labels of {path} are 0: there must be at least two classes.")
        return on_device("Arrays", inputs, labels, classes, device)

    def _read(self, path: Path) -> dict[str, np.ndarray]:
        try:
            with np.load(path, allow_pickle=False) as file:
                return {key: array_of(file, key) for key in file.files}
        except Exception as error:  # a damaged file can raise anything in the reader
            raise UserError(
                f"sources.Arrays: {path} can't be read as an .npz file of plain arrays: {reason(error)}"
            ) from None

    def imitation(self) -> Source:
        """This source itself: only the file knows its shapes."""
        return self


@lopbench.register("sources")
@dataclass(frozen=True)
class ImageFolder(Source):
    """A folder of JPEG or PNG images, one subfolder a class: <path>/train/<class>/* and <path>/test/<class>/*.

    Without a subfolder `train`, <path>/<class>/* is all training data. Classes are numbered in the order of
    their names, and images in that of theirs. An image of another size is resized (bilinear, not cropped: another
    aspect ratio is squeezed). Grey, palette and CMYK images become colour ones, 16 bits 8, and transparency is dropped.
    All of it is held in memory.

    path: of the folder; a relative one is looked up in the data folder.
    size: height and width of the images handed out.
    grey: `[H, W]` images instead of colour ones, `[3, H, W]`.
    """

    path: str = ""
    size: int = 32
    grey: bool = False

    def __post_init__(self) -> None:
        check_path(self, self.path, "flowers")
        check_number(self, "size", self.size, at_least=1, integer=True)
        check_bool(self, "grey", self.grey)

    def load(self, data_dir: str | None, device: Any) -> Dataset:
        folder = located(self, self.path, data_dir)
        require(os.path.isdir(folder), f"sources.ImageFolder: {folder} is no folder.")
        roots = {"train": folder}
        if (folder / "train").is_dir():
            roots = {split: folder / split for split in ("train", "test") if (folder / split).is_dir()}
        classes = _subfolders(roots["train"])
        require(
            len(classes) >= 2, f"sources.ImageFolder: {roots['train']} must hold at least two folders, one a class."
        )
        inputs, labels = {}, {}
        for split, root in roots.items():
            require(
                _subfolders(root) == classes,
                f"sources.ImageFolder: the folders (one a class) in {roots['train']} and {root} differ in their names.",
            )
            files = [_images(root / name) for name in classes]
            inputs[split] = torch.from_numpy(np.stack([self._pixels(file) for some in files for file in some]))
            labels[split] = torch.repeat_interleave(
                torch.arange(len(classes)), torch.tensor([len(some) for some in files])
            )
        return on_device("ImageFolder", inputs, labels, len(classes), device)

    def _pixels(self, file: Path) -> np.ndarray:
        """uint8 `[H, W]` or `[3, H, W]`."""
        from PIL import Image

        try:
            # no other formats: of these, some have readers that start programs, or map the file
            with Image.open(io.BytesIO(file.read_bytes()), formats=("JPEG", "PNG")) as image:
                # 16 bits of grey, which `convert` would cut off at 255
                eight = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)) if image.mode[0] == "I" else image
                converted = eight.convert("L" if self.grey else "RGB")
                pixels = np.asarray(converted.resize((self.size, self.size), Image.Resampling.BILINEAR))
        except Exception as error:  # a damaged file can raise anything in the reader
            raise UserError(f"sources.ImageFolder: {file} is damaged, or no image: {reason(error)}") from None
        return pixels if self.grey else pixels.transpose(2, 0, 1)

    def imitation(self) -> Source:
        """This source itself: only the folder knows its classes."""
        return self


def check_path(source: Source, path: Any, example: str) -> None:
    """Refuse a source's `path` that is no path."""
    name = f"sources.{type(source).__name__}.path"
    require(
        isinstance(path, str) and path != "",
        f"{name} is {path!r}: it must be a path, for example {name} = {example!r}.",
    )


def located(source: Source, path: str, data_dir: str | None) -> Path:
    """The file or folder that `path` means, in the data folder unless absolute; `UserError` if there is none."""
    found = data_folder(data_dir) / _expanded(path)  # an absolute path replaces the folder
    require(os.path.exists(found), f"sources.{type(source).__name__}: there is no {found}. {ELSEWHERE}")
    return found


def array_of(file: Mapping[str, Any], key: str) -> np.ndarray:
    """An array of an opened .npz file, whose other members numpy hands out as bytes."""
    array = file[key]
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{key} is no array.")
    return array


def reason(error: Exception) -> str:
    """The last line of an exception's text, which of a long one is the telling one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _inputs(what: str, array: np.ndarray) -> Tensor:
    require(
        array.ndim >= 2 and array.size > 0,
        f"sources.Arrays: {what} has shape {array.shape}: it must be [N, ...], not empty.",
    )
    floats = array.dtype in (np.float32, np.float64)
    require(
        floats or array.dtype == np.uint8,
        f"sources.Arrays: {what} is {array.dtype}: it must be uint8 (images), float32 or float64 (used as they are).",
    )
    require(not floats or bool(np.isfinite(array).all()), f"sources.Arrays: {what} holds values that are not finite.")
    require(
        floats or array.ndim != 4 or array.shape[1] in (1, 3) or array.shape[3] not in (1, 3),
        f"sources.Arrays: {what} has shape {array.shape}: channels come first; store array.transpose(0, 3, 1, 2).",
    )
    return torch.from_numpy(array)


def _labels(what: str, array: np.ndarray, examples: int) -> Tensor:
    require(
        array.shape == (examples,) and array.dtype.kind in "iu",
        f"sources.Arrays: {what} is {array.dtype} of shape {array.shape}: it must be {examples} integers.",
    )
    labels = torch.from_numpy(array.astype(np.int64))
    require(int(labels.min()) >= 0, f"sources.Arrays: {what} holds {int(labels.min())}: labels count from 0.")
    return labels


def _subfolders(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(folder) if os.path.isdir(entry) and not entry.name.startswith(".")]


def _images(folder: Path) -> list[Path]:
    files = [file for file in _entries(folder) if file.suffix.lower() in (".jpg", ".jpeg", ".png")]
    require(bool(files), f"sources.ImageFolder: {folder} holds no .jpg, .jpeg or .png file.")
    return files


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, in the order of names."""
    try:
        return [folder / name for name in sorted(os.listdir(folder))]
    except OSError as error:
        raise UserError(f"sources.ImageFolder: {folder} can't be read: {reason(error)}") from None
