# SPDX-License-Identifier: Apache-2.0
"""The commands of ``longscape``: options in, figures out. What they do is done elsewhere and imported when they run."""
