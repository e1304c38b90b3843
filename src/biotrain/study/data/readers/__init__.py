# SPDX-License-Identifier: Apache-2.0
"""Readers of recordings, one file each."""
