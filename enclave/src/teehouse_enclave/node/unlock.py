# SPDX-License-Identifier: Apache-2.0
"""From encrypted weights to a running engine: the released data key, decryption, then the engine's own digest."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from teehouse_core.errors import OperatorError, RefusedError
from teehouse_core.weights.manifest import KeyRef
from teehouse_core.wire.keyset import Model
from teehouse_enclave.engine import Engine, make_engine
from teehouse_enclave.engine.base import EngineInfo
from teehouse_enclave.node.log import log_event
from teehouse_enclave.node.release import KeyServiceClient
from teehouse_enclave.node.weights import GetDataKey, OpenWeights, SealedWeights

__all__ = ["SealedEngine", "released_data_key", "start_sealed"]

_ALGORITHM: Final = "aes256"
_PAUSE: Final = 2.0  # seconds between two tries


class SealedEngine:
    """An engine that runs on decrypted weights, and the memory that they are in."""

    def __init__(self, engine: Engine, info: EngineInfo, weights: OpenWeights) -> None:
        self.engine = engine
        self.info = info
        self._weights = weights

    async def close(self) -> None:
        """Stop the engine, then give the memory back."""
        try:
            await self.engine.close()
        finally:
            self._weights.close()


async def start_sealed(sealed: SealedWeights, get_data_key: GetDataKey, measured: Model) -> SealedEngine:
    """Raises what release, decryption and the engine raise; OperatorError `weights-mismatch` when the engine found
    other weights than `measured`, which evidence already speaks of."""
    began = time.monotonic()
    data_key = await sealed.unlock(get_data_key)
    weights = await asyncio.to_thread(sealed.load, data_key)
    del data_key
    log_event("weights", weights_sha256=sealed.weights_sha256, seconds=round(time.monotonic() - began, 1))
    engine = make_engine(weights.spec)
    try:
        info = await engine.start()
        if Model(info.model, info.weights_sha256) != measured:
            raise OperatorError("the engine found other weights than were measured", code="weights-mismatch")
    except BaseException:
        await engine.close()
        weights.close()
        raise
    return SealedEngine(engine, info, weights)


def released_data_key(client: KeyServiceClient, patience: float) -> GetDataKey:
    """Asks the key service, again and again for `patience` seconds while it is not there. Refusals are final."""

    async def get(reference: KeyRef) -> bytes:
        if not reference.key:
            raise RefusedError(
                "the manifest names no key at a key service",
                code="weights-no-key",
                hint="`teehouse model encrypt --tenant … --ring … --key …` writes it down",
            )
        end = time.monotonic() + patience
        while True:
            try:
                released = await client.get_data_key(reference.tenant, reference.ring, reference.key, reference.version)
            except OperatorError as error:
                log_event("weights-waiting", code=error.code, hint=error.hint or "")
                if time.monotonic() + _PAUSE > end:
                    raise
                await asyncio.sleep(_PAUSE)
                continue
            if released.grant.algorithm != _ALGORITHM:
                raise RefusedError("the key service granted no data key", code="weights-key-algorithm")
            return released.key

    return get
