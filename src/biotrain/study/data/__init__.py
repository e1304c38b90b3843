# SPDX-License-Identifier: Apache-2.0
"""Recordings of many people: what they are, how they are read, split and made up."""
