"""``synod lease``: keys that go when nobody keeps them."""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING

import click

from synod.cli.common import Target, examples, target_options, until_interrupted, with_journal
from synod.cli.failures import misuse
from synod.cli.output import emit_json

if TYPE_CHECKING:
    from journal.client import Journal


@click.group(
    epilog=examples(
        "synod lease grant 30                 prints the lease's id, such as 4711",
        "synod put alive yes --lease 4711     the key goes when the lease goes",
        "synod lease keep 4711                until Ctrl-C; then it expires after its term",
        "synod lease revoke 4711              at once",
    )
)
def lease() -> None:
    """Grant, keep and revoke leases. A lease that nobody keeps expires, and its keys are deleted."""


@lease.command(epilog=examples("synod lease grant 30", "synod lease grant 0.5 --id 4711 --json"))
@target_options
@click.argument("ttl", type=float, metavar="SECONDS")
@click.option("--id", "number", type=click.IntRange(1, 2**63 - 1), help="The lease's id.  [default: drawn]")
def grant(target: Target, ttl: float, number: int | None) -> None:
    """Grant a lease with a term of SECONDS. Prints its id."""
    from journal.limits import LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN
    from journal.offers import LeaseGrant, Offer
    from synod.cli.offer import submit

    if not (math.isfinite(ttl) and LEASE_TTL_MS_MIN <= ttl * 1000 <= LEASE_TTL_MS_MAX):
        raise misuse(
            f"SECONDS: must be {LEASE_TTL_MS_MIN / 1000:g} to {LEASE_TTL_MS_MAX / 1000:g}, not {ttl:g}"
        )
    drawn = number or secrets.randbelow(2**53 - 1) + 1  # JSON readers keep 53 bits
    revision = submit(target, Offer((LeaseGrant(drawn, round(ttl * 1000)),), label="synod lease"))
    if target.as_json:
        emit_json({"lease": drawn, "ttl_ms": round(ttl * 1000), "revision": revision})
    else:
        click.echo(drawn)


@lease.command(epilog=examples("synod lease revoke 4711"))
@target_options
@click.argument("number", type=click.IntRange(1, 2**63 - 1), metavar="ID")
def revoke(target: Target, number: int) -> None:
    """End a lease now, and delete the keys bound to it."""
    from journal.offers import LeaseRevoke, Offer
    from synod.cli.offer import submit

    revision = submit(target, Offer((LeaseRevoke(number),), label="synod lease"))
    if target.as_json:
        emit_json({"revision": revision})
    else:
        click.echo(f"revision {revision}")


@lease.command(epilog=examples("synod lease keep 4711", "synod lease keep 4711 --once"))
@target_options
@click.argument("number", type=click.IntRange(1, 2**63 - 1), metavar="ID")
@click.option("--once", is_flag=True, help="Give it one full term from now, and return.")
def keep(target: Target, number: int, once: bool) -> None:
    """Keep a lease alive until Ctrl-C."""
    if once:
        ttl_ms = with_journal(target, lambda journal: journal.keep_alive(number))
        _say(target, number, ttl_ms)
    else:
        with until_interrupted():
            with_journal(target, lambda journal: _keep(journal, target, number), forever=True)


async def _keep(journal: Journal, target: Target, number: int) -> None:
    """Keep it until it is gone for certain, or nobody has answered for the timeout."""
    import trio

    ttl_ms = await journal.keep_alive(number)
    _say(target, number, ttl_ms)
    while True:
        await trio.sleep(ttl_ms / 3000)
        ttl_ms = await journal.keep_alive(number)


def _say(target: Target, number: int, ttl_ms: int) -> None:
    if target.as_json:
        emit_json({"lease": number, "ttl_ms": ttl_ms})
    else:
        click.echo(f"lease {number} has {ttl_ms / 1000:g} s from now")
