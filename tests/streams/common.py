"""What the tests of streams share: small data sets without files, clocks, and walks over a stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lopbench.population import map_tree, slice_replicas
from lopbench.protocols import Clock, Dataset, Stream, Tree
from lopbench.streams import Generated

SEEDS = torch.tensor([3, 2**40 + 1, 17])


def numbered(examples: int = 50, classes: int = 5, test: int = 20) -> Dataset:
    """Grey 16 x 16 images in which entry 0 is the example's number (200 and up in the test split), entry j is j.

    So an example and a permutation can be read off what a stream hands out.
    """
    labels = {"train": torch.arange(examples) % classes, "test": torch.arange(test) % classes}
    return with_numbers(labels, classes)


def uneven(train: Sequence[int], test: Sequence[int]) -> Dataset:
    """The same of classes that have so many images each, in a mixed order."""
    labels = {}
    for split, counts in (("train", train), ("test", test)):
        of_class = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        mixed = torch.randperm(len(of_class), generator=torch.Generator().manual_seed(len(of_class)))
        labels[split] = of_class[mixed]
    return with_numbers(labels, len(train))


def with_numbers(labels: dict[str, Tensor], classes: int) -> Dataset:
    inputs = {}
    for split, first in (("train", 0), ("test", 200)):
        count = len(labels[split])
        assert first + count <= 256
        images = torch.arange(256, dtype=torch.uint8).repeat(count, 1)
        images[:, 0] = torch.arange(first, first + count)
        inputs[split] = images.view(count, 16, 16)
    return Dataset("numbered", inputs, labels, classes)


def numbers(inputs: Tensor) -> Tensor:
    """The examples' numbers, of inputs `[..., 16, 16]` in [0, 1]."""
    return (inputs[..., 0, 0] * 255).round().long()


def generated(**fields: object) -> Dataset:
    """A small generated data set."""
    return Generated(**{"classes": 4, "shape": (3, 3), "train_size": 40, "test_size": 12, **fields}).load(None, "cpu")


def clock_at(stream: Stream, step: int) -> Clock:
    return Clock(*(torch.tensor(value) for value in (step, *stream.locate(step))))


def walk(stream: Stream, start: int, stop: int, block: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of the steps start...stop-1, `[steps, R, B, ...]`, in blocks as a run makes them.

    Blocks always have `block` steps; those past a boundary are thrown away, as a run masks them.
    """
    inputs, targets, step = [], [], start
    tables, boundary = stream.prepare(start), stream.next_boundary(start)
    while step < stop:
        if step == boundary:
            tables, boundary = stream.prepare(step), stream.next_boundary(step)
        count = min(block, boundary - step, stop - step)
        x, y = stream.batches(tables, clock_at(stream, step), block)
        assert len(x) == len(y) == block
        inputs.append(x[:count])
        targets.append(y[:count])
        step += count
    return torch.cat(inputs), torch.cat(targets)


def walk_task(stream: Stream, task: int, block: int = 4) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a whole task."""
    return walk(stream, stream.task_start(task), stream.task_start(task + 1), block)


def boundaries(stream: Stream, stop: int) -> list[int]:
    """The steps before `stop` at which tables are made anew, 0 included."""
    found = [0]
    while (following := stream.next_boundary(found[-1])) < stop:
        found.append(following)
    return found


def assert_pure(stream: Stream, start: int, stop: int) -> None:
    """Law 2: the same examples in one block, in several, and one by one after a fresh `prepare`."""
    whole = walk(stream, start, stop, stop - start)
    for other in (
        walk(stream, start, stop, 3),
        tuple(map(torch.cat, zip(*(walk(stream, step, step + 1, 1) for step in range(start, stop)), strict=True))),
    ):
        assert torch.equal(whole[0], other[0]) and torch.equal(whole[1], other[1])


def assert_resumes(make: Callable[[Tensor], Stream], step: int, stop: int) -> None:
    """A stream made anew in the middle of a task goes on with the same batches: nothing is remembered."""
    stream = make(SEEDS)
    walk(stream, 0, step, 3)
    for ours, theirs in zip(walk(stream, step, stop, 2), walk(make(SEEDS), step, stop, stop - step), strict=True):
        assert torch.equal(ours, theirs)


def assert_independent(make: Callable[[Tensor], Stream], start: int, stop: int, probe: int) -> None:
    """Law 1: replica r alone is replica r among others, bit for bit; and as a slice of the others' tables."""
    together = make(SEEDS)
    x, y = walk(together, start, stop, 4)
    for r in range(len(SEEDS)):
        one = slice(r, r + 1)
        alone = make(SEEDS[one])
        mine = walk(alone, start, stop, 4)
        assert torch.equal(x[:, one], mine[0]) and torch.equal(y[:, one], mine[1])
        assert_same(slice_replicas(together.prepare(start), one), alone.prepare(start))
        sliced = together.batches(slice_replicas(together.prepare(start), one), clock_at(together, start), 2)
        assert torch.equal(sliced[0], alone.batches(alone.prepare(start), clock_at(alone, start), 2)[0])
        both, single = together.probe("train", probe, 1), alone.probe("train", probe, 1)
        assert torch.equal(both[0][one], single[0]) and torch.equal(both[1][one], single[1])
    assert not torch.equal(x[:, 0], x[:, 1])


def assert_same(one: Tree, other: Tree) -> None:
    assert one.keys() == other.keys()
    map_tree(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0), one, other)


def assert_tables_keep_their_shapes(stream: Stream, stop: int) -> None:
    """Nothing has to be compiled twice."""
    shapes = {
        tuple((name, table.shape, table.stride(), table.dtype) for name, table in stream.prepare(step).items())
        for step in boundaries(stream, stop)
    }
    assert len(shapes) == 1


def compiled_equals_eager(stream: Stream, start: int, n: int, backend: str = "inductor") -> None:
    """`batches` traces whole, and integers, labels and the examples chosen are the same to the bit.

    `backend` "eager" traces, and runs the trace as it is: a second instead of tens.
    """

    def batches(tables: Tree, clock: Clock) -> tuple[Tensor, Tensor]:
        return stream.batches(tables, clock, n)

    compiled = torch.compile(batches, fullgraph=True, dynamic=False, backend=backend)
    tables, clock = stream.prepare(start), clock_at(stream, start)
    eager, traced = stream.batches(tables, clock, n), compiled(tables, clock)
    torch.testing.assert_close(traced[0], eager[0], rtol=1e-6, atol=1e-6)
    assert torch.equal(traced[1], eager[1])
