"""Account settings: kept and shown. ARNs are long whatever they say; tags are not a matter of rights yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.calls import Call, Handler
from api.errors import invalid
from api.pages import page
from cluster import offers
from cluster.records import AccountSetting

PAGE_MAX = 10
DEFAULTS = {
    "awsvpcTrunking": "disabled",
    "containerInsights": "disabled",
    "containerInstanceLongArnFormat": "enabled",
    "defaultLogDriverMode": "non-blocking",
    "fargateEventWindows": "disabled",
    "fargateFIPSMode": "disabled",
    "fargateTaskRetirementWaitPeriod": "7",
    "guardDutyActivate": "off",
    "serviceLongArnFormat": "enabled",
    "tagResourceAuthorization": "off",
    "taskLongArnFormat": "enabled",
}
ALLOWED = {
    "containerInsights": ("enabled", "disabled", "enhanced"),
    "defaultLogDriverMode": ("blocking", "non-blocking"),
    "fargateTaskRetirementWaitPeriod": ("0", "7", "14"),
    "guardDutyActivate": ("on", "off"),
    "tagResourceAuthorization": ("on", "off"),
}
PRINCIPAL_CHARACTERS_MAX = 2_048


async def put_account_setting(call: Call) -> Mapping[str, Any]:
    return await _put(call, _principal(call))


async def put_account_setting_default(call: Call) -> Mapping[str, Any]:
    return await _put(call, "")


async def delete_account_setting(call: Call) -> Mapping[str, Any]:
    """Go back to the default."""
    name, principal = call.get("name", ""), _principal(call)
    known = _own(call, name, principal)
    await call.change(
        lambda state: (offers.delete_account_setting(name, principal) if known is not None else None, None)
    )
    return {"setting": _shown(call, name, known if known is not None else DEFAULTS[name], principal)}


async def list_account_settings(call: Call) -> Mapping[str, Any]:
    """List what was set; with ``effectiveSettings``, what holds for a principal, set or not."""
    if call.get("maxResults") == 0:
        raise invalid(f"maxResults must be between 1 and {PAGE_MAX}.")
    wanted = page("ListAccountSettings", call.params, most=PAGE_MAX)
    principal = _principal(call)
    if call.get("effectiveSettings", False):
        settings = [(name, _effective(call, name, principal), principal) for name in sorted(DEFAULTS)]
    else:
        settings = [(one.name, one.value, one.principal_arn) for one in call.state.account_settings()]
        if call.get("principalArn") is not None:
            settings = [one for one in settings if one[2] == principal]
    name, value = call.get("name"), call.get("value")
    fitting = (
        one
        for one in sorted(settings, key=_key)
        if (name is None or one[0] == name)
        and (value is None or one[1] == value)
        and _key(one) > wanted.after
    )
    found, token = wanted.cut(fitting, _key)
    return {"settings": [_shown(call, *one) for one in found], "nextToken": token}


async def _put(call: Call, principal: str) -> Mapping[str, Any]:
    name, value = call.get("name", ""), call.get("value", "")
    allowed = ALLOWED.get(name, ("enabled", "disabled"))
    if value not in allowed:
        raise invalid(f"Invalid value for {name}: {value[:40]!r} is none of {', '.join(allowed)}.")
    setting = AccountSetting(name=name, value=value, principal_arn=principal)
    same = _own(call, name, principal) == value
    await call.change(lambda state: (None if same else offers.put_account_setting(setting), None))
    return {"setting": _shown(call, name, value, principal)}


def _principal(call: Call) -> str:
    """Return whose setting it is; "" for the account's root, which stands for everybody.

    Nobody is authenticated yet, so whoever names no principal speaks for the root.
    """
    given: str = call.get("principalArn", "")
    if len(given) > PRINCIPAL_CHARACTERS_MAX or (given and not given.startswith("arn:")):
        raise invalid("principalArn is no ARN.")
    return "" if given == call.arns.principal() else given


def _own(call: Call, name: str, principal: str) -> str | None:
    found = call.state.account_setting(name, principal)
    return found.value if found is not None and found.principal_arn == principal else None


def _effective(call: Call, name: str, principal: str) -> str:
    found = call.state.account_setting(name, principal)
    return found.value if found else DEFAULTS[name]


def _key(one: tuple[str, str, str]) -> str:
    return f"{one[0]} {one[2]}"


def _shown(call: Call, name: str, value: str, principal: str) -> dict[str, Any]:
    return {
        "name": name,
        "value": value,
        "principalArn": principal or call.arns.principal(),
        "type": "aws_managed" if name == "guardDutyActivate" else "user",
    }


HANDLERS: Mapping[str, Handler] = {
    "PutAccountSetting": put_account_setting,
    "PutAccountSettingDefault": put_account_setting_default,
    "DeleteAccountSetting": delete_account_setting,
    "ListAccountSettings": list_account_settings,
}
