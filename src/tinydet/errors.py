"""The errors a person is meant to read. The command line prints their text without a traceback."""


class TinydetError(Exception):
    """The work failed. The command line exits with status 1."""

    exit_status = 1


class InputError(TinydetError):
    """What was given is wrong: a path, a file's contents, an option. The command line exits with status 2.

    The message names the file, the line or the field, what was found, what was expected, and what to do.
    """

    exit_status = 2


class MissingExtraError(InputError):
    """A part of tinydet that is not installed was asked for."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f'{feature} needs packages that are not installed: pip install "tinydet[{extra}]"')
