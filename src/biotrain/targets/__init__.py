# SPDX-License-Identifier: Apache-2.0
"""What the C runs on: cores and boards as TOML, with start-up code and linker scripts."""
