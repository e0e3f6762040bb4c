# SPDX-License-Identifier: Apache-2.0
"""Merkle trees: published roots and proofs, every proof of every small tree, and that a spoilt proof proves nothing."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_support import mth, nodes_of

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.log.errors import LogProofError
from teehouse_core.log.merkle import (
    EMPTY_ROOT,
    MAX_PROOF,
    MAX_SIZE,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)

# The eight leaves, roots and proofs that the implementations of Certificate Transparency test with (RFC 6962).
LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    bytes.fromhex(text)
    for text in (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    )
]
BC1A = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
CA85 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
ROOT4 = "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"
NODE_6_8 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
NODE_2_4 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
LARGEST = 200  # leaves of the largest tree of which every proof is tried


def hashes(*texts: str) -> list[bytes]:
    return [bytes.fromhex(text) for text in texts]


def tree(size: int) -> list[bytes]:
    return [leaf_hash(b"entry %d" % n) for n in range(size)]


def test_published_roots() -> None:
    frontier = Frontier.empty()
    assert frontier.root() == ROOTS[0] == EMPTY_ROOT
    for n, leaf in enumerate(LEAVES, 1):
        frontier = frontier.append(leaf_hash(leaf))
        assert frontier.root() == ROOTS[n]


def test_published_proofs() -> None:
    source, _ = nodes_of([leaf_hash(leaf) for leaf in LEAVES])
    assert inclusion_proof(source, 5, 8) == hashes(BC1A, CA85, ROOT4)
    assert inclusion_proof(source, 2, 3) == [ROOTS[2]]
    assert consistency_proof(source, 6, 8) == hashes(NODE_6_8, CA85, ROOT4)
    assert consistency_proof(source, 2, 5) == hashes(NODE_2_4, BC1A)
    verify_inclusion(5, 8, leaf_hash(LEAVES[5]), hashes(BC1A, CA85, ROOT4), ROOTS[8])
    verify_consistency(6, 8, ROOTS[6], ROOTS[8], hashes(NODE_6_8, CA85, ROOT4))
    verify_consistency(2, 5, ROOTS[2], ROOTS[5], hashes(NODE_2_4, BC1A))


def test_every_proof_of_every_small_tree() -> None:
    entries = [b"entry %d" % n for n in range(LARGEST)]
    source, _ = nodes_of(tree(LARGEST))
    roots = [mth(entries[:size]) for size in range(LARGEST + 1)]
    for size in range(LARGEST + 1):
        assert root_of(source, size) == roots[size]
        for index in range(size):
            leaf = leaf_hash(entries[index])
            verify_inclusion(index, size, leaf, inclusion_proof(source, index, size), roots[size])
        for old in range(size + 1):
            verify_consistency(old, size, roots[old], roots[size], consistency_proof(source, old, size))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_spoilt_inclusion_proof_proves_nothing(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 300))
    index = data.draw(st.integers(0, size - 1))
    leaves = tree(size)
    source, _ = nodes_of(leaves)
    proof, root = inclusion_proof(source, index, size), root_of(source, size)
    how = data.draw(st.sampled_from(["bit", "longer", "shorter", "swap", "leaf", "root", "index", "size"]))
    leaf, at, width = leaves[index], index, size
    if how == "bit" and proof:
        proof = flipped(proof, data)
    elif how == "longer":
        proof = [*proof, bytes(32)]
    elif how == "shorter" and proof:
        proof = proof[:-1]
    elif how == "swap" and len(proof) > 1:
        proof = [*proof[1:], proof[0]]
    elif how == "leaf":
        leaf = leaf_hash(b"another entry")
    elif how == "index" and size > 1:
        at = (index + data.draw(st.integers(1, size - 1))) % size
    elif how == "size":
        width = data.draw(st.integers(0, MAX_SIZE))
        if turns(index, width) == turns(index, size):
            return  # a proof says the path, not the size: the checkpoint binds that
    else:
        root = hashlib.sha256(root).digest()
    with pytest.raises(LogProofError):
        verify_inclusion(at, width, leaf, proof, root)


def turns(index: int, size: int) -> list[bool]:
    """Which side each sibling stands on, leaf first: all that a verifier takes from (index, size)."""
    if not 0 <= index < size:
        return []
    start, end, path = 0, size, []
    while end - start > 1:
        middle = start + (1 << ((end - start - 1).bit_length() - 1))
        path.append(index >= middle)
        start, end = (middle, end) if index >= middle else (start, middle)
    return path[::-1]


def flipped(proof: list[bytes], data: st.DataObject) -> list[bytes]:
    at, bit = data.draw(st.integers(0, len(proof) - 1)), data.draw(st.integers(0, 255))
    value = int.from_bytes(proof[at], "big") ^ 1 << bit
    return [*proof[:at], value.to_bytes(32, "big"), *proof[at + 1 :]]


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_spoilt_consistency_proof_proves_nothing(data: st.DataObject) -> None:
    new = data.draw(st.integers(2, 300))
    old = data.draw(st.integers(1, new - 1))
    source, _ = nodes_of(tree(new))
    proof, old_root, new_root = consistency_proof(source, old, new), root_of(source, old), root_of(source, new)
    how = data.draw(st.sampled_from(["bit", "longer", "shorter", "swap", "old", "new", "older"]))
    if how == "bit":
        proof = flipped(proof, data)
    elif how == "longer":
        proof = [*proof, bytes(32)]
    elif how == "shorter":
        proof = proof[:-1]
    elif how == "swap" and len(proof) > 1:
        proof = [*proof[1:], proof[0]]
    elif how == "old":
        old_root = hashlib.sha256(old_root).digest()
    elif how == "older" and old > 1:
        old = data.draw(st.integers(1, old - 1))
    else:
        new_root = hashlib.sha256(new_root).digest()
    with pytest.raises(LogProofError):
        verify_consistency(old, new, old_root, new_root, proof)


def test_a_rewritten_entry_breaks_consistency_whatever_the_proof() -> None:
    """The liar may make any proof from the tree it shows; none leads to the root that was seen before."""
    leaves = tree(100)
    old_root = root_of(nodes_of(leaves)[0], 60)
    for rewritten in (0, 31, 32, 59):
        lying, _ = nodes_of([*leaves[:rewritten], leaf_hash(b"lie"), *leaves[rewritten + 1 :]])
        with pytest.raises(LogProofError):
            verify_consistency(60, 100, old_root, root_of(lying, 100), consistency_proof(lying, 60, 100))


@given(st.integers(0, 400), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_a_frontier_continues_a_tree(size: int, more: int) -> None:
    leaves = tree(size + more)
    frontier = Frontier.from_bytes(Frontier.empty().extend(leaves[:size]).to_bytes())
    assert frontier.size == size
    assert frontier.extend(leaves[size:]).root() == root_of(nodes_of(leaves)[0], size + more)


@given(st.binary(max_size=2200))
def test_any_bytes_are_no_frontier_or_one(data: bytes) -> None:
    try:
        frontier = Frontier.from_bytes(data)
    except MalformedError:
        return
    assert frontier.to_bytes() == data


def test_edges() -> None:
    source, _ = nodes_of(tree(3))
    for index, size in ((0, 0), (3, 3), (-1, 3), (0, MAX_SIZE + 1)):
        with pytest.raises(LocalError):
            inclusion_proof(source, index, size)
        with pytest.raises(LogProofError):
            verify_inclusion(index, size, bytes(32), [], bytes(32))
    with pytest.raises(LocalError):
        consistency_proof(source, 3, 2)
    with pytest.raises(LogProofError):
        verify_consistency(3, 2, bytes(32), bytes(32), [])
    with pytest.raises(LogProofError):  # an empty tree has one root
        verify_consistency(0, 5, bytes(32), bytes(32), [])
    with pytest.raises(LogProofError):
        verify_consistency(0, 0, bytes(32), bytes(32), [])
    with pytest.raises(LogProofError):
        verify_consistency(5, 5, bytes(32), b"\1" * 32, [])
    with pytest.raises(LogProofError):
        verify_inclusion(0, 1, bytes(31), [], bytes(32))
    verify_consistency(0, 0, EMPTY_ROOT, EMPTY_ROOT, [])
    verify_consistency(0, 5, EMPTY_ROOT, b"any" + bytes(29), [])  # says nothing of the larger tree


def test_the_largest_size_has_a_bounded_proof() -> None:
    same = lambda _level, _index: bytes(32)  # noqa: E731
    for index in (0, 1, MAX_SIZE // 2, MAX_SIZE - 1):
        proof = inclusion_proof(same, index, MAX_SIZE)
        assert len(proof) <= 63
    assert len(consistency_proof(same, MAX_SIZE // 2, MAX_SIZE)) == MAX_PROOF
    assert len(consistency_proof(same, 1, MAX_SIZE)) <= MAX_PROOF
