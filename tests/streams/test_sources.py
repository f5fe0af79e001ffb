"""Sources: what they hand out, what they never do, and what they say when data are missing or damaged."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from lopbench.errors import UserError
from lopbench.protocols import Dataset
from lopbench.streams import (
    CIFAR10,
    CIFAR100,
    EMNIST,
    KMNIST,
    MNIST,
    Arrays,
    FashionMNIST,
    Generated,
    ImageFolder,
    sources,
)
from lopbench.streams.imagenet32 import Noise
from lopbench.streams.sources import channel_statistics, data_folder, digest
from tests.streams.data_files import (
    IMAGES,
    LABELS,
    PHOTOGRAPH_LABELS,
    PHOTOGRAPHS,
    cut,
    idx,
    upon,
    write_cifar,
    write_idx,
    write_images,
)

DATA = Path(os.environ.get("LOPBENCH_DATA_DIR") or Path(__file__).parents[3] / "shared" / "data")


@pytest.mark.skipif(not (DATA / "MNIST" / "raw").is_dir(), reason=f"no MNIST in {DATA}: set LOPBENCH_DATA_DIR")
def test_mnist():
    data = MNIST(download=False).load(str(DATA), "cpu")
    assert data.inputs["train"].shape == (60_000, 28, 28) and data.inputs["test"].shape == (10_000, 28, 28)
    assert data.inputs["train"].dtype == torch.uint8 and data.labels["train"].dtype == torch.int64
    assert data.shape == (28, 28) and data.classes == 10 and data.name == "MNIST"
    assert torch.bincount(data.labels["train"])[:3].tolist() == [5923, 6742, 5958]
    mean, std = channel_statistics(data.inputs["train"])
    assert data.mean == pytest.approx(mean, abs=5e-5) and data.std == pytest.approx(std, abs=5e-5)


@pytest.mark.parametrize("source", [MNIST, FashionMNIST, KMNIST])
def test_mnist_and_its_kin_are_read_as_they_lie(source, tmp_path):
    write_idx(tmp_path / source.__name__ / "raw", IMAGES, LABELS)
    data = source().load(str(tmp_path), "cpu")
    for split in ("train", "test"):
        assert torch.equal(data.inputs[split], torch.from_numpy(IMAGES).byte())
        assert torch.equal(data.labels[split], torch.from_numpy(LABELS))
    if source is not MNIST:
        assert data.mean == pytest.approx([(IMAGES / 255).mean()]) and data.std == pytest.approx([(IMAGES / 255).std()])


@pytest.mark.parametrize(("split", "first"), [("balanced", 0), ("letters", 1)])
def test_emnist_is_turned_upright_and_counts_labels_from_0(split, first, tmp_path):
    folder = tmp_path / "EMNIST" / "raw"
    write_idx(folder, IMAGES, LABELS + first, f"emnist-{split}-{{}}")
    for file in folder.glob("*-t10k-*"):
        file.rename(folder / file.name.replace("-t10k-", "-test-"))
    data = EMNIST(split=split).load(str(tmp_path), "cpu")
    assert torch.equal(data.inputs["test"], torch.from_numpy(IMAGES).byte().transpose(1, 2))
    assert torch.equal(data.labels["train"], torch.from_numpy(LABELS))
    assert data.classes == {"balanced": 47, "letters": 26}[split]


def test_cifar_is_handed_out_channels_first(tmp_path, monkeypatch):
    folder = write_cifar(tmp_path, monkeypatch)
    data = CIFAR10().load(str(tmp_path), "cpu")
    assert torch.equal(data.inputs["train"], torch.from_numpy(PHOTOGRAPHS))
    assert data.labels["test"].tolist() == PHOTOGRAPH_LABELS and data.shape == (3, 32, 32)
    assert data.mean == (0.4914, 0.4822, 0.4465) and data.inputs["train"].is_contiguous()

    (folder / "test_batch").write_bytes(b"damaged")
    with pytest.raises(
        UserError, match=r"sources\.CIFAR10: the files of CIFAR10 in .*cifar-10-batches-py are incomplete"
    ):
        CIFAR10(download=False).load(str(tmp_path), "cpu")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"train": b"half of it"},
            r"the files of CIFAR100 in .*cifar-100-python are incomplete or damaged \(.+\): delete",
        ),
        (
            {"train": b"half of it", "test": b"", "meta": b"wrong"},
            r"the files of CIFAR100 in .*cifar-100-python are incomplete or damaged \(.+\): delete",
        ),
        ({}, r"there is no CIFAR100 in .*cifar-100-python, and sources\.CIFAR100\.download is False"),
    ],
)
def test_a_partial_download_of_cifar(files, message, tmp_path):
    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(b"the beginning of the archive")
    for name, content in files.items():
        (tmp_path / "cifar-100-python" / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"^sources\.CIFAR100: {message}"):
        CIFAR100(download=False).load(str(tmp_path), "cpu")


@pytest.mark.parametrize("source", [MNIST, FashionMNIST, KMNIST, EMNIST, CIFAR10, CIFAR100])
def test_missing_data_give_one_sentence(source, tmp_path):
    with pytest.raises(UserError) as error:
        source(download=False).load(str(tmp_path), "cpu")
    name = source.__name__
    assert str(error.value) == (
        f"sources.{name}: there is no {name} in {tmp_path / source.folder}, and sources.{name}.download is False. "
        "Point to another folder with --data_dir or the environment variable LOPBENCH_DATA_DIR."
    )
    assert error.value.__cause__ is None and error.value.__context__ is None
    assert not any(tmp_path.iterdir())


def test_a_download_that_fails_gives_one_sentence_and_no_noise(tmp_path, monkeypatch, capfd):
    from torchvision import datasets

    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/", "http://127.0.0.1:9/again/"])
    with pytest.raises(UserError, match=r"there is no MNIST in .*, and downloading it failed \(.*refused.*\)\. Point"):
        MNIST().load(str(tmp_path / "data"), "cpu")
    assert not any(tmp_path.iterdir())  # nothing is left behind
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") <= 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "train-images-idx3-ubyte").write_bytes(idx(IMAGES)[:-1000]),
        lambda folder: (folder / "train-images-idx3-ubyte").write_bytes(b""),
        lambda folder: (folder / "train-images-idx3-ubyte").write_bytes(b"<html>not found</html>"),
        lambda folder: (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS[:5])),
        lambda folder: (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS + 5)),
        lambda folder: (folder / "t10k-images-idx3-ubyte").write_bytes(idx(IMAGES[:, :5])),
        lambda folder: (folder / "t10k-labels-idx1-ubyte").unlink(),
    ],
)
def test_damaged_files_are_told_from_missing_ones(damage, tmp_path):
    write_idx(tmp_path / "MNIST" / "raw", IMAGES, LABELS)
    damage(tmp_path / "MNIST" / "raw")
    with pytest.raises(
        UserError, match=r"sources\.MNIST: the files of MNIST in .*raw are incomplete or damaged \(.+\): del"
    ):
        MNIST(download=False).load(str(tmp_path), "cpu")


def test_imitations_have_the_shapes_and_read_nothing(monkeypatch):
    monkeypatch.setenv("LOPBENCH_DATA_DIR", "/nonexistent")
    for source, shape, classes, sizes in (
        (MNIST(), (28, 28), 10, (60_000, 10_000)),
        (EMNIST(), (28, 28), 47, (112_800, 18_800)),
        (EMNIST(split="letters"), (28, 28), 26, (124_800, 20_800)),
        (CIFAR10(), (3, 32, 32), 10, (50_000, 10_000)),
        (CIFAR100(), (3, 32, 32), 100, (50_000, 10_000)),
    ):
        made = source.imitation()
        assert isinstance(made, Generated)
        assert (tuple(made.shape), made.classes, (made.train_size, made.test_size)) == (shape, classes, sizes)
    data = MNIST().imitation().load(None, "cpu")
    assert data.inputs["train"].shape == (60_000, 28, 28) and data.inputs["train"].dtype == torch.uint8


def test_generated_data_can_be_learnt_and_are_the_same_anywhere():
    source = Generated(classes=10, shape=(3, 8, 8), train_size=400, test_size=200)
    data, again = source.load(None, "cpu"), source.load("/nonexistent", "cpu")
    assert all(torch.equal(data.inputs[split], again.inputs[split]) for split in ("train", "test"))
    assert data.shape == (3, 8, 8) and len(data.mean) == 3 and data.inputs["train"].dtype == torch.uint8
    assert hashlib.sha256(data.inputs["test"].numpy().tobytes()).hexdigest()[:16] == "fa408cc558e67a87"
    train, test = (data.inputs[split].flatten(1).double() for split in ("train", "test"))
    means = torch.stack([train[data.labels["train"] == c].mean(dim=0) for c in range(10)])
    nearest = torch.cdist(test, means).argmin(dim=1)
    assert (nearest == data.labels["test"]).double().mean() == 1
    assert len(train.unique(dim=0)) > 390
    other = Generated(classes=10, shape=(3, 8, 8), train_size=400, seed=1).load(None, "cpu")
    assert not torch.equal(other.inputs["train"], data.inputs["train"])
    assert "test" not in Generated(test_size=0).load(None, "cpu").inputs


@pytest.mark.parametrize("grey", [False, True])
def test_image_folder(grey, tmp_path):
    write_images(tmp_path / "set" / "train", {"bee": ["2.png", "1.jpg"], "ant": ["x.JPEG"]})
    write_images(tmp_path / "set" / "test", {"ant": ["y.png"], "bee": ["z.png"]})
    (tmp_path / "set" / "train" / "ant" / "notes.txt").write_text("no image")
    data = ImageFolder("set", size=4, grey=grey).load(str(tmp_path), "cpu")
    assert (
        data.inputs["train"].shape == ((3, 4, 4) if grey else (3, 3, 4, 4))
        and data.inputs["train"].dtype == torch.uint8
    )
    assert data.labels["train"].tolist() == [0, 1, 1] and data.labels["test"].tolist() == [0, 1] and data.classes == 2
    if not grey:  # classes in the order of their names: bee, written first, is the second; a flat colour stays
        assert data.inputs["train"][2, :, 0, 0].tolist() == [0, 100, 200]
        assert data.inputs["test"][1, :, 0, 0].tolist() == [50, 100, 200]
        assert len(data.mean) == 3
    assert ImageFolder(str(tmp_path / "set")).load(None, "cpu").shape == (3, 32, 32)  # an absolute path


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_images_of_any_mode_become_grey_or_colour(mode, grey, tmp_path):
    """A dark left and a bright right half, stored in every way that PNG and JPEG files know."""
    from PIL import Image

    halves = np.zeros((8, 8), np.uint8)
    halves[:, 4:] = 255
    image = Image.fromarray(halves)
    image = Image.fromarray(halves.astype(np.uint16) * 200) if mode == "I;16" else image.convert(mode)
    suffix = "jpg" if mode == "CMYK" else "png"
    for name in "ab":
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / f"1.{suffix}", **({"quality": 100} if suffix == "jpg" else {}))
    with Image.open(tmp_path / "a" / f"1.{suffix}") as stored:
        assert stored.mode == mode
    inputs = ImageFolder(".", size=8, grey=grey).load(str(tmp_path), "cpu").inputs["train"]
    bright = 255 * 200 // 256 if mode == "I;16" else 255
    expected = torch.tensor([0.0] * 4 + [bright] * 4).expand(2, *(() if grey else (3,)), 8, 8)
    torch.testing.assert_close(inputs.float(), expected, rtol=0, atol=2)


def test_image_folder_without_splits(tmp_path):
    write_images(tmp_path, {"a": ["1.png"], "b": ["2.png"]})
    data = ImageFolder(".", size=8).load(str(tmp_path), "cpu")
    assert list(data.inputs) == ["train"] and data.labels["train"].tolist() == [0, 1]


@pytest.mark.skipif(not (DATA / "cifar10_small.tar.gz").is_file(), reason="cifar10_small.tar.gz is not at hand")
def test_a_folder_of_real_photographs(tmp_path):
    with tarfile.open(DATA / "cifar10_small.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    data = ImageFolder("cifar10_small").load(str(tmp_path), "cpu")
    assert data.classes == 10 and data.shape == (3, 32, 32)
    for split, count in (("train", 600), ("test", 100)):
        assert torch.equal(data.labels[split].bincount(), torch.full((10,), count))
    assert data.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=0.01)  # those of CIFAR-10
    assert data.std == pytest.approx((0.247, 0.243, 0.261), abs=0.01)


def test_image_folder_refusals(tmp_path):
    def refused(message: str, path: str = "set") -> None:
        with pytest.raises(UserError, match=message):
            ImageFolder(path).load(str(tmp_path), "cpu")

    refused(r"sources\.ImageFolder: there is no .*set\. Point to another folder with --data_dir")
    write_images(tmp_path / "set", {"a": ["1.png"]})
    refused(r"must hold at least two folders")
    (tmp_path / "set" / "b").mkdir()
    refused(r"set.b holds no \.jpg, \.jpeg or \.png file")
    (tmp_path / "set" / "b" / "broken.png").write_bytes((tmp_path / "set" / "a" / "1.png").read_bytes()[:45])
    refused(r"broken\.png is damaged, or no image")
    write_images(tmp_path / "two" / "train", {"a": ["1.png"], "b": ["2.png"]})
    write_images(tmp_path / "two" / "test", {"a": ["1.png"], "c": ["2.png"]})
    refused(r"the folders \(one a class\) in .*train and .*test differ in their names", "two")
    (tmp_path / "file").write_text("")
    refused(r"file is no folder", "file")


def test_arrays(tmp_path):
    images = np.random.default_rng(2).integers(0, 256, (9, 3, 5, 4)).astype(np.uint8)
    np.savez(tmp_path / "own.npz", train_inputs=images, train_labels=np.arange(9) % 4)
    data = Arrays("own.npz").load(str(tmp_path), "cpu")
    assert (
        torch.equal(data.inputs["train"], torch.from_numpy(images))
        and data.classes == 4
        and list(data.labels) == ["train"]
    )
    assert data.mean == pytest.approx((images / 255).mean(axis=(0, 2, 3)))
    assert data.std == pytest.approx((images / 255).std(axis=(0, 2, 3)))

    floats = np.random.default_rng(3).normal(size=(6, 7))
    np.savez_compressed(
        tmp_path / "floats.npz",
        train_inputs=floats,
        train_labels=np.arange(6, dtype=np.uint8) % 2,
        test_inputs=floats[:2],
        test_labels=[1, 0],
    )
    data = Arrays(str(tmp_path / "floats.npz")).load(None, "cpu")
    assert torch.equal(data.inputs["test"], torch.from_numpy(floats[:2])) and data.labels["test"].tolist() == [1, 0]
    source = Arrays("own.npz")
    assert source.imitation() is source


GOOD = {"train_inputs": np.zeros((4, 5, 5), np.uint8), "train_labels": np.arange(4)}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train_labels": np.arange(4)}, r"has no array 'train_inputs'; it holds train_labels\."),
        ({**GOOD, "test_inputs": GOOD["train_inputs"]}, r"has no array 'test_labels'"),
        ({**GOOD, "train_labels": np.arange(3)}, r"train_labels of .* is int64 of shape \(3,\): it must be 4 integers"),
        ({**GOOD, "train_labels": np.arange(4) / 1}, r"train_labels of .* is float64"),
        ({**GOOD, "train_labels": np.arange(4) - 1}, r"holds -1: labels count from 0\."),
        ({**GOOD, "train_labels": np.zeros(4, int)}, r"all labels of .* are 0"),
        (
            {**GOOD, "train_inputs": np.zeros((4, 5, 5), int)},
            r"train_inputs of .* is int64: it must be uint8 \(images\), float32",
        ),
        ({**GOOD, "train_inputs": np.full((4, 5), np.nan)}, r"holds values that are not finite"),
        ({**GOOD, "train_inputs": np.zeros((4, 5, 5, 3), np.uint8)}, r"channels come first; store array\.transpose"),
        ({**GOOD, "train_inputs": np.zeros(4)}, r"has shape \(4,\): it must be \[N, \.\.\.\]"),
        ({**GOOD, "test_inputs": np.zeros((4, 6, 5), np.uint8), "test_labels": np.arange(4)}, r"differ in shape"),
        ({**GOOD, "test_inputs": np.zeros((4, 5, 5)), "test_labels": np.arange(4)}, r"differ in dtype"),
        (
            {**GOOD, "train_inputs": np.array([{}] * 4)},
            r"can't be read as an \.npz file of plain arrays: Object arrays",
        ),
    ],
)
def test_arrays_refused(arrays, message, tmp_path):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError, match=message):
        Arrays("bad.npz").load(str(tmp_path), "cpu")


def test_files_that_are_no_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "good.npz", **GOOD)
    whole = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "flipped.npz").write_bytes(whole.replace(bytes(20), bytes([1] * 20), 1))
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").write_text("")
    np.save(tmp_path / "one.npy", GOOD["train_inputs"])
    with zipfile.ZipFile(tmp_path / "archive.npz", "w") as archive:
        archive.writestr("train_inputs", "no array")
    for name in ("cut.npz", "flipped.npz", "text.npz", "empty.npz", "one.npy", "archive.npz"):
        with pytest.raises(UserError, match=rf"sources\.Arrays: .*{name} can't be read as an \.npz file"):
            Arrays(name).load(str(tmp_path), "cpu")
    with pytest.raises(UserError, match=r"there is no .*absent\.npz\. Point to another folder"):
        Arrays("absent.npz").load(str(tmp_path), "cpu")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MNIST(download="no"), r"sources\.MNIST\.download is 'no': it must be True or False\."),
        (lambda: EMNIST(split="letter"), r"sources\.EMNIST\.split is 'letter'.*Did you mean letters"),
        (lambda: Generated(shape=28), r"sources\.Generated\.shape is 28: it must be a tuple of integers"),
        (lambda: Generated(shape=(28, 0)), r"sources\.Generated\.shape is \(28, 0\)"),
        (lambda: Generated(classes=1), r"sources\.Generated\.classes is 1"),
        (lambda: Generated(seed=-1), r"sources\.Generated\.seed is -1"),
        (
            lambda: Arrays(),
            r"sources\.Arrays\.path is '': it must be a path, for example sources\.Arrays\.path = 'digits\.npz'",
        ),
        (lambda: ImageFolder(3), r"sources\.ImageFolder\.path is 3: it must be a path"),
        (lambda: ImageFolder("x", size=0), r"sources\.ImageFolder\.size is 0"),
        (lambda: ImageFolder("x", grey=1), r"sources\.ImageFolder\.grey is 1"),
    ],
)
def test_fields_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_the_data_folder(monkeypatch):
    monkeypatch.delenv("LOPBENCH_DATA_DIR", raising=False)
    assert data_folder(None) == Path.home() / ".cache" / "lopbench" / "data"
    monkeypatch.setenv("LOPBENCH_DATA_DIR", "/elsewhere")
    assert data_folder(None) == Path("/elsewhere") and data_folder("/here") == Path("/here")
    assert data_folder("~nobody-of-this-name/data") == Path("~nobody-of-this-name/data")


def write_arrays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(4).integers(0, 256, (4000, 3, 3)).astype(np.uint8)
    np.savez(root / "own.npz", train_inputs=images, train_labels=np.arange(4000) % 4)


def write_mnist(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(root / "MNIST" / "raw")


def write_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(root / "set", {"a": ["1.png", "2.png"], "b": ["3.jpg"]})


#: what writes a data set, the source that reads it, a file of it, what a message must name if that is lost, and the
#: built-in function before whose first call it is cut short
FILES = {
    "Arrays": (write_arrays, Arrays("own.npz"), "own.npz", r"own\.npz", "frombuffer"),
    "MNIST": (write_mnist, MNIST(download=False), "MNIST/raw/t10k-images-idx3-ubyte", "MNIST.raw", "open"),
    "CIFAR10": (write_cifar, CIFAR10(download=False), "cifar-10-batches-py/test_batch", "test_batch", "open"),
    "ImageFolder": (write_folder, ImageFolder("set"), "set/b/3.jpg", r"b.3\.jpg", "open"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_change_after_they_were_read_change_no_data(name, tmp_path, monkeypatch):
    write, source, *_ = FILES[name]
    write(tmp_path, monkeypatch)
    data = source.load(str(tmp_path), "cpu")
    before = digest(data)
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        with open(file, "r+b") as opened:
            opened.write(bytes(file.stat().st_size))
        assert digest(data) == before
        os.truncate(file, 0)
    assert digest(data) == before


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_vanishes_or_shrinks_while_it_is_read_is_named(name, tmp_path, monkeypatch):
    write, source, file, named, call = FILES[name]
    write(tmp_path, monkeypatch)
    with pytest.raises(UserError, match=rf"sources\.{name}: .*{named}"), upon(call, lambda: cut(tmp_path / file)):
        source.load(str(tmp_path), "cpu")
    with pytest.raises(UserError, match=rf"sources\.{name}: .*{named}"), upon("open", (tmp_path / file).unlink):
        source.load(str(tmp_path), "cpu")


def test_a_folder_that_vanishes_while_it_is_read_is_named(tmp_path):
    write_images(tmp_path / "set" / "train", {"a": ["1.png"], "b": ["2.png"]})
    lost = pytest.raises(UserError, match=r"sources\.ImageFolder: .*set.train can't be read: .*No such file")
    with lost, upon("listdir", lambda: shutil.rmtree(tmp_path / "set")):
        ImageFolder("set").load(str(tmp_path), "cpu")


def eight(**changed: torch.Tensor) -> Dataset:
    """Eight examples, with other inputs or labels of a split than the usual ones."""
    usual = {"train_inputs": torch.arange(80, dtype=torch.uint8).view(8, 5, 2), "train_labels": torch.arange(8) % 3}
    parts = {**usual, **changed}
    inputs = {key.removesuffix("_inputs"): value for key, value in parts.items() if key.endswith("_inputs")}
    labels = {key.removesuffix("_labels"): value for key, value in parts.items() if key.endswith("_labels")}
    return Dataset("test", inputs, labels, 3)


def test_the_digest_tells_data_from_other_data():
    pixels = eight().inputs["train"]
    one_changed = pixels.clone()
    one_changed[7, 4, 1] += 1
    others = [
        eight(train_inputs=one_changed),
        eight(train_inputs=pixels.view(8, 2, 5)),
        eight(train_inputs=pixels.view(torch.int8)),
        eight(train_labels=torch.arange(8) % 2),
        eight(test_inputs=pixels, test_labels=torch.arange(8) % 3),
        Dataset("test", {"test": pixels}, {"test": torch.arange(8) % 3}, 3),
    ]
    assert len({digest(data) for data in (eight(), *others)}) == 7
    copied = pixels.transpose(1, 2).contiguous().transpose(1, 2)  # in another order in memory
    assert digest(eight(train_inputs=copied)) == digest(eight())


def test_the_digest_is_taken_in_pieces(monkeypatch):
    """Of images that overlap in memory too, of which a whole copy would take more than there may be."""
    data = Noise(classes=2, shape=(3, 8, 8), train_size=70, test_size=3).load(None, "cpu")
    whole = Dataset("", {split: images.contiguous() for split, images in data.inputs.items()}, data.labels, 2)
    expected = digest(whole)
    monkeypatch.setattr(sources, "PIECE_BYTES", 1000)  # five images, or 125 labels
    assert digest(data) == expected


def test_streams_are_imported_without_torchvision():
    code = "import sys, lopbench.streams; sys.exit('torchvision' in sys.modules or 'PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
