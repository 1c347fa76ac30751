"""Which service accounts may list the secrets of their namespace: only their proxies are given private keys.

In: the accounts of connected proxies that need some (`Secrets.accounts`). Out: `inputs.secret_readers`, as the API
server answers SubjectAccessReviews. It tells nobody of a change in Roles, so it is asked again: soon where it refused,
for somebody may be about to put that right; later where it agreed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from meltem.clock import Clock
from meltem.collections import Changes
from meltem.engine import Engine
from meltem.errors import MeltemError
from meltem.generate.secrets import account_of
from meltem.graph.inputs import Account, Permission
from meltem.kube.client import KubeClient
from meltem.objects import str_at

GRANTED_SECONDS = 300.0
"""Between two questions for an account that may; Istio remembers it as long."""
REFUSED_SECONDS = 5.0
LOOK_SECONDS = 1.0
PATIENCE = 5.0
"""Seconds that a proxy which has just connected waits for the answer."""
AT_ONCE = 16
log = structlog.stdlib.get_logger("secrets")


async def ask(client: KubeClient, account: Account) -> Permission:
    """Raises MeltemError where the API server does not answer."""
    _, namespace, name = account
    who = f"system:serviceaccount:{namespace}:{name}"
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
    status = await client.access_review(who, groups, verb="list", resource="secrets", namespace=namespace)
    if status.get("allowed") is True:
        return Permission(True)
    return Permission(False, str_at(status, "reason") or str_at(status, "evaluationError"))


class SecretReaders:
    """`start` before proxies connect, then `run`. `ask`: as above, for one account."""

    def __init__(self, engine: Engine, clock: Clock, ask: Callable[[Account], Awaitable[Permission]]) -> None:
        self._engine = engine
        self._clock = clock
        self._ask = ask
        self._next: dict[Account, float] = {}  # when an account is to be asked for
        self._awake = asyncio.Event()
        self._answered = asyncio.Event()

    def start(self) -> None:
        """From now on private keys are for those who may list secrets."""
        engine = self._engine
        engine.graph.on_commit(engine.resources.secrets.accounts, self._note)
        with engine.graph.transaction():
            engine.inputs.secrets_by_permission.set("", True)

    def _note(self, _changes: Changes[Account, bool]) -> None:
        self._awake.set()

    async def settled(self, proxy_id: str) -> None:
        """Until it is known whether this proxy may have private keys, but not for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while self._unknown(proxy_id):
                    await self._answered.wait()

    def _unknown(self, proxy_id: str) -> bool:
        proxy = self._engine.views.proxies.get(proxy_id)
        if proxy is None or (account := account_of(proxy)) not in self._engine.resources.secrets.accounts:
            return False
        return account not in self._engine.inputs.secret_readers

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._awake.wait()
            self._awake.clear()
            await self.look()

    async def look(self) -> None:
        """Asks for who is new or due, forgets whom nobody needs any more."""
        wanted = set(self._engine.resources.secrets.accounts)
        known = self._engine.inputs.secret_readers
        gone = [a for a in known if a not in wanted]
        if gone:
            with self._engine.graph.transaction():
                for account in gone:
                    known.delete(account)
        self._next = {a: self._next.get(a, 0.0) for a in wanted}
        due = sorted(a for a, at in self._next.items() if at <= self._clock.monotonic())
        for some in (due[i : i + AT_ONCE] for i in range(0, len(due), AT_ONCE)):
            answers = await asyncio.gather(*(self._one(a) for a in some))
            with self._engine.graph.transaction():
                for account, answer in zip(some, answers, strict=True):
                    self._take(account, answer)
            self._answered.set()
            self._answered.clear()

    async def _one(self, account: Account) -> Permission:
        try:
            return await self._ask(account)
        except MeltemError as error:
            before = self._engine.inputs.secret_readers.get(account)
            return before or Permission(False, f"the API server did not say: {error}".replace("\n", " "))

    def _take(self, account: Account, answer: Permission) -> None:
        """Within a transaction."""
        known = self._engine.inputs.secret_readers
        before = known.get(account)
        wait = GRANTED_SECONDS if answer.granted else REFUSED_SECONDS
        self._next[account] = self._clock.monotonic() + wait
        if answer == before:
            return
        known.set(account, answer)
        who = f"{account[1]}/{account[2]}"
        if not answer.granted and (before is None or before.granted):
            log.warning(
                "a service account may not list the secrets of its namespace: its proxies are given no private keys",
                service_account=who, reason=answer.why or "no Role allows it",
            )  # fmt: skip
        elif answer.granted and before is not None:
            log.info("a service account may list the secrets of its namespace now", service_account=who)
