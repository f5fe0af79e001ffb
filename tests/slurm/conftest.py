"""A SLURM for the tests of this folder."""

import pytest

from tests.slurm import one_node


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """One that runs: the environment in which its commands find it. Tests share it, one after another."""
    if absent := one_node.missing():
        pytest.skip(f"not installed: {', '.join(absent)} (Debian: apt-get install slurm-wlm munge)")
    pytest.importorskip("submitit")
    with one_node.running(tmp_path_factory.mktemp("slurm") / "node") as environment:
        yield environment
