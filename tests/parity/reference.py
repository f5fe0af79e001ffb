"""Reads the reference arrays: what the published implementations gave for stored inputs (see README.md)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(os.environ.get("LOPBENCH_PARITY_DIR") or Path(__file__).parent)


def cases(name: str) -> list[tuple[str, dict[str, Any], dict[str, np.ndarray]]]:
    """Every case of `name`.npz as (case name, its config, its arrays by name without the case)."""
    grouped: dict[str, dict[str, np.ndarray]] = {}
    with np.load(FOLDER / f"{name}.npz") as file:
        for key in file:
            case, _, rest = key.partition("/")
            grouped.setdefault(case, {})[rest] = file[key]
    found = []
    for case, arrays in grouped.items():
        config = arrays.pop("config", None)
        found.append((f"{name}-{case}", json.loads(str(config)) if config is not None else {}, arrays))
    return found


def plain(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The config and arrays of a file without cases."""
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file}
    return json.loads(str(arrays.pop("config"))), arrays
