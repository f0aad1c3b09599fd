"""Audit an environment's packages: known vulnerabilities, and a list of licenses.

Run with an interpreter that has pip-audit and pip-licenses; takes the interpreter to be audited.
Fails on a known vulnerability and on a copyleft license.
Packages that the advisory service does not know are printed; they and a service that cannot be
reached are no failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

COPYLEFT = "GPL;SSPL;Affero;GNU General Public"

UNREACHABLE = ("ConnectionError", "ProxyError", "Max retries exceeded", "Timeout", "timed out")


def advisories(document: dict[str, Any]) -> tuple[list[str], bool]:
    """Return what pip-audit's JSON says in lines, and whether nothing vulnerable is installed."""
    packages = document["dependencies"]
    unknown = [p["name"] for p in packages if "skip_reason" in p]
    found = [
        f"{p['name']} {p['version']}: {v['id']}, fixed in {', '.join(v['fix_versions']) or 'none'}"
        for p in packages
        for v in p.get("vulns", ())
    ]
    told = [f"{len(packages) - len(unknown)} of {len(packages)} packages were audited"]
    if unknown:
        told.append(f"the advisory service knows nothing of: {', '.join(unknown)}")
    return [*told, *found], not found


def is_unreachable(said: str) -> bool:
    """Tell from what pip-audit said last whether it had no network."""
    last = said.strip().splitlines()[-1:]
    return any(word in line for line in last for word in UNREACHABLE)


def main(interpreter: str) -> int:
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([interpreter, "-c", ask], capture_output=True, text=True, check=True)
    audit = [sys.executable, "-m", "pip_audit", "--path", site.stdout.strip(), "--format", "json"]
    done = subprocess.run([*audit, "--progress-spinner", "off"], capture_output=True, text=True)
    if not done.stdout.strip() and not is_unreachable(done.stderr):
        print(f"pip-audit could not run: {done.stderr.strip()[-300:]}")
        return 1
    lines, safe = ["NOT AUDITED: the advisory service cannot be reached from here"], True
    if done.stdout.strip():
        lines, safe = advisories(json.loads(done.stdout))
    print("\n".join(lines), flush=True)
    licenses = [sys.executable, "-m", "piplicenses", "--python", interpreter, "--from", "mixed"]
    refused = ["--order", "license", "--partial-match", "--fail-on", COPYLEFT]
    listed = subprocess.run([*licenses, *refused], check=False)
    return 0 if safe and listed.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
