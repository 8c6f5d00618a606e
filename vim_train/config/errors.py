"""The one exception for what the user can put right."""


class UserError(Exception):
    """A mistake of the user's: one line that names what, where and what would be accepted. Exit code 2."""
