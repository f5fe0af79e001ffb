"""lopbench: populations of learners on changing streams, to study loss of plasticity."""

from lopbench.registry import register

__all__ = ["register"]
__version__ = "0.1.0"
