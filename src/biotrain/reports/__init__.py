# SPDX-License-Identifier: Apache-2.0
"""What a plan means to a person: timeline, figures, battery, and what others published."""
