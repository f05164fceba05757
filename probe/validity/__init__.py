"""The checks that every record carries: identities that an exact map obeys, and parity with the model itself."""

from probe.record import Check
from probe.validity.report import Report

__all__ = ["Check", "Report"]
