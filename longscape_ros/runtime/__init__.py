# SPDX-License-Identifier: Apache-2.0
"""Running a bundle: backends, the chunk-by-chunk predictor, and the thread that serves the newest request."""
