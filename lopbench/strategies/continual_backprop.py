"""Continual backpropagation: in every layer a trickle of the least useful mature units starts afresh.

Dohare, Hernandez-Garcia, Lan, Rahman, Mahmood, Sutton 2024: "Loss of plasticity in deep continual learning" (Nature
632), Algorithm 1; Dohare, Sutton, Mahmood 2021 (arXiv 2108.06325) for the corrected utilities and the transfer.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

import lopbench
from lopbench.checks import check_bool, check_choice, check_number
from lopbench.errors import require
from lopbench.learner import Learner
from lopbench.periods import Events
from lopbench.population import Population
from lopbench.protocols import PerReplica, Strategy, Tree
from lopbench.strategies.replacement_counts import Layer
from lopbench.strategies.unit_replacement import (
    INITIALIZATIONS,
    REPORTS,
    TIMINGS,
    check_unit_groups,
    fresh_record,
    report_replaced,
)
from lopbench.strategies.unit_utilities import as_read, by_unit, mean_activation, needs_mean, unit_utility
from lopbench.units import Link, UnitGroup, lowest

Places = list[tuple[int, int]]  #: (replica, group)

UTILITIES = (
    "contribution",
    "adaptable_contribution",
    "zero_contribution",
    "weight",
    "adaptation",
    "feature_by_input",
    "activation",
    "gradient",
    "random",
)


@lopbench.register("strategies")
@dataclass(frozen=True)
class ContinualBackprop(Strategy):
    """CBP: the least useful units older than a threshold are replaced, a small fraction in every update.

    In every update, for every unit i, with h_i its features of this step's minibatch, d the utility decay, <.>
    the mean over examples (and places), y_i the utility of this step (unit_utilities.py) and a hat for a / (1 - d^age):

        age_i <- age_i + 1
        f_i <- d f_i + (1 - d) <h_i>
        u_i <- d u_i + (1 - d) y_i                    y_i may look at f^_i, already updated
        eligible: age_i > maturity_threshold          n of the layer's N units
        replace the r eligible units of lowest u^_i   r from replacement_rate * n: see replacement_counts.py

    Replaced: incoming weights drawn afresh, incoming bias to its record's mean (0), outgoing weights 0, the affine
    parameters and statistics of a norm between them as at first, and age, f and u 0. The utilities of all layers
    are computed before any layer is touched. The output layer has no units.

    A unit is first eligible in update maturity_threshold + 1, so nothing is replaced before; in a layer of N units
    the first replacement is due about 1 / (replacement_rate N) updates after maturity_threshold.

    replacement_rate: fraction of the eligible units replaced in an update, in [0, 1]; None: off.
    maturity_threshold: age in updates that a unit must exceed to be eligible.
    utility_decay: d in [0, 1); 0 ranks by the utility of the step itself.
    utility: contribution (the paper's), adaptable_contribution, zero_contribution, weight, adaptation,
        feature_by_input, activation, gradient or random (ranks by a uniform draw; no average).
    rounding: "accumulated": fractions of a unit add up until they are one; "random": one unit with that
        probability (of a quota above 1 the fraction is lost).
    count: the rate is of the "eligible" units, or of "all" units of the layer once any is eligible.
    transfer_mean_to_bias: before the outgoing weights w become 0, the readers' bias takes over the mean
        contribution, sum_i w_i f^_i. Stated in arXiv 2108.06325; the released code computes it from f_i already
        cleared, so it has no effect there, and Nature's algorithm is without. Exact for the mean
        pre-activation of a linear reader; of a convolution up to its borders.
    initialization: "record": what the incoming weights were first drawn from; or a scheme of
        initializers.weight_record, with ReLU's gain (kaiming, xavier) or 1 (lecun, default).
    convolution_initialization: the same for convolutions; None: as `initialization`. The code of L2 Init draws them
        at "default" and linear layers at "kaiming_uniform".
    timing: "after_update"; or "before_update", between gradients and optimizer, which stands in for the layers of
        Hernandez-Garcia et al. that replaced inside the backward pass. The stale gradient of the old unit is then
        applied to the new weights, as theirs was; unlike theirs, lower layers' gradients are those of the
        network that saw the batch, and no layer's utility sees another's replacement.
    clear_optimizer: whether the optimizer's state of all replaced entries starts afresh (as the paper's Adam;
        its released code leaves momentum buffers of SGD as they are).
    upstream_running_sum: with "contribution" only: rank by O_i M_i instead of u^_i, with O_i the mean of |outgoing
        weights| at the replacement and M_i <- M_i + (1 - d) <|h_i|> a sum that neither decays nor starts afresh, so
        that a replaced unit inherits its predecessor's. The released code of incremental CIFAR-100 ranked so.
    """

    replacement_rate: PerReplica[float | None] = 1e-4
    maturity_threshold: PerReplica[int] = 100
    utility_decay: PerReplica[float] = 0.99
    utility: str = "contribution"
    rounding: str = "accumulated"
    count: str = "eligible"
    transfer_mean_to_bias: bool = False
    initialization: str = "record"
    convolution_initialization: str | None = None
    timing: str = "after_update"
    clear_optimizer: bool = True
    upstream_running_sum: bool = False

    reports: ClassVar[tuple[str, ...]] = REPORTS

    def __post_init__(self) -> None:
        check_number(self, "replacement_rate", self.replacement_rate, at_least=0, at_most=1, optional=True)
        check_number(self, "maturity_threshold", self.maturity_threshold, at_least=0, integer=True)
        check_number(self, "utility_decay", self.utility_decay, at_least=0, below=1)
        check_choice(self, "utility", self.utility, UTILITIES)
        check_choice(self, "rounding", self.rounding, ("accumulated", "random"))
        check_choice(self, "count", self.count, ("eligible", "all"))
        check_bool(self, "transfer_mean_to_bias", self.transfer_mean_to_bias)
        check_choice(self, "initialization", self.initialization, INITIALIZATIONS)
        if self.convolution_initialization is not None:
            check_choice(self, "convolution_initialization", self.convolution_initialization, INITIALIZATIONS)
        check_choice(self, "timing", self.timing, TIMINGS)
        check_bool(self, "clear_optimizer", self.clear_optimizer)
        check_bool(self, "upstream_running_sum", self.upstream_running_sum)
        require(
            not self.upstream_running_sum or self.utility == "contribution",
            f"strategies.ContinualBackprop.upstream_running_sum is True with utility {self.utility!r}: it sums the "
            "activity in 'contribution', so bind that, or leave it False.",
        )

    def check(self, population: Population) -> None:
        check_unit_groups("ContinualBackprop", population)
        if self.transfer_mean_to_bias:
            for group in population.groups:
                _check_transfer(population, group)

    def init(self, learner: Learner) -> Tree:
        """Per group: `ages` int64, u or M `[R, units]`, f `[R, units, tile]`; all but `ages` where they are needed."""
        state: Tree = {}
        for group in learner.groups:
            ages = torch.zeros(learner.replicas, group.units, dtype=torch.int64, device=learner.seeds.device)
            memory = {"ages": ages}
            if self.upstream_running_sum:
                memory["activity_sum"] = ages.to(learner.population.dtype)
            elif self.utility != "random":
                memory["utility"] = ages.to(learner.population.dtype)
            if self._needs_mean:
                mean = ages.to(learner.population.dtype)[..., None]
                memory["mean_activation"] = mean.repeat(1, 1, group.feature_tile)
            state[group.name] = memory
        return state

    @property
    def _needs_mean(self) -> bool:
        return self.transfer_mean_to_bias or needs_mean(self.utility)

    def events(self, population: Population, hyper: Mapping[str, np.ndarray]) -> Events:
        """(update number, {"count": int64 [R, groups]}): how many units each layer replaces, where any does."""
        update_number = itemgetter(0)
        streams = [_with_places(layer, places) for layer, places in _layers(self, population, hyper).items()]
        for update, due in itertools.groupby(heapq.merge(*streams, key=update_number), key=update_number):
            counts = np.zeros((population.replicas, len(population.groups)), dtype=np.int64)
            for _, count, places in due:
                for place in places:
                    counts[place] = count
            yield update, {"count": counts}

    def before_update(self, learner: Learner) -> None:
        if self.timing == "before_update":
            self._generate_and_test(learner)

    def after_update(self, learner: Learner) -> None:
        if self.timing == "after_update":
            self._generate_and_test(learner)

    def _generate_and_test(self, learner: Learner) -> None:
        for group in learner.groups:
            learner.state[group.name] = self._remember(learner, group)
        if learner.event is None:
            return
        due = zip(learner.groups, learner.event["count"].unbind(dim=1), strict=True)
        replaced = [(group, self._least_useful(learner, group, count)) for group, count in due]
        for group, units in replaced:
            self._replace(learner, group, units)
        report_replaced(learner, replaced)

    def _remember(self, learner: Learner, group: UnitGroup) -> Tree:
        """The group's ages and averages with this step in them."""
        decay, memory = learner.hyper["utility_decay"][:, None], dict(learner.state[group.name])
        memory["ages"] = memory["ages"] + 1
        mean = None
        if self._needs_mean:
            mean = mean_activation(group, learner.features[group.feature])
            memory["mean_activation"] = decay[..., None] * memory["mean_activation"] + (1 - decay[..., None]) * mean
            mean = _corrected_mean(learner, memory)
        if self.upstream_running_sum:
            memory["activity_sum"] = memory["activity_sum"] + (1 - decay) * unit_utility("activation", learner, group)
        elif self.utility != "random":
            utility = unit_utility(self.utility, learner, group, mean)
            memory["utility"] = decay * memory["utility"] + (1 - decay) * utility
        return memory

    def _least_useful(self, learner: Learner, group: UnitGroup, count: Tensor) -> Tensor:
        """Bool `[R, units]`: the `count` eligible units that rank lowest."""
        eligible = learner.state[group.name]["ages"] > learner.hyper["maturity_threshold"][:, None]
        return lowest(self._ranking(learner, group), eligible, count)

    def _ranking(self, learner: Learner, group: UnitGroup) -> Tensor:
        """What the units are ranked by `[R, units]`: the corrected utility u^ but for the two exceptions."""
        memory = learner.state[group.name]
        if self.utility == "random":
            return unit_utility("random", learner, group)
        if self.upstream_running_sum:
            return unit_utility("weight", learner, group) * memory["activity_sum"]
        return memory["utility"] / _correction(learner, memory)

    def _replace(self, learner: Learner, group: UnitGroup, units: Tensor) -> None:
        memory = dict(learner.state[group.name])
        if self.transfer_mean_to_bias:
            _transfer(learner, group, torch.where(units[..., None], _corrected_mean(learner, memory), 0.0))
        record = fresh_record(self._initialization_of(learner, group), learner, group)
        learner.replace_units(group, units, record, clear=self.clear_optimizer)
        for slot, value in memory.items():
            if slot != "activity_sum":
                memory[slot] = value.masked_fill(units[..., None] if value.dim() > 2 else units, 0)
        learner.state[group.name] = memory

    def _initialization_of(self, learner: Learner, group: UnitGroup) -> str:
        convolution = learner.parameters[group.weight.parameter].dim() == 5  # [R, outputs, inputs, height, width]
        other = self.convolution_initialization
        return other if convolution and other is not None else self.initialization


def _correction(learner: Learner, memory: Tree) -> Tensor:
    """1 - d^age `[R, units]`: the weight that an average begun at 0 has gathered."""
    return 1 - learner.hyper["utility_decay"][:, None] ** memory["ages"]


def _corrected_mean(learner: Learner, memory: Tree) -> Tensor:
    """f^ `[R, units, tile]`."""
    return memory["mean_activation"] / _correction(learner, memory)[..., None]


def _layers(
    strategy: ContinualBackprop, population: Population, hyper: Mapping[str, np.ndarray]
) -> dict[Layer, Places]:
    """The (replica, group) places by what determines their numbers, so that equal ones share one simulation."""
    owner = next(f"strategies.{i}" for i, other in enumerate(population.strategies) if other is strategy)
    shared: dict[Layer, Places] = {}
    for r, seed in enumerate(population.seeds.tolist()):
        rate, maturity = float(hyper["replacement_rate"][r]), int(hyper["maturity_threshold"][r])
        for g, group in enumerate(population.groups):
            draws = (seed, f"{owner}/count/{group.name}") if strategy.rounding == "random" else None
            shared.setdefault(Layer(rate, maturity, group.units, strategy.count, draws), []).append((r, g))
    return shared


def _with_places(layer: Layer, places: Places) -> Iterator[tuple[int, int, Places]]:
    for update, count in layer.replacements():
        yield update, count, places


def _reader_bias(link: Link) -> str:
    """The bias beside a reader's weight: `output.bias` for `output.weight`."""
    return link.parameter.removesuffix("weight") + "bias"


def _check_transfer(population: Population, group: UnitGroup) -> None:
    where, remedy = "strategies.ContinualBackprop.transfer_mean_to_bias is True", "bind it False"
    shapes = {name: parameter.shape for name, parameter in population.module.named_parameters()}
    for link in group.readers:
        fits = link.axis != 0 and shapes.get(_reader_bias(link)) == shapes[link.parameter][:1]
        require(fits, f"{where}, but {link.parameter}, which reads {group.name}, has no bias to transfer to: {remedy}.")
    require(
        group.norm_weight is None and group.norm_mean is None,
        f"{where}, but {group.name} is normalised, so that its readers need not see its mean activation: {remedy}.",
    )


def _transfer(learner: Learner, group: UnitGroup, mean: Tensor) -> None:
    """Add to the readers' biases what units of mean activation `mean` `[R, units, tile]` contribute on average."""
    for link in group.readers:
        weight = by_unit(learner.parameters[link.parameter], link.axis, group.units, link.tile, link.block)
        columns = weight.flatten(5).sum(dim=5) if weight.dim() > 5 else weight  # [R, units, tile, block, outputs]
        contribution = columns * as_read(mean[..., None], link.tile, link.block)[..., None]
        bias = _reader_bias(link)
        learner.parameters[bias] = learner.parameters[bias] + contribution.sum(dim=(1, 2, 3))
