"""The report: complete, self-contained, honest about what is missing, and safe whatever results are called."""

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lopbench.analysis import provenance, studies
from lopbench.analysis.__main__ import main
from lopbench.analysis.page import POLICY
from lopbench.analysis.report import _changed, _published, write_report
from lopbench.errors import UserError
from lopbench.loggers.tensorboard import interval_tags
from tests.analysis.made_up import ACCURACY, DEAD, RATE, STEPS, Population, example, make_run, make_study, members

FIGURES = ("curves", "sensitivity", "correlates", "predictors", f"curves_{DEAD.replace('/', '.')}")
TABLES = ("scores", "plasticity", "comparison", "best", "predictors")
EVIL = "<img src=x onerror=alert(1)>&amp;"


class Page(HTMLParser):
    """What a page holds: its text, its elements' names, and every address in an attribute."""

    def __init__(self, path):
        super().__init__()
        self.names, self.addresses, self.anchors, self.alternatives, self.words = [], [], set(), [], []
        self.feed(Path(path).read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        found = dict(attrs)
        self.addresses += [found[name] for name in ("src", "href", "srcset", "data", "action") if name in found]
        self.anchors |= {found["id"]} if "id" in found else set()
        self.alternatives += [found["alt"]] if "alt" in found else []
        assert not any(name.startswith("on") for name in found)

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A report of a study whose method has a name that is HTML."""
    workdir = example(tmp_path_factory.mktemp("study") / "mine", seeds=3, tasks=4, names=("base", EVIL))
    write_report(workdir, tags=[DEAD])
    return workdir


@pytest.fixture(scope="module")
def page(study):
    return Page(study / "report" / "index.html")


def small(workdir, method="sgd", tag=ACCURACY, rate=None, **told):
    """A study of one method in four tasks, quickly drawn."""
    values = np.linspace(0.9, 0.8, 4)[:, None] + [[0.0, 0.01, 0.02]]
    own = members(method, 3, {RATE: rate} if rate else {}, method)
    make_study(workdir, Population(own, {tag: values}, **told))
    return workdir


def test_every_figure_and_table_is_there_in_its_formats_and_on_the_page(study, page):
    report = study / "report"
    starts = {"png": b"\x89PNG", "pdf": b"%PDF"}
    for name in FIGURES:
        assert all((report / "figures" / f"{name}.{kind}").read_bytes().startswith(s) for kind, s in starts.items())
    for name in TABLES:
        assert len(pd.read_csv(report / "tables" / f"{name}.csv")) > 0
        assert r"\toprule" in (report / "tables" / f"{name}.tex").read_text()
    assert page.names.count("img") == len(FIGURES)
    assert page.names.count("table") == len(TABLES)
    assert all(page.alternatives)


def test_nothing_is_loaded_and_every_link_leads_somewhere(study, page):
    assert f'content="{POLICY}"' in (study / "report" / "index.html").read_text()  # a browser refuses the rest
    assert not {"script", "iframe", "object", "embed", "form"} & set(page.names)
    for address in page.addresses:
        if address.startswith("#"):
            assert address[1:] in page.anchors
        elif not address.startswith("data:"):
            assert (study / "report" / address).is_file()


def test_names_from_results_are_text(page):
    assert f"{EVIL} reinit_factor=0.5" in page.text
    assert all(address != "x" for address in page.addresses)


def test_a_newcomer_is_told_what_was_run_what_came_of_it_and_how_numbers_are_defined(page):
    assert "2 methods, 4 variants, 3 seeds each, 4 tasks, 400 updates; finished." in page.text
    # a larger factor keeps more, but one of its three seeds diverged: as bad as the worst
    assert f"Best is {EVIL} reinit_factor=0.1 with 0.79" in page.text
    assert "worst is base with 0." in page.text
    assert "0.01, 0.1, 0.5" in page.text  # what was swept
    assert "95% percentile bootstrap" in page.text
    assert "python -m lopbench.analysis" in page.text
    assert "--tag=units/dead" in page.text


def test_a_diverged_replica_is_named_first(page):
    assert "seed 2 diverged: it was not finite after 207 updates" in page.text.partition("Final score")[0]


def test_tensorboard_shows_the_figures_and_only_the_latest(study):
    found = EventAccumulator(str(study / "report" / "tensorboard"))
    found.Reload()
    assert set(found.Tags()["images"]) == {f"report/{name}" for name in FIGURES}
    (image,) = found.Images("report/curves")
    assert image.encoded_image_string == (study / "report" / "figures" / "curves.png").read_bytes()
    assert image.width == 1200


def test_tensorboard_shows_the_mean_of_each_variant_over_all_runs(tmp_path):
    """Two runs of one variant, as a study has them that was given more seeds."""
    values = np.random.default_rng(0).normal(0.5, 0.1, (4, 6))
    runs = [
        Population(members("a <b>", 3), {ACCURACY: values[:, :3]}),
        Population(members("a <b>", range(3, 6)), {ACCURACY: values[:, 3:]}),
    ]
    write_report(make_study(tmp_path, *runs))
    found = EventAccumulator(str(tmp_path / "report" / "tensorboard" / "a__b_"))
    found.Reload()
    means = [event.value for event in found.Scalars(ACCURACY)]
    np.testing.assert_allclose(means, values.mean(axis=1), rtol=1e-6)
    assert [event.step for event in found.Scalars(ACCURACY)] == [STEPS, 2 * STEPS, 3 * STEPS, 4 * STEPS]
    lower, upper = ([event.value for event in found.Scalars(name)] for name in interval_tags(ACCURACY))
    assert all(low < mean < high for low, mean, high in zip(lower, means, upper, strict=True))
    assert "custom_scalars__config__" in found.Tags()["tensors"]


def test_a_second_report_is_the_same_and_replaces_the_first(tmp_path):
    index = write_report(small(tmp_path))
    first = index.read_bytes()
    assert write_report([str(tmp_path)]).read_bytes() == first
    events = [path.parent.name for path in (tmp_path / "report" / "tensorboard").rglob("events.out.tfevents.*")]
    assert sorted(events) == sorted({*events}) and len(events) == 2  # the figures, and the one variant


def test_a_study_in_progress_says_so_on_top(tmp_path):
    values = np.full((3, 3), 0.5)
    started, failed = Population(members("a", 3), {ACCURACY: values}, "interrupted"), members("b", 3)
    broken = Population(failed, {ACCURACY: values}, "failed", error=f"RuntimeError: {EVIL}")
    make_study(tmp_path, started, broken, Population(members("c", 3), {ACCURACY: values}, None))
    part = next((tmp_path / "populations" / "001" / "metrics").iterdir())
    part.write_bytes(part.read_bytes()[:-100])
    top = Page(write_report(tmp_path)).text.partition("Final score")[0]
    assert "of 3 runs 1 stopped, 1 failed, 1 not begun: this is what there is so far" in top.replace("(", "").replace(
        ")", ""
    )
    assert f"RuntimeError: {EVIL}" in top
    assert f"{part} is damaged" in top


def test_a_run_without_a_finished_task_has_a_page_that_says_so(tmp_path):
    make_run(tmp_path, Population(members("sgd", 3), {"online/loss": np.ones((1, 3))}, "interrupted"))
    page = Page(write_report(tmp_path))
    assert "No task has ended yet: there is nothing to draw" in page.text
    assert "What was run" in page.text
    assert "img" not in page.names


def test_published_numbers_are_drawn_where_the_study_names_a_shipped_file(tmp_path):
    small(tmp_path, rate=0.01)
    ledger = tmp_path / "study.json"
    told = {"files": ["permuted_mnist_online/sgd.gin"], "bindings": ["run.seeds = 3", "probe_size = 7"]}
    ledger.write_text(json.dumps(json.loads(ledger.read_text()) | told))
    index = write_report(tmp_path)
    with Image.open(index.parent / "figures" / "curves.png") as image:
        assert image.size[1] > 750  # the sources are cited below
    study = studies.read(tmp_path)
    ran = {str(tmp_path): provenance.of(tmp_path, [])}
    assert [(n.first, n.value) for n in _published(study, ran)["sgd"]] == [(0, 0.946), (799, 0.902)]
    assert _changed(ran.values()).endswith("published one: probe_size = 7.")


def test_a_study_of_which_nothing_is_there_has_a_page(tmp_path):
    assert "0 methods, 0 variants, 0 seeds each; nothing is planned." in Page(write_report(make_study(tmp_path))).text


def test_a_tag_that_some_variants_lack_is_drawn_of_the_others_and_one_task_has_no_first_and_last(tmp_path):
    values, reinitialized = np.full((1, 3), 0.5), "strategy/reinitialized_units"
    runs = [Population(members(f"m{i}", 3), {ACCURACY: values - i / 100}) for i in range(11)]
    runs.append(Population(members("m11", 3), {ACCURACY: values - 1, reinitialized: values}))
    page = Page(write_report(make_study(tmp_path, *runs), tags=[reinitialized]))
    assert f"None of the variants that are shown has {reinitialized}" in page.text  # m11 is the worst of 12
    assert "Is plasticity lost?" not in page.text


def test_several_workdirs_make_one_report_in_the_first_or_where_it_is_wanted(tmp_path):
    for name in ("a", "b"):
        small(tmp_path / name)
    index = write_report([tmp_path / "a", tmp_path / "b"], out=tmp_path / "both")
    assert index == tmp_path / "both" / "index.html"
    assert not (tmp_path / "a" / "report").exists()
    assert "sgd (a)" in Page(index).text
    assert "sgd (b)" in Page(index).text


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"tags": ["units/deed"]}, "no records of 'units/deed'"),
        ({"baseline": "sgt"}, "no variant 'sgt' to compare with. Did you mean sgd"),
        ({"over": "epoch"}, "over='epoch'"),
        ({"bins": 0}, "bins=0"),
        ({"statistic": "median"}, "statistic='median'"),
    ],
)
def test_a_mistake_is_one_message_and_nothing_is_written(tmp_path, asked, message):
    with pytest.raises(UserError, match=message):
        write_report(small(tmp_path), **asked)
    assert not (tmp_path / "report").exists()


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(UserError, match="neither a run nor a study"):
        write_report(tmp_path)


def test_the_command_writes_it(tmp_path):
    flags = [f"--out={tmp_path / 'out'}", "--statistic=iqm", "--over=step", "--bins=2"]
    command = [sys.executable, "-m", "lopbench.analysis", str(small(tmp_path / "study")), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"report:      {tmp_path / 'out' / 'index.html'}\n"
    assert "--over=step --bins=2 --statistic=iqm" in Page(tmp_path / "out" / "index.html").text


@pytest.mark.parametrize(("arguments", "told"), [((), "A report of what?"), (("nothing",), "nothing holds neither")])
def test_the_command_answers_a_mistake_in_a_line(capsys, arguments, told):
    assert main(["analysis", *arguments]) == 1
    answer = capsys.readouterr().err
    assert answer.startswith(told)
    assert answer.count("\n") == 1


def test_importing_the_analysis_and_asking_for_help_loads_nothing_heavy():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['x', '--help']\n"
        "try: runpy.run_module('lopbench.analysis', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'scipy', 'pyarrow'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--baseline" in done.stdout
