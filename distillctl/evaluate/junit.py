"""The requirements of an evaluation as JUnit XML, which CI systems display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from distillctl.evaluate.requirements import Outcome
from distillctl.files.outputs import written


def write_junit(
    path: Path, name: str, outcomes: Sequence[Outcome], values: Mapping[str, float | None]
) -> None:
    """Write one test case per requirement, with `values` as properties of the suite."""
    failures = [outcome for outcome in outcomes if not outcome.met]
    counts = {"tests": str(len(outcomes)), "failures": str(len(failures)), "errors": "0"}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": name, **counts})
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in values.items():
        if value is not None:
            ElementTree.SubElement(properties, "property", {"name": key, "value": f"{value:.6g}"})
    for outcome in outcomes:
        case = ElementTree.SubElement(suite, "testcase", {"classname": name, "name": outcome.expression})
        if not outcome.met:
            ElementTree.SubElement(case, "failure", {"message": outcome.reason})
    ElementTree.indent(root)
    with written(path, "--junit") as file:
        file.write(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")
