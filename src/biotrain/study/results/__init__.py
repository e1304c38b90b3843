# SPDX-License-Identifier: Apache-2.0
"""From the rows of a study to statistics, figures, tables and the page."""
