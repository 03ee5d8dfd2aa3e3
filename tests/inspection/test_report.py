"""The HTML report without a browser: what is in it, and that nothing in it can act."""

import base64
import hashlib
import html.parser
import json
import re

import pytest

from distillctl import __version__
from distillctl.errors import ConfigError
from distillctl.inspection.charts import RunCurves, charts
from distillctl.inspection.report import report_data, report_page, write_report
from distillctl.inspection.report_samples import MAX_SAMPLES, MAX_TOKENS
from distillctl.inspection.series import Series
from distillctl.run.sample_files import load_samples

HOSTILE = "</script><script>alert(1)</script><!-- @plotly@ @script@"


class Parser(html.parser.HTMLParser):
    """The elements of a page, with the text of its scripts."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.scripts, self._in_script = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")
            self._in_script = True

    def handle_endtag(self, tag):
        self._in_script = self._in_script and tag != "script"

    def handle_data(self, text):
        if self._in_script:
            self.scripts[-1] += text


@pytest.fixture
def run(tmp_path, make_run, make_row):
    run = make_run(tmp_path / "tiny" / "0001").write(
        2500, accuracies=[0.3, None, 0.5], warning=HOSTILE, overrides=["optim.lr=0.5"]
    )
    run.save("eval", 0, [make_row(n, correct=False, prompt=HOSTILE) for n in range(30)])
    run.save("eval", 20, [make_row(n, text=HOSTILE) for n in range(30)])
    run.save("samples", 1, [make_row(n, prefix="train") for n in range(600)])
    return run.dir


def test_long_samples_are_limited_by_their_tokens(tmp_path, make_run, make_row):
    run = make_run(tmp_path / "long").write(1)
    run.save("samples", 1, [make_row(n, tokens=1500) for n in range(60)])
    samples = report_data([run.dir])["samples"]
    lengths = [len(entry["after"]["t"]) for group in samples["groups"] for entry in group["samples"]]
    assert MAX_TOKENS - 1500 < sum(lengths) <= MAX_TOKENS
    assert samples["left_out"] == 60 - len(lengths)


def test_the_page_is_one_file_of_three_scripts_that_loads_nothing(run):
    page = Parser(report_page([run]))
    assert [a.get("type", "code") for tag, a in page.elements if tag == "script"] == [
        "application/json", "text/plain", "code",
    ]  # fmt: skip
    assert not [a for _, a in page.elements if "src" in a or ("href" in a and not a["href"].startswith("#"))]
    assert not [tag for tag, _ in page.elements if tag in ("link", "iframe", "img", "object")]


def test_only_its_own_scripts_may_run(run):
    page = Parser(report_page([run]))
    (policy,) = [a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a]
    hashes = set(re.findall("'sha256-([^']+)'", policy))
    code = page.scripts[1:]
    assert hashes == {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in code}
    assert policy.startswith("default-src 'none'")
    assert "connect-src" not in policy


def test_what_models_wrote_is_data_and_nothing_else(run):
    data = json.loads(Parser(report_page([run])).scripts[0])
    validation = data["samples"]["groups"][0]["samples"]
    assert validation[0]["after"]["text"] == HOSTILE
    assert validation[0]["prompt"] == "Question 0?"
    assert data["runs"][0]["warnings"][0]["message"] == HOSTILE


def test_every_metric_has_a_chart_and_long_runs_are_thinned(run):
    charts = {chart["title"]: chart for chart in report_data([run])["charts"]}
    in_charts = {name for chart in charts.values() for name in chart["metrics"]}
    assert {
        "kl/reverse",
        "kl/forward",
        "actor/entropy",
        "val/acc",
        "odd/one",
        "timing_s/rollout",
    } <= in_charts
    (reverse, forward) = charts["KL between student and teacher"]["figure"]["data"]
    assert (reverse["name"], forward["name"]) == ("kl/reverse", "kl/forward")
    assert len(reverse["x"]) == len(reverse["y"]) == 1000
    assert reverse["x"][-1] == 2500
    band, line = charts["Accuracy on the validation prompts, 95 % interval"]["figure"]["data"]
    assert (line["x"], line["y"]) == ([0, 20], [0.3, 0.5])
    assert band["y"] == pytest.approx([0.3668, 0.5686, 0.4314, 0.2407], abs=1e-4)  # Wilson, 200 prompts
    assert len(charts["Phases of a step"]["figure"]["data"]) == 4


def test_the_page_says_when_curves_are_thinned(run, make_run, tmp_path):
    assert report_data([run])["thinned"].startswith("A curve has at most 1000 points. ")
    assert report_data([make_run(tmp_path / "short").write(30).dir])["thinned"] == ""


def test_of_many_evaluations_one_in_so_many_is_drawn():
    series = Series()
    for step in range(2501):
        metrics = {"val/acc": 0.5, "val/kl": float(step)}
        series.apply({"kind": "eval", "step": step, "metrics": metrics, "num": 10})
    accuracy, kl = (chart.figure for chart in charts([RunCurves("a", series)]))
    assert list(kl.data[0].x) == list(kl.data[0].y) == list(range(1, 2501, 3))
    assert (list(accuracy.data[1].x), len(accuracy.data[0].x)) == (list(range(1, 2501, 3)), 2 * 834)


def test_samples_are_limited_and_what_is_left_out_is_said(run):
    samples = report_data([run])["samples"]
    kept = [entry for group in samples["groups"] for entry in group["samples"]]
    assert sum(1 + (entry["before"] is not None) for entry in kept) == MAX_SAMPLES
    assert [group["name"] for group in samples["groups"]] == [
        "validation, before and after",
        "rollouts of step 1",
    ]
    assert samples["left_out"] > 0
    first = kept[0]["after"]
    row = load_samples(run.eval_dir / "step_000020.parquet")[0]
    assert [samples["texts"][i] for i in first["t"]] == row["pieces"]
    assert all(len(top) % 2 == 0 and sum(top[1::2]) <= 1003 for top in first["st"])


def test_changed_keys_are_marked(run):
    (entry,) = [e for e in report_data([run])["runs"][0]["config"] if e["key"] == "optim.lr"]
    assert entry == {"key": "optim.lr", "value": "0.5", "default": False}
    (entry,) = [e for e in report_data([run])["runs"][0]["config"] if e["key"] == "optim.betas"]
    assert json.loads(entry["value"])


def test_several_runs_are_drawn_together(run, tmp_path, make_run):
    other = make_run(tmp_path / "tiny" / "0002").write(10, accuracies=[0.4]).dir
    data = report_data([run, other])
    (chart,) = [c for c in data["charts"] if c["title"] == "KL between student and teacher"]
    names = [curve["name"] for curve in chart["figure"]["data"]]
    assert names == [
        "tiny/0001 kl/reverse",
        "tiny/0001 kl/forward",
        "tiny/0002 kl/reverse",
        "tiny/0002 kl/forward",
    ]
    assert data["differences"]["optim.lr"][0] == 0.5
    assert data["runs"][1]["accuracy"]["acc"] == 0.4


def test_a_run_without_anything_has_a_page(tmp_path, make_run):
    run = make_run(tmp_path / "new")
    run.dir.events_path.touch()
    data = json.loads(Parser(report_page([run.dir])).scripts[0])
    assert (data["charts"], data["samples"]["groups"], data["runs"][0]["state"]) == ([], [], "new")


def test_the_file_goes_into_the_run_or_where_it_is_asked_for(run, tmp_path):
    found = write_report([run.path], None)
    assert found["report"] == str(run.path / "report.html")
    assert found["bytes"] == (run.path / "report.html").stat().st_size
    target = tmp_path / "new" / "mine.html"
    assert write_report([run.path], target)["report"] == str(target)
    assert target.read_text().startswith("<!doctype html>")


def test_an_older_report_is_replaced_and_another_page_is_not(run, tmp_path):
    target = tmp_path / "mine.html"
    write_report([run.path], target)
    line = f'<meta name="generator" content="distillctl {__version__}">\n'
    page = target.read_text()
    assert line in page
    target.write_text(page.replace(line, "")[:5000] + " of version 0.1, which had no such line")
    write_report([run.path], target)
    assert target.read_text() == page
    for other in ("precious", "", "<!doctype html>\n<title>mine</title>"):
        target.write_text(other)
        with pytest.raises(ConfigError, match="already exists and is not a report"):
            write_report([run.path], target)
        assert target.read_text() == other


def test_no_page_is_written_through_a_link(run, tmp_path):
    (run.path / "report.html").symlink_to(tmp_path / "target")
    with pytest.raises(ConfigError, match=r"report\.html: is a link"):
        write_report([run.path], None)
    assert not (tmp_path / "target").exists()


def test_a_folder_gets_a_file_of_the_usual_name(run, tmp_path, distillctl):
    code, out, _ = distillctl("inspect", "report", run.path, "-o", f"{tmp_path}/new/")
    assert (code, out) == (0, f"{tmp_path}/new/report.html\n")
    assert (tmp_path / "new" / "report.html").is_file()
