"""The 32 x 32 ImageNet from small files in its two layouts, and what is said of partial and damaged ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lopbench.errors import UserError
from lopbench.protocols import Dataset
from lopbench.streams.imagenet32 import ImageNet32
from lopbench.streams.sources import digest
from tests.streams.data_files import cut as shrink
from tests.streams.data_files import upon

CLASSES, TRAIN, TEST = 3, 4, 2
PIXELS = np.random.default_rng(0).integers(0, 256, (CLASSES, TRAIN + TEST, 3, 32, 32)).astype(np.uint8)


def write_classes(root: Path, arrays: np.ndarray = PIXELS) -> Path:
    folder = root / "imagenet32" / "classes"
    folder.mkdir(parents=True)
    for label, images in enumerate(arrays):
        np.save(folder / f"{label}.npy", images)
    return folder


def write_batches(root: Path) -> Path:
    """Two batches, in which images 0, 1, ... of each class come in order, and more of them than are asked for."""
    folder = root / "imagenet32"
    folder.mkdir()
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(CLASSES), TRAIN + TEST))
    places = [int((labels[:k] == label).sum()) for k, label in enumerate(labels)]
    data = PIXELS[labels, places].reshape(len(labels), -1)
    labels, data = np.append(labels, [0, 2, 1]), np.concatenate([data, data[:3]])
    for number, part in enumerate((slice(0, 8), slice(8, None)), start=1):
        np.savez(folder / f"train_data_batch_{number}.npz", data=data[part], labels=labels[part] + 1, mean=data[0] / 1)
    return folder


def load(root: Path, classes: int = CLASSES, train: int = TRAIN, test: int = TEST) -> Dataset:
    return ImageNet32(classes=classes, train_per_class=train, test_per_class=test).load(str(root), "cpu")


def scaled(images: np.ndarray) -> np.ndarray:
    return images / 127.5 - 1


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "classes, uint8": write_classes,
    "classes, float32": lambda root: write_classes(root, scaled(PIXELS).astype(np.float32)),
    "classes, float64": lambda root: write_classes(root, scaled(PIXELS)),
    "classes, float16": lambda root: write_classes(root, scaled(PIXELS).astype(np.float16)),
    "batches": write_batches,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_layouts_give_the_same_pixels(layout, tmp_path):
    LAYOUTS[layout](tmp_path)
    data = load(tmp_path)
    assert data.classes == CLASSES and data.shape == (3, 32, 32)
    for split, rows, count in (("train", range(TRAIN), TRAIN), ("test", range(TRAIN, TRAIN + TEST), TEST)):
        images, labels = data.inputs[split], data.labels[split]
        assert images.dtype == torch.uint8 and images.is_contiguous() and len(images) == CLASSES * count
        for label in range(CLASSES):
            assert torch.equal(images[labels == label], torch.from_numpy(PIXELS[label, list(rows)]))
    assert data.mean == data.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("write", [write_classes, write_batches])
def test_fewer_classes_and_images_may_be_asked_for(write, tmp_path):
    write(tmp_path)
    data = load(tmp_path, classes=2, train=3, test=0)
    assert data.classes == 2
    assert list(data.inputs) == list(data.labels) == ["train"] and len(data.inputs["train"]) == 3 * 2
    assert torch.equal(data.inputs["train"][data.labels["train"] == 1], torch.from_numpy(PIXELS[1, :3]))


def test_floats_that_are_no_pixels_are_kept(tmp_path):
    values = (PIXELS / 255 - 0.48) / 0.23
    write_classes(tmp_path, values)
    images = load(tmp_path).inputs["train"]
    assert images.dtype == torch.float32
    np.testing.assert_allclose(images[1], values[1, 0], rtol=1e-6)  # image 1 is the first of class 1


def replaced(name: str, array: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / name, array)


def cut(name: str, share: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(share * len(whole))])

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "1.npy").unlink(),
            r"classes lacks 1\.npy: fetch what is missing, or lower sources\.ImageNet32\.classes\.",
        ),
        (lambda folder: [file.unlink() for file in folder.iterdir()], r"classes lacks 0\.npy, 1\.npy, 2\.npy: fetch"),
        (cut("2.npy", 0.6), r"2\.npy is damaged, or no file of arrays \(.+\): fetch it anew\."),
        (cut("2.npy", 0), r"2\.npy is damaged"),
        (lambda folder: (folder / "2.npy").write_text("<html>not found</html>"), r"2\.npy is damaged"),
        (replaced("2.npy", np.array([{}])), r"2\.npy is damaged, or no file of arrays \(Object arrays"),
        (
            replaced("2.npy", PIXELS[2, :5]),
            r"2\.npy has 5 images, but train_per_class \+ test_per_class is 6: fetch",
        ),
        (
            replaced("2.npy", PIXELS[2].transpose(0, 2, 3, 1)),
            r"2\.npy is uint8 of shape \(6, 32, 32, 3\): it must be uint8 or floats, \(700, 3, 32, 32\)\.",
        ),
        (replaced("0.npy", PIXELS[0].astype(int)), r"0\.npy is int64 of shape \(6, 3, 32, 32\): it must"),
        (replaced("2.npy", np.full(PIXELS[2].shape, np.nan)), r"2\.npy holds values that are not finite"),
        (
            replaced("2.npy", PIXELS[2] / 255),
            r"0\.npy and .*2\.npy differ: only one of them holds pixels, or pixel / 127",
        ),
    ],
)
def test_damaged_files_of_classes(damage, message, tmp_path):
    damage(write_classes(tmp_path))
    with pytest.raises(UserError, match=r"^sources\.ImageNet32: .*" + message):
        load(tmp_path)


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path):
    folder = write_classes(tmp_path)
    with (
        pytest.raises(UserError, match=r"sources\.ImageNet32: .*0\.npy is damaged"),
        upon("fromfile", lambda: shrink(folder / "0.npy")),
    ):
        load(tmp_path)


@pytest.mark.parametrize("write", [write_classes, write_batches])
def test_files_that_change_after_they_were_read_change_no_data(write, tmp_path):
    folder = write(tmp_path)
    data = load(tmp_path)
    before = digest(data)
    for file in folder.iterdir():
        with open(file, "r+b") as opened:
            opened.write(bytes(file.stat().st_size))
    assert digest(data) == before


def rewritten(**arrays: np.ndarray) -> Callable[[Path], None]:
    """The second batch with other arrays."""

    def damage(folder: Path) -> None:
        file = folder / "train_data_batch_2.npz"
        np.savez(file, **{**np.load(file), **arrays})

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "train_data_batch_1.npz").unlink(), r"lacks train_data_batch_1\.npz: fetch what"),
        (
            lambda folder: (folder / "train_data_batch_2.npz").unlink(),
            r"class [123] in the batches of .*imagenet32 has \d images, but train_per_class \+ test_per_class is 6",
        ),
        (cut("train_data_batch_2.npz", 0.5), r"train_data_batch_2\.npz is damaged, or no file of arrays"),
        (rewritten(labels=np.array([{}])), r"train_data_batch_2\.npz is damaged, or no file of arrays \(Object arrays"),
        (
            rewritten(labels=np.zeros(13, int)),
            r"labels of .*2\.npz is int64 of shape \(13,\): it must be integers from 1",
        ),
        (rewritten(labels=np.ones(13)), r"labels of .*2\.npz is float64"),
        (
            rewritten(data=np.zeros((12, 3072), np.uint8)),
            r"data of .*2\.npz .* \(12, 3072\): it must be uint8, \(13, 3072\)",
        ),
        (rewritten(data=np.zeros((13, 3072))), r"data of .*2\.npz is float64"),
        (
            rewritten(labels=np.full(13, 5)),
            r"class [123] in the batches of .* has \d images, .* or lower these, or sour",
        ),
    ],
)
def test_damaged_batches(damage, message, tmp_path):
    damage(write_batches(tmp_path))
    with pytest.raises(UserError, match=r"^sources\.ImageNet32: .*" + message):
        load(tmp_path)


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"sources\.ImageNet32: there is no .*imagenet32\. Point to another folder"):
        load(tmp_path)
    (tmp_path / "imagenet32").mkdir()
    (tmp_path / "imagenet32" / "train_data_batch_1").write_bytes(b"a pickle")
    with pytest.raises(
        UserError, match=r"holds neither classes/0\.npy.* the pickled batches are not read: fetch Image"
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": ""}, r"sources\.ImageNet32\.path is ''"),
        ({"classes": 1}, r"sources\.ImageNet32\.classes is 1: it must be an integer at least 2"),
        ({"train_per_class": 0}, r"sources\.ImageNet32\.train_per_class is 0"),
        ({"test_per_class": -1}, r"sources\.ImageNet32\.test_per_class is -1"),
    ],
)
def test_fields_refused(fields, message):
    with pytest.raises(UserError, match=message):
        ImageNet32(**fields)


def test_the_imitation_has_the_published_size_in_little_memory():
    source = ImageNet32().imitation()
    data = source.load(None, "cpu")
    assert data.classes == 1000 and data.shape == (3, 32, 32) and data.mean == (0.5, 0.5, 0.5)
    for split, per_class in (("train", 600), ("test", 100)):
        images = data.inputs[split]
        assert images.shape == (1000 * per_class, 3, 32, 32) and images.dtype == torch.uint8
        assert images.untyped_storage().nbytes() < 1001 * per_class + 4000
        assert torch.equal(data.labels[split].bincount(), torch.full((1000,), per_class))
        assert len(images[:500].unique(dim=0)) == 500
    assert torch.equal(source.load(None, "cpu").inputs["test"], data.inputs["test"])
