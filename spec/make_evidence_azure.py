# SPDX-License-Identifier: Apache-2.0

"""Vectors of Azure confidential machines under TEST roots: a vTPM whose key an SNP report or a TD quote vouches for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from cryptography import x509
from evidence_kit import Evidence, sentence, slug
from forge_azure import AzureBundle
from forge_snp import TEST_ROOTS
from forge_tdx import crl, pki
from forge_tpm import NOW, TpmBundle, public, rsa_key
from make_evidence_tpm import BARE, KEY, LYING, NONCE, bundle, mine

from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.policy_tpm import TpmPolicy
from teehouse_core.appraise.roots import root_der
from teehouse_core.evidence.jsontext import b64_text


def azure_policy(kind: str, **changes: Any) -> Policy:
    table = TpmPolicy(references=mine().references)
    return replace(BARE, platforms=(f"az-{'snp' if kind == 'sev-snp' else 'tdx'}-vtpm",), tpm=table, **changes)


def azure_roots() -> dict[str, Any]:
    amd = {product: {"ark": r.ark, "ask": r.ask, "asvk": r.asvk} for product, r in TEST_ROOTS.items()}
    return {"amd": amd, "intel": root_der("simulated")}


def vectors() -> Iterator[Evidence]:
    forms: tuple[tuple[str, dict[str, Any]], ...] = (
        ("SNP v5 Genoa", {}),
        ("SNP v3 Turin", {"product": "Turin", "version": 3}),
        ("TDX v4", {"version": 4}),
        ("TDX v5 TD 1.5", {"version": 5, "later": True}),
    )
    for label, form in forms:
        kind = "sev-snp" if label.startswith("SNP") else "tdx"
        usual = azure_policy(kind)

        def made(_kind: str = kind, _form: dict[str, Any] = form, chip: Any = None, **changes: Any) -> AzureBundle:
            base = AzureBundle(kind=_kind, **changes)
            if _kind == "sev-snp":
                base.snp = base.snp.but(**{**_form, **(chip or {})})
            else:
                base.td = base.td.with_(**{**_form, **(chip or {})})
            return base

        def node(
            name: str,
            expect: str,
            make: Callable[[], AzureBundle],
            policy: Policy = usual,
            *,
            also: tuple[str, ...] = (),
            nonce: bytes = NONCE,
            _label: str = label,
        ) -> Evidence:
            forge = lambda: {"bundle": make().build(), "roots": azure_roots()}  # noqa: E731
            return bundle(
                f"{_label} {name}", expect, forge, policy, family="azure", what="Azure node", also=also, nonce=nonce
            )

        def artifact(
            name: str,
            expect: str,
            make: Callable[[], AzureBundle],
            policy: Policy = usual,
            *,
            nonce: bytes | None = None,
            _label: str = label,
        ) -> Evidence:
            def forge() -> dict[str, Any]:
                raw, files = make().artifact()
                return {"artifact": raw, "collateral": files, "roots": azure_roots()}

            loose = replace(policy, freshness_required=nonce is not None)
            text = f"Azure vTPM: {_label} {name}." if expect == "accept" else sentence("Azure vTPM", f"{_label} {name}")
            fixed: dict[str, Any] = {"type": "az-vtpm"} | ({"nonce": nonce} if nonce is not None else {})
            return Evidence(
                f"azure-{slug(f'{_label} {name}')}", "azure", "artifact", text, expect, loose, NOW, forge, fixed
            )

        m = made
        yield node("right", "accept", lambda m=m: m())
        yield artifact("right", "accept", lambda m=m: m())
        yield artifact("another nonce", "reject/tpm.quote.nonce", lambda m=m: m(), nonce=b"another nonce")
        yield artifact("runtime data of another key", "reject/hcl.runtime-data", lambda m=m: m(bound=bytes(32)))
        yield node("runtime data of another key", "reject/hcl.runtime-data", lambda m=m: m(bound=bytes(32)))
        yield node(
            "quote by another key than HCLAkPub",
            "reject/tpm.quote.signature",
            lambda m=m: m(tpm=TpmBundle(key=rsa_key(), signed_by=KEY)),
        )
        yield node(
            "public area of another key",
            "reject/tpm.ak.attributes",
            lambda m=m: m(tpm=TpmBundle(key=rsa_key(), aux={"ak": b64_text(public(KEY))})),
        )
        yield node(
            "log of another boot",
            "reject/tpm.log.replay",
            lambda m=m: m(tpm=TpmBundle(key=rsa_key(), log_events=LYING)),
        )
        yield node(
            "another kernel than the references",
            "reject/tpm.reference.pcrs",
            lambda m=m: m(),
            replace(usual, tpm=TpmPolicy(references=("4=" + "0" * 64,))),
        )
        yield node(
            "for other report data",
            "reject/binding.report-data",
            lambda m=m: m(tpm=TpmBundle(key=rsa_key(), extra=bytes(32))),
        )
        yield node(
            "machine not listed", "reject/policy.machine", lambda m=m: m(), azure_policy(kind, machines=("00" * 32,))
        )
        yield node(
            "type that no preset accepts",
            "reject/policy.platform",
            lambda m=m: m(),
            replace(usual, platforms=("tdx", "sev-snp")),
        )
        if kind == "sev-snp":
            yield node(
                "chip report changed after signing",
                "reject/snp.report.signature",
                lambda m=m: m(chip={"broken": {0x140: b"\0"}}),
            )
            yield node("debug guest", "reject/snp.guest.debug", lambda m=m: m(chip={"policy": 0xB001F}))
            yield node(
                "intermediate revoked",
                "reject/snp.chain.revocation",
                lambda m=m: m(chip={"revocation": {"revoked": (0x10001,)}}),
            )
            yield node("paravisor at VMPL 1", "reject/snp.guest.vmpl", lambda m=m: m(chip={"vmpl": 1}))
        else:
            yield node(
                "debug TD",
                "reject/tdx.td.debug",
                lambda m=m: m(chip={"report": lambda r: replace(r, td_attributes=0x1000_0001)}),
            )
            yield node(
                "PCK leaf revoked",
                "reject/tdx.pck.revocation",
                lambda m=m: m(chip={"collateral": {"pck_crl": crl("pck", revoke=_leaf()).hex()}}),
            )
            yield node(
                "TCB out of date",
                "reject/tdx.tcb.status",
                lambda m=m: m(chip={"tcb_info": lambda v: v["tcbLevels"][0].update(tcbStatus="OutOfDate")}),
            )
            pinned = replace(usual, tpm=replace(usual.tpm, attestation_keys=(mine().pin,)))
            ecc = lambda m=m, **c: m(tpm=mine(), **c)  # noqa: E731  a key in a public area, since the HCL report names none
            yield node(
                "HCL report that is none",
                "reject/hcl.format",
                lambda e=ecc: e(hcl=lambda r: b"X" + r[1:]),
                pinned,
                also=("hcl.runtime-data",),
            )
            yield node(
                "HCL report of another kind of chip",
                "reject/hcl.format",
                lambda e=ecc: e(hcl=lambda r: r[: 32 + 1184 + 8] + b"\2" + r[32 + 1184 + 9 :]),
                pinned,
                also=("hcl.runtime-data",),
            )
            yield node(
                "HCL report cut",
                "reject/hcl.format",
                lambda e=ecc: e(hcl=lambda r: r[:-1]),
                pinned,
                also=("hcl.runtime-data",),
            )


def _leaf() -> Any:
    return x509.load_pem_x509_certificate(pki().chain)
