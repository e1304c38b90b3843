# SPDX-License-Identifier: Apache-2.0
"""`python -m biotrain` is `biotrain`."""

import sys

from biotrain.cli import main

if __name__ == "__main__":
    sys.exit(main())
