"""The step and the block: the pure function that advances a population, on one screen.

    block(state, clock, tables, event) -> (state, clock)

`state` is a tree of tensors, each leading with R:

    parameters, buffers   the networks
    optimizer             its slots
    strategies            "0", "1", ...: one branch a strategy
    hyper                 "optimizer", "strategies.0", ...: PerReplica fields, in the run's dtype
    seeds, alive, died_at the replica's key; whether it is still finite; the update that would have killed it
    online                sums over the current window: steps, loss, accuracy, and what strategies report

A block is n steps without rare work (`event` empty), or one step with it. What is summed, and whether a
replica is still finite, is settled once a block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from lopbench.initializers import Initial
from lopbench.keyed_random import Random
from lopbench.population import Population, all_finite, along, map_tree, select
from lopbench.precision import computing
from lopbench.protocols import Clock, Tree, overrides
from lopbench.units import UnitGroup, link_mask

Block = Callable[[Tree, Clock, Tree, Tree], tuple[Tree, Clock]]


@dataclass
class Learner:
    """What a strategy sees of one step. It lives within the pure function: hooks assign its entries.

    Tensors lead with R. `gradients` are those of the mean loss plus the penalties; `features` and `loss`
    come from the forward pass before the update. Seen by a strategy: `hyper`, `state`, `draw`, `event`
    and `random` are its own.
    """

    population: Population
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    optimizer_state: Tree
    clock: Clock
    seeds: Tensor
    hyper: Mapping[str, Tensor] = field(default_factory=dict)
    state: Tree = field(default_factory=dict)
    draw: Tree = field(default_factory=dict)
    event: Mapping[str, Tensor] | None = None
    owner: str = ""
    gradients: dict[str, Tensor] = field(default_factory=dict)
    features: Mapping[str, Tensor] = field(default_factory=dict)
    loss: Tensor | None = None
    reported: dict[str, Tensor] = field(default_factory=dict)
    task: int | None = None  # known to the host, so set in the task hooks only

    @property
    def records(self) -> Mapping[str, Initial]:
        """The initial record of every parameter."""
        return self.population.records

    @property
    def groups(self) -> tuple[UnitGroup, ...]:
        """The unit groups of the architecture."""
        return self.population.groups

    @property
    def replicas(self) -> int:
        return self.seeds.shape[0]

    @property
    def random(self) -> Random:
        """Keyed random numbers of this strategy at this step."""
        return self.population.random(self.owner, self.clock.step, self.seeds)

    def assign(self, name: str, value: Tensor | float, mask: Tensor) -> None:
        """Set the entries of a parameter under `mask` (broadcast to [R, *shape]) to `value`."""
        old = self.parameters[name]
        value = torch.as_tensor(value, dtype=old.dtype, device=old.device)
        self.parameters[name] = torch.where(mask, value, old)

    def reinitialize(self, name: str, mask: Tensor, record: Initial | None = None) -> None:
        """Draw the entries of a parameter under `mask` anew, from its initial record or the one given."""
        shape = tuple(self.parameters[name].shape[1:])
        fresh = (record or self.records[name]).draw(self.random, f"reinitialize/{name}", shape)
        self.assign(name, fresh, mask)

    def clear_optimizer(self, name: str, mask: Tensor) -> None:
        """Let the optimizer's state of the entries under `mask` start afresh."""
        mask = mask.expand_as(self.parameters[name])
        self.optimizer_state = self.population.optimizer.clear(self.optimizer_state, name, mask)

    def report(self, tag: str, value: Tensor) -> None:
        """Add `[R]` values to the window's sum of `tag` (one of the strategy's `reports`)."""
        self.reported[tag] = self.reported.get(tag, 0) + value

    def replace_units(
        self,
        group: UnitGroup,
        units: Tensor,
        record: Initial | None = None,
        incoming: Tensor | None = None,
        clear: bool = True,
    ) -> None:
        """Replace the units chosen by bool `[R, units]`: new incoming weights, outgoing weights 0.

        Incoming weights are drawn from `record` (their own initial record if None) or taken from
        `incoming` `[R, *shape]`; the incoming bias and the norm's affine parameters take their records'
        means and its running statistics 0 and 1. `clear`: the optimizer's state of all of these
        entries starts afresh. Sources: Dohare et al. 2024, Algorithm 1; Sokar et al. 2023.
        """
        weight = link_mask(group, group.weight, units, self.parameters[group.weight.parameter])
        if incoming is None:
            self.reinitialize(group.weight.parameter, weight, record)
        else:
            self.assign(group.weight.parameter, incoming, weight)
        touched = [(group.weight.parameter, weight)]
        for link in (group.bias, group.norm_weight, group.norm_bias):
            if link is not None:
                mask = link_mask(group, link, units, self.parameters[link.parameter])
                self.reinitialize(link.parameter, mask, self.records[link.parameter].at_its_mean())
                touched.append((link.parameter, mask))
        for link in group.readers:
            mask = link_mask(group, link, units, self.parameters[link.parameter])
            self.assign(link.parameter, 0.0, mask)
            touched.append((link.parameter, mask))
        for link, value in ((group.norm_mean, 0.0), (group.norm_variance, 1.0)):
            if link is not None:
                old = self.buffers[link.parameter]
                self.buffers[link.parameter] = torch.where(link_mask(group, link, units, old), value, old)
        if clear:
            for name, mask in touched:
                self.clear_optimizer(name, mask)


def initial_state(population: Population) -> Tree:
    """The tree before the first step."""
    parameters, buffers = population.initial_parameters(), population.initial_buffers()
    device, replicas = population.device, population.replicas
    hyper = map_tree(lambda v: torch.as_tensor(v, dtype=population.dtype, device=device), population.hyper)
    if population.max_gradient_norm is not None:
        hyper["learner"] = {
            "max_gradient_norm": torch.as_tensor(population.max_gradient_norm, dtype=population.dtype, device=device)
        }
    state = {
        "parameters": parameters,
        "buffers": buffers,
        "optimizer": population.optimizer.init(
            parameters, population.schedule.values(hyper["optimizer"], _clock_at_zero(device))
        ),
        "strategies": {},
        "hyper": hyper,
        "seeds": population.seeds,
        "alive": torch.ones(replicas, dtype=torch.bool, device=device),
        "died_at": torch.full((replicas,), -1, dtype=torch.int64, device=device),
    }
    for index, strategy in enumerate(population.strategies):
        learner = _learner(population, state, _clock_at_zero(device))
        _show(learner, state, index)
        state["strategies"][str(index)] = strategy.init(learner)
    state["online"] = empty_window(population)
    return state


def _clock_at_zero(device: torch.device) -> Clock:
    return Clock(*(torch.zeros((), dtype=torch.int64, device=device) for _ in range(3)))


def empty_window(population: Population) -> Tree:
    """Zeroed sums of a window, float64 `[R]` each."""
    tags = ["steps", "loss", *_accuracy_tag(population), *population.reports()]
    if any(overrides(s, "events") for s in population.strategies):
        tags += ["events", "loss_before", "loss_after", "pending", "pending_loss"]
    # one tensor each: a compiled block is specialised on which of its inputs are the same tensor
    return {tag: torch.zeros(population.replicas, dtype=torch.float64, device=population.device) for tag in tags}


def _accuracy_tag(population: Population) -> list[str]:
    return ["accuracy"] if population.stream.problem.loss == "cross_entropy" else []


def per_example_loss(loss: str, outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean loss of a batch: cross-entropy, or squared error (mean over batch and outputs)."""
    if loss == "cross_entropy":
        return torch.nn.functional.cross_entropy(outputs, targets)
    return (outputs - targets).square().mean()


def network(
    population: Population, parameters: Tree, buffers: Tree, x: Tensor, task: Tensor, key: Tree
) -> tuple[Tensor, Tree, Tree]:
    """One network on its batch: outputs as the task reads them, features, and the buffers it leaves behind.

    Outputs and features are of the run's dtype, whatever the precision in which the network computes.
    `key` are the buffers of modules that draw (see `Population.keys`); none in evaluation mode.
    """
    buffers = {name: buffer.clone() for name, buffer in buffers.items()}  # batch norm writes in place
    with computing(population.precision, x.device):
        outputs, features = functional_call(population.module, (parameters, {**buffers, **key}), (x,))
    features = {name: feature.to(population.dtype) for name, feature in features.items()}
    return population.stream.readout(outputs.to(population.dtype), task), features, buffers


def forward(
    population: Population,
    parameters: Tree,
    buffers: Tree,
    inputs: Tensor,
    targets: Tensor,
    task: Tensor,
    keys: Tree | None = None,
) -> tuple[Any, ...]:
    """Gradients, losses `[R]`, outputs, features and buffers of every replica on its own batch."""

    def loss_of(parameters: Tree, buffers: Tree, x: Tensor, y: Tensor, key: Tree) -> tuple[Tensor, Any]:
        outputs, features, buffers = network(population, parameters, buffers, x, task, key)
        return per_example_loss(population.stream.problem.loss, outputs, y), (outputs, features, buffers)

    learn = vmap(grad_and_value(loss_of, has_aux=True))
    gradients, (loss, aux) = learn(parameters, buffers, inputs, targets, keys or {})
    return gradients, loss, *aux


def _learner(population: Population, state: Tree, clock: Clock) -> Learner:
    return Learner(
        population, dict(state["parameters"]), dict(state["buffers"]), state["optimizer"], clock, state["seeds"]
    )


def _show(learner: Learner, state: Tree, index: int, draws: Tree | None = None, event: Tree | None = None) -> None:
    """Turn the learner to strategy number `index`: its hyperparameters, state, draws and event."""
    key = str(index)
    learner.owner = f"strategies.{key}"
    learner.hyper = state["hyper"].get(learner.owner, {})
    learner.state = dict(state["strategies"].get(key, {}))
    learner.draw = (draws or {}).get(key, {})
    learner.event = (event or {}).get(key)


def call_hooks(
    learner: Learner,
    state: Tree,
    hook: str,
    draws: Tree | None = None,
    event: Tree | None = None,
    arguments: tuple[Mapping[str, Tensor], ...] = (),
) -> None:
    """Call one hook of every strategy that has it, in list order, and keep what it left in its branch."""
    for index, strategy in enumerate(learner.population.strategies):
        if overrides(strategy, hook):
            _show(learner, state, index, draws, event)
            getattr(strategy, hook)(learner, *arguments)
            state["strategies"] = {**state["strategies"], str(index): learner.state}


def _penalties(population: Population, state: Tree, clock: Clock, draws: Tree) -> tuple[Tree, Tensor] | None:
    """Gradients and values `[R]` of the sum of all penalties; None if no strategy has one."""
    penalised = [i for i, s in enumerate(population.strategies) if overrides(s, "penalty")]
    if not penalised:
        return None

    def total(parameters: Tree) -> tuple[Tensor, Tensor]:
        values = torch.zeros(state["seeds"].shape, dtype=population.dtype, device=state["seeds"].device)
        for index in penalised:
            learner = _learner(population, {**state, "parameters": parameters}, clock)
            _show(learner, state, index, draws)
            values = values + population.strategies[index].penalty(learner)
        return values.sum(), values  # replicas are independent, so the sum's gradient is each one's own

    gradients, (_, values) = grad_and_value(total, has_aux=True)(state["parameters"])
    return gradients, values


def _clip(gradients: Tree, limit: Tensor) -> Tree:
    """Scale each replica's gradient to norm `limit` ([R]; NaN: not at all) where it is longer."""
    squares = sum(g.reshape(g.shape[0], -1).square().sum(dim=1) for g in gradients.values())
    scale = torch.nan_to_num(limit / torch.sqrt(squares), nan=1.0, posinf=1.0).clamp(max=1.0)
    return {name: g * along(scale, g) for name, g in gradients.items()}


def step(
    population: Population, state: Tree, clock: Clock, inputs: Tensor, targets: Tensor, draws: Tree, event: Tree
) -> tuple[Tree, dict[str, Tensor]]:
    """One update of every replica; the new state, and what this step adds to the window's sums, `[R]` each.

    `event` is empty but in the steps with rare work. Losses and accuracies are of predictions made before the update.
    """
    state = dict(state)
    learner = _learner(population, state, clock)

    # loss, penalties and gradients
    keys = population.keys_at(clock.step, state["seeds"])
    gradients, learner.loss, outputs, learner.features, learner.buffers = forward(
        population, learner.parameters, learner.buffers, inputs, targets, clock.task, keys
    )
    penalties = _penalties(population, state, clock, draws)
    if penalties is not None:
        gradients = {name: g + penalties[0][name] for name, g in gradients.items()}
    learner.gradients = dict(gradients)

    # gradient hooks, clipping, optimizer, hooks after the update
    call_hooks(learner, state, "change_gradients", draws, event)
    if "learner" in state["hyper"]:
        learner.gradients = _clip(learner.gradients, state["hyper"]["learner"]["max_gradient_norm"])
    call_hooks(learner, state, "before_update", draws, event)
    values = population.schedule.values(state["hyper"]["optimizer"], clock)
    learner.parameters, learner.optimizer_state = population.optimizer.update(
        learner.parameters, learner.gradients, learner.optimizer_state, values
    )
    call_hooks(learner, state, "after_update", draws, event)

    state.update(parameters=learner.parameters, buffers=learner.buffers, optimizer=learner.optimizer_state)
    measured = {"loss": learner.loss, **learner.reported}
    if population.stream.problem.loss == "cross_entropy":
        measured["accuracy"] = (outputs.argmax(dim=-1) == targets).to(learner.loss.dtype).mean(dim=-1)
    return state, measured


def make_block(population: Population, n: int) -> Block:
    """The pure function that advances `population` by n steps (see this file's head)."""
    drawing = [i for i, s in enumerate(population.strategies) if overrides(s, "draws")]

    def block(state: Tree, clock: Clock, tables: Tree, event: Tree) -> tuple[Tree, Clock]:
        inputs, targets = population.stream.batches(tables, clock, n)
        draws: Tree = {}
        for index in drawing:
            learner = _learner(population, state, clock)
            _show(learner, state, index)
            draws[str(index)] = population.strategies[index].draws(learner, n)
        new, measured = state, []
        for i in range(n):
            now = map_tree(lambda leaf, i=i: leaf[i], draws)
            new, values = step(population, new, clock.later(i), inputs[i], targets[i], now, event)
            measured.append(values)
        new["online"] = _online(state["online"], measured, bool(event))
        return _keep(state, new, clock.step), clock.later(n)

    return block


def _online(sums: Tree, measured: list[dict[str, Tensor]], event: bool) -> Tree:
    """The window's sums with the steps of a block added."""
    added = {tag: torch.stack([values[tag] for values in measured]).double().sum(dim=0) for tag in measured[0]}
    added["steps"] = torch.full_like(sums["steps"], len(measured))
    new = {tag: total + added[tag] if tag in added else total for tag, total in sums.items()}
    if "events" in sums:  # the loss of a step that reinitialised something, and of the step after it
        pending = sums["pending"]
        new["loss_before"] = sums["loss_before"] + pending * sums["pending_loss"]
        new["loss_after"] = sums["loss_after"] + pending * measured[0]["loss"].double()
        new["events"] = sums["events"] + pending
        counts = [value.double() for tag, value in measured[-1].items() if event and tag.startswith("reinitialized")]
        new["pending"] = (torch.stack(counts).sum(dim=0) > 0).double() if counts else torch.zeros_like(pending)
        new["pending_loss"] = measured[-1]["loss"].double()
    return new


def _keep(old: Tree, new: Tree, step: Tensor) -> Tree:
    """The state after a block: the new one for replicas that live and are still finite, else the old one.

    A replica whose loss or state turned non-finite within the block is frozen whole: its branch keeps the
    values of the block's start, its last ones known to be finite, and `died_at` the updates it had made by then.
    """
    branches = {key: new[key] for key in ("parameters", "buffers", "optimizer", "strategies")}
    finite = all_finite(branches) & torch.isfinite(new["online"]["loss"])
    kept = select(old["alive"] & finite, new, old)
    kept["alive"] = old["alive"] & finite
    kept["died_at"] = torch.where(old["alive"] & ~finite, step, old["died_at"])
    return kept


def call_task_hook(
    population: Population, state: Tree, clock: Clock, hook: str, task: int, *arguments: Mapping[str, Tensor]
) -> Tree:
    """`begin_task`, `end_task` or `after_evaluation` of every strategy that has it; frozen replicas stay as they are.

    `task` is the task that begins, ends or goes on; `clock.step` the updates completed; `arguments` what the hook
    is given besides the learner.
    """
    if not any(overrides(strategy, hook) for strategy in population.strategies):
        return state
    new = dict(state)
    learner = _learner(population, new, clock)
    learner.task = task
    call_hooks(learner, new, hook, arguments=arguments)
    new.update(parameters=learner.parameters, buffers=learner.buffers, optimizer=learner.optimizer_state)
    reported = {tag: value.double() for tag, value in learner.reported.items()}
    new["online"] = {tag: value + reported[tag] if tag in reported else value for tag, value in new["online"].items()}
    return select(state["alive"], new, state)
