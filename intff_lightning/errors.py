"""Errors whose message is for the person at the keyboard: what is wrong and what to do, in one to four lines."""

__all__ = ["CheckpointError", "ConfigurationError", "DataError", "DivergenceError", "IntFFError"]


class IntFFError(Exception):
    """Base of the package's errors."""


class ConfigurationError(IntFFError, ValueError):
    """Arguments that cannot work, alone or together."""


class DataError(IntFFError, ValueError):
    """Data that is missing, damaged or out of range."""


class CheckpointError(IntFFError, RuntimeError):
    """A checkpoint that does not fit the network."""


class DivergenceError(IntFFError, ArithmeticError):
    """A unit's local loss is no longer finite."""
