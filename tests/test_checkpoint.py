"""Checkpoints: what comes back is what was saved, others can read it, and a damaged file is refused by name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from lopbench import checkpoint
from lopbench.architectures.dropout import Dropout
from lopbench.architectures.mlp import MLP
from lopbench.errors import UserError
from lopbench.learner import initial_state
from lopbench.loggers.records import Replica
from lopbench.optimizers.adam import Adam
from lopbench.population import Population, map_tree
from lopbench.probing import probe
from lopbench.protocols import Problem, Tree
from lopbench.strategies.continual_backprop import ContinualBackprop
from lopbench.strategies.ewc import EWC
from lopbench.strategies.selective_weight_reinit import SelectiveWeightReinit
from lopbench.training import Snapshot
from tests.helpers import TinyNet, run, tiny_population

REPLICAS = (
    Replica(4, "swr", 11, {"strategies.SelectiveWeightReinit.reinit_factor": 0.1}),
    Replica(5, "off", -3, {"strategies.SelectiveWeightReinit.reinit_factor": None}),
)
PROBLEM = Problem((4,), 3, "cross_entropy")
SO_FAR = {
    "sums": {"loss": np.array([0.5, np.nan])},
    "best": {"evaluation/accuracy.test": np.array([1.0, 0.1])},
    "selected": {},
}
RUN = {"population": 0, "died": {"5": 2}, "choices": [{"executor": "eager"}]}


class Normalised(nn.Module):
    """A network with batch norm (buffers, one of them an integer) and dropout (a key, which is no state)."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.norm, self.output = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.dropout = Dropout(0.5, "dropout")

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.output(self.dropout(torch.relu(self.norm(self.hidden(x))))), {}


def saved(path: Path, population: Population, updates: int) -> Tree:
    """The state after some updates, and its checkpoint on disk."""
    state = run(population, updates)
    checkpoint.save(path, Snapshot(state, updates, 0, SO_FAR, seconds=1.0), REPLICAS, RUN)
    return state


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A checkpoint of two replicas after three updates."""
    saved(tmp_path / "a.safetensors", tiny_population(replicas=2), 3)
    return tmp_path / "a.safetensors"


def leaves(tree: Tree, above: str = "") -> Iterator[tuple[str, Tensor | None]]:
    """(path, tensor) in order; a branch without entries is (path, None)."""
    for key, value in tree.items():
        if not isinstance(value, dict):
            yield above + key, value
        elif value:
            yield from leaves(value, f"{above}{key}/")
        else:
            yield above + key, None


def assert_same(one: Tree, other: Tree) -> None:
    """The same branches in the same order, equal in dtype and to the bit."""
    assert [path for path, _ in leaves(one)] == [path for path, _ in leaves(other)]
    for (path, a), (_, b) in zip(leaves(one), leaves(other), strict=True):
        if a is not None and b is not None:
            assert a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b)), path


def bits(tensor: Tensor) -> Tensor:
    """A tensor's bytes, of which those of two NaNs are equal."""
    return tensor.reshape(-1).view(torch.uint8)


# What comes back ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "population",
    [
        lambda: tiny_population(),
        lambda: tiny_population([[SelectiveWeightReinit(period=2), SelectiveWeightReinit(period=3)]]),
        lambda: tiny_population([ContinualBackprop(maturity_threshold=1), EWC()], steps_per_task=4),
        lambda: tiny_population(module=Normalised(), optimizer=Adam(learning_rate=0.01), dtype=torch.float64),
    ],
    ids=["sgd", "per_replica", "two strategies over tasks", "batch norm, Adam, float64"],
)
def test_the_whole_tree_comes_back_and_training_goes_on_from_it(
    tmp_path: Path, population: Callable[[], Population]
) -> None:
    learners = population()
    state = saved(tmp_path / "a.safetensors", learners, 6)
    found = checkpoint.load(tmp_path / "a.safetensors")
    assert (found.step, found.task, found.replicas, found.run) == (6, 0, REPLICAS, RUN)
    np.testing.assert_equal(found.so_far, SO_FAR)
    assert_same(found.state, state)
    assert_same(run(learners, 4, found.state, done=6), run(learners, 10))


def test_what_two_branches_share_comes_back_in_both(tmp_path: Path) -> None:
    state = initial_state(tiny_population(replicas=2))
    weight = state["parameters"]["hidden.weight"]
    state["strategies"] = {"0": {"kept": weight, "transposed": weight.mT, "row": weight[:, :1], "none": {}}}
    checkpoint.save(tmp_path / "a.safetensors", Snapshot(state, 0, 0, {}, seconds=0.0), REPLICAS)
    assert_same(checkpoint.load(tmp_path / "a.safetensors").state, state)


def test_what_was_loaded_has_left_the_file(file: Path) -> None:
    state = checkpoint.load(file).state
    weight = state["parameters"]["hidden.weight"]
    before = weight.clone()
    file.write_bytes(bytes(file.stat().st_size))
    assert torch.equal(weight, before)
    assert all(leaf.data_ptr() % 64 == 0 for _, leaf in leaves(state) if leaf is not None)  # as torch's own memory


def test_the_layout_is_the_documented_one(file: Path) -> None:
    tensors = safetensors.torch.load_file(file)
    expected = {"parameters/hidden.weight", "optimizer/momentum/hidden.weight", "hyper/optimizer/learning_rate"}
    assert expected | {"seeds", "alive", "died_at", "online/loss", "task/sums/loss"} <= tensors.keys()
    assert tensors["parameters/hidden.weight"].shape == (2, 5, 4)
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    assert {key: metadata[key] for key in ("format", "layout", "step", "task")} == {
        **{"format": "lopbench checkpoint", "layout": "2", "step": "3", "task": "0"}
    }
    assert json.loads(metadata["replicas"]) == [dataclasses.asdict(replica) for replica in REPLICAS]
    assert json.loads(metadata["tree"])["buffers"] == {}
    assert json.loads(metadata["run"]) == RUN
    assert len(metadata["sha256"]) == 64


# One replica as a state_dict ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module",
    [lambda: TinyNet(PROBLEM), lambda: MLP(PROBLEM, width=6, depth=2, layer_norm="post"), Normalised],
    ids=["layer norm", "MLP", "batch norm and dropout"],
)
def test_a_replica_is_a_state_dict_of_its_module(tmp_path: Path, module: Callable[[], nn.Module]) -> None:
    population = tiny_population(module=module(), dtype=torch.float64)
    state = saved(tmp_path / "a.safetensors", population, 5)
    inputs, _ = population.stream.probe("train", 7, 0)
    expected = probe(population, state, 7, "train", 0).outputs
    assert expected is not None and not torch.allclose(expected[0], expected[1])
    for row, replica in enumerate(REPLICAS):
        alone = module().double().eval()
        alone.load_state_dict(checkpoint.state_dict(tmp_path / "a.safetensors", replica.index), strict=True)
        torch.testing.assert_close(alone(inputs[row])[0], expected[row], rtol=1e-12, atol=1e-12)


def test_a_replica_that_is_not_there_is_refused(file: Path) -> None:
    with pytest.raises(UserError, match=r"a\.safetensors holds no replica 0: it has 4, 5\."):
        checkpoint.state_dict(file, 0)


# What is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused_by_name(file: Path, part: float) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(UserError, match=r"a\.safetensors is damaged"):
        checkpoint.load(file)


def test_a_flipped_bit_is_refused_wherever_it_is(file: Path) -> None:
    whole = file.read_bytes()
    for place in range(0, len(whole), len(whole) // 97):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"a\.safetensors is (damaged|not a checkpoint|a checkpoint of layout)"):
            checkpoint.load(file)


def test_a_foreign_file_is_refused_by_name(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    for contents in (b"not a checkpoint at all\n" * 9, safetensors.torch.save({"weight": torch.zeros(2)})):
        foreign.write_bytes(contents)
        with pytest.raises(UserError, match=r"foreign\.safetensors is .*not a checkpoint of lopbench"):
            checkpoint.load(foreign)
    with pytest.raises(UserError, match=r"There is no checkpoint .*gone\.safetensors"):
        checkpoint.load(tmp_path / "gone.safetensors")
    with pytest.raises(UserError, match=f"{tmp_path.name} is damaged, or not a checkpoint"):
        checkpoint.load(tmp_path)


def test_another_layout_is_refused_by_its_version(file: Path) -> None:
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    contents = safetensors.torch.load_file(file)
    file.write_bytes(safetensors.torch.save(contents, {**metadata, "layout": "7"}))
    with pytest.raises(UserError, match=r"a\.safetensors is a checkpoint of layout 7; .* reads 1 and 2\."):
        checkpoint.load(file)


def test_networks_of_the_first_layout_are_read(tmp_path: Path) -> None:
    """Written as version 1 of the layout had it: without `run`, and without the branch "task"."""
    state = run(tiny_population(replicas=2), 3)
    tensors = dict(checkpoint._leaves(state))
    metadata = {
        **{"format": "lopbench checkpoint", "layout": "1", "step": "3", "task": "0"},
        "replicas": json.dumps([dataclasses.asdict(replica) for replica in REPLICAS]),
        "tree": json.dumps(map_tree(lambda leaf: None, state)),
    }
    metadata["sha256"] = checkpoint._digest(metadata, tensors)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    (tmp_path / "old.safetensors").write_bytes(safetensors.torch.save(tensors, metadata))
    found = checkpoint.load(tmp_path / "old.safetensors")
    assert_same(found.state, state)
    assert (found.step, found.so_far, found.run) == (3, {}, None)
    assert checkpoint.state_dict(tmp_path / "old.safetensors", 4)["hidden.weight"].shape == (5, 4)


# The files of a run ---------------------------------------------------------------------------------


def test_a_run_s_files_are_listed_in_the_order_of_saving(tmp_path: Path) -> None:
    tasks = [0, 9, 10, 9999, 10000, None]
    for population in (10, 2):
        for task in reversed(tasks):
            path = checkpoint.path_of(tmp_path, population, task)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (path.parent / "best.safetensors").touch()  # somebody else's
        checkpoint.path_of(tmp_path, population, step=7).touch()  # not for good
        (path.parent / ".task-0003.safetensors.tmp").touch()
    found = checkpoint.saved(tmp_path)
    assert list(found) == [2, 10]
    assert found[2] == [checkpoint.path_of(tmp_path, 2, task) for task in tasks]
    assert found[2][1] == tmp_path / "checkpoints/population-2/task-0009.safetensors"
    assert (2, checkpoint.path_of(tmp_path, 2, step=7)) in checkpoint.files_of(tmp_path)
    assert checkpoint.saved(tmp_path / "elsewhere") == {}
