"""Runs our optimizers on stacked parameters, and torch's on each replica alone, over the same gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lopbench.protocols import Clock, Optimizer, Schedule, Tree

REPLICAS, STEPS = 3, 25
SHAPES = {"weight": (4, 3), "bias": (4,)}

Values = Mapping[str, Sequence[float]]


def random_tensors(seed: int) -> dict[str, Tensor]:
    """Float64 values `[R, *shape]` for every parameter."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(REPLICAS, *shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()
    }


def gradients() -> list[dict[str, Tensor]]:
    """Gradients of STEPS steps; one entry is 0 at first and a whole bias stays 0, as of dead units."""
    drawn = [random_tensors(1000 + step) for step in range(STEPS)]
    drawn[0]["weight"][:, 0, 0] = 0
    for gradient in drawn:
        gradient["bias"][:, 1] = 0
    return drawn


def stacked(hyper: Values) -> dict[str, Tensor]:
    return {field: torch.tensor(values, dtype=torch.float64) for field, values in hyper.items()}


def clock_at(step: int, task: int = 0) -> Clock:
    return Clock(*(torch.tensor(number) for number in (step, task, step)))


def run_ours(
    optimizer: Optimizer,
    hyper: Values,
    state: Tree | None = None,
    schedule: Schedule | None = None,
    act: Callable[[int, Tree], Tree] = lambda step, state: state,
) -> list[dict[str, Tensor]]:
    """The parameters after every step; `act(step, state)` may change the state after a step."""
    parameters, values = random_tensors(0), stacked(hyper)
    state = optimizer.init(parameters) if state is None else state
    trajectory = []
    for step, gradient in enumerate(gradients()):
        now = values if schedule is None else schedule.values(values, clock_at(step))
        parameters, state = optimizer.update(parameters, gradient, state, now)
        state = act(step, state)
        trajectory.append(parameters)
    return trajectory


def run_torch(
    make: Callable[[list[Tensor], int], torch.optim.Optimizer],
    before: Callable[[int, int, torch.optim.Optimizer], None] = lambda step, replica, optimizer: None,
    after: Callable[[int, int, torch.optim.Optimizer], None] = lambda step, replica, optimizer: None,
) -> list[dict[str, Tensor]]:
    """The same with `make(parameters, replica)`; `before` and `after` act around each replica's every step."""
    trajectory = [{name: value.clone() for name, value in random_tensors(0).items()} for _ in range(STEPS)]
    for replica in range(REPLICAS):
        parameters = {name: value[replica].clone().requires_grad_() for name, value in random_tensors(0).items()}
        optimizer = make(list(parameters.values()), replica)
        for step, gradient in enumerate(gradients()):
            for name, parameter in parameters.items():
                parameter.grad = gradient[name][replica].clone()
            before(step, replica, optimizer)
            optimizer.step()
            after(step, replica, optimizer)
            for name, parameter in parameters.items():
                trajectory[step][name][replica] = parameter.detach()
    return trajectory


def shrink(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Multiply all parameters: the decoupled decay that torch.optim.SGD lacks."""
    with torch.no_grad():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.mul_(factor)


def run_cleared(optimizer: Optimizer, hyper: Values, mask: Tensor) -> list[dict[str, Tensor]]:
    """`run_ours` with the weight's entries under `mask` cleared after step 9."""
    return run_ours(
        optimizer, hyper, act=lambda step, state: optimizer.clear(state, "weight", mask) if step == 9 else state
    )


def begin_anew(step: int, replica: int, optimizer: torch.optim.Optimizer) -> None:
    """Let torch's optimizer forget its state after step 9."""
    if step == 9:
        optimizer.state.clear()


def weights_under(
    mask: Tensor, chosen: list[dict[str, Tensor]], others: list[dict[str, Tensor]]
) -> list[dict[str, Tensor]]:
    """The weight's entries under `mask` from one trajectory, all else from another."""
    return [
        {**other, "weight": torch.where(mask, one["weight"], other["weight"])}
        for one, other in zip(chosen, others, strict=True)
    ]


def assert_same(ours: list[dict[str, Tensor]], theirs: list[dict[str, Tensor]]) -> None:
    for step, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        for name in mine:
            where = f"{name} after step {step}"
            torch.testing.assert_close(
                mine[name], other[name], rtol=1e-10, atol=1e-12, msg=lambda m, where=where: f"{where}: {m}"
            )
