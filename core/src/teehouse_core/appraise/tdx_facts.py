# SPDX-License-Identifier: Apache-2.0
"""What the checks of an Intel quote learn and hand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from cryptography import x509

from teehouse_core.appraise.facts import PlatformFacts
from teehouse_core.errors import MalformedError
from teehouse_core.evidence.collateral import IntelCollateral, QeIdentity, TcbInfo
from teehouse_core.evidence.pck import SgxExtension
from teehouse_core.evidence.tcb import SvnLevel, TcbLevels
from teehouse_core.evidence.tdx import SgxQuote, TdQuote, TdReport

__all__ = ["TdxFacts", "have"]

_T = TypeVar("_T")


@dataclass(slots=True)
class TdxFacts(PlatformFacts):
    """None where something did not parse. Believe a field only with its checks passed.

    `raw` is the quote as it came, `kind` the platform type, which alone chose `root`. `given_chain` are PEM
    certificates from beside the quote, for one that only names its PCK certificate.
    """

    raw: bytes = b""
    kind: str = ""
    given_chain: bytes | None = None
    quote: TdQuote | SgxQuote | None = None
    chain: tuple[x509.Certificate, ...] | None = None
    sgx: SgxExtension | None = None
    collateral: IntelCollateral | None = None
    tcb_info: TcbInfo | None = None
    qe_identity: QeIdentity | None = None
    levels: TcbLevels | None = None
    qe_levels: tuple[SvnLevel, ...] | None = None
    root: x509.Certificate | None = None
    tcb_status: str = ""
    advisories: tuple[str, ...] = ()

    @property
    def td(self) -> TdReport | None:
        """The TD report, when the quote is a TDX quote."""
        return self.quote.report if isinstance(self.quote, TdQuote) else None

    def need_quote(self) -> TdQuote | SgxQuote:
        """The quote, where a check's `needs` already guaranteed it."""
        if self.quote is None:
            raise MalformedError("missing", code="missing")
        return self.quote


def have(value: _T | None) -> _T:
    """Narrow what a check's `needs` already guaranteed."""
    if value is None:
        raise MalformedError("missing", code="missing")
    return value
