# SPDX-License-Identifier: Apache-2.0
"""The graph: values, nodes and loops; the base class of operations; what a box of one reads."""
