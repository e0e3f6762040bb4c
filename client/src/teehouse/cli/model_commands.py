# SPDX-License-Identifier: Apache-2.0
"""`teehouse model encrypt|decrypt|inspect|import`: model weights that only attested nodes open. No network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from teehouse.cli import exits
from teehouse.cli.options import Json
from teehouse.cli.output import Output, safe
from teehouse.cli.progress import Steps
from teehouse_core.errors import LocalError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from teehouse.models.work import Progress
    from teehouse_core.weights.manifest import KeyRef, Manifest

__all__ = ["decrypt", "encrypt", "import_", "inspect"]

_MIB = 1 << 20  # bytes

Out = Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="The folder to write.")]
KeyFile = Annotated[
    Path | None, typer.Option("--key-file", metavar="FILE", help="The data key: 32 bytes, raw, hex or base64 (0600).")
]
NewKey = Annotated[
    Path | None, typer.Option("--new-key", metavar="FILE", help="Make a new data key and keep it here (0600).")
]
SignKey = Annotated[
    Path | None, typer.Option("--sign-key", metavar="FILE", help="The publisher's Ed25519 private key, PEM (0600).")
]
NewSignKey = Annotated[
    Path | None, typer.Option("--new-sign-key", metavar="FILE", help="Make a new publisher's key and keep it here.")
]
Publishers = Annotated[
    list[str] | None,
    typer.Option("--publisher", metavar="KEY|FILE", help="Whose signature counts: public key (base64url) or PEM file."),
]
Name = Annotated[str | None, typer.Option("--name", metavar="NAME", help="The model's name.", show_default="the file")]
Tks = Annotated[str, typer.Option("--tks", metavar="NAME", help="Written down: the key service that has the data key.")]
Tenant = Annotated[str, typer.Option("--tenant", metavar="ID", help="Written down: whose ring it is.")]
Ring = Annotated[str, typer.Option("--ring", metavar="RING", help="Written down: the key's ring.")]
Key = Annotated[str, typer.Option("--key", metavar="KEY", help="Written down: the key's id.")]
KeyVersion = Annotated[str, typer.Option("--key-version", metavar="N", help="Written down: the key's version.")]
Jobs = Annotated[
    int | None, typer.Option("--jobs", metavar="N", min=1, max=64, help="Files at a time.", show_default="by cores")
]
ChunkSize = Annotated[int, typer.Option("--chunk-size", metavar="BYTES", help="A power of two.")]
PartSize = Annotated[int, typer.Option("--part-size", metavar="BYTES", help="Plaintext bytes of one object.")]


def encrypt(
    source: Annotated[Path, typer.Argument(metavar="PATH", help="A weights file, or a folder with them.")],
    output: Out,
    key_file: KeyFile = None,
    new_key: NewKey = None,
    sign_key: SignKey = None,
    new_sign_key: NewSignKey = None,
    name: Name = None,
    tks: Tks = "",
    tenant: Tenant = "",
    ring: Ring = "",
    key: Key = "",
    key_version: KeyVersion = "1",
    chunk_size: ChunkSize = _MIB,
    part_size: PartSize = 256 * _MIB,
    jobs: Jobs = None,
    as_json: Json = False,
) -> int:
    """Encrypt model weights and sign their manifest.

    Killed or out of room: run the same command again, and it goes on. Exit codes: 0 done, 30 malformed, 2 usage.
    """
    from teehouse.models.encrypt import encrypt_model

    out = Output(as_json=as_json)
    source = source.expanduser().resolve()
    manifest_key = _reference(tks, tenant, ring, key, key_version)
    data_key, publisher = _keys(output, key_file, new_key, sign_key, new_sign_key)
    with _moving(out, f"encrypting {source.name}") as progress:
        manifest = encrypt_model(
            source,
            output,
            model=name or source.stem,
            data_key=data_key,
            publisher=publisher,
            key=manifest_key,
            chunk_size=chunk_size,
            part_chunks=_chunks(part_size, chunk_size),
            jobs=jobs,
            progress=progress,
        )
    _report(out, manifest, output, publisher.public_key().public_bytes_raw(), "signed now")
    return exits.OK


def decrypt(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Encrypted weights.")],
    output: Out,
    key_file: Annotated[Path, typer.Option("--key-file", metavar="FILE", help="The data key (0600).")],
    publisher: Publishers = None,
    jobs: Jobs = None,
    as_json: Json = False,
) -> int:
    """Decrypt model weights, after all of their manifest was checked.

    Killed or out of room: run the same command again, and it goes on. Exit codes: 0 done, 10 signed by somebody else,
    30 malformed (which file, part and chunk is said), 2 usage.
    """
    from teehouse.models.decrypt import Sealed, decrypt_model
    from teehouse.models.keys import publisher_pk, read_data_key

    out = Output(as_json=as_json)
    if not publisher:
        raise LocalError(
            "whose signature counts?", code="publisher-missing", hint="--publisher; `teehouse model inspect` shows it"
        )
    publishers = {publisher_pk(text) for text in publisher}
    sealed = Sealed.open(folder, data_key=read_data_key(key_file), publishers=publishers)
    with _moving(out, f"decrypting {sealed.manifest.model}") as progress:
        decrypt_model(sealed, output, jobs=jobs, progress=progress)
    _report(out, sealed.manifest, output, None, "publisher accepted")
    return exits.OK


def inspect(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Encrypted weights.")],
    publisher: Publishers = None,
    key_file: Annotated[
        Path | None, typer.Option("--key-file", metavar="FILE", help="Also open every chunk; nothing is written.")
    ] = None,
    jobs: Jobs = None,
    as_json: Json = False,
) -> int:
    """What encrypted weights are, and whether all parts are there in the right size.

    Without --publisher the signature only says that the manifest is whole. Exit codes: 0 whole, 10 signed by somebody
    else, 30 malformed, 2 usage.
    """
    from teehouse.models.decrypt import Sealed, check_model, read_signed
    from teehouse.models.keys import publisher_pk, read_data_key
    from teehouse.models.work import listing
    from teehouse_core.weights.plan import check_listing
    from teehouse_core.weights.signing import parse_signed, verify_manifest

    out = Output(as_json=as_json)
    signed = read_signed(folder)
    manifest, pk = parse_signed(signed)
    if publisher:
        verify_manifest(signed, {publisher_pk(text) for text in publisher})
    check_listing(manifest.parts(), listing(folder))
    state = "publisher accepted" if publisher else "publisher not checked"
    if key_file is not None:
        sealed = Sealed.open(folder, data_key=read_data_key(key_file), publishers={pk})
        with _moving(out, f"opening {manifest.model}") as progress:
            check_model(sealed, jobs=jobs, progress=progress)
    _report(out, manifest, folder, pk, state, opened=key_file is not None)
    return exits.OK


def import_(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder with enc-part-00000 and so on.")],
    output: Out,
    key_file: Annotated[
        Path, typer.Option("--key-file", metavar="FILE", help="The data key of the enc-part files (0600).")
    ],
    baseline: Annotated[
        str | None, typer.Option("--baseline", metavar="HEX", help="The published digest of the model's files.")
    ] = None,
    no_baseline: Annotated[
        bool, typer.Option("--no-baseline", help="Nobody published one: the order of the parts cannot be checked.")
    ] = False,
    new_key: Annotated[
        Path | None,
        typer.Option("--new-key", metavar="FILE", help="Encrypt under a new data key, kept here; else the same."),
    ] = None,
    sign_key: SignKey = None,
    new_sign_key: NewSignKey = None,
    name: Name = None,
    tks: Tks = "",
    tenant: Tenant = "",
    ring: Ring = "",
    key: Key = "",
    key_version: KeyVersion = "1",
    chunk_size: ChunkSize = _MIB,
    part_size: PartSize = 256 * _MIB,
    as_json: Json = False,
) -> int:
    """Take over a model in the `enc-part-*` format: check it, and write it anew in ours.

    No plaintext is written. Exit codes: 0 done, 10 other files than the baseline's, 30 malformed, 2 usage.
    """
    from teehouse.models.keys import read_data_key
    from teehouse.models.legacy import import_model

    out = Output(as_json=as_json)
    if (baseline is None) != no_baseline:
        raise LocalError(
            "give --baseline, or say --no-baseline",
            code="baseline-missing",
            hint="without it, reordered parts cannot be told from right ones",
        )
    old_key = read_data_key(key_file)
    data_key, publisher = _keys(output, None if new_key else key_file, new_key, sign_key, new_sign_key)
    source = source.expanduser().resolve()
    with _moving(out, f"importing {source.name}") as progress:
        manifest = import_model(
            source,
            output,
            model=name or source.name.removeprefix("enc-"),
            old_key=old_key,
            baseline=baseline,
            data_key=data_key,
            publisher=publisher,
            key=_reference(tks, tenant, ring, key, key_version),
            chunk_size=chunk_size,
            part_chunks=_chunks(part_size, chunk_size),
            progress=progress,
        )
    state = "baseline agrees" if baseline else "no baseline: order of the parts not checked"
    _report(out, manifest, output, publisher.public_key().public_bytes_raw(), f"signed now, {state}")
    return exits.OK


def _keys(
    output: Path, key_file: Path | None, new_key: Path | None, sign_key: Path | None, new_sign_key: Path | None
) -> tuple[bytes, Ed25519PrivateKey]:
    """Both keys. A run that goes on uses the new ones that its beginning made."""
    from teehouse.models.encrypt import STATE_NAME
    from teehouse.models.keys import new_data_key, new_publisher_key, read_data_key, read_publisher_key

    if (key_file is None) == (new_key is None):
        raise LocalError("give --key-file or --new-key", code="key-missing", hint="--new-key FILE makes a data key")
    if (sign_key is None) == (new_sign_key is None):
        raise LocalError(
            "give --sign-key or --new-sign-key", code="sign-key-missing", hint="--new-sign-key FILE makes one"
        )
    begun = (output / STATE_NAME).exists()
    if new_key is not None and not (begun and new_key.exists()):
        data_key = new_data_key(new_key)
    else:
        data_key = read_data_key(key_file or new_key or Path())
    if new_sign_key is not None and not (begun and new_sign_key.exists()):
        return data_key, new_publisher_key(new_sign_key)
    return data_key, read_publisher_key(sign_key or new_sign_key or Path())


def _reference(tks: str, tenant: str, ring: str, key: str, version: str) -> KeyRef:
    """All of it, or none: a node asks its key service with what stands here."""
    from teehouse_core.weights.manifest import KeyRef

    if not (tenant or ring or key):
        return KeyRef(tks)
    if not (tenant and ring and key and version):
        raise LocalError("a key at a key service has --tenant, --ring, --key and --key-version", code="key-reference")
    return KeyRef(tks, tenant, ring, key, version)


def _chunks(part_size: int, chunk_size: int) -> int:
    if chunk_size <= 0 or part_size < chunk_size or part_size % chunk_size:
        raise LocalError("--part-size is no multiple of --chunk-size", code="weights-cut")
    return part_size // chunk_size


@contextmanager
def _moving(out: Output, text: str) -> Iterator[Progress]:
    with Steps(out.talk) as steps:
        steps.begin("model", text)
        total = 0

        def move(done: int, all_of_it: int) -> None:
            nonlocal total
            total = all_of_it
            steps.move("model", done, all_of_it)

        yield move
        steps.end("model", f"{text}  {total / 1e6:.0f} MB")


def _report(
    out: Output, manifest: Manifest, folder: Path, pk: bytes | None, state: str, *, opened: bool = False
) -> None:
    from teehouse_core.wire.canonical import b64u

    key: KeyRef = manifest.key
    document: dict[str, Any] = {
        "version": 1,
        "folder": str(folder),
        "id": manifest.id,
        "model": manifest.model,
        "layout": manifest.layout,
        "weights_sha256": manifest.weights_sha256,
        "bytes": manifest.size,
        "parts": sum(1 for _ in manifest.parts()),
        "chunk_size": manifest.cut.chunk_size,
        "key": key.to_json(),
        "publisher": b64u(pk) if pk is not None else None,
        "state": state,
        "opened": opened,
        "files": [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in manifest.files],
    }
    if out.as_json:
        out.json(document)
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="key", no_wrap=True)
    table.add_column(overflow="fold")
    place = (
        " / ".join(part for part in (key.tks, key.tenant, key.ring, key.key, key.version) if part)
        or "kept by its publisher"
    )
    unchecked = "not checked" in state
    for label, value in (
        ("model", safe(manifest.model)),
        ("weights_sha256", manifest.weights_sha256),
        ("files", f"{len(manifest.files)}, {manifest.size / 1e6:.1f} MB in {document['parts']} parts"),
        ("data key", safe(place)),
        ("publisher", document["publisher"] or "accepted"),
    ):
        table.add_row(label, value)
    mark = Text.assemble(("• ", "warn") if unchecked else ("✓ ", "good"), state)
    table.add_row("", Text.assemble(mark, ", every chunk opened" if opened else ""))
    out.show(table)
