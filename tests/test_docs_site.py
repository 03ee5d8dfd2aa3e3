"""The documentation site: its nav, its diagrams, and the check of what was built."""

import re
import tomllib
from pathlib import Path

import pytest
from check_site import nav_problems, problems
from diagrams import FOLDER, source_hash

ROOT = Path(__file__).parent.parent
PAGE = '<link rel="stylesheet" href="style.css"><h2 id="top">x</h2><a href="page.html#top">x</a>'


@pytest.fixture
def site(tmp_path):
    """A site with nothing wrong."""
    (tmp_path / "style.css").write_text("body { background: url(data:image/png;base64,AAAA) }")
    (tmp_path / "page.html").write_text(PAGE)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "page.html").write_text('<img src="../style.css"><a href="../page.html#top">x</a>')
    return tmp_path


def test_every_page_is_in_the_nav_once():
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    assert list(nav_problems(nav, ROOT / "docs")) == []


def test_what_is_wrong_with_a_nav_is_said(tmp_path):
    (tmp_path / "left_out.md").touch()
    (tmp_path / "twice.md").touch()
    nav = [{"A": "gone.md"}, {"B": [{"C": "twice.md"}, {"D": "twice.md"}]}]
    assert list(nav_problems(nav, tmp_path)) == [
        "left_out.md: is not in the nav of zensical.toml",
        "gone.md: is in the nav of zensical.toml, but docs/ has no such page",
        "twice.md: is in the nav of zensical.toml, twice",
    ]


def test_a_whole_site_has_no_problems(site):
    assert list(problems(site)) == []


@pytest.mark.parametrize(
    ("html", "problem"),
    [
        ('<img src="no.png">', "page.html: loads no.png, which is not there"),
        ('<script src="https://a.com/x.js">', "page.html: loads https://a.com/x.js from another host"),
        ('<link rel="stylesheet" href="//a.com/x">', "page.html: loads //a.com/x from another host"),
        ("<style>@import 'https://a.com/x'</style>", "page.html: loads https://a.com/x from another host"),
        ('<p style="background: url(no.png)">', "page.html: loads no.png, which is not there"),
        ('<a href="no.html">x</a>', "page.html: links to no.html, which is not there"),
        (
            '<a href="deep/page.html#no">x</a>',
            "page.html: links to deep/page.html#no, which has no such heading",
        ),
        ('<a href="#no">x</a>', "page.html: links to #no, which has no such heading"),
        ('<a href="https://a.com/">x</a><link rel="canonical" href="https://a.com/">', None),
    ],
)
def test_what_is_wrong_with_a_page_is_said(site, html, problem):
    (site / "page.html").write_text(PAGE + html)
    assert list(problems(site)) == ([problem] if problem else [])


def test_what_a_style_sheet_loads_is_looked_at(site):
    (site / "style.css").write_text("@font-face { src: url('https://a.com/x.woff2') }")
    assert list(problems(site)) == ["style.css: loads https://a.com/x.woff2 from another host"]


@pytest.mark.parametrize("source", sorted(FOLDER.glob("*.mmd")), ids=lambda path: path.stem)
def test_a_diagram_is_drawn_from_its_source(source):
    current = f"SHA-256 {source_hash(source)} " in source.with_suffix(".svg").read_text()
    assert current, "run: python .ci/docs/diagrams.py"


def anchors(page):
    """Addresses of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_link_of_the_readme_leads_somewhere():
    links = re.findall(r"\]\((?!https:)([^)#]+)#?([^)]*)\)", (ROOT / "README.md").read_text())
    assert len(links) > 10
    assert [path for path, _ in links if not (ROOT / path).is_file()] == []
    assert [link for link in links if link[1] and link[1] not in anchors(ROOT / link[0])] == []


def test_every_file_that_the_docs_name_is_there():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    named = {
        (page.name, name)
        for page in pages
        for name in re.findall(r"`([\w/]+/\w+\.(?:py|md))\b", page.read_text())
    }
    folders = (ROOT, ROOT / "distillctl", ROOT / "tests")
    elsewhere = {"data_preprocess/gsm8k.py", "data_preprocess/jsonl_preprocess.py"}
    elsewhere |= {"trl/trainer/distillation_trainer.py", "nemo_rl/algorithms/distillation.py"}
    missing = [name for name in sorted(named) if not any((folder / name[1]).is_file() for folder in folders)]
    assert len(named) > 50
    assert [name for name in missing if name[1] not in elsewhere] == []


def test_every_test_that_the_docs_name_is_there():
    named = {
        name
        for page in (ROOT / "docs").rglob("*.md")
        for name in re.findall(r"::(test_\w+)", page.read_text())
    }
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"^(?:async )?def (test_\w+)", tests, flags=re.M))
    assert len(named) > 50
    assert named <= defined
