# SPDX-License-Identifier: Apache-2.0
"""What the predictor sees and foresees, in the Rerun viewer: live from the graph, or from a recording."""
