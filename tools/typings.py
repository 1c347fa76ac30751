"""Type stubs for the protobuf classes that `meltem.envoyapi` and others import, written to `build/typings`.

`xds-protos` ships no stubs; protoc (grpcio-tools) writes them from the descriptors that the wheel's own modules carry.

    python tools/typings.py
"""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor

ROOT = Path(__file__).resolve().parent.parent
IMPORT = re.compile(r"^from ((?:envoy|xds|udpa|validate|google\.rpc|cel)[\w.]*) import \(?\s*(\w+_pb2)", re.MULTILINE)


def main() -> int:
    source = (ROOT / "src/meltem/envoyapi.py").read_text()
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    for package, module in IMPORT.findall(source):
        collect(importlib.import_module(f"{package}.{module}").DESCRIPTOR, files)
    target = ROOT / "build/typings"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with tempfile.NamedTemporaryFile(suffix=".pb") as bundle:
        bundle.write(descriptor_pb2.FileDescriptorSet(file=files.values()).SerializeToString())
        bundle.flush()
        wanted = [n for n in files if not n.startswith("google/protobuf/")]
        command = [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--descriptor_set_in={bundle.name}",
            f"--pyi_out={target}",
        ]
        subprocess.run([*command, *wanted], check=True)
    # `google` stays whole with the stubs of types-protobuf: a partial package here would hide them.
    shutil.rmtree(target / "google", ignore_errors=True)
    for folder in {p.parent for p in target.rglob("*.pyi")}:
        for one in (folder, *folder.relative_to(target).parents):
            (target / one / "__init__.pyi").touch()
    (target / "__init__.pyi").unlink(missing_ok=True)
    return 0


def collect(file: FileDescriptor, into: dict[str, descriptor_pb2.FileDescriptorProto]) -> None:
    """The file and all that it imports, imports first (protoc wants that order)."""
    if file.name in into:
        return
    for dependency in file.dependencies:
        collect(dependency, into)
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    into[file.name] = proto


if __name__ == "__main__":
    sys.exit(main())
