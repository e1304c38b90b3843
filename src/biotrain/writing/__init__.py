# SPDX-License-Identifier: Apache-2.0
"""What is written: files whole or not at all, text of others that stays text, figures."""
