"""Check a built site: `python .ci/docs/check_site.py site`. Exit 1 names everything that is wrong.

The builder warns of broken links between pages. This finds what it lets pass: images, scripts and styles that
are missing or come from another host, links and anchors that lead nowhere, and pages that are not in the nav.
Needs nothing but Python.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[2]
_RESOURCES = {"img": "src", "script": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src",
              "embed": "src", "object": "data", "image": "href", "use": "href"}  # fmt: skip
_IGNORED_LINKS = {"next", "prev", "canonical", "alternate"}
"""Kinds of <link> that load nothing."""
_CSS_URL = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])([^"')]+)""")


class Page(HTMLParser):
    """What one page loads, links to, and can be linked at."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.resources: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = {""}
        self._in_style = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note ids, links and resources of one tag."""
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}
        self._in_style = tag == "style"
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag == "link" and not _IGNORED_LINKS & set(found.get("rel", "").split()):
            self.resources.append(found.get("href", ""))
        elif _RESOURCES.get(tag) in found:
            self.resources.append(found[_RESOURCES[tag]])
        self.resources += css_urls(found.get("style", ""))

    def handle_data(self, data: str) -> None:
        """Note what a <style> loads."""
        if self._in_style:
            self.resources += css_urls(data)


def css_urls(css: str) -> list[str]:
    """Addresses that a style sheet loads; data: URLs hold what they name."""
    return [url for url in _CSS_URL.findall(css) if not url.startswith(("data:", "#"))]


def problems(site: Path) -> Iterator[str]:
    """A line for everything that is wrong with the pages and style sheets of a built site."""
    pages = {file.resolve(): Page(file.read_text()) for file in sorted(site.rglob("*.html"))}
    if not pages:
        yield f"{site} has no pages"
    for file, page in pages.items():
        if file.name == "404.html":  # shown at any depth, so its addresses are those of the server's root
            continue
        for address in page.resources:
            yield from _missing(file, address, "loads")
        for address in page.links:
            if urlsplit(address).scheme or address.startswith("//"):
                continue
            yield from _missing(file, address, "links to")
            target = _target(file, address)
            if target in pages and unquote(urlsplit(address).fragment) not in pages[target].anchors:
                yield f"{file.name}: links to {address}, which has no such heading"
    for file in sorted(site.rglob("*.css")):
        for address in css_urls(file.read_text()):
            yield from _missing(file, address, "loads")


def _missing(file: Path, address: str, verb: str) -> Iterator[str]:
    parts = urlsplit(address)
    if parts.scheme == "data":
        return
    if parts.scheme or parts.netloc:
        yield f"{file.name}: {verb} {address} from another host"
    elif not _target(file, address).is_file():
        yield f"{file.name}: {verb} {address}, which is not there"


def _target(file: Path, address: str) -> Path:
    path = unquote(urlsplit(address).path)
    return (file.parent / path).resolve() if path else file


def nav_problems(nav: list[Any], docs: Path) -> Iterator[str]:
    """A line for every page that is missing from the nav, listed twice, or not there."""
    listed = list(_listed(nav))
    there = {str(file.relative_to(docs)) for file in docs.rglob("*.md")}
    for name in sorted(there - set(listed)):
        yield f"{name}: is not in the nav of zensical.toml"
    for name in sorted({name for name in listed if name not in there or listed.count(name) > 1}):
        where = "but docs/ has no such page" if name not in there else "twice"
        yield f"{name}: is in the nav of zensical.toml, {where}"


def _listed(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        for target in entry.values():
            yield from _listed(target) if isinstance(target, list) else [target]


if __name__ == "__main__":
    config = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    # Every page repeats the nav, so what is wrong with it is said once, first.
    found = list(nav_problems(config["nav"], ROOT / "docs")) or list(problems(Path(sys.argv[1])))
    for problem in found:
        print(problem, file=sys.stderr)
    sys.exit(1 if found else 0)
