# SPDX-License-Identifier: Apache-2.0
"""rosbag2 recordings (MCAP, sqlite3) in and out, and the mapping that says which of their topics matter."""
