# SPDX-License-Identifier: Apache-2.0
"""The writer's part of the tree proves what the whole tree proves, from its floor on."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teehouse_core.errors import LocalError
from teehouse_core.log.merkle import Frontier, leaf_hash, verify_consistency, verify_inclusion
from teehouse_enclave.keys import tree as tree_module
from teehouse_enclave.keys.tree import Tree

LEAVES = [leaf_hash(hashlib.sha256(str(n).encode()).digest()) for n in range(200)]


def root(size: int) -> bytes:
    return Frontier.empty().extend(LEAVES[:size]).root()


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_proofs_from_the_floor_on(data: st.DataObject) -> None:
    floor = data.draw(st.integers(0, 150))
    tree = Tree(Frontier.empty().extend(LEAVES[:floor]))
    tree.append(LEAVES[floor:])
    old = data.draw(st.integers(floor, 200))
    new = data.draw(st.integers(old, 200))
    assert tree.root_at(new) == root(new)
    verify_consistency(old, new, root(old), root(new), tree.consistency(old, new))
    if floor < new:
        index = data.draw(st.integers(floor, new - 1))
        verify_inclusion(index, new, LEAVES[index], tree.inclusion(index, new), root(new))


def test_trimmed_tree_still_proves_and_says_what_it_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_module, "_TRIM_AT", 10)
    tree = Tree()
    tree.append(LEAVES[:77])
    tree.trim(77)
    tree.append(LEAVES[77:])
    verify_consistency(77, 200, root(77), root(200), tree.consistency(77, 200))
    verify_inclusion(80, 199, LEAVES[80], tree.inclusion(80, 199), root(199))
    with pytest.raises(LocalError) as refused:
        tree.root_at(76)
    assert refused.value.code == "tree-floor"
    with pytest.raises(LocalError):
        tree.consistency(5, 200)
