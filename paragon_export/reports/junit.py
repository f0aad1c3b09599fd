"""Write a parity report as JUnit XML, which CI servers read."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from paragon_export.parity.report import ParityReport, ParityRow

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 forbids."""


def junit(report: ParityReport) -> str:
    """Return the report as JUnit XML: one test case for each row, named after output and probe."""
    failures = sum(bool(row.failure) for row in report.rows)
    suite = ElementTree.Element(
        "testsuite",
        name="paragon-export parity",
        tests=str(len(report.rows)),
        failures=str(failures),
        errors="0",
    )
    for row in report.rows:
        name = f"{row.output} {row.picture} {row.size} batch {row.batch}"
        case = ElementTree.SubElement(suite, "testcase", classname=row.candidate, name=name)
        figures = _figures(row)
        if row.failure:
            failure = ElementTree.SubElement(case, "failure", message=f"{row.failure}: {figures}")
            failure.text = "\n".join([figures, *_findings(report, row)])
        else:
            ElementTree.SubElement(case, "system-out").text = figures
    root = ElementTree.Element("testsuites", tests=suite.get("tests", ""), failures=str(failures))
    root.append(suite)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
    return NOT_XML.sub("?", text)


def _findings(report: ParityReport, row: ParityRow) -> list[str]:
    of_row = (f for f in report.findings if (f.candidate, f.output) == (row.candidate, row.output))
    return [f"looks like: {finding}" for finding in of_row]


def _figures(row: ParityRow) -> str:
    return (
        f"max error {row.found.max_abs:.3g} (border {row.found.border_max_abs:.3g}), "
        f"limit {row.limit:.3g}, PSNR {row.found.psnr_db:.2f} dB, "
        f"PyTorch {row.precision.value} errs {row.reference_max_abs:.3g}"
    )
