# SPDX-License-Identifier: Apache-2.0
"""``python -m longscape_ros``: the same as ``longscape``."""

import sys

from longscape_ros.cli import main

sys.exit(main())
