"""Elastic weight consolidation: a penalty on leaving the last task's solution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.func import grad, vmap

import lopbench
from lopbench.checks import check_bool, check_choice, check_number
from lopbench.errors import require
from lopbench.learner import Learner, network
from lopbench.population import Population
from lopbench.probing import evaluation_mode, require_batch
from lopbench.protocols import PerReplica, Strategy, Tree
from lopbench.roles import SCOPES, in_scope

_CHUNK = 50  # examples whose gradients are held at once


@lopbench.register("strategies")
@dataclass(frozen=True)
class EWC(Strategy):
    """EWC: adds (ewc_weight / 2) sum F (theta - theta_star)^2 to the loss from the second task on.

    theta_star are the parameters at the end of the last finished task (of that one only), and F = 1 or

        F = mean over examples of (d log p(correct label) / d theta)^2

    from `fisher_examples` of that task, one gradient an example, the network in evaluation mode.

    ewc_weight: beta >= 0; None: no penalty.
    use_fisher: whether F is the diagonal of the (empirical) Fisher information; False (published): F = 1.
    fisher_split: "train", or "test" (the published code's).
    scope: "without_norms" (published) or "all" parameters.

    Sources: Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting" (PNAS); the variant and defaults of Kumar et
    al. 2023, whose l2_init_plus_ewc is this strategy and `L2Init` in one list.
    """

    ewc_weight: PerReplica[float | None] = 10.0
    use_fisher: bool = False
    fisher_examples: int = 1000
    fisher_split: str = "train"
    scope: str = "without_norms"

    needs_task_boundaries: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self, "ewc_weight", self.ewc_weight, at_least=0, optional=True)
        check_bool(self, "use_fisher", self.use_fisher)
        check_number(self, "fisher_examples", self.fisher_examples, at_least=1, integer=True)
        check_choice(self, "fisher_split", self.fisher_split, ("train", "test"))
        check_choice(self, "scope", self.scope, SCOPES)

    def check(self, population: Population) -> None:
        loss = population.stream.problem.loss
        require(
            not self.use_fisher or loss == "cross_entropy",
            f"strategies.EWC.use_fisher is True, but the stream's loss is {loss}: it needs classes.",
        )
        if self.use_fisher:
            require_batch(population, self.fisher_split, self.fisher_examples, "strategies.EWC")

    def init(self, learner: Learner) -> Tree:
        anchors = {name: learner.parameters[name].clone() for name in in_scope(learner.population.module, self.scope)}
        state = {"anchor": anchors, "in_force": torch.zeros_like(learner.seeds, dtype=torch.bool)}
        if self.use_fisher:
            state["importance"] = {name: torch.zeros_like(anchor) for name, anchor in anchors.items()}
        return state

    def penalty(self, learner: Learner) -> Tensor:
        total = torch.zeros_like(learner.hyper["ewc_weight"])
        for name, anchor in learner.state["anchor"].items():
            term = (learner.parameters[name] - anchor).square()
            if self.use_fisher:
                term = learner.state["importance"][name] * term
            total = total + term.reshape(learner.replicas, -1).sum(dim=1)
        weight = torch.where(learner.state["in_force"], torch.nan_to_num(learner.hyper["ewc_weight"]), 0.0)
        return 0.5 * weight * total

    def end_task(self, learner: Learner) -> None:
        anchors = {name: learner.parameters[name].clone() for name in learner.state["anchor"]}
        learner.state["anchor"] = anchors
        learner.state["in_force"] = torch.ones_like(learner.state["in_force"])
        if self.use_fisher:
            assert learner.task is not None
            inputs, targets = learner.population.stream.probe(self.fisher_split, self.fisher_examples, learner.task)
            learner.state["importance"] = fisher_diagonal(learner, tuple(anchors), inputs, targets)


def fisher_diagonal(learner: Learner, names: tuple[str, ...], inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The mean over examples of the squared gradient of log p(correct label), `[R, *shape]` by name.

    inputs: `[R, N, ...]`, targets: `[R, N]`. Holds the gradients of a few examples at a time.
    """
    fixed = learner.parameters

    def log_likelihood(chosen: Tree, rest: Tree, buffers: Tree, x: Tensor, y: Tensor) -> Tensor:
        outputs, *_ = network(learner.population, {**rest, **chosen}, buffers, x[None], learner.clock.task, {})
        return torch.log_softmax(outputs[0], dim=-1).gather(0, y[None])[0]

    chosen = {name: fixed[name] for name in names}
    rest = {name: value for name, value in fixed.items() if name not in chosen}
    per_example = vmap(vmap(grad(log_likelihood), in_dims=(None, None, None, 0, 0)))
    total = {name: torch.zeros_like(value) for name, value in chosen.items()}
    with evaluation_mode(learner.population.module):
        for x, y in zip(inputs.split(_CHUNK, dim=1), targets.split(_CHUNK, dim=1), strict=True):
            gradients = per_example(chosen, rest, learner.buffers, x, y)  # [R, chunk, *shape]
            total = {name: total[name] + gradients[name].square().sum(dim=1) for name in names}
    return {name: value / inputs.shape[1] for name, value in total.items()}
