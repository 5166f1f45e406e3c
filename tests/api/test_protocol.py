"""The protocol's other rules: the wire, ARNs, pages, texts with units."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from api import wire
from api.arns import Arns, Named
from api.definitions import cpu_units, memory_mib
from api.errors import ApiError, server, throttled
from api.pages import page
from api.settings import ApiSettings

ARNS = Arns("eu-west-3", "123456789012")
PREFIX = "arn:aws:ecs:eu-west-3:123456789012:"


def code_of(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(ApiError) as raised:
        call(*arguments)
    return raised.value.code


# -- the wire ---------------------------------------------------------------------------


def test_the_operation_is_in_the_target_header() -> None:
    assert wire.target("AmazonEC2ContainerServiceV20141113.RunTask") == "RunTask"
    for bad in (None, "", "RunTask", "Other.RunTask", "AmazonEC2ContainerServiceV20141113.", f"{'x' * 999}"):
        assert code_of(wire.target, bad) == "UnknownOperationException"


def test_a_body_is_one_json_object() -> None:
    assert wire.parameters(b"") == wire.parameters(b" {} ") == {}
    assert wire.parameters('{"a": "ä"}'.encode()) == {"a": "ä"}
    bad = [b"{", b"[]", b"7", b"\xff\xfe\xfd", b'{"a": NaN}', b"[" * 100_000, b'{"a":' + b"9" * 5000 + b"}"]
    for body in bad:
        assert code_of(wire.parameters, body) == "SerializationException", body[:20]


def test_the_region_is_that_of_the_credential_scope() -> None:
    signed = (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261121/ap-south-1/ecs/aws4_request, "
        "SignedHeaders=host;x-amz-date, Signature=00"
    )
    found = wire.credential(signed)
    assert found is not None
    assert (found.access_key, found.region, found.service) == ("AKIDEXAMPLE", "ap-south-1", "ecs")
    reordered = "AWS4-HMAC-SHA256 SignedHeaders=host, Credential=a/20261121/us-west-2/ecs/aws4_request"
    assert (wire.credential(reordered) or found).region == "us-west-2"
    for bad in ("", "Bearer x", "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA256 Credential=a/b/c", "A" * 10_000):
        assert wire.credential(bad) is None


def test_answers_hold_nothing_that_is_not_json() -> None:
    assert wire.dump({"a": "ä\ud800"}) == '{"a":"ä?"}'.encode()


def test_only_what_repeating_may_cure_is_repeated() -> None:
    assert server("x").status == 500
    assert throttled().status == 400
    assert throttled().code == "ThrottlingException"  # which clients repeat whatever its status


# -- ARNs -------------------------------------------------------------------------------


def test_all_forms_are_read() -> None:
    for given in ("abc", f"{PREFIX}task/abc", f"{PREFIX}task/prod/abc"):
        assert ARNS.read_task(given, "prod") == "abc"
    for given in ("abc", f"{PREFIX}container-instance/abc", f"{PREFIX}container-instance/prod/abc"):
        assert ARNS.read_instance(given, "prod") == "abc"
    for given in ("web", f"{PREFIX}service/web", f"{PREFIX}service/prod/web"):
        assert ARNS.read_service(given, "prod") == "web"
    for given, name in (
        ("web", "web"),
        ("web:3", "web:3"),
        (f"{PREFIX}task-definition/web:3", "web:3"),
        (f"{PREFIX}task-definition/web", "web"),
    ):
        assert ARNS.read_definition(given) == name
    assert ARNS.read_cluster(None) == ARNS.read_cluster("") == "default"
    assert ARNS.read_cluster(f"{PREFIX}cluster/prod") == ARNS.read_cluster("prod") == "prod"


def test_what_is_made_is_read_again() -> None:
    assert ARNS.read_any(ARNS.task("prod", "abc")) == Named("task", "prod", "abc")
    assert ARNS.read_any(ARNS.cluster("prod")) == Named("cluster", "", "prod")
    assert ARNS.read_any(ARNS.definition("web:3")) == Named("task-definition", "", "web:3")
    assert ARNS.read_any(f"{PREFIX}service/web") == Named("service", "", "web")


def test_an_arn_of_another_cluster_names_nothing_here() -> None:
    assert ARNS.read_task(f"{PREFIX}task/test/abc", "prod") is None


@pytest.mark.parametrize(
    "given",
    [
        "",
        "a/b",
        "a b",
        "x" * 256,
        "arn:aws:ecs",
        "arn:aws:s3:eu-west-3:123456789012:task/abc",
        "arn:aws:ecs:eu-west-3:999999999999:task/abc",
        f"{PREFIX}service/abc",
        f"{PREFIX}task/a/b/c",
        f"{PREFIX}task/",
        "\ud800",
    ],
)
def test_what_is_no_task_is_refused(given: str) -> None:
    assert code_of(ARNS.read_task, given, "prod") == "InvalidParameterException"


def test_what_is_no_definition_is_refused() -> None:
    for given in ("", "web:", "web:x", "web:-1", "a/b:1", f"{PREFIX}task/web:1"):
        assert code_of(ARNS.read_definition, given) == "InvalidParameterException"


# -- pages ------------------------------------------------------------------------------


def test_a_listing_is_cut_into_pages_that_hold_all_of_it_once() -> None:
    names = [f"{number:03d}" for number in range(250)]
    seen: list[str] = []
    token: str | None = None
    while True:
        wanted = page("ListX", {"maxResults": 40, "nextToken": token})
        found, token = wanted.cut((name for name in names if name > wanted.after), str)
        seen += found
        if token is None:
            break
    assert seen == names
    assert len(found) == 10


def test_a_page_goes_on_where_the_one_before_ended_whatever_came_and_went() -> None:
    names = ["a", "c", "e", "g"]
    found, token = page("ListX", {"maxResults": 2}).cut(iter(names), str)
    assert found == ["a", "c"]
    names = ["a", "b", "d", "g"]  # c and e went, b and d came
    wanted = page("ListX", {"maxResults": 2, "nextToken": token})
    assert wanted.cut((name for name in names if name > wanted.after), str) == (["d", "g"], None)


def test_a_token_of_another_listing_is_refused() -> None:
    token = page("ListX", {"maxResults": 1}).next(True, "a")
    assert page("ListX", {"nextToken": token}).after == "a"
    for operation, params in (
        ("ListY", {"nextToken": token}),
        ("ListX", {"nextToken": token, "family": "web"}),
        ("ListX", {"nextToken": "garbage"}),
        ("ListX", {"nextToken": ""}),
        ("ListX", {"nextToken": "ä"}),
        ("ListX", {"maxResults": 0}),
        ("ListX", {"maxResults": 101}),
    ):
        assert code_of(page, operation, params) == "InvalidParameterException", params


# -- texts with units -------------------------------------------------------------------


def test_cpu_and_memory_are_texts_with_units() -> None:
    assert [cpu_units(text) for text in ("256", "1 vCPU", ".5 vcpu", "0")] == [256, 1024, 512, 0]
    assert [memory_mib(text) for text in ("512", "1 GB", "0.5GB", "300 MB")] == [512, 1024, 512, 300]
    for bad in ("", "x", "-1", "1 TB", "0.3 vCPU", "1e9", "9" * 50):
        assert code_of(cpu_units, bad) == "ClientException"
        assert code_of(memory_mib, bad + " ") == "ClientException"


# -- settings ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"account": "12"}, "account"),
        ({"region": "Us East"}, "region"),
        ({"listen": "8400"}, "listen"),
        ({"verify_signatures": True}, "verify_signatures"),
        ({"body_bytes_max": 0}, "body_bytes_max"),
        ({"heartbeat_s": 0.1}, "heartbeat_s"),
    ],
)
def test_settings_are_checked(changed: dict[str, object], named: str) -> None:
    ApiSettings().validate()
    with pytest.raises(ValueError, match=named):
        ApiSettings(**changed).validate()  # type: ignore[arg-type]
