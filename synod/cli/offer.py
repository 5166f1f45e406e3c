"""``synod offer``: transactions with conditions, as JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from synod.cli.common import Target, examples, target_options, with_journal
from synod.cli.failures import DONE, MISUSE, REJECTED, UNAVAILABLE, CommandFailed, misuse
from synod.cli.output import emit_json

if TYPE_CHECKING:
    from journal.client import Journal
    from journal.errors import JournalError
    from journal.offers import Offer, Rejected, Verdict


@click.command(
    epilog=examples(
        "synod offer transfer.json",
        """echo '{"mutations": [{"put": "a", "value": "1"}]}' | synod offer""",
        "",
        "An offer, or a list of them (each with its own verdict). All fields but mutations may be",
        "left out; conditions must hold, or the offer is rejected with a receipt:",
        "",
        '{"label": "deploy 7",',
        ' "at": 41, "reads": ["config"], "prefixes": ["locks/"],       unchanged since revision 41',
        ' "expect": {"leader": 0},                                    0: must not exist',
        ' "mutations": [',
        '   {"put": "leader", "value": "me", "lease": 99},',
        '   {"delete": "old"},  {"delete_range": ["tmp/", "tmp0"]},',
        '   {"adjust": "pool", "deltas": {"cpu": -2}, "minimum": {"cpu": 0}},',
        '   {"add": "pool", "field": "ports", "members": [8080]},  {"remove": …},',
        '   {"lease_grant": 99, "ttl_ms": 5000},  {"lease_revoke": 98}]}',
        "",
        'Bytes that are not text: {"base64": "…"}; a map for adjust: {"msgpack": {"cpu": 4}}.',
    )
)
@target_options
@click.argument("file", type=click.Path(allow_dash=True, dir_okay=False), default="-")
def offer(target: Target, file: str) -> int:
    """Submit offers from FILE ("-", the default: standard input).

    Exit code 2 where any is rejected; the receipt says which condition failed and who won.
    """
    offers = _read(file)
    verdicts = with_journal(target, lambda journal: _submit(journal, offers))
    if target.as_json:
        emit_json({"verdicts": [verdict_json(verdict) for verdict in verdicts]})
    else:
        for index, verdict in enumerate(verdicts):
            prefix = f"offers[{index}]: " if len(verdicts) > 1 else ""
            click.echo(prefix + _verdict_text(verdict))
    # The worst of them: misuse before unavailable before rejected.
    return max((failed(verdict).code for verdict in verdicts if not isinstance(verdict, int)), default=DONE)


def submit(target: Target, one: Offer) -> int:
    """Submit one offer; return its revision. Raises ``CommandFailed`` with its receipt if it is rejected."""
    [verdict] = with_journal(target, lambda journal: _submit(journal, [one]))
    if isinstance(verdict, int):
        return verdict
    raise failed(verdict)


def failed(verdict: Verdict | JournalError) -> CommandFailed:
    """Return the fault that stands for a verdict which is not a revision."""
    from journal.client import OfferUnknown
    from journal.errors import InvalidRequest
    from journal.offers import Rejected

    if isinstance(verdict, Rejected):
        return CommandFailed(
            f"rejected: {verdict}", code=REJECTED, hint="Nothing was changed. Read again, and decide again."
        )
    if isinstance(verdict, InvalidRequest):
        return CommandFailed(str(verdict), code=MISUSE)
    if isinstance(verdict, OfferUnknown):
        hint = "It may or may not have taken effect: read before you repeat it."
        return CommandFailed(str(verdict), code=UNAVAILABLE, hint=hint)
    return CommandFailed(str(verdict), code=UNAVAILABLE, hint="`synod status` shows which nodes run.")


def verdict_json(verdict: Verdict | JournalError) -> dict[str, Any]:
    """Return a verdict for programs: accepted, rejected, unknown, or not_submitted (and never will be)."""
    from journal.offers import Rejected

    if isinstance(verdict, int):
        return {"verdict": "accepted", "revision": verdict}
    if isinstance(verdict, Rejected):
        return {"verdict": "rejected", **_receipt_json(verdict)}
    from journal.client import OfferUnknown

    kind = "unknown" if isinstance(verdict, OfferUnknown) else "not_submitted"
    return {"verdict": kind, "why": str(verdict)}


def _receipt_json(receipt: Rejected) -> dict[str, Any]:
    from synod.values import to_json

    facts: dict[str, Any] = {
        "reason": receipt.reason.value,
        "where": receipt.where,
        "key": to_json(receipt.key),
        "revision": receipt.revision,
        "label": receipt.label,
        "field": receipt.field,
        "actual": receipt.actual,
        "value": None if receipt.value is None else to_json(receipt.value),
        "message": str(receipt),
    }
    return {name: fact for name, fact in facts.items() if fact not in (None, "")}


def _verdict_text(verdict: Verdict | JournalError) -> str:
    if isinstance(verdict, int):
        return f"accepted at revision {verdict}"
    return str(failed(verdict))


async def _submit(journal: Journal, offers: Sequence[Offer]) -> Sequence[Verdict | JournalError]:
    from journal.client import OffersUnresolved

    try:
        return await journal.offer_many(offers)
    except OffersUnresolved as unresolved:
        return unresolved.verdicts


def _read(file: str) -> list[Offer]:
    from synod.offer_json import OfferJsonInvalid, parse_offers

    if file == "-":
        if sys.stdin.isatty():
            click.echo("reading offers from standard input; end with Ctrl-D", err=True)
        data, source = sys.stdin.buffer.read(), "standard input"
    else:
        try:
            with click.open_file(file, "rb") as stream:
                data, source = stream.read(), file
        except OSError as error:
            raise misuse(f"cannot read {file}: {error.strerror}") from None
    try:
        return parse_offers(data.decode(), source)
    except UnicodeDecodeError as error:
        raise misuse(f"{source}: byte {error.start} is not UTF-8 text") from None
    except OfferJsonInvalid as error:
        raise misuse(str(error), "The form of an offer: `synod offer --help`.") from None
