"""Check what is claimed about each supported architecture, on a tiny random model of it."""

from evenmoe.models.check.result import CheckResult, Criterion, Status
from evenmoe.models.check.run import CRITERIA, check_all, check_architecture

__all__ = ["CRITERIA", "CheckResult", "Criterion", "Status", "check_all", "check_architecture"]
