# SPDX-License-Identifier: Apache-2.0
"""Accounts of existing clients: an id, an access key pair, and whether the id alone is enough.

A V4 signature needs its secret here in the clear, so this file is a secret itself, and is taken only when nobody else
can read it. The measured configuration names it by digest: an account that the machine's operator adds later is another
configuration, and another keyset.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.evidence.jsontext import load_object
from teehouse_core.wire.fields import Fields

__all__ = ["Account", "Accounts"]

MAX_FILE: Final = 1024 * 1024  # bytes
MAX_ACCOUNTS: Final = 4096
ACCOUNT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ACCESS_KEY: Final = re.compile(r"[A-Za-z0-9._=-]{8,128}")
SECRET_KEY: Final = re.compile(r"[!-~]{16,256}")


@dataclass(frozen=True, slots=True)
class Account:
    """`direct_rest`: calls that only name this account are taken as its own. `access_key` "" means none."""

    id: str
    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    direct_rest: bool = False


class Accounts:
    """A fixed set. Raises `LocalError` (`accounts`) when an id or access key stands twice or has another form."""

    def __init__(self, accounts: Iterable[Account]) -> None:
        self._by_id: dict[str, Account] = {}
        self._by_key: dict[str, Account] = {}
        for one in accounts:
            if not ACCOUNT.fullmatch(one.id) or one.id in self._by_id or len(self._by_id) >= MAX_ACCOUNTS:
                raise LocalError("an account id is impossible or stands twice", code="accounts")
            if one.access_key:
                if not ACCESS_KEY.fullmatch(one.access_key) or not SECRET_KEY.fullmatch(one.secret_key):
                    raise LocalError(f"the access key pair of {one.id} has an impossible form", code="accounts")
                if one.access_key in self._by_key:
                    raise LocalError(f"the access key of {one.id} stands twice", code="accounts")
                self._by_key[one.access_key] = one
            self._by_id[one.id] = one

    def __len__(self) -> int:
        return len(self._by_id)

    def by_id(self, account: str) -> Account | None:
        return self._by_id.get(account)

    def by_access_key(self, access_key: str) -> Account | None:
        return self._by_key.get(access_key)

    @classmethod
    def parse(cls, data: bytes) -> Accounts:
        """`{"v":"tks-accounts/1","accounts":[{"account","access_key","secret_key","direct_rest"}]}`.

        Raises `LocalError` (`accounts`).
        """
        try:
            top = Fields(load_object(data, limit=MAX_FILE, what="accounts"), "accounts")
            top.one_of("v", "tks-accounts/1")
            found = [_account(item) for item in top.items("accounts", 0, MAX_ACCOUNTS)]
            top.done()
        except MalformedError as error:
            raise LocalError(f"the accounts file does not read: {error.code}", code="accounts") from None
        return cls(found)


def _account(value: Mapping[str, Any]) -> Account:
    item = Fields(value, "account")
    account = Account(
        item.text("account", ACCOUNT),
        item.text("access_key"),
        item.text("secret_key"),
        item.boolean("direct_rest"),
    )
    item.done()
    return account
