"""The benchmarks stay runnable: the quickest cases, run eagerly, against the other sides, and the file they write."""

import numpy as np
import pytest
import torch

from benchmarks import comparing, growth, matches, report, targets
from benchmarks.augmenting import augmented
from benchmarks.comparing import JAX, LOADER, TENSORS, Entrant, Row, check_same_work, compare
from benchmarks.counting import Peaks, Work, work_of
from benchmarks.growth_figure import draw
from benchmarks.matches import PLAIN, Match
from benchmarks.naive import Loop
from benchmarks.ours import Ours, Setting, one_population, populations, single_step_share
from benchmarks.shown import GENERATED_STEPS
from benchmarks.suites import SUITES, Measured, text_of
from benchmarks.timing import Contender, interleave
from lopbench.streams.augmentations import HorizontalFlip, RandomCrop, RandomRotation

SETTING = Setting(torch.device("cpu"), executor="eager", rounds=2, lasting=0.001, quick=True)


def regression(variant="sgd", replicas=2):
    return populations(SETTING, "quickstart.gin", replicas)[variant]


def small(gin_file, *bindings):
    return one_population(SETTING, gin_file, 2, bindings)


def permuted():
    return small("permuted_mnist/small/sgd.gin")


def convnet():
    rate = "sweep.grid = {'optimizers.SGD.learning_rate': [0.01]}"
    sizes = ["architectures.ConvNet.channels = (4, 4)", "architectures.ConvNet.kernels = (5, 3)"]
    others = ["streams.ClassSequence.batch_size = 10", "architectures.ConvNet.zero_head = False"]
    return small("continual_imagenet/sgd.gin", rate, *sizes, *others)


def transformer():
    sizes = {"depth": 1, "width": 24, "heads": 2, "mlp_width": 24}
    bindings = [f"architectures.VisionTransformer.{name} = {value}" for name, value in sizes.items()]
    return small("swr_vit.gin", *bindings, "streams.ClassIncremental.batch_size = 4")


def residual():
    return small("incremental_cifar/base.gin", "architectures.ResNet18.width = 2")


# The sides do the same work


def test_every_variant_starts_with_the_losses_of_the_plain_loop():
    entrants = [Entrant(SETTING, population) for population in populations(SETTING, "quickstart.gin", 2).values()]
    assert len(entrants) == 5
    check_same_work(entrants, {TENSORS: Loop(regression())})


@pytest.mark.parametrize("with_loader", [False, True])
@pytest.mark.parametrize("make", [regression, permuted, convnet, transformer, residual])
def test_the_plain_loop_has_the_losses_of_replica_0(make, with_loader):
    population = make()
    check_same_work([Entrant(SETTING, population)], {"the loop": Loop(population, with_loader)})


@pytest.mark.parametrize("make", [regression, permuted, convnet])
def test_jax_goes_on_with_our_losses(make):
    pytest.importorskip("jax", reason="JAX is not installed: pip install -e .[bench]")
    from benchmarks import jax_side

    population, steps = make(), 6
    theirs = jax_side.fastest(population).first_losses(steps)
    ours = Ours(SETTING, population)
    np.testing.assert_allclose([ours.hot(1) for _ in range(steps)], theirs, rtol=1e-4)


def test_jax_draws_generated_examples_once_those_given_are_used_up():
    pytest.importorskip("jax", reason="JAX is not installed: pip install -e .[bench]")
    from benchmarks import jax_side

    scan = jax_side.fastest(regression())
    first = scan.first_losses(200)
    assert scan.advance(2 * GENERATED_STEPS) < sum(first) / len(first)  # it has learned from them


def test_networks_that_are_not_written_in_jax_are_left_out():
    pytest.importorskip("jax", reason="JAX is not installed: pip install -e .[bench]")
    assert set(comparing.others_of(residual())) == {TENSORS, LOADER}


def test_plain_sgd_goes_on_with_the_losses_of_the_plain_loop():
    ours, loop = Ours(SETTING, regression()), Loop(regression())
    assert ours.hot(20) == pytest.approx(loop.advance(20), rel=1e-4)


def test_other_work_is_refused():
    late = Loop(regression())
    late.advance(20)
    with pytest.raises(AssertionError, match=r"mean loss of the first 2 steps: ours .*, that of the late one"):
        check_same_work([Entrant(SETTING, regression())], {"the late one": late})


def test_augmented_images_keep_their_shape_and_pixels():
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).reshape(2, 3, 8, 8) + 1
    moved = augmented(images, [HorizontalFlip(1.0), RandomCrop(2, "reflect"), RandomRotation(0.0, 15.0)])
    assert moved.shape == images.shape and not moved.equal(images)
    for one, other in zip(images, moved, strict=True):
        assert set(other.unique().tolist()) <= {0.0, *one.unique().tolist()}


@pytest.mark.parametrize(
    ("augmentation", "expected"),
    [
        (HorizontalFlip(1.0), lambda images: images.flip(3)),
        (RandomCrop(0, "reflect"), lambda images: images),
        (RandomRotation(90.0, 90.0), lambda images: images.rot90(1, (2, 3))),
    ],
)
def test_augmentations_do_to_a_batch_what_the_streams_do(augmentation, expected):
    images = torch.rand(2, 3, 8, 8)
    assert augmented(images, [augmentation]).equal(expected(images))


# Times and what is made of them


def test_a_match_gives_a_row_for_each_population_with_its_rare_work():
    found = {PLAIN: regression("sgd"), "SWR": regression("swr")}
    plain, row = compare(SETTING, Match("20-5-1", found))
    assert plain.rare is None and plain.over_plain is None
    assert row.case == "20-5-1, SWR, R = 2" and row.rare_share == 1 / 1000  # its period
    expected = (1 - row.rare_share) * row.hot + row.rare_share * row.rare + row.tables
    np.testing.assert_allclose(row.per_step, expected)
    np.testing.assert_allclose(row.over_plain, row.per_step / plain.per_step)
    np.testing.assert_allclose(row.ratio(TENSORS), 2 * row.baselines[TENSORS] / row.per_step)
    assert text_of([plain, row]).count(f"| {row.case} | ") == 2  # one line in each of two tables


def test_ratios_are_of_replica_steps_a_second():
    times = {TENSORS: np.array([6.0]), JAX: np.array([30.0])}
    row = Row("network", PLAIN, 10, "", per_step=np.array([20.0]), baselines=times, hot=np.array([20.0]))
    assert row.ratio(TENSORS) == 3.0 and row.ratio(JAX) == 1.5 and row.ratio(LOADER) is None


def test_steps_before_an_event_that_fill_no_block_count_as_single():
    # period 1,000: of 999 steps before the event blocks of 5 leave 4 over
    assert single_step_share(regression("swr"), block_steps=5) == 5 / 1000


def test_contenders_take_turns():
    order = []
    contenders = {name: Contender(lambda steps, n=name: order.append(n), most=1) for name in "ab"}
    times = interleave(contenders, rounds=3, lasting=0.001)
    assert order == ["a", "b"] * 3 and times["a"].shape == (3,)


def test_no_round_begins_after_the_budget_but_for_three():
    times = interleave({"a": Contender(lambda steps: None, most=1)}, rounds=10, lasting=0.001, budget=0.0)
    assert times["a"].shape == (3,)


def test_work_is_counted_from_shapes():
    found = work_of(regression("sgd", replicas=3))
    weights, parameters = 20 * 5 + 5, 20 * 5 + 5 + 5 + 1
    operations = 2 * (3 * weights - 20 * 5)  # three products a layer, but for the gradient of the inputs
    assert found == Work(3 * operations, 3 * 4 * (4 * parameters + 20))


def test_every_match_is_of_one_network_and_number_of_replicas():
    for name in ("tiny_mnist", "regression"):
        for match in getattr(matches, name)(SETTING):
            assert {population.replicas for population in match.populations.values()} == {match.replicas}


# Growth


def test_a_step_is_bound_by_what_takes_longest_or_by_overhead():
    machine = Peaks(operations=1e9, traffic=1e9)
    curve = growth.CURVES[0]
    works = {"operations": Work(3e3, 1e3), "bytes": Work(1e3, 3e3), "overhead": Work(1e2, 1e2)}
    for expected, work in works.items():
        point = growth.Point(curve, 1, "", microseconds=5.0, replicas=1, work=work, compile_seconds=0.0)
        assert point.bound(machine) == expected


def test_a_curve_grows_until_memory_is_short():
    curve = growth.Curve("3 x 100 units, batch 30", "replicas", [1, 0, 0, 0, 100_000])  # the first and the fifth
    (point,) = growth.grown(SETTING, [curve])
    assert point.value == point.replicas == 1 and point.microseconds > 0


# The file


def row(method=PLAIN, replicas=30):
    ours, theirs = np.array([3.0, 1.0, 2.0]), np.array([1.0, 0.5, 1.0])
    return Row("3 x 100 units", method, replicas, "compiled, 5, 1", ours, {LOADER: theirs, TENSORS: theirs}, hot=ours)


def write(path, suite, measured, command="python -m benchmarks.run"):
    report.update(path, suite, "cpu", report.section(suite, SETTING, measured.text, command, 1.0), measured)
    return path.read_text()


def test_a_run_replaces_its_own_section_and_leaves_the_others(tmp_path):
    path, measured = tmp_path / "RESULTS.md", Measured([row()], text_of([row()]))
    for suite, command in (("permuted_mnist", "first"), ("permuted_mnist", "second"), ("regression", "third")):
        text = write(path, suite, measured, command)
    assert "`first`" not in text and "`second`" in text and "`third`" in text
    assert text.count("\n## ") == 1 + len(SUITES) * len(report.DEVICES)
    assert "| 3 x 100 units, plain SGD, R = 30 | compiled, 5, 1 | 2 (1 to 3) | 0.0667 |" in text
    unknown = "Not yet measured: `python -m benchmarks.run --suite growth --device cuda`."
    assert f"## growth on cuda\n\n{unknown}" in text


def test_targets_are_judged_by_the_rows_and_kept_until_they_are_measured_again(tmp_path):
    path, measured = tmp_path / "RESULTS.md", Measured([row()], "")
    met = "| R = 30: over the loop with a loader, at least 5 | permuted_mnist on cpu | 15 | met |"
    assert met in write(path, "permuted_mnist", measured)
    text = write(path, "regression", Measured([], ""))
    assert met in text
    command = "`python -m benchmarks.run --suite regression --device cpu`"
    assert f"| R = 100: over JAX, at least 2 | regression on cpu | not yet measured: {command} | |" in text
    slow = Measured([row(replicas=1)], "")  # half as fast as the loop
    assert "at least 1 | permuted_mnist on cpu | 0.5 | not met |" in write(path, "permuted_mnist", slow)


def test_each_target_has_a_line_of_its_own_in_a_suite_that_there_is():
    assert len({target.key for target in targets.TARGETS}) == len(targets.TARGETS)
    assert {target.suite for target in targets.TARGETS} <= set(SUITES)


def test_the_figure_of_growth_is_drawn(tmp_path):
    works = [Work(10.0**k, 10.0**k) for k in range(3)]
    points = [
        growth.Point(curve, 10**k, "", 10.0**k, 1, work, 0.0) for curve in growth.CURVES for k, work in enumerate(works)
    ]
    path = tmp_path / "growth.png"
    draw(points, Peaks(1e9, 1e9), path)
    assert path.read_bytes().startswith(b"\x89PNG")
