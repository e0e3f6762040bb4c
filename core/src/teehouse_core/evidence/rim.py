# SPDX-License-Identifier: Apache-2.0
"""Parse a Reference Integrity Manifest (RIM) of NVIDIA: which measurements a driver or VBIOS version must show.

Sources: TCG RIM Information Model, SWID tags (ISO/IEC 19770-2), XML Signature. A RIM is one SWID document with one
enveloped signature. Strict on purpose: signature wrapping lives on documents that mean two things. Therefore UTF-8
without comments, DOCTYPE, CDATA or processing instructions; exactly one Signature, at the root, with exactly one
Reference to the whole document and the transforms NVIDIA uses; Meta and Payload once each, as children of the root. So
everything read here lies inside what the signature covers.

Needs lxml for canonicalisation (extra `teehouse-core[nvidia]`), imported when first used. Verifies no signature.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import re
from dataclasses import dataclass, field
from typing import Any, Final

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.evidence.fields import Field

__all__ = ["MAX_RIM", "Golden", "Rim", "fields", "parse_rim", "rim_support"]

MAX_RIM: Final = 512 * 1024  # bytes; genuine ones have 18 to 26 KiB
# What an XML parser does can grow with the square of these; genuine manifests stay far below all three.
MAX_TAGS: Final = 1024  # start and end tags; genuine ones have up to 100
MAX_ATTRIBUTES: Final = 4096  # genuine ones have up to 540
MAX_NAMESPACES: Final = 32  # genuine ones have up to 6
MAX_ALTERNATIVES: Final = 64  # digests for one index; genuine ones have up to 4
MAX_INDEX: Final = 127
MAX_CERTIFICATES: Final = 8
DIGEST_SIZE: Final = 48  # bytes, SHA-384
SIGNATURE_SIZE: Final = 96  # bytes, r ‖ s over P-384

SWID: Final = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
DSIG: Final = "http://www.w3.org/2000/09/xmldsig#"
XML: Final = "http://www.w3.org/XML/1998/namespace"
HASH_NAMESPACE: Final = "http://www.w3.org/2001/04/xmlenc#sha384"
C14N: Final = frozenset({"http://www.w3.org/2006/12/xml-c14n11", "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"})
ENVELOPED: Final = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
ECDSA_SHA384: Final = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
SHA384: Final = frozenset({"http://www.w3.org/2001/04/xmldsig-more#sha384", "http://www.w3.org/2001/04/xmlenc#sha384"})

_HASH_NAME: Final = re.compile(rf"\{{{re.escape(HASH_NAMESPACE)}\}}Hash(0|[1-9][0-9]?)")
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{96}")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,2}")
_FORBIDDEN: Final = re.compile(rb"<!|<\?(?!xml )")  # comments, DOCTYPE, CDATA; any instruction but the declaration


@dataclass(frozen=True, slots=True)
class Golden:
    """What block `index` + 1 of a report must hold: one of `digests` (48 bytes each)."""

    index: int
    digests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Rim:
    """One manifest. `golden` has the active indices in order; `claimed_digest` and `digest` must be equal.

    `signed_info` is what `signature` (r ‖ s) covers, canonical; `certificates` are DER, signer first.
    """

    raw: bytes = field(repr=False)
    tag_id: str
    product: str  # the chip, as `GH100`
    version: str  # of the driver (`550.144.03`) or the VBIOS (`96.00.5E.00.01`)
    edition: str  # GPU or SWITCH
    golden: tuple[Golden, ...] = field(repr=False)
    digest: bytes = field(repr=False)  # SHA-384 of the canonical document without its signature
    claimed_digest: bytes = field(repr=False)
    signed_info: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    certificates: tuple[bytes, ...] = field(repr=False)

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the document as received."""
        return hashlib.sha256(self.raw).hexdigest()


def rim_support() -> bool:
    """Whether lxml is installed, without which no RIM can be read."""
    return _etree() is not None


def parse_rim(data: bytes) -> Rim:
    """Parse one RIM document. Raises `MalformedError` (codes `rim-…`), `LocalError` (`lxml-missing`) without lxml."""
    if (etree := _etree()) is None:
        hint = "install the extra teehouse-core[nvidia]"
        raise LocalError("reading a RIM needs lxml", code="lxml-missing", hint=hint)
    root = _document(etree, data)
    signature = _only(root, f"{{{DSIG}}}Signature")
    signed_info = _only(signature, f"{{{DSIG}}}SignedInfo")
    claimed_digest = _reference(signed_info)
    meta, payload = _only(root, f"{{{SWID}}}Meta"), _only(root, f"{{{SWID}}}Payload")
    value = _binary(_only(signature, f"{{{DSIG}}}SignatureValue"))
    if len(value) != SIGNATURE_SIZE:
        raise MalformedError("the RIM's signature is not 96 bytes", code="rim-signature")
    canonical = _canonical(etree, signed_info)
    certificates = _certificates(signature)
    golden = _golden(payload)
    product, version, edition = (_attribute(meta, name) for name in ("product", "colloquialVersion", "edition"))
    tag_id = _attribute(root, "tagId")
    _take_out(root, signature)  # last, since it changes the tree
    return Rim(
        raw=data,
        tag_id=tag_id,
        product=product,
        version=version,
        edition=edition,
        golden=golden,
        digest=hashlib.sha384(_canonical(etree, root)).digest(),
        claimed_digest=claimed_digest,
        signed_info=canonical,
        signature=value,
        certificates=certificates,
    )


def fields(raw: bytes) -> list[Field]:
    """What a RIM says, with the byte range of each value where it stands literally in the text, else of the whole."""
    rim = parse_rim(raw)
    found = [_locate(raw, name, value) for name, value in _named(rim)]
    return [Field("document", 0, len(raw), f"RIM of {len(raw)} bytes"), *found]


@functools.cache
def _etree() -> Any:
    try:
        from lxml import etree
    except ImportError:
        return None
    return etree


def _document(etree: Any, data: bytes) -> Any:
    if len(data) > MAX_RIM:
        raise MalformedError(f"RIM is larger than {MAX_RIM} bytes", code="rim-too-large")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedError("RIM is not UTF-8", code="rim-format") from None
    if data.count(b"<") > MAX_TAGS or data.count(b"=") > MAX_ATTRIBUTES or data.count(b"xmlns") > MAX_NAMESPACES:
        raise MalformedError("RIM has too many elements or attributes", code="rim-too-large")
    if _FORBIDDEN.search(data):
        hint = "a RIM has no comment, DOCTYPE, CDATA or processing instruction"
        raise MalformedError("RIM holds markup that it may not", code="rim-format", hint=hint)
    # The encoding is given, not taken from the document: another one could hide markup from the test above.
    parser = etree.XMLParser(
        encoding="utf-8", resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False, huge_tree=False
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.LxmlError, ValueError):
        raise MalformedError("RIM is not well-formed XML", code="rim-format") from None
    if root.tag != f"{{{SWID}}}SoftwareIdentity":
        raise MalformedError("not a SWID document", code="rim-format")
    signatures = 0
    for element in root.iter():
        if not isinstance(element.tag, str) or any(name.startswith(f"{{{XML}}}") for name in element.attrib):
            raise MalformedError("RIM holds markup that it may not", code="rim-format")
        signatures += element.tag == f"{{{DSIG}}}Signature"
    if signatures != 1:
        raise MalformedError(f"RIM has {signatures} signatures, not one", code="rim-signature")
    return root


def _reference(signed_info: Any) -> bytes:
    """The digest that the one Reference claims for the whole document."""
    if [child.tag for child in signed_info] != [
        f"{{{DSIG}}}{name}" for name in ("CanonicalizationMethod", "SignatureMethod", "Reference")
    ]:
        raise MalformedError("RIM signature has another form or more than one reference", code="rim-signature")
    method, algorithm, reference = signed_info
    if method.get("Algorithm") not in C14N or len(method) or algorithm.get("Algorithm") != ECDSA_SHA384:
        raise MalformedError("RIM signature uses other algorithms", code="rim-signature")
    if [child.tag for child in reference] != [
        f"{{{DSIG}}}{name}" for name in ("Transforms", "DigestMethod", "DigestValue")
    ]:
        raise MalformedError("RIM reference has another form", code="rim-signature")
    transforms, digest, value = reference
    if dict(reference.attrib) != {"URI": ""}:
        raise MalformedError("RIM reference is not to the whole document", code="rim-signature")
    names = [child.get("Algorithm") for child in transforms]
    plain = all(child.tag == f"{{{DSIG}}}Transform" and not len(child) for child in transforms)
    if not plain or names[:1] != [ENVELOPED] or len(names) > 2 or not set(names[1:]) <= C14N:
        raise MalformedError("RIM reference uses other transforms", code="rim-signature")
    if digest.get("Algorithm") not in SHA384:
        raise MalformedError("RIM digest is not SHA-384", code="rim-signature")
    claimed = _binary(value)
    if len(claimed) != DIGEST_SIZE:
        raise MalformedError("RIM digest is not 48 bytes", code="rim-signature")
    return claimed


def _golden(payload: Any) -> tuple[Golden, ...]:
    found: dict[int, Golden] = {}
    seen: set[int] = set()
    for resource in payload:
        if resource.tag != f"{{{SWID}}}Resource" or len(resource) or resource.get("type") != "Measurement":
            raise MalformedError("RIM payload holds another thing than measurements", code="rim-measurement")
        index, count = _count(resource, "index"), _count(resource, "alternatives")
        active = resource.get("active")
        names = {int(m[1]): value for key, value in resource.attrib.items() if (m := _HASH_NAME.fullmatch(key))}
        digests = [names.get(n, "") for n in range(count)]
        if index > MAX_INDEX or index in seen or active not in ("True", "False"):
            raise MalformedError("a RIM measurement has a wrong or repeated index", code="rim-measurement")
        if not 1 <= count <= MAX_ALTERNATIVES or len(names) != count or not all(map(_DIGEST.fullmatch, digests)):
            raise MalformedError(f"RIM measurement {index} has other digests than it counts", code="rim-measurement")
        if resource.get("size") != str(DIGEST_SIZE):
            raise MalformedError(f"RIM measurement {index} is no SHA-384 digest", code="rim-measurement")
        seen.add(index)
        if active == "True":
            found[index] = Golden(index, tuple(bytes.fromhex(text) for text in digests))
    if not found:
        raise MalformedError("RIM has no active measurement", code="rim-measurement")
    return tuple(found[index] for index in sorted(found))


def _certificates(signature: Any) -> tuple[bytes, ...]:
    data = _only(_only(signature, f"{{{DSIG}}}KeyInfo"), f"{{{DSIG}}}X509Data")
    if not 1 <= len(data) <= MAX_CERTIFICATES or any(c.tag != f"{{{DSIG}}}X509Certificate" for c in data):
        raise MalformedError("RIM carries no plain certificate chain", code="rim-signature")
    return tuple(_binary(child) for child in data)


def _canonical(etree: Any, element: Any) -> bytes:
    # C14N 1.0 and 1.1 differ in xml:… attributes only, of which there are none here.
    try:
        text: bytes = etree.tostring(element, method="c14n", exclusive=False, with_comments=False)
    except etree.LxmlError:  # for example a relative namespace, which has no canonical form
        raise MalformedError("RIM has no canonical form", code="rim-format") from None
    return text


def _take_out(root: Any, signature: Any) -> None:
    """The enveloped-signature transform. lxml would remove the text behind the element with it, which is signed."""
    before = signature.getprevious()
    if before is None:
        root.text = (root.text or "") + (signature.tail or "")
    else:
        before.tail = (before.tail or "") + (signature.tail or "")
    root.remove(signature)


def _only(parent: Any, tag: str) -> Any:
    found = [child for child in parent if child.tag == tag]
    if len(found) != 1:
        raise MalformedError(f"RIM has {len(found)} of {tag.rpartition('}')[2]}, not one", code="rim-format")
    return found[0]


def _attribute(element: Any, name: str) -> str:
    value = element.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= 256 or not (value.isascii() and value.isprintable()):
        raise MalformedError(f"RIM attribute {name} is missing or no short text", code="rim-format")
    return value


def _count(element: Any, name: str) -> int:
    value = element.get(name)
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        raise MalformedError(f"RIM attribute {name} is missing or no number", code="rim-measurement")
    return int(value)


def _binary(element: Any) -> bytes:
    text = element.text
    if len(element) or not isinstance(text, str):
        raise MalformedError("RIM lacks a base64 text", code="rim-format")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (ValueError, binascii.Error):
        raise MalformedError("RIM holds bad base64", code="rim-format") from None


def _named(rim: Rim) -> list[tuple[str, str]]:
    found = [("tag_id", rim.tag_id), ("product", rim.product), ("version", rim.version), ("edition", rim.edition)]
    for golden in rim.golden:
        found += [(f"golden.{golden.index}.{n}", digest.hex()) for n, digest in enumerate(golden.digests)]
    return [*found, ("digest", rim.claimed_digest.hex()), ("signature", rim.signature.hex())]


def _locate(raw: bytes, name: str, value: str) -> Field:
    at = raw.find(b'"' + value.encode("ascii") + b'"')
    return Field(name, at + 1, at + 1 + len(value), value) if at >= 0 else Field(name, 0, len(raw), value)
