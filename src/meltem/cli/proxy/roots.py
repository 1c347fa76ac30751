"""`istioctl proxy-config rootca-compare`: whether two proxies trust the same roots, without which they cannot talk."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import click

from meltem.cli.base import Globals, command, run_async
from meltem.objects import JsonObject, object_at, str_at

_EXAMPLES = """Examples:

\b
  istioctl proxy-config rootca-compare deploy/productpage-v1.default deploy/reviews-v1.default
"""


@command("rootca-compare", help="Compares the root certificates that two proxies trust.", epilog=_EXAMPLES)
@click.argument("first", metavar="[TYPE/]NAME[.NAMESPACE]")
@click.argument("second", metavar="[TYPE/]NAME[.NAMESPACE]")
@click.option("--proxy-admin-port", "admin_port", default=15000, help="Envoy's admin port")
@click.pass_obj
def rootca_compare(settings: Globals, first: str, second: str, admin_port: int) -> int | None:
    from meltem.cli.proxy import dump
    from meltem.cli.proxy.config import load_dump

    async def both() -> list[JsonObject]:
        return await asyncio.gather(*(load_dump(settings, pod, "", admin_port) for pod in (first, second)))

    one, other = (roots(dump.secrets(d)) for d in run_async(both()))
    lines, verified = compare((first, one), (second, other))
    for line in lines:
        click.echo(line)
    return None if verified else 1


def compare(one: tuple[str, dict[bytes, str]], other: tuple[str, dict[bytes, str]]) -> tuple[list[str], bool]:
    """Lines to show, and whether the two may verify each other. In: each pod with its `roots`."""
    common = one[1].keys() & other[1].keys()
    both = f"{one[0]} and {other[0]}"
    if common and one[1].keys() == other[1].keys():
        return [f"{both} trust the same roots: they can verify each other."], True
    lines = [
        f"only {pod} trusts the root with serial number {serial}"
        for pod, mine, theirs in ((*one, other[1]), (*other, one[1]))
        for serial in sorted(mine[k] for k in mine.keys() - theirs.keys())
    ]
    if common:
        return [*lines, f"{both} have a root in common: each can verify what is signed under it."], True
    return [*lines, f"{both} have no root in common: neither can verify the other."], False


def roots(secrets: Iterable[tuple[str, JsonObject]]) -> dict[bytes, str]:
    """Fingerprint → serial number of every root in the secret ROOTCA."""
    from cryptography.hazmat.primitives import hashes

    from meltem.cli.proxy.certificates import certificates

    return {
        one.fingerprint(hashes.SHA256()): f"{one.serial_number:x}"
        for _, entry in secrets
        if (str_at(entry, "name") or str_at(entry, "secret", "name")) == "ROOTCA"
        for one in certificates(object_at(entry, "secret", "validation_context", "trusted_ca"))
    }
