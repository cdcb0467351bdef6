"""What can go wrong for a user, as one tree of exceptions.

Every error that a user can cause or mend is a `RagkitError`; the command line prints its message,
without a traceback, and exits with its `exit_code`. Anything else is a defect of ragkit and keeps
its traceback.

    RagkitError
    ├── ConfigError        a YAML file, an option or a value that is not understood
    ├── DataError          an input file that is missing, malformed or inconsistent
    ├── RunError           a run directory that is locked, unwritable or of another config
    ├── ModelError         a model that cannot be found, loaded or used
    ├── EndpointError      a model server that refuses, fails or answers nonsense
    ├── MissingExtraError  an optional package that is not installed
    └── GateError          a comparison whose gates do not hold: a verdict, with exit code 3
"""

from collections.abc import Sequence


class RagkitError(Exception):
    """Root of all errors that are reported to the user as one message."""

    exit_code = 1


class ConfigError(RagkitError):
    """A configuration that is not understood; lists every problem found, not only the first."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class DataError(RagkitError):
    """An input file that is missing, malformed or inconsistent."""


class RunError(RagkitError):
    """A run directory that is locked, unwritable or belongs to another configuration."""


class ModelError(RagkitError):
    """A model that cannot be found, loaded or used as asked."""


class EndpointError(RagkitError):
    """A model server that refuses, fails for good or answers what cannot be used."""


class MissingExtraError(RagkitError):
    """An optional dependency that is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed: "
            f"pip install 'ragkit[{extra}]'"
        )


class GateError(RagkitError):
    """A comparison whose gates do not hold."""

    exit_code = 3
