"""What is timed, by suite: populations that take turns with each other and with the other sides.

A match is of one network, one stream and one number of replicas, so that all its populations want the same number of
threads and have the same baselines: the plain loop of one network, and JAX with as many replicas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.ours import Setting, one_population, populations
from lopbench.population import Population

PLAIN = "plain SGD"
SWR, CBP = "SWR", "continual backpropagation"

METHODS = {PLAIN: "sgd", SWR: "swr", CBP: "continual_backprop", "ReDo": "redo"}
VARIANTS = {PLAIN: "sgd", SWR: "swr", CBP: "continual_backprop", "L2 init": "l2_init"}
VARIANTS |= {"shrink and perturb": "shrink_and_perturb"}


@dataclass(frozen=True)
class Match:
    """Populations by the name of their method; `network` names what they have in common besides the replicas."""

    network: str
    populations: Mapping[str, Population]
    with_rare_work: bool = True

    @property
    def any(self) -> Population:
        return next(iter(self.populations.values()))

    @property
    def replicas(self) -> int:
        return self.any.replicas


Matches = Callable[[Setting], Iterator[Match]]


def permuted_mnist(setting: Setting) -> Iterator[Match]:
    """3 x 100 units, batch 30; 180 replicas of all methods take a CPU too long."""
    on_cpu = setting.device.type == "cpu"
    everything, two = list(METHODS), [PLAIN, SWR]
    for replicas in (1, 30) if setting.quick else (1, 8, 30, 180):
        methods = two if setting.quick or (on_cpu and replicas > 30) else everything
        yield _of_mnist(setting, "permuted_mnist", "3 x 100 units", methods, replicas)


def tiny_mnist(setting: Setting) -> Iterator[Match]:
    """3 x 10 units, batch 30, with the methods as they are tuned for that width."""
    for replicas in (30,) if setting.quick else (1, 8, 30, 180):
        methods = [PLAIN, CBP] if setting.quick else list(METHODS)
        yield _of_mnist(setting, "permuted_mnist/small", "3 x 10 units", methods, replicas)


def _of_mnist(setting: Setting, folder: str, network: str, methods: Sequence[str], replicas: int) -> Match:
    found = {name: one_population(setting, f"{folder}/{METHODS[name]}.gin", replicas) for name in methods}
    return Match(network, found)


def wide_mnist(setting: Setting) -> Iterator[Match]:
    """3 x 2000 units, batch 1."""
    rate = "sweep.grid = {'optimizers.SGD.learning_rate': [0.003]}"
    for replicas in (1, 8, 30) if setting.device.type == "cuda" and not setting.quick else (1,):
        yield Match(
            "3 x 2000 units", {PLAIN: one_population(setting, "permuted_mnist_online/sgd.gin", replicas, [rate])}
        )


def regression(setting: Setting) -> Iterator[Match]:
    """Slowly-changing regression, 20-5-1, one example a step."""
    for replicas in (30, 100) if setting.quick else (1, 30, 100, 500):
        found = populations(setting, "quickstart.gin", replicas)
        methods = [PLAIN] if replicas != 30 else [PLAIN, SWR] if setting.quick else list(VARIANTS)
        yield Match("20-5-1", {name: found[VARIANTS[name]] for name in methods})


def continual_imagenet(setting: Setting) -> Iterator[Match]:
    """The convolutional network of Continual ImageNet, batch 100."""
    rate = "sweep.grid = {'optimizers.SGD.learning_rate': [0.01]}"
    for replicas in (1,) if setting.quick else (1, 10, 30):
        yield Match("convnet", {PLAIN: one_population(setting, "continual_imagenet/sgd.gin", replicas, [rate])})


VIT, RESNET = "swr_vit.gin", "incremental_cifar/base.gin"
VIT_SIZES = {"depth": 1, "width": 48, "heads": 2, "mlp_width": 96}
#: Networks for a first look: on a CPU a step of the published ones takes seconds.
SMALL = {
    VIT: [f"architectures.VisionTransformer.{key} = {value}" for key, value in VIT_SIZES.items()],
    RESNET: ["architectures.ResNet18.width = 8"],
}


def vision(setting: Setting) -> Iterator[Match]:
    """The vision transformer under SWR and ResNet-18, batch 90; a CPU loops over replicas, so one shows it all.

    Without SWR's rare work, which is due once in 128 updates.
    """
    for gin_file, network, method in ((VIT, "ViT", SWR), (RESNET, "ResNet-18", PLAIN)):
        for replicas in (1, 5) if setting.device.type == "cuda" and not setting.quick else (1,):
            bindings = SMALL[gin_file] if setting.quick else []
            yield Match(network, {method: one_population(setting, gin_file, replicas, bindings)}, False)
