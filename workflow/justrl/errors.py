"""The one exception for what the user can put right."""


class UserError(ValueError):
    """Something the user can fix: the message names the thing, its value and the way out."""
