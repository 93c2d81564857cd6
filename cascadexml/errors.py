"""What the library raises when the cause lies outside its own code.

Every message is one sentence for the person at the terminal: it names the file, row or key, what was expected and
what to do. The command line and the stages print it without a traceback and exit with 1.
"""


class CascadeXMLError(Exception):
    """Root of the errors that a user can mend."""


class ConfigError(CascadeXMLError):
    """A key or value in the parameters is wrong."""


class DataError(CascadeXMLError):
    """Input data cannot be read, or is not what its format promises."""


class FormatError(CascadeXMLError):
    """Something this library wrote is truncated, tampered with, or of another kind or version."""


class EncoderError(CascadeXMLError):
    """The transformer or its tokenizer cannot be found or used."""


class TrainingError(CascadeXMLError):
    """Training cannot go on: out of memory, a loss that is not finite, a checkpoint of another run."""


class PredictionError(CascadeXMLError):
    """Ranking cannot go on: out of memory, a device that is not there, a precision that dev did not reach."""


class RegistryError(CascadeXMLError):
    """The model registry, or the object store it lies in, cannot do what was asked."""


class NotFoundError(RegistryError):
    """The registry holds no such model, version, alias or record."""


class ConflictError(RegistryError):
    """Somebody else changed the registry first."""
