"""Everything that this package raises on purpose; each message says what came, what was expected and what to do.

- ProbeError
  - InputError: the user's text, file or option
  - ModelError: a model that cannot be found, loaded or treated exactly
  - RecordError: a record that is unfinished, damaged or not ours
"""


class ProbeError(Exception):
    """Base of all errors meant for the user: one line that can be shown as it is."""


class InputError(ProbeError):
    """The input (text, file, option) cannot be used."""


class ModelError(ProbeError):
    """The model cannot be found or loaded, or it computes attention in a way that we cannot treat exactly."""


class RecordError(ProbeError):
    """The record is unfinished, damaged, of another schema, or not a record at all."""
