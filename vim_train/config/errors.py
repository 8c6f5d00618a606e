"""The one exception for what the user can put right."""


class UserError(Exception):
    """A mistake of the user's: one line that names what, where and what would be accepted. Exit code 2."""


class LostRankError(Exception):
    """Another process of the run has ended or does not answer."""


class QuietExit(Exception):
    """A mistake of the user's ends the run, and another rank says which. Exit code 2."""
