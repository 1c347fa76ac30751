"""`istioctl experimental config`: the defaults that istioctl works with, and where they come from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

import click

from meltem.cli.base import Globals, command, group

if TYPE_CHECKING:
    from meltem.objects import Json

_SETTINGS = (
    ("authority", "", "ISTIOCTL_AUTHORITY"),
    ("cert-dir", "", "ISTIOCTL_CERT_DIR"),
    ("insecure", "false", "ISTIOCTL_INSECURE"),
    ("istioNamespace", "istio-system", "ISTIOCTL_ISTIONAMESPACE"),
    ("plaintext", "false", "ISTIOCTL_PLAINTEXT"),
    ("prefer-experimental", "false", "ISTIOCTL_PREFER_EXPERIMENTAL"),
    ("xds-address", "", "ISTIOCTL_XDS_ADDRESS"),
    ("xds-port", "15012", "ISTIOCTL_XDS_PORT"),
)


@group("config", help="Shows istioctl's defaults.")
def config() -> None:
    pass


@command("list", help="Lists istioctl's defaults, their values, and where each is set.")
@click.pass_obj
def list_(settings: Globals) -> None:
    from meltem.cli.tag import table

    file = _file()
    rows: list[tuple[str, ...]] = [("FLAG", "VALUE", "FROM")]
    for name, default, variable in _SETTINGS:
        if variable in os.environ:
            rows.append((name, os.environ[variable], f"${variable}"))
        elif name in file:
            rows.append((name, str(file[name]), "file"))
        elif name == "istioNamespace" and settings.istio_namespace != default:
            rows.append((name, settings.istio_namespace, "flag"))
        else:
            rows.append((name, default, "default"))
    for line in table(rows):
        click.echo(line)


def _file() -> dict[str, Json]:
    """`$ISTIOCONFIG`, or `~/.istioctl/config.yaml`; empty where there is none."""
    from pathlib import Path

    from meltem import yamlio

    path = Path(os.environ.get("ISTIOCONFIG") or Path.home() / ".istioctl" / "config.yaml")
    if not path.is_file():
        return {}
    value = yamlio.load(path.read_text(encoding="utf-8"), source=str(path))
    return cast("dict[str, Json]", value) if isinstance(value, dict) else {}


config.add_command(list_)
