# SPDX-License-Identifier: Apache-2.0
"""Where every byte lies: what is stored, streamed or recomputed, in which loops, and where."""
