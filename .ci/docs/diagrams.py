"""Draw docs/diagrams/*.mmd as SVG beside their sources: `python .ci/docs/diagrams.py`.

The site and GitHub show the SVG as an image, so no page needs Mermaid's script. Needs chromium and npx, which
fetches Mermaid's own command line. Each SVG names the SHA-256 of the source that it was drawn from.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "diagrams"
MERMAID = "@mermaid-js/mermaid-cli@11.17.0"
_LIGHT = {"page": "#ffffff", "box": "#e8eefb", "edge": "#4361a8", "text": "#1b1f27", "line": "#5b6472"}
_DARK = {"page": "#1b1e26", "box": "#2a3350", "edge": "#8fa9ea", "text": "#e8eaf0", "line": "#a9b1c0"}
_CONFIG = {
    "theme": "base",
    "htmlLabels": False,  # an SVG in an <img> shows no HTML
    "flowchart": {
        "htmlLabels": False,
        "nodeSpacing": 16,
        "rankSpacing": 36,
        "padding": 10,
        "wrappingWidth": 320,
    },
    "themeVariables": {"fontFamily": "system-ui, -apple-system, 'Segoe UI', sans-serif", "fontSize": "15px"},
}
_BROWSER = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip


def source_hash(source: Path) -> str:
    """The SHA-256 of a diagram's source, which its SVG repeats."""
    return hashlib.sha256(source.read_bytes()).hexdigest()


def draw(source: Path) -> None:
    """Write the SVG of a diagram beside its source."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("no chromium here: make browser installs it")
    with tempfile.TemporaryDirectory() as folder:
        config, browser, drawn = (Path(folder) / name for name in ("config.json", "browser.json", "out.svg"))
        config.write_text(json.dumps(_CONFIG))
        browser.write_text(json.dumps({"executablePath": chromium, "args": _BROWSER}))
        command = f"npx --yes --package {MERMAID} mmdc --quiet --backgroundColor transparent".split()
        command += ["--configFile", str(config), "--puppeteerConfigFile", str(browser)]
        command += ["--svgId", source.stem, "--input", str(source), "--output", str(drawn)]
        subprocess.run(command, env={**os.environ, "PUPPETEER_SKIP_DOWNLOAD": "1"}, check=True)
        svg = drawn.read_text()
    source.with_suffix(".svg").write_text(_finished(svg, source))


def _finished(svg: str, source: Path) -> str:
    """Of its own size, in the reader's light or dark colours, with the hash of its source."""
    box = re.search(r'viewBox="\S+ \S+ ([0-9.]+) ([0-9.]+)"', svg)
    assert box is not None
    size = f'width="{float(box[1]):.0f}" height="{float(box[2]):.0f}"'
    svg = re.sub(r'width="100%"', size, svg, count=1)
    svg = re.sub(r' style="max-width:[^"]*"', "", svg, count=1)
    dark = f"@media (prefers-color-scheme: dark) {{{_colours(source.stem, _DARK)}}}"
    style = f"<style>{_colours(source.stem, _LIGHT)}{dark}</style></svg>"
    svg = re.sub(r"</svg>\s*$", lambda _: style, svg)
    origin = f"Drawn by .ci/docs/diagrams.py from {source.name}, SHA-256 {source_hash(source)}"
    return f"<!-- {origin} -->\n{svg}\n"


def _colours(name: str, colours: dict[str, str]) -> str:
    """Rules that outweigh Mermaid's own."""
    page, box, edge, text, line = colours.values()
    rules = {
        "": f"background: {page}",
        " .node rect, #{0} .node path": f"fill: {box}; stroke: {edge}",
        " text, #{0} tspan": f"fill: {text}",
        " .edgeLabel rect, #{0} rect.background": f"fill: {page}; opacity: 1",
        " .flowchart-link": f"stroke: {line}",
        " .marker, #{0} .marker path": f"fill: {line}; stroke: {line}",
    }
    return "".join(
        f"#{name}{selector.format(name)} {{{rule.replace(';', ' !important;')} !important}}\n"
        for selector, rule in rules.items()
    )


if __name__ == "__main__":
    for diagram in sorted(FOLDER.glob("*.mmd")):
        draw(diagram)
