# SPDX-License-Identifier: Apache-2.0
"""What the operator API takes and gives. Unknown members are refused: a typing error must not pass for a default."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from teehouse_cloud.errors import SettingsError

__all__ = [
    "AccountId",
    "EndpointId",
    "EndpointIn",
    "EndpointOut",
    "EndpointsOut",
    "KeyIn",
    "KeyMade",
    "KeyOut",
    "KeysOut",
    "NodeId",
    "NodeIn",
    "NodeOut",
    "NodesOut",
    "UsageOut",
    "UsagePage",
    "check_node_url",
]


def check_node_url(url: str) -> str:
    """A base URL of a node: http or https, host, maybe port, nothing else. Raises `SettingsError` (node-url)."""
    wrong = SettingsError("not a node URL", code="node-url", hint="give http://host:port or https://host:port")
    if not url.isascii() or not url.isprintable() or len(url) > 512:
        raise wrong
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password or port == 0:
        raise wrong
    if parts.path not in ("", "/") or parts.query or parts.fragment or " " in url:
        raise wrong
    return f"{parts.scheme}://{parts.netloc}"


def _node_url(url: str) -> str:
    try:
        return check_node_url(url)
    except SettingsError as exc:
        raise ValueError(exc.hint) from exc


EndpointId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,64}$")]
EndpointPattern = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9-]{1,64}|\*)$")]
NodeId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
AccountId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Label = Annotated[str, StringConstraints(min_length=1, max_length=200)]
NodeUrl = Annotated[str, StringConstraints(max_length=512), AfterValidator(_node_url)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True, frozen=True)


class EndpointIn(_In):
    """Wish for an endpoint. `tks_url` is where its pool is published, `tks_tenant` whose pool; without it, none."""

    name: Label
    tks_url: NodeUrl | Literal[""] = ""
    tks_tenant: Annotated[str, StringConstraints(pattern=r"^[!-~]{0,128}$")] = ""


class EndpointOut(_Out):
    """An endpoint. Times are Unix seconds throughout."""

    id: str
    name: str
    created_at: int
    tks_url: str | None
    tks_tenant: str | None


class EndpointsOut(_Out):
    """All endpoints."""

    endpoints: list[EndpointOut]


class NodeIn(_In):
    """Wish for a node's registration."""

    endpoint: EndpointId
    url: NodeUrl


class NodeOut(_Out):
    """A node as last seen: state, boot and keysets are its own claim."""

    id: str
    endpoint: str
    url: str
    state: str
    created_at: int
    last_seen: int | None
    boot: str
    keysets: list[str]


class NodesOut(_Out):
    """All nodes."""

    nodes: list[NodeOut]


class KeyIn(_In):
    """Wish for an API key; `endpoints` may hold "*" for all."""

    label: Label
    endpoints: Annotated[list[EndpointPattern], Field(min_length=1, max_length=256)]


class KeyOut(_Out):
    """A key without its secret."""

    account: str
    label: str
    endpoints: list[str]
    created_at: int
    revoked_at: int | None
    last_used: int | None


class KeyMade(KeyOut):
    """The only answer that ever holds the key itself."""

    api_key: str


class KeysOut(_Out):
    """All keys."""

    keys: list[KeyOut]


class UsageOut(_Out):
    """A usage record; `record` and `sig` are b64u of what the node signed, for whoever checks the bill."""

    id: int
    account: str
    request_id: str
    th: str
    kid: str
    keyset_sha256: str
    node: str
    endpoint: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    status: int
    finished_at: int
    received_at: int
    record: str
    sig: str


class UsagePage(_Out):
    """Records after a cursor; `next` is the cursor for the page that follows, null at the end."""

    records: list[UsageOut]
    next: int | None
