"""Nothing executes from data: no file that a run reads or writes can make Python run what it says.

The exception are gin files, with the modules that they import: they are the user's program.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import gin
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader

from lopbench import config
from lopbench.errors import UserError
from lopbench.experiment import Setting, execute
from lopbench.streams import CIFAR10, EMNIST, MNIST, Arrays, ImageFolder
from lopbench.streams.imagenet32 import ImageNet32
from tests.streams.data_files import upon, write_cifar, write_images

ROOT = Path(__file__).parent.parent


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    """A trap that is tried, and set again: the test ends with it untouched."""
    made = Trap(tmp_path / "executed")
    pickle.loads(pickle.dumps(made))
    made.folder.rmdir()
    return made


# Data ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_a_manipulated_batch_of_cifar_is_not_unpickled(name, trap, tmp_path, monkeypatch):
    folder = write_cifar(tmp_path, monkeypatch)
    (folder / name).write_bytes(pickle.dumps(trap))
    if name == "batches.meta":  # which is not needed, and not read
        CIFAR10(download=False).load(str(tmp_path), "cpu")
    else:
        with pytest.raises(UserError, match=rf"damaged \({name} is not the file that was published\.\)"):
            CIFAR10(download=False).load(str(tmp_path), "cpu")
    assert not trap.folder.exists()


def test_a_batch_that_changes_after_its_checksum_was_taken_is_not_unpickled(trap, tmp_path, monkeypatch):
    folder = write_cifar(tmp_path, monkeypatch)

    def manipulate() -> None:
        for name in ("data_batch_1", "test_batch"):
            (folder / name).write_bytes(pickle.dumps(trap))

    with pytest.raises(UserError, match="test_batch is not the file"), upon("hexdigest", manipulate):
        CIFAR10(download=False).load(str(tmp_path), "cpu")
    assert not trap.folder.exists()


def test_the_pickles_of_old_torchvision_are_not_unpickled(trap, tmp_path):
    """MNIST was once kept as files of `torch.save`, which torchvision prefers still where it finds them."""
    folder = tmp_path / "MNIST" / "processed"
    folder.mkdir(parents=True)
    for name in ("training.pt", "test.pt"):
        torch.save(trap, folder / name)
    with pytest.raises(UserError, match=r"sources\.MNIST: "):
        MNIST(download=False).load(str(tmp_path), "cpu")
    assert not trap.folder.exists()


def test_objects_in_arrays_are_not_unpickled(trap, tmp_path):
    objects = np.array([trap, trap], dtype=object)
    np.savez(tmp_path / "own.npz", train_inputs=objects, train_labels=np.arange(2))
    with pytest.raises(UserError, match=r"own\.npz can't be read as an \.npz file of plain arrays: Object arrays"):
        Arrays("own.npz").load(str(tmp_path), "cpu")
    (tmp_path / "imagenet32" / "classes").mkdir(parents=True)
    for label in (0, 1):
        np.save(tmp_path / "imagenet32" / "classes" / f"{label}.npy", objects)
    with pytest.raises(UserError, match=r"0\.npy is damaged, or no file of arrays \(Object arrays"):
        ImageNet32(classes=2, train_per_class=1, test_per_class=0).load(str(tmp_path), "cpu")
    assert not trap.folder.exists()


@pytest.mark.parametrize("name", ["own.npz", "imagenet32/classes/0.npy"])
def test_pickles_with_the_names_of_arrays_are_not_unpickled(name, trap, tmp_path):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(pickle.dumps(trap))
    (tmp_path / "imagenet32" / "classes").mkdir(parents=True, exist_ok=True)
    (tmp_path / "imagenet32" / "classes" / "1.npy").write_bytes(pickle.dumps(trap))
    source = Arrays(name) if name == "own.npz" else ImageNet32(classes=2, train_per_class=1, test_per_class=0)
    with pytest.raises(UserError, match=Path(name).name):
        source.load(str(tmp_path), "cpu")
    assert not trap.folder.exists()


def test_only_jpeg_and_png_are_decoded(tmp_path):
    """Of other formats, some have decoders that start programs: Ghostscript, for PostScript."""
    from PIL import Image

    write_images(tmp_path / "set", {"a": ["1.png"], "b": ["2.png"]})
    Image.new("RGB", (8, 8)).save(tmp_path / "set" / "b" / "2.png", format="EPS")
    with Image.open(tmp_path / "set" / "b" / "2.png") as opened:
        assert opened.format == "EPS"
    with pytest.raises(UserError, match=r"2\.png is damaged, or no image: cannot identify image file"):
        ImageFolder("set").load(str(tmp_path), "cpu")


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


#: archives whose members would write or point outside the folder that they are extracted in
ESCAPES = {
    "above": tar_of((tarfile.TarInfo("../evil"), b"evil")),
    "far above": tar_of((tarfile.TarInfo("cifar-10-batches-py/../../evil"), b"evil")),
    "through a link": tar_of(link("way", ".."), (tarfile.TarInfo("way/evil"), b"evil")),
    "over a link": tar_of(link("cifar-10-batches-py", "../secret"), (tarfile.TarInfo("cifar-10-batches-py"), b"evil")),
    "a hard link": tar_of(link("cifar-10-batches-py/data_batch_1", "../secret", tarfile.LNKTYPE)),
}


@pytest.mark.parametrize("name", ESCAPES)
def test_a_tar_archive_stays_within_its_folder(name, tmp_path, monkeypatch):
    """Although the archive has the checksum of the published one."""
    from torchvision import datasets

    (tmp_path / "secret").write_text("secret")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / datasets.CIFAR10.filename).write_bytes(ESCAPES[name])
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(ESCAPES[name]).hexdigest())
    with pytest.raises(UserError, match=r"sources\.CIFAR10: .* \(.* (outside|absolute)"):
        CIFAR10().load(str(tmp_path / "data"), "cpu")
    assert {path.name for path in tmp_path.iterdir()} == {"secret", "data"}
    assert (tmp_path / "secret").read_text() == "secret"


def test_a_zip_archive_stays_within_its_folder(tmp_path, monkeypatch):
    from torchvision import datasets

    raw = tmp_path / "data" / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    with zipfile.ZipFile(raw / "gzip.zip", "w") as archive:
        archive.writestr("../../../evil", "evil")
        archive.writestr(f"{tmp_path}/evil", "evil")
        archive.writestr("gzip/readme", "")
    monkeypatch.setattr(datasets.EMNIST, "md5", hashlib.md5((raw / "gzip.zip").read_bytes()).hexdigest())
    with pytest.raises(UserError, match=r"sources\.EMNIST: "):
        EMNIST().load(str(tmp_path / "data"), "cpu")
    assert not (raw / "gzip").exists()  # the archive was extracted, and its folder read and removed
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"EMNIST"}


# The code --------------------------------------------------------------------------------------------

#: modules that execute what they read, or write what does
MODULES = ("pickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve")
#: functions that do
FUNCTIONS = ("eval", "exec", "compile", "__import__", "torch.save", "yaml.load", "yaml.unsafe_load")
#: functions and methods that do, unless an argument has this value
GUARDED = {
    "torch.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
    "numpy.save": ("allow_pickle", False),
}
#: methods that do, whatever they are called on: always, or unless an argument has this value
METHODS = {
    **dict.fromkeys(("read_pickle", "to_pickle"), ("", None)),
    **dict.fromkeys(("read_array", "write_array"), ("allow_pickle", False)),
    **dict.fromkeys(("extract", "extractall", "unpack_archive"), ("filter", "data")),
}
#: what there is of all this nevertheless, and why
ALLOWED = {("lopbench/streams/torchvision_sources.py", "pickle"): "CIFAR is published as pickles: only those are read"}


def executing(source: str) -> set[str]:
    """What a source text imports or calls of the above."""
    nodes = list(ast.walk(ast.parse(source)))
    origins = origins_of(nodes)
    found = {name for name in MODULES if name in {origin.split(".")[0] for origin in origins.values()}}
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        local, _, rest = ast.unparse(call.func).partition(".")
        called = ".".join(filter(None, (origins.get(local, local), rest)))
        method = called.rpartition(".")[2]
        given = {(keyword.arg, getattr(keyword.value, "value", None)) for keyword in call.keywords}
        if called in FUNCTIONS or (called in GUARDED and GUARDED[called] not in given):
            found.add(called)
        if method in METHODS and METHODS[method] not in given:
            found.add(method)
    return found


def origins_of(nodes: list[ast.AST]) -> dict[str, str]:
    """What imported names stand for: {"np": "numpy", "load": "torch.load"}."""
    origins = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            origins |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origins |= {alias.asname or alias.name: f"{node.module or ''}.{alias.name}" for alias in node.names}
    return origins


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle", "pickle"),
        ("import numpy, dill.source as d", "dill"),
        ("from cloudpickle import loads", "cloudpickle"),
        ("eval(text)", "eval"),
        ("def f():\n    return exec(text)", "exec"),
        ("import torch\ntorch.load(path)", "torch.load"),
        ("import torch as t\nt.load(path, weights_only=False)", "torch.load"),
        ("from torch import load as get\nget(path)", "torch.load"),
        ("import numpy as np\nnp.load(path)", "numpy.load"),
        ("import numpy as np\nnp.lib.format.read_array(file, allow_pickle=True)", "read_array"),
        ("import pandas\npandas.read_pickle(path)", "read_pickle"),
        ("import yaml\nyaml.load(text)", "yaml.load"),
        ("import tarfile\ntarfile.open(path).extractall(folder)", "extractall"),
        ("archive.extract(member, filter='fully_trusted')", "extract"),
        ("import torch, re, ast, numpy as np\ntorch.load(p, weights_only=True)\nnp.load(p, allow_pickle=False)", ""),
        ("from safetensors.torch import save\nsave(tensors)", ""),
        ("network.eval()\nre.compile(text)\nast.literal_eval(text)\narchive.extractall(folder, filter='data')", ""),
    ],
)
def test_what_executes_is_told_from_what_does_not(source, found):
    assert executing(source) == ({found} if found else set())


def test_our_own_code_executes_nothing_that_it_reads():
    files = [file for folder in ("lopbench", "launch", "benchmarks") for file in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 80
    found = {(str(file.relative_to(ROOT)), what) for file in files for what in executing(file.read_text())}
    assert found == set(ALLOWED)


# Results ---------------------------------------------------------------------------------------------

#: what a run leaves: the ending of a file's name, and how such a file begins
KINDS: dict[str, Callable[[bytes], object]] = {
    ".parquet": lambda content: content[:4] == content[-4:] == b"PAR1",
    ".safetensors": lambda content: json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]),
    ".json": json.loads,
    ".gin": lambda content: content.decode(),
    ".png": lambda content: content.startswith(b"\x89PNG\r\n"),
}
RUN = """
run.stream = @streams.PermutedInputs
run.source = @sources.Generated
run.architecture = @architectures.MLP
run.optimizer = @optimizers.SGD
run.executor = 'eager'
run.checkpoint_steps = 5
run.metrics = [@metrics.DeadUnits]
metrics.DeadUnits.probe_size = 5
sources.Generated.shape = (4, 4)
sources.Generated.train_size = 60
streams.PermutedInputs.batch_size = 6
streams.PermutedInputs.tasks = 2
architectures.MLP.width = 5
architectures.MLP.depth = 1
"""


def test_a_workdir_holds_no_pickle(tmp_path):
    (tmp_path / "mine.gin").write_text(RUN)
    gin.clear_config()
    try:
        assert execute(config.read([str(tmp_path / "mine.gin")]), Setting(str(tmp_path / "out"), device="cpu")) == 0
    finally:
        gin.clear_config()
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    kinds = {next((kind for kind in KINDS if file.name.endswith(kind)), "") for file in files}
    assert kinds == {*KINDS, ""}
    for file in files:
        if ".tfevents." in file.name:  # records with checksums, each a protocol buffer
            assert b"brain.Event:2" in next(RawEventFileLoader(str(file)).Load())
        else:
            assert KINDS[file.suffix](file.read_bytes())
