# SPDX-License-Identifier: Apache-2.0
"""From a torch module to a training graph: capture, differentiate, rewrite, price."""
