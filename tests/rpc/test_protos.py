"""The protos, the stubs and the table of methods belong together."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf import descriptor_pb2

from journal.rpc import methods
from journal.rpc.pb import admin_pb2, journal_pb2, paxos_pb2

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_of_methods_is_what_the_services_say() -> None:
    declared = {
        (
            service.full_name,
            method.name,
            method.input_type.full_name,
            method.output_type.full_name,
            method.client_streaming,
            method.server_streaming,
        )
        for module in (journal_pb2, admin_pb2, paxos_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    table = {
        (
            method.service,
            method.name,
            method.request.DESCRIPTOR.full_name,
            method.reply.DESCRIPTOR.full_name,
            method.client_streams,
            method.server_streams,
        )
        for method in methods.ALL
    }
    assert table == declared
    assert len({method.path for method in methods.ALL}) == len(methods.ALL)


@pytest.fixture(scope="module")
def proto() -> ModuleType:
    spec = importlib.util.spec_from_file_location("proto_script", ROOT / "scripts" / "proto" / "__main__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_stubs_are_those_of_the_protos(proto: ModuleType, tmp_path: Path) -> None:
    descriptors = proto.generate(tmp_path)
    assert proto.uncommented(descriptors) == []
    assert proto.differences(tmp_path, ROOT / "journal" / "rpc" / "pb") == []


def test_the_check_sees_a_changed_a_missing_and_a_left_over_stub(proto: ModuleType, tmp_path: Path) -> None:
    fresh, committed = tmp_path / "fresh", tmp_path / "committed"
    fresh.mkdir()
    proto.generate(fresh)
    shutil.copytree(fresh, committed)
    assert proto.differences(fresh, committed) == []
    stub = committed / "paxos_pb2.pyi"
    stub.write_text(stub.read_text() + "# edited by hand\n")
    assert any("edited by hand" in line for line in proto.differences(fresh, committed))
    stub.unlink()
    assert proto.differences(fresh, committed)
    shutil.copy(fresh / "paxos_pb2.pyi", stub)
    (committed / "old_pb2.py").write_text("left over\n")
    assert any("left over" in line for line in proto.differences(fresh, committed))


def test_the_check_sees_what_has_no_comment(proto: ModuleType) -> None:
    file = descriptor_pb2.FileDescriptorProto(name="x.proto")
    message = file.message_type.add(name="M")
    message.field.add(name="commented")
    message.field.add(name="bare")
    message.enum_type.add(name="E").value.add(name="BARE_VALUE")
    service = file.service.add(name="S")
    service.method.add(name="BareMethod")
    for path in ((4, 0), (4, 0, 2, 0), (4, 0, 4, 0)):
        file.source_code_info.location.add(path=path, leading_comments=" said ")
    missing = proto.uncommented(descriptor_pb2.FileDescriptorSet(file=[file]))
    assert missing == ["x.proto: M.bare", "x.proto: M.E.BARE_VALUE", "x.proto: S.BareMethod"]
