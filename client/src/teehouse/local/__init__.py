# SPDX-License-Identifier: Apache-2.0
"""A whole platform on this machine: gateway, nodes and proxy as processes, never as imports.

The deployer here computes the Reference Values itself, from the installed files and the weights, and pins them in the
policy that it writes; nothing is taken from a node's own answer. The machine is SIMULATED: it protects nothing.
"""
