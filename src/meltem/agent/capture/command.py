"""`pilot-agent istio-iptables`: reads its flags and environment, sets the rules, says what it did."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from meltem.agent.capture import apply, config, validation
from meltem.errors import EnvironmentError_

_CLONE_NEWNET = 0x40000000


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Raises MeltemError; the exit status is 126 where a validation finds that capture does not work."""
    wanted, options = config.parse(arguments, environment, Path("/"))
    tools = apply.Tools.found()
    nft = options.native_nftables or not tools.iptables
    if options.dry_run:
        print(apply.preview(wanted, nft=nft), end="")
        return 0
    if options.network_namespace:
        _enter(options.network_namespace)
    if options.cleanup_only:
        apply.clean_up(wanted, tools)
        print("traffic capture rules removed", file=sys.stderr)
        return 0
    if not options.skip_rule_apply:
        nft = apply.use_nft(tools, wanted=options.native_nftables)
        apply.apply(wanted, nft=nft)
        families = " and ".join(f"IPv{v}" for v in apply.families(wanted))
        tool = "nft" if nft else "iptables"
        print(f"traffic capture rules applied with {tool} for {families}", file=sys.stderr)
    if options.run_validation:
        try:
            validation.validate(wanted, options.probe_port, options.probe_timeout)
        except validation.CaptureBroken as error:
            print(f"Error: {error}", file=sys.stderr)
            return validation.BROKEN_STATUS
        print("traffic capture works", file=sys.stderr)
    return 0


def _enter(path: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise EnvironmentError_(f"cannot be opened: {error.strerror}", where=f"network namespace {path}") from None
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise EnvironmentError_(f"cannot be entered: {reason}", where=f"network namespace {path}")
    finally:
        os.close(descriptor)
