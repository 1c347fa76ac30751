"""A bill of materials in CycloneDX 1.5 JSON, from a root file system: Debian packages as dpkg lists them, Python
packages from their metadata. In: the root directory. Out: JSON as bytes, the same for the same root. Reads only.
"""

from __future__ import annotations

import email.parser
import json
from pathlib import Path


def debian(root: Path) -> list[dict[str, object]]:
    """Installed packages of `var/lib/dpkg/status`."""
    status = root / "var/lib/dpkg/status"
    out: list[dict[str, object]] = []
    for block in status.read_text().split("\n\n") if status.exists() else ():
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(" "))
        if fields.get("Status", "").endswith(" installed"):
            name, version = fields["Package"], fields["Version"]
            out.append(
                {
                    "type": "library",
                    "name": name,
                    "version": version,
                    "purl": f"pkg:deb/debian/{name}@{version}?arch={fields.get('Architecture', '')}",
                }
            )
    return sorted(out, key=lambda c: str(c["name"]))


def python(packages: Path) -> list[dict[str, object]]:
    """Every `*.dist-info` of a directory of installed packages."""
    out: list[dict[str, object]] = []
    for metadata in sorted(packages.glob("*.dist-info/METADATA")):
        fields = email.parser.HeaderParser().parsestr(metadata.read_text())
        name, version = str(fields["Name"]), str(fields["Version"])
        component: dict[str, object] = {
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name.lower().replace('_', '-')}@{version}",
        }
        licence = fields["License-Expression"] or fields["License"]
        if licence and "\n" not in licence and len(licence) < 80:
            component["licenses"] = [{"license": {"name": str(licence)}}]
        out.append(component)
    return out


def document(name: str, version: str, created: str, components: list[dict[str, object]]) -> bytes:
    body: dict[str, object] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"timestamp": created, "component": {"type": "container", "name": name, "version": version}},
        "components": components,
    }
    return json.dumps(body, indent=1, sort_keys=True).encode() + b"\n"
