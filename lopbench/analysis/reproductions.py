"""Which published rows are of which shipped gin file: the files' names, and the rows' columns.

A new table needs an entry in `REPRODUCTIONS` to be drawn; third_party/README.md says what the columns mean.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Row = Mapping[str, str]
Match = re.Match[str]


@dataclass(frozen=True)
class Reproduction:
    """Rows of one table, and the gin files that are to give the same numbers.

    `files`: a pattern of the gin file's name; `holds(row, match, method)`: whether a row is of a method of that file;
    `settings`: numbers in which the rows differ and that the file binds, by the last part of their gin names. What a
    study swept stands instead of them.
    """

    table: str
    files: str
    holds: Callable[[Row, Match, str], bool]
    settings: Mapping[str, float] | None = None


#: the networks and optimizers of the folders of permuted_mnist/, as the tables have them; beside it a network alone
NETWORKS = {
    "": ("100", "SGD 0.05"),
    "small/": ("10", "SGD 0.05"),
    "extra_large/": ("1000", "SGD 0.05"),
    "small_layer_norm/": ("10, layer norm", "SGD 0.1"),
    "large_layer_norm/": ("100, layer norm", "SGD 0.1"),
    "momentum/": ("100", "SGD 0.005, momentum 0.9"),
    "adamw/": ("100", "AdamW 0.0005"),
}
#: methods by the names of gin files and variants, as the tables of the study of SWR have them
SHORT = {
    "sgd": "none",
    "adamw": "none",
    "swr": "SWR",
    "continual_backprop": "CBP",
    "redo": "ReDo",
    "shrink_perturb": "S&P",
}
#: the same, as the table of the study of loss of plasticity has them
LONG = {
    "sgd": "backpropagation",
    "sgd_width": "backpropagation",
    "sgd_rate": "backpropagation",
    "base": "base",
    "continual_backprop": "continual backpropagation",
    "shrink_perturb": "shrink and perturb",
    "l2": "L2",
    "head_resetting": "head resetting",
    "retrained": "retrained",
}
SWR = re.compile(r"swr(_proportional)?(_magnitude|_random)?(_mean)?")


def _swr_final(row: Row, match: Match, method: str) -> bool:
    """The final runs of the 100-unit network, which have standard errors; names such as swr_proportional_random."""
    named = SWR.fullmatch(method)
    if named is None:
        return method in ("continual_backprop", "redo") and row["method"] == SHORT[method]
    pruning, utility, mean = (part and part[1:] for part in named.groups())
    wanted = ("SWR", pruning or "threshold", utility or "gradient", mean or "resample")
    columns = ("method", "pruning", "utility", "reinitialization")
    return tuple(row[column] for column in columns) == wanted and bool(row["online_accuracy_standard_error"])


def _swr_network(row: Row, match: Match, method: str) -> bool:
    wanted = (*NETWORKS[match["folder"]], SHORT.get(method))
    return (row["network"], row["optimizer"], row["method"]) == wanted


def _loss_of_plasticity(row: Row, match: Match, method: str) -> bool:
    return (row["problem"], row["method"]) == (match["problem"], LONG.get(method))


def _vision_transformer(row: Row, match: Match, method: str) -> bool:
    decay = ("coupled" if match["coupled"] else "decoupled") + (", matrices" if match["matrices"] else "")
    norms = "reparameterised" if match["norms"] else "standard"
    return (row["system"], row["norms"], row["decay"]) == ("base", norms, decay)


def _regression(row: Row, match: Match, method: str) -> bool:
    stream = "flip_one" if match["optimizer"] == "flip_one" else "redraw"
    optimizer = "adam" if match["optimizer"] == "adam" else "sgd"
    wanted = (stream, optimizer, "backpropagation", match["learner"])
    return tuple(row[column] for column in ("stream", "optimizer", "method", "learner")) == wanted


def _regression_replacing(row: Row, match: Match, method: str) -> bool:
    return row["method"] == "continual_backprop"


def _quickstart(row: Row, match: Match, method: str) -> bool:
    plain = {"sgd": "backpropagation", "continual_backprop": "continual_backprop"}.get(method)
    setting = (row["stream"], row["optimizer"], row["learner"], row["method"])
    return setting == ("redraw", "sgd", "relu", plain)


def _forgetting(row: Row, match: Match, method: str) -> bool:
    return row["method"] == {"ewc": "EWC", "l2_init": "L2 Init", "l2_init_and_ewc": "L2 Init + EWC"}.get(method)


REGRESSION, ONLINE = "slowly_changing_regression", "(?P<problem>permuted_mnist_online)"
REPRODUCTIONS = (
    Reproduction("permuted_mnist_swr.csv", r"permuted_mnist/(large/)?\w+\.gin", _swr_final),
    Reproduction(
        "permuted_mnist_networks_swr.csv",
        rf"permuted_mnist/(?P<folder>{'|'.join(NETWORKS)})\w+\.gin",
        _swr_network,
    ),
    Reproduction("loss_of_plasticity.csv", rf"{ONLINE}/sgd\.gin", _loss_of_plasticity, {"width": 2000}),
    Reproduction("loss_of_plasticity.csv", rf"{ONLINE}/sgd_width\.gin", _loss_of_plasticity, {"learning_rate": 0.003}),
    Reproduction("loss_of_plasticity.csv", rf"{ONLINE}/sgd_rate\.gin", _loss_of_plasticity, {"width": 2000}),
    Reproduction("loss_of_plasticity.csv", r"(?P<problem>continual_imagenet)/\w+\.gin", _loss_of_plasticity),
    Reproduction("loss_of_plasticity.csv", r"(?P<problem>incremental_cifar)/\w+\.gin", _loss_of_plasticity),
    Reproduction(
        "incremental_cifar_vit_swr.csv",
        r"incremental_cifar_vit/(base|(?P<coupled>coupled_)?decay(?P<matrices>_matrices)?)(?P<norms>_reparameterized)?\.gin",
        _vision_transformer,
    ),
    Reproduction(
        f"{REGRESSION}.csv",
        rf"{REGRESSION}/(?P<optimizer>sgd|adam|flip_one)_(?P<learner>[a-z]+(_relu)?)\.gin",
        _regression,
    ),
    Reproduction(
        f"{REGRESSION}.csv",
        rf"{REGRESSION}/sgd_relu_continual_backprop\.gin",
        _regression_replacing,
        {"maturity_threshold": 10, "learning_rate": 0.01},
    ),
    Reproduction(
        f"{REGRESSION}.csv",
        rf"{REGRESSION}/sgd_relu_continual_backprop_maturity_100\.gin",
        _regression_replacing,
        {"maturity_threshold": 100, "learning_rate": 0.01},
    ),
    Reproduction(
        f"{REGRESSION}.csv",
        r"quickstart\.gin",
        _quickstart,
        {"learning_rate": 0.01, "replacement_rate": 1e-4, "maturity_threshold": 100},
    ),
    Reproduction("l2_init_forgetting.csv", r"permuted_mnist_l2_init/forgetting/\w+\.gin", _forgetting),
)
