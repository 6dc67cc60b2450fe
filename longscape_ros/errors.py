# SPDX-License-Identifier: Apache-2.0
"""Faults a user can act on. Every message says what was got, what was expected, and the remedy."""


class LongscapeError(Exception):
    """Base of every fault that the package reports to its user."""


class InputError(LongscapeError, ValueError):
    """A message, an option or a value does not fit: wrong shape, encoding, name, range or order."""


class BundleError(LongscapeError):
    """A model bundle is missing, damaged, of another version, or does not fit what it is asked to do."""


class BackendError(LongscapeError):
    """An inference backend is not installed, or failed to load or to run a graph."""


class BagError(LongscapeError):
    """A bag cannot be read, or lacks the topics that the mapping names."""


class HostError(LongscapeError):
    """Something the host must provide is missing: a system library, a package, a ROS installation."""


class NotReadyError(LongscapeError):
    """There is not enough input yet to predict from: no image, or no command where one is needed."""


class ParityError(LongscapeError):
    """A backend or an exported graph does not compute what the model does."""
