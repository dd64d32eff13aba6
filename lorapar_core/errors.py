"""The error tree. Every message is one line: the value, what was expected, what to do.

All are picklable (their only state is the message), so that they cross process borders whole.
"""


class LoraparError(Exception):
    """Anything that lorapar refuses or fails at on purpose."""


class ConfigError(LoraparError):
    """A recipe or an override is wrong."""


class DataError(LoraparError):
    """A data file or data set can't be used as it is."""


class ModelError(LoraparError):
    """A model can't be found, or is of a kind that can't be handled right."""


class VoteError(LoraparError):
    """A teacher can't be asked, or answers with something that is no answer."""


class BudgetReached(LoraparError):
    """Another vote might cost more than the recipe allows."""


class TooFewExamples(LoraparError):
    """A system ended with fewer examples than the importance needs."""


class TrainingError(LoraparError):
    """A training stage can't go on."""


class SandboxError(LoraparError):
    """Code can't be run apart from the rest of the machine."""


class SandboxLate(SandboxError):
    """A sandbox wasn't ready in time, which says nothing of whether it can be closed."""


class Stopped(LoraparError):
    """A stage was asked to end, and kept what it had done."""


class StageFailed(LoraparError):
    """A stage's process ended without saying how."""


def error_named(name: str, message: str) -> LoraparError:
    """The error of this tree called `name`, or a `StageFailed` that carries the foreign name."""
    kinds: list[type[LoraparError]] = [LoraparError, *LoraparError.__subclasses__()]
    found = next((kind for kind in kinds if kind.__name__ == name), None)
    return found(message) if found else StageFailed(f"{name}: {message}")
