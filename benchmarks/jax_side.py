"""The same networks in JAX: `vmap` over replicas of `lax.scan` over steps, jitted, with plain gradient descent.

It starts from the population's own first parameters and is shown the population's examples in their order; generated
ones, once these are used up, are drawn with `jax.random`, for all steps of a call at once. Batches are gathered,
permuted and scaled in the body of the scan. JAX takes as many cores as there are, whatever torch is told.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU's memory is torch's too

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax

from benchmarks.shown import Shown, shown
from benchmarks.timing import seconds
from lopbench.architectures import MLP, ConvNet
from lopbench.choosing import multiply_adds
from lopbench.learner import initial_state
from lopbench.population import Population
from lopbench.streams.epochs import EpochStream

# on a GPU JAX would round the factors of float32 products to TF32, which torch does not do unless told to
jax.config.update("jax_default_matmul_precision", "highest")

PLATFORMS = {"cpu": "cpu", "cuda": "gpu"}

Parameters = dict[str, Any]
Network = Callable[[Parameters, Any], Any]  #: parameters and a batch to outputs

#: A call of the scan takes about so many multiply-adds, so that it neither vanishes nor outlasts a sample.
WORK_OF_A_CALL = {"cpu": 2e9, "cuda": 1e12}
MOST_STEPS_OF_A_CALL = 200


def sees(device: torch.device) -> bool:
    """Whether JAX has a device of this kind."""
    try:
        return bool(jax.devices(PLATFORMS[device.type]))
    except RuntimeError:
        return False


def writes(population: Population) -> bool:
    """Whether this file has the population's network."""
    return type(population.module) in NETWORKS[population.device.type]


def fastest(population: Population) -> Scan:
    """All replicas of a population under plain gradient descent, in the fastest of the ways there are."""
    ways = NETWORKS[population.device.type][type(population.module)]
    return min((Scan(population, way) for way in ways), key=Scan.warmed_up)


class Scan:
    """All replicas of a population under plain gradient descent."""

    def __init__(self, population: Population, network: Network) -> None:
        found, device = shown(population), population.device.type
        self._device = jax.devices(PLATFORMS[device])[0]
        hyper = population.hyper["optimizer"]
        self._state = self._put({"parameters": _numpy(initial_state(population)["parameters"])})
        if hyper["momentum"].any():
            self._state["momentum"] = jax.tree.map(jnp.zeros_like, self._state["parameters"])
        self._rates = self._put({name: hyper[name].astype(np.float32) for name in ("learning_rate", "momentum")})
        self._data, self._given = (self._put(part) for part in _data(found))
        self._at, self._steps, self._generated = 0, found.rows.shape[1], not found.shared
        work = multiply_adds(population) * found.rows.shape[2] * population.replicas
        self.steps_of_a_call = int(min(max(2, WORK_OF_A_CALL[device] / work), MOST_STEPS_OF_A_CALL, self._steps))
        self._call = jax.jit(self._calling(population, network, found), donate_argnums=0)
        self._slice, self._draw = jax.jit(self._sliced), jax.jit(self._drawn)
        self._first: list[np.ndarray] = []  # losses of replica 0

    def _put(self, tree: Any) -> Any:
        return jax.device_put(tree, self._device)

    def _calling(self, population: Population, network: Network, found: Shown) -> Callable[..., Any]:
        """(state, rates, data, order) to (state, losses `[R, steps]`)."""
        batch_of = _preparation(population, found)
        loss_of = _squared_error if population.stream.problem.loss == "squared_error" else _cross_entropy

        def one(state: Any, rates: Any, data: Any, order: Any) -> Any:
            def step(state: Any, shown_now: Any) -> Any:
                x, y = batch_of(data, shown_now["rows"]), shown_now["targets"]
                loss, gradients = jax.value_and_grad(lambda p: loss_of(network(p, x), y))(state["parameters"])
                return _descended(state, gradients, rates), loss

            return lax.scan(step, state, order)

        data_axes = {name: None if name == "shared" else 0 for name in self._data}

        return jax.vmap(one, in_axes=(0, 0, data_axes, 0))

    def _sliced(self, order: Any, first: Any) -> Any:
        """The order of a call, from the one that was given."""
        return jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, first, self.steps_of_a_call, 1), order)

    def _drawn(self, first: Any, targets: Any) -> Any:
        """Examples for a call, drawn from the tables of all replicas, whose targets are `[R, N, 1]`."""
        shape = (len(targets), self.steps_of_a_call, self._given["rows"].shape[2])
        rows = jax.random.randint(jax.random.fold_in(jax.random.key(0), first), shape, 0, targets.shape[1])
        return {"rows": rows, "targets": jax.vmap(lambda table, places: table[places])(targets, rows)}

    def _next_order(self) -> Any:
        """The order that was given; after its end it begins again, or examples that are generated are drawn."""
        at = self._at
        self._at += self.steps_of_a_call
        if at + self.steps_of_a_call <= self._steps:
            return self._slice(self._given, at)
        if self._generated:
            return self._draw(at, self._data["targets"])
        self._at = self.steps_of_a_call
        return self._slice(self._given, 0)

    def advance(self, steps: int) -> float:
        """Take so many steps, a multiple of `steps_of_a_call`, and wait; replica 0's mean loss in the last call."""
        for _ in range(steps // self.steps_of_a_call - 1):
            self._call_once()
        return float(np.asarray(self._call_once()[0]).mean())

    def _call_once(self) -> Any:
        """The losses `[R, steps]` of the next call, which may still be under way."""
        self._state, losses = self._call(self._state, self._rates, self._data, self._next_order())
        return losses

    def warmed_up(self) -> float:
        """Make the first call, which compiles, and a second; the seconds of that."""
        if self._generated:
            self._draw(0, self._data["targets"])
        self._first = [np.asarray(self._call_once()[0])]
        return seconds(lambda: self._first.append(np.asarray(self._call_once()[0])))

    def first_losses(self, steps: int) -> list[float]:
        """The losses of replica 0 in its first steps, of a scan that has only warmed up."""
        while sum(map(len, self._first)) < steps:
            self._first.append(np.asarray(self._call_once()[0]))
        return np.concatenate(self._first)[:steps].tolist()


def _numpy(tree: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: leaf.cpu().numpy() for name, leaf in tree.items()}


def _data(found: Shown) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What batches are gathered from, and the order in which they are: rows and targets, `[R, steps, ...]`."""
    inputs, rows = found.inputs, found.rows
    if found.shared:  # only those that are shown
        used, rows = rows.unique(return_inverse=True)
        inputs = inputs[used]
    data = {"shared" if found.shared else "own": inputs.cpu().numpy()}
    if not found.shared:
        everywhere = [found.targets_of(replica) for replica in range(len(rows))]
        data["targets"] = torch.stack(everywhere).cpu().numpy()
    if found.permutation is not None:
        data["permutation"] = found.permutation.cpu().numpy().astype(np.int32)
        data["shared"] = data["shared"].reshape(len(inputs), -1)
    targets = found.targets.cpu().numpy()
    if targets.dtype == np.int64:
        targets = targets.astype(np.int32)
    return data, {"rows": rows.cpu().numpy().astype(np.int32), "targets": targets}


def _preparation(population: Population, found: Shown) -> Callable[[Any, Any], Any]:
    """(data, rows `[B]`) to the batch that one network sees."""
    if not found.shared:
        return lambda data, rows: data["own"][rows]
    if found.permutation is not None:
        return lambda data, rows: data["shared"][rows[:, None], data["permutation"]].astype(jnp.float32) / 255
    stream = population.stream
    assert isinstance(stream, EpochStream) and stream.scaling == "centred" and not stream.augmentations
    return lambda data, rows: data["shared"][rows].astype(jnp.float32) / 127.5 - 1


def _descended(state: Any, gradients: Parameters, rates: Any) -> Any:
    """The state after a step of gradient descent, with momentum where the state has it."""
    after = {}
    if "momentum" in state:
        gradients = jax.tree.map(lambda m, g: rates["momentum"] * m + g, state["momentum"], gradients)
        after["momentum"] = gradients
    after["parameters"] = jax.tree.map(lambda p, g: p - rates["learning_rate"] * g, state["parameters"], gradients)
    return after


def _cross_entropy(outputs: Any, labels: Any) -> Any:
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[:, None], axis=1))


def _squared_error(outputs: Any, targets: Any) -> Any:
    return jnp.mean((outputs - targets) ** 2)


def _mlp(parameters: Parameters, x: Any) -> Any:
    hidden = [name.removesuffix(".weight") for name in parameters if name.endswith(".weight")][:-1]
    for name in hidden:
        x = jax.nn.relu(_linear(parameters, name, x))
    return _linear(parameters, "output", x)


def _convnet(convolution: Callable[[Any, Any], Any]) -> Network:
    def network(parameters: Parameters, x: Any) -> Any:
        names = [name.removesuffix(".weight") for name in parameters if name.endswith(".weight")]
        x = x.transpose(0, 2, 3, 1)
        for name in names:
            if name.startswith("conv."):
                x = convolution(x, parameters[f"{name}.weight"]) + parameters[f"{name}.bias"]
                x = _pooled(jax.nn.relu(x))
        x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        for name in names:
            if name.startswith("hidden."):
                x = jax.nn.relu(_linear(parameters, name, x))
        return _linear(parameters, "output", x)

    return network


def _products(x: Any, weight: Any) -> Any:
    """A convolution of `[B, H, W, C]` by `[O, C, k, k]` as one matrix product of all its patches."""
    outputs, channels, k, _ = weight.shape
    height, width = x.shape[1] - k + 1, x.shape[2] - k + 1
    places = [(i, j) for i in range(k) for j in range(k)]
    patches = jnp.concatenate([x[:, i : i + height, j : j + width] for i, j in places], axis=3)
    matrix = weight.transpose(2, 3, 1, 0).reshape(k * k * channels, outputs)
    return (patches.reshape(-1, k * k * channels) @ matrix).reshape(len(x), height, width, outputs)


def _library(x: Any, weight: Any) -> Any:
    """The same by XLA's own operation."""
    return lax.conv_general_dilated(x, weight, (1, 1), "VALID", dimension_numbers=("NHWC", "OIHW", "NHWC"))


def _linear(parameters: Parameters, name: str, x: Any) -> Any:
    return x @ parameters[f"{name}.weight"].T + parameters[f"{name}.bias"]


def _pooled(x: Any) -> Any:
    """The maximum of each 2 x 2 pixels of `[B, H, W, C]`."""
    count, height, width, channels = x.shape
    return x.reshape(count, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


#: Ways to compute a network; the fastest is kept. On a CPU XLA's convolution takes 18 times as long as the products.
NETWORKS: dict[str, dict[type, Sequence[Network]]] = {
    "cpu": {MLP: [_mlp], ConvNet: [_convnet(_products)]},
    "cuda": {MLP: [_mlp], ConvNet: [_convnet(_products), _convnet(_library)]},
}
