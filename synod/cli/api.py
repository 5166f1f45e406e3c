"""``synod api``: the program that serves the ECS API."""

from __future__ import annotations

from pathlib import Path

import click

from synod.cli.common import Target, examples, target_options
from synod.cli.programs import log_options

ACCOUNT_DEFAULT = "123456789012"
REGION_DEFAULT = "us-east-1"


@click.command(
    "api",
    epilog=examples(
        "synod api                                                  for the cluster of `synod up`",
        "synod api --endpoints 10.0.0.1:7401,10.0.0.2:7401 --listen 0.0.0.0:8400",
        "aws ecs --endpoint-url http://127.0.0.1:8400 list-clusters",
        "",
        "aws-cli and boto3 want some region and keys; any will do:",
        "export AWS_DEFAULT_REGION=us-east-1 AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any",
        "export AWS_ENDPOINT_URL_ECS=http://127.0.0.1:8400",
    ),
)
@target_options
@click.option(
    "--listen",
    default="127.0.0.1:8400",
    show_default=True,
    metavar="HOST:PORT",
    help="Where to serve; port 0 takes a free one.",
)
@click.option(
    "--region", default=REGION_DEFAULT, show_default=True, help="In answers to requests not signed for one."
)
@click.option("--account", default=ACCOUNT_DEFAULT, show_default=True, help="In ARNs.")
@click.option(
    "--local-reads",
    is_flag=True,
    help="Answer from the replica as it stands, without asking the journal whether that is the newest.",
)
@click.option(
    "--heartbeat",
    type=click.FloatRange(0.5, 86_400),
    default=3600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long an instance registered through the API counts as connected without a word from it.",
)
@click.option(
    "--requests-max", type=click.IntRange(1), default=256, show_default=True, help="Served at once, at most."
)
@click.option(
    "--allow-reset", is_flag=True, help="POST /_synod/reset deletes everything: for people's test suites."
)
@click.option(
    "--address-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the address there once it serves.",
)
@log_options[0]
@log_options[1]
def api(
    target: Target,
    listen: str,
    region: str,
    account: str,
    local_reads: bool,
    heartbeat: float,
    requests_max: int,
    allow_reset: bool,
    address_file: Path | None,
    log_level: str,
    log_format: str,
) -> int:
    """Serve the ECS API: what boto3, aws-cli and everything built on them speak.

    It keeps no state: any number may run, and each may end at any time.
    """
    from api.main import ApiOptions, run
    from api.settings import ApiSettings
    from synod.cli.failures import misuse

    settings = ApiSettings(
        listen=listen,
        region=region,
        account=account,
        local_reads=local_reads,
        heartbeat_s=heartbeat,
        requests_inflight_max=requests_max,
        allow_reset=allow_reset,
    )
    try:
        settings.validate()
    except ValueError as error:
        raise misuse(str(error)) from None
    return run(
        ApiOptions(
            endpoints=target.endpoints,
            journal=target.cluster,
            settings=settings,
            address_file=address_file,
            log_level=log_level,
            log_format=log_format,
        )
    )
