"""registry.py: what may be registered, what is told of it, and the nearest names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gin
import pytest

import lopbench
from lopbench import registry
from lopbench.errors import UserError
from lopbench.protocols import PerReplica


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty registry and an empty gin; what was there comes back."""
    gin.clear_config()
    monkeypatch.setattr(registry, "_parts", {kind: {} for kind in registry.KINDS})
    yield
    gin.clear_config()


@dataclass(frozen=True)
class RegistryProbe:
    """A part that only these tests use."""

    rate: PerReplica[float] = 0.1
    limit: PerReplica[float | None] = None
    period: int = 5


class RegistryNet:
    """An architecture that only these tests use."""

    def __init__(self, problem: Any, width: int = 3, gain: PerReplica[float] = 1.0) -> None:
        self.problem, self.width, self.gain = problem, width, gain


def test_a_registered_class_is_left_alone_and_known_to_gin_under_its_kind() -> None:
    assert lopbench.register("strategies")(RegistryProbe) is RegistryProbe
    gin.parse_config("strategies.RegistryProbe.period = 7")
    assert RegistryProbe().period == 5  # plain Python is not gin's business
    built = gin.get_configurable("strategies.RegistryProbe")()
    assert built == RegistryProbe(period=7) and type(built) is RegistryProbe


def test_runtime_arguments_cant_be_bound() -> None:
    lopbench.register("architectures")(RegistryNet)
    with pytest.raises(ValueError, match="denylisted"):
        gin.parse_config("architectures.RegistryNet.problem = 3")


def test_parts_and_kind_of() -> None:
    lopbench.register("strategies")(RegistryProbe)
    assert registry.parts("strategies") == {"RegistryProbe": RegistryProbe}
    assert registry.kind_of(RegistryProbe) == "strategies"
    with pytest.raises(UserError, match=r"RegistryNet is not registered: decorate it with lopbench.register\."):
        registry.kind_of(RegistryNet)


def test_per_replica_fields_of_dataclasses_and_other_classes() -> None:
    assert registry.per_replica_fields(RegistryProbe) == ("rate", "limit")
    assert registry.per_replica_fields(RegistryNet) == ("gain",)


def test_the_signature_leaves_self_out() -> None:
    assert list(registry.signature(RegistryNet)) == ["problem", "width", "gain"]


def test_a_class_may_be_defined_again_but_not_another_of_its_name() -> None:
    lopbench.register("metrics")(RegistryProbe)
    assert lopbench.register("metrics")(RegistryProbe) is RegistryProbe
    other = type("RegistryProbe", (), {"__doc__": "Another.", "__module__": "elsewhere"})
    with pytest.raises(UserError) as error:
        lopbench.register("metrics")(other)
    assert str(error.value) == (
        f"metrics.RegistryProbe is registered already, by {__name__}; give elsewhere's another name."
    )


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match=r"^lopbench.register\('optimiser'\): no such kind. Did you mean optimizers"):
        lopbench.register("optimiser")


def test_a_part_needs_a_docstring_of_its_own() -> None:
    @dataclass(frozen=True)
    class Bare:
        rate: float = 1.0

    class Silent:
        pass

    for part in (Bare, Silent):
        with pytest.raises(
            UserError, match=f"^metrics.{part.__name__} needs a docstring: its first line is what --list"
        ):
            lopbench.register("metrics")(part)


def test_a_part_that_would_swallow_misspelt_bindings_is_refused() -> None:
    class Greedy:
        """Takes anything."""

        def __init__(self, rate: float = 1.0, **others: Any) -> None: ...

    class Listing:
        """Takes any number."""

        def __init__(self, *numbers: int) -> None: ...

    with pytest.raises(
        UserError, match=r"^metrics.Greedy takes \*\*others: .*Any.*: a misspelt gin binding would be swal"
    ):
        lopbench.register("metrics")(Greedy)
    with pytest.raises(UserError, match=r"^metrics.Listing takes \*numbers: .*int.*: "):
        lopbench.register("metrics")(Listing)


def test_nearest_names() -> None:
    assert registry.nearest("perod", ["rate", "period"]) == " Did you mean period?"
    assert registry.nearest("x", ["rate", "period"]) == " Known: period, rate."
    assert registry.nearest("x", []) == ""
