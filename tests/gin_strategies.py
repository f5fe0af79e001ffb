"""What gin texts are made of, for hypothesis to draw: runs that use each part, values, lines and whole texts.

Random letters would be refused at the first character. What is drawn here gets further: names exist, most values have
the right type, and what is wrong is wrong in one place.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from lopbench import config
from lopbench.gin_names import components, parameters
from lopbench.registry import parts
from tests.end_to_end.test_runs import BASE

config.import_parts()

# Runs ---------------------------------------------------------------------------------------------------

#: how a run is told to use a part, by its kind
USE = {
    "sources": "run.source = @{}",
    "augmentations": "sources.Generated.shape = (3, 8, 8)\nstreams.PermutedInputs.augmentations = [@{}]",
    "streams": "run.stream = @{}",
    "architectures": "sources.Generated.shape = (3, 8, 8)\nrun.architecture = @{}",
    "optimizers": "run.optimizer = @{}",
    "schedules": "run.schedule = @{}",
    "strategies": "run.strategies = [@{}]",
    "metrics": "run.metrics = [@{}]",
}
#: a short task for streams of examples: 10 steps
SHORT = {"batch_size": 6, "tasks": 2, "examples_per_task": 30, "steps_per_task": None, "epochs_per_task": 2}
BY_CLASS = {
    "run.stream": "@streams.ClassIncremental",
    "streams.ClassIncremental.classes_per_task": 1,
    "streams.ClassIncremental.validation_per_class": 4,
    "streams.ClassIncremental.batch_size": 6,
    "streams.ClassIncremental.epochs_per_task": 1,
}
#: what parts need to be used, and to be quick
NEEDS: dict[str, dict[str, Any]] = {
    "streams.ClassIncremental": BY_CLASS,
    "streams.ClassSequence": {
        "sources.Generated.classes": 4,
        "streams.ClassSequence.train_per_class": 12,
        "streams.ClassSequence.test_per_class": 4,
        "streams.ClassSequence.batch_size": 6,
        "streams.ClassSequence.epochs_per_task": 1,
        "streams.ClassSequence.tasks": 2,
    },
    "streams.SlowlyChangingRegression": {
        "run.source": None,
        "run.metrics": [],
        "run.max_tasks": 2,
        "streams.SlowlyChangingRegression.inputs": 8,
        "streams.SlowlyChangingRegression.slow_bits": 5,
        "streams.SlowlyChangingRegression.period": 15,
    },
    **{
        f"streams.{name}": {f"streams.{name}.{field}": value for field, value in SHORT.items()}
        for name in ("PermutedInputs", "PermutedLabels", "RandomLabels", "Stationary")
    },
    "architectures.ConvNet": {
        "architectures.ConvNet.channels": (4,),
        "architectures.ConvNet.kernels": (3,),
        "architectures.ConvNet.hidden": (5,),
    },
    "architectures.Linear": {"run.metrics": []},
    "architectures.ResNet18": {"architectures.ResNet18.width": 2},
    "architectures.VisionTransformer": {
        "architectures.VisionTransformer.depth": 1,
        "architectures.VisionTransformer.heads": 2,
        "architectures.VisionTransformer.width": 8,
        "architectures.VisionTransformer.mlp_width": 8,
    },
    "strategies.EWC": {"strategies.EWC.fisher_examples": 10},
    "strategies.RestoreBest": {
        **BY_CLASS,
        "run.metrics": "[@metrics.Evaluation]",
        "metrics.Evaluation.every": "'epoch_end'",
        "metrics.Evaluation.probe_split": ["test", "validation"],
        "metrics.Evaluation.probe_size": None,
    },
}


def run_with(component: str) -> str:
    """The gin text of a run of some dozen steps that uses a part; of `run` itself: of any such run."""
    kind = component.split(".")[0]
    lines = [USE[kind].format(component)] if kind in USE else []
    lines += [f"{component}.probe_size = 10"] if kind == "metrics" and "probe_size" in parameters(component) else []
    lines += [f"{key} = {value}" for key, value in NEEDS.get(component, {}).items()]
    return "\n".join([BASE, *lines, ""])


def is_drawn(component: str) -> bool:
    """Not parts that other tests have registered, and no source that reads files which are not there, or downloads."""
    kind, _, name = component.partition(".")
    ours = component == "run" or parts(kind)[name].__module__.startswith("lopbench.")
    return ours and (kind != "sources" or name in ("Generated", "ImageNet32"))


COMPONENTS = [*filter(is_drawn, components())]
#: everything that can be bound, with its default
DEFAULTS = {f"{part}.{name}": found.default for part in COMPONENTS for name, found in parameters(part).items()}
KEYS = [*DEFAULTS]

# Values ---------------------------------------------------------------------------------------------------

NUMBERS = ["-1", "0", "1", "2", "3", "24", "0.5", "-0.5", "1.0", "2.5", "-0.0", "1e-320", "1e-9", "1e30", "1e308"]
NUMBERS += ["1e400", "1j", "nan", str(2**63), str(-(2**63)), "9" * 400]
STRINGS = ["", " ", "x", "/", "..", "~", "relu", "record", "task", "train", "all"]
STRINGS += ["x" * 300, "\0", "a\nb", "\ud800", "\u202e", "漢"]
REFERENCES = ["@optimizers.SGD", "@SGD()", "@strategies.L2", "@run", "@nothing", "@a/b.C", "%NOTHING", "%gin.REQUIRED"]
WORDS = sorted({value for value in DEFAULTS.values() if isinstance(value, str)})
WORDS += ["task", "period", "tanh", "kaiming_uniform", "test"]


def listed(values: st.SearchStrategy[str], most: int = 3) -> st.SearchStrategy[str]:
    """Lists of values, as gin writes them."""
    return st.lists(values, max_size=most).map(lambda items: f"[{', '.join(items)}]")


def nested(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Lists, tuples and dicts of values, as gin writes them."""
    pairs = st.lists(st.builds("{}: {}".format, values, values), max_size=2)
    return st.one_of(
        listed(values),
        st.lists(values, min_size=1, max_size=3).map(lambda items: f"({', '.join(items)},)"),
        pairs.map(lambda items: f"{{{', '.join(items)}}}"),
    )


edges = st.sampled_from(["None", "True", "False", *NUMBERS])
leaves = st.one_of(
    edges, st.sampled_from(STRINGS).map(repr), st.sampled_from(REFERENCES), st.text(max_size=8).map(repr)
)
#: values of all kinds, most of them wrong wherever they are bound
anything = st.one_of(leaves, st.recursive(leaves, nested, max_leaves=4))
counts, shares = st.integers(0, 24).map(repr), st.sampled_from(["0.0", "1e-320", "1e-3", "0.5", "1.0", "24.0"])
words = st.sampled_from(WORDS).map(repr)


def likely(key: str) -> st.SearchStrategy[str]:
    """Values of the type of a parameter's default; most are right, in themselves."""
    name, default = key.rpartition(".")[2], DEFAULTS[key]
    for kind in USE:
        if name in (kind, kind.removesuffix("s")):
            part = st.sampled_from([f"@{part}" for part in COMPONENTS if part.startswith(f"{kind}.")])
            return listed(part, 2) if name == kind else part
    if isinstance(default, bool):
        return st.sampled_from(["True", "False"])
    if isinstance(default, str):
        return words
    if isinstance(default, tuple | list):
        return listed(counts if isinstance(default[0], int) else shares)
    if default is None:
        return st.one_of(st.just("None"), counts, shares, words)
    return st.one_of(counts, shares) if isinstance(default, float) else counts


# Lines ----------------------------------------------------------------------------------------------------


def line_of(keys: list[str], wrong: bool = True) -> st.SearchStrategy[str]:
    """A line that binds one of these parameters, to a likely value or, if `wrong`, to any."""

    def line(key: str) -> st.SearchStrategy[str]:
        values = st.one_of(likely(key), likely(key), edges, anything) if wrong else likely(key)
        return values.map(lambda value: f"{key} = {value}")

    return st.sampled_from(keys).flatmap(line)


@st.composite
def bindings(draw: st.DrawFn, wrong: bool = True) -> tuple[str, list[str]]:
    """A part, and a few lines that bind its parameters and those of `run`."""
    component = draw(st.sampled_from([name for name in COMPONENTS if parameters(name)]))
    own = [key for key in KEYS if key.rpartition(".")[0] == component]
    common = [key for key in KEYS if key.startswith("run.")]
    more = draw(st.lists(line_of([*own, *common], wrong), max_size=2))
    return component, [draw(line_of(own, wrong)), *more]


# Texts ----------------------------------------------------------------------------------------------------

#: what texts may include
FILES = {
    "more.gin": b"run.seeds = 3\nMORE = 1\n",
    "loop.gin": b"include 'loop.gin'\n",
    "words.gin": b"Some words.\n",
    "binary.gin": bytes(range(256)),
}
NAMES = ["a", "a b", "1", "_a", "", " ", "/", "..", "a/b", "a\\b", "x" * 200, "x" * 201, "漢" * 70, "a\nb", "\0", "é"]
NAMES += ["👍", "a=1, b='c'", "a:b*?<>|", "\ud800", "\u202ea", "run.seeds", "%s"]
ODD_KEYS = ["M", "N", "a/run.seeds", "run.sedes", "SGD.momentum", "sweep.grid", "run.variants", "gin.REQUIRED"]
ODD_KEYS += ["sweep.samples", "sweep.random", "sweep.points", "sweep.most_replicas", "sweep.gird"]

names = st.one_of(st.sampled_from(NAMES), st.text(max_size=8))
keys = st.one_of(st.sampled_from(KEYS), st.sampled_from(ODD_KEYS))
macros = st.sampled_from(["%M", "%N", "%O", "%gin.REQUIRED"])
included = st.sampled_from([*FILES, "folder", "nowhere.gin", "/dev/null"])
modules = st.sampled_from(["math", "os.path", "nowhere", "math.nowhere", "lopbench.main", ".x"])
lines = st.one_of(
    line_of(KEYS),
    st.builds("{} = {}".format, keys, st.one_of(anything, macros)),
    st.builds("M = [{}, {}]".format, macros, macros),
    included.map(lambda name: f"include {name!r}"),
    modules.map("import {}".format),
    st.builds("{}:\n  seeds = {}".format, st.sampled_from(["run", "SGD", "nothing"]), anything),
    st.text(max_size=8).map("# {}".format),
)
variants = st.dictionaries(names, st.lists(st.one_of(lines, names), max_size=2), max_size=2)
axes = st.sampled_from(KEYS).flatmap(lambda key: listed(likely(key)).map(lambda values: f"{key!r}: {values}"))
odd_grids = st.dictionaries(keys, st.lists(names, max_size=3), max_size=2)
statements = st.one_of(
    lines,
    variants.map("run.variants = {!r}".format),
    st.lists(axes, max_size=2).map(lambda axes: f"sweep.grid = {{{', '.join(axes)}}}"),
    odd_grids.map("sweep.grid = {!r}".format),
    st.builds("sweep.{} = {!r}\nsweep.samples = 2".format, st.sampled_from(["random", "sobol"]), odd_grids),
)


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A run's text with further statements, of which, now and then, some characters are lost or too many."""
    text = "\n".join([BASE, *draw(st.lists(statements, max_size=3)), ""])
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at, lost = draw(st.integers(0, len(text))), draw(st.sampled_from([0, 0, 1, 40]))
        text = text[:at] + draw(st.sampled_from(["", *"()[]{}'\"\\#=@%/,:\n\t\0\ufeff "])) + text[at + lost :]
    return text


# Flags ----------------------------------------------------------------------------------------------------

FLAGS = [
    "gin_file",
    "gin_bindings",
    "gin_search_path",
    "data_dir",
    "device",
    "workdir",
    "list",
    "overwrite",
    "odd",
    "v",
]
ARGUMENTS = ["", " ", ".", "..", "/", "~", "~nobody", "~nobody/x", "/dev/null", "/dev/null/x", "mine.gin", "folder"]
ARGUMENTS += ["x" * 300, "x" * 5000, "\0", "\udcff", "a\nb", "-1", "True", "=", "--", "%s", "nowhere.gin", "file:///x"]
ARGUMENTS += [
    "cpu",
    "cuda",
    "cuda:0",
    "cuda:x",
    "cuda:²",
    "cuda:-1",
    "CPU",
    "auto:1",
    "run.seeds = 3",
    "# \udcff",
    "M = 1",
]

arguments = st.one_of(st.sampled_from(ARGUMENTS), st.text(max_size=5))
flags = st.one_of(
    st.builds("--{}={}".format, st.sampled_from(FLAGS), arguments),
    line_of(KEYS).map("--gin_bindings={}".format),
    st.sampled_from(FLAGS).map("--{}".format),
    arguments,
)
