"""Generate the protobuf stubs of ``journal/rpc/pb`` from ``protos/``, or check the committed ones.

    python scripts/proto            # write journal/rpc/pb
    python scripts/proto --check    # exit 1, with a diff, where it is not what protoc makes
                                    # or where an element of a .proto has no comment

Only messages are generated, no ``*_pb2_grpc.py``: the methods are declared by
``journal/rpc/methods.py`` (which a test compares with the services here), so that server
and client choose for each method whether they want messages or bytes.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
import tempfile
from pathlib import Path

import grpc_tools  # type: ignore[import-untyped]
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
STUBS = ROOT / "journal" / "rpc" / "pb"

# protoc writes `import journal_pb2 as journal__pb2`, which only works from the stubs' own folder.
_LOCAL_IMPORT = re.compile(r"^import (\w+_pb2) as ", re.MULTILINE)

# FileDescriptorProto's field numbers, and those of messages, enums and services in turn: from them
# the compiler makes the path by which a comment names its element.
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6
_FIELDS, _NESTED, _NESTED_ENUMS = 2, 3, 4


def generate(target: Path) -> descriptor_pb2.FileDescriptorSet:
    """Write the stubs of every .proto to ``target`` and return their descriptors, with comments."""
    descriptors = target / "descriptors.bin"
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    arguments = [
        "protoc",
        f"-I{PROTOS}",
        f"-I{well_known}",
        f"--python_out={target}",
        f"--pyi_out={target}",
        f"--descriptor_set_out={descriptors}",
        "--include_source_info",
        *(path.name for path in sorted(PROTOS.glob("*.proto"))),
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc refused the .proto files: see above")
    for path in [*target.glob("*_pb2.py"), *target.glob("*_pb2.pyi")]:
        path.write_text(_LOCAL_IMPORT.sub(r"from journal.rpc.pb import \1 as ", path.read_text()))
    parsed = descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes())
    descriptors.unlink()
    return parsed


def uncommented(descriptors: descriptor_pb2.FileDescriptorSet) -> list[str]:
    """Return the names of the elements that have no comment in front of them."""
    missing = []
    for file in descriptors.file:
        comments = {
            tuple(location.path): location.leading_comments for location in file.source_code_info.location
        }
        for name, path in _elements(file):
            if not comments.get(path, "").strip():
                missing.append(f"{file.name}: {name}")
    return missing


def _elements(file: descriptor_pb2.FileDescriptorProto) -> list[tuple[str, tuple[int, ...]]]:
    """Return (name, path) of every message, field, enum, value and RPC of a file."""
    found: list[tuple[str, tuple[int, ...]]] = []

    def message(kind: descriptor_pb2.DescriptorProto, name: str, path: tuple[int, ...]) -> None:
        if kind.options.map_entry:
            return
        found.append((name, path))
        found.extend(
            (f"{name}.{field.name}", (*path, _FIELDS, index)) for index, field in enumerate(kind.field)
        )
        for index, nested in enumerate(kind.nested_type):
            message(nested, f"{name}.{nested.name}", (*path, _NESTED, index))
        for index, nested_enum in enumerate(kind.enum_type):
            enum(nested_enum, f"{name}.{nested_enum.name}", (*path, _NESTED_ENUMS, index))

    def enum(kind: descriptor_pb2.EnumDescriptorProto, name: str, path: tuple[int, ...]) -> None:
        found.append((name, path))
        found.extend((f"{name}.{value.name}", (*path, 2, index)) for index, value in enumerate(kind.value))

    for index, kind in enumerate(file.message_type):
        message(kind, kind.name, (_MESSAGES, index))
    for index, enum_kind in enumerate(file.enum_type):
        enum(enum_kind, enum_kind.name, (_ENUMS, index))
    for index, service in enumerate(file.service):
        found.extend(
            (f"{service.name}.{method.name}", (_SERVICES, index, 2, number))
            for number, method in enumerate(service.method)
        )
    return found


def differences(fresh: Path, committed: Path) -> list[str]:
    """Return a diff of the stubs in two folders, empty where they are equal."""
    names = sorted({path.name for folder in (fresh, committed) for path in folder.glob("*_pb2.py*")})
    lines: list[str] = []
    for name in names:
        before, after = (
            (folder / name).read_text().splitlines(keepends=True) if (folder / name).exists() else []
            for folder in (committed, fresh)
        )
        lines += difflib.unified_diff(before, after, f"committed/{name}", f"generated/{name}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate or check the protobuf stubs.")
    parser.add_argument("--check", action="store_true", help="only compare with the committed stubs")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        missing = uncommented(generate(fresh))
        if missing:
            print("these have no comment:", *missing, sep="\n  ", file=sys.stderr)
            return 1
        if check:
            lines = differences(fresh, STUBS)
            sys.stderr.writelines(lines)
            if lines:
                print(
                    "the committed stubs are not what protoc makes of protos/: run `make proto`",
                    file=sys.stderr,
                )
            return 1 if lines else 0
        for stale in STUBS.glob("*_pb2.py*"):
            stale.unlink()
        for path in sorted(fresh.glob("*_pb2.py*")):
            (STUBS / path.name).write_text(path.read_text())
            print(f"wrote {(STUBS / path.name).relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
